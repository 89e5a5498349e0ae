"""Every learner: its function, and what it needs. Its options are in `options.py:OWN`, by the same name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from perdure.learners.learning_job import LearningJob
from perdure.learners.loops.grpo import grpo
from perdure.learners.loops.iterative_sft import iterative_sft
from perdure.learners.loops.reinforce import reinforce
from perdure.learners.loops.sdft import sdft
from perdure.learners.loops.self_sft import self_sft
from perdure.learners.loops.sft import sft
from perdure.learners.loops.trace_sft import trace_sft


@dataclass(frozen=True, slots=True, kw_only=True)
class Learner:
    """How a job learns."""

    run: Callable[[LearningJob], None]
    needs_teacher: bool = False
    """Whether the trainee has a teacher."""
    uses_stored_rewards: bool = False
    """Whether it learns from stored episodes, which people or programs may have judged."""


LEARNERS: Mapping[str, Learner] = {
    "grpo": Learner(run=grpo),
    "reinforce": Learner(run=reinforce),
    "iterative-sft": Learner(run=iterative_sft),
    "self-sft": Learner(run=self_sft),
    "trace-sft": Learner(run=trace_sft, uses_stored_rewards=True),
    "sft": Learner(run=sft),
    "sdft": Learner(run=sdft, needs_teacher=True),
}
