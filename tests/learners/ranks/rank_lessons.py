"""What ranks learn from in tests, and how it is opened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from tests.learners.conftest import options_of
from torch import Tensor

from perdure.learners.batch_steps import Batch
from perdure.learners.batches import GENERAL, Lesson
from perdure.learners.gradients import Measured, PassStats
from perdure.learners.option_parsing import read_by
from perdure.learners.options import OWN
from perdure.learners.ranks.leading import open_first
from perdure.learners.ranks.opening import Opening
from perdure.learners.ranks.ranks import Ranks
from perdure.learners.trainees.trainee import Trainee
from perdure.learners.weights.base_models import ModelFiles
from perdure.learners.weights.weight_sets import LoraPair, Weights

MOST_TOKENS = 9
SMALL = {"rank": 4, "alpha": 8, "budget_tokens": 40}
"""Several micro-batches on each rank."""


def ids(generator: torch.Generator, n: int) -> tuple[int, ...]:
    return tuple(torch.randint(3, 280, (n,), generator=generator).tolist())


def lessons_of(seed: int, **weights: Sequence[float]) -> list[Lesson]:
    """Seven episodes of two environments, of one to three turns, some under a common prompt; every third was not sampled here."""
    generator = torch.Generator().manual_seed(seed)
    start, made = ids(generator, 8), []
    for n in range(7):
        prompt = start + ids(generator, 3 + n % 2) if n % 3 else start
        turns = []
        for _ in range(1 + n % 3):
            action = ids(generator, 2 + n % 4)
            turns.append((prompt, action))
            prompt = prompt + action + ids(generator, 3)
        tokens = sum(len(action) for _, action in turns)
        logprobs = None if n % 3 == 2 else tuple((-5 + torch.rand(tokens, generator=generator)).tolist())
        of = {name: values[n % len(values)] for name, values in weights.items()}
        made.append(Lesson(episode=n + 1, environment=f"e{n % 2}", turns=tuple(turns), sampler_logprobs=logprobs, **of))
    return made


def old(lessons: Sequence[Lesson], environment: str) -> list[Lesson]:
    return [replace(lesson, of_target=False, environment=environment) for lesson in lessons]


def adapter(files: ModelFiles, seed: int) -> Weights:
    generator = torch.Generator().manual_seed(seed)
    return {
        f"model.layers.{layer}.self_attn.{name}_proj.weight": LoraPair(
            down_RI=torch.randn(4, 32, generator=generator) / 6, up_OR=torch.randn(features, 4, generator=generator) / 6, scale=2.0
        )
        for layer in (0, 1)
        for name, features in (("q", 32), ("v", 16))
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What is learned, and how."""

    options: Mapping[str, Any]
    lessons: Sequence[Lesson]
    memories: Sequence[Sequence[Lesson]] = ()
    with_start: bool = False
    is_taught: bool = False
    passes: int = 1


POLICY = lessons_of(1, advantage=(1.0, -0.75, 0.5, -0.25), kl=(0.0, 0.1))
IMITATED = lessons_of(2, imitation=(1.0, 0.0, 0.5), kl=(0.0, 0.2, 0.0))
REPLAYED = [
    *POLICY,
    *old(lessons_of(3, advantage=(0.5, -0.5), kl=(0.2,)), "old"),
    *old(lessons_of(4, imitation=(0.3,)), GENERAL),
]
MEMORIES = [lessons_of(5), lessons_of(6)[:4]]
CASES = {
    "policy gradient": Case(options={}, lessons=POLICY),
    "three passes": Case(options={"passes": 3, "variant": "dapo"}, lessons=POLICY, passes=3),
    "whole sequences": Case(options={"passes": 2, "variant": "gspo"}, lessons=POLICY, passes=2),
    "constant aggregation": Case(options={"variant": "dr_grpo"}, lessons=POLICY),
    "imitation": Case(options={"demos": "oracle"}, lessons=IMITATED, with_start=True),
    "replay and general prompts": Case(options={"general": 0.3, "kl_estimator": "k3"}, lessons=REPLAYED, with_start=True),
    "fewer lessons than ranks": Case(options={}, lessons=POLICY[:1]),
    "distillation": Case(options={"teacher": "slow"}, lessons=POLICY, is_taught=True),
    "lwf": Case(options={"lwf": 0.5}, lessons=POLICY, with_start=True),
    "ewc": Case(options={"ewc": 50.0, "passes": 2}, lessons=POLICY, memories=MEMORIES, passes=2, with_start=True),
    "a-gem": Case(options={"gem": "a-gem"}, lessons=IMITATED, memories=MEMORIES),
    "gem": Case(options={"gem": "gem"}, lessons=IMITATED, memories=MEMORIES),
    "olora": Case(options={"olora": 0.5, "passes": 2}, lessons=POLICY, passes=2, with_start=True),
    "all weights": Case(options={"tuning": "full"}, lessons=REPLAYED, with_start=True),
}


def batch_of(case: Case) -> Batch:
    measured = [Measured(turns=lesson.turns, is_old=bool(n % 2)) for n, lesson in enumerate(lessons_of(7)[:3])]
    shown = {lesson: tuple(((5, 6, 7, *prompt), action) for prompt, action in lesson.turns) for lesson in case.lessons[::2]}
    return Batch(
        lessons=case.lessons,
        measured=measured,
        taught=shown if case.is_taught else {},
        most_tokens=MOST_TOKENS,
        passes=case.passes,
        lr=1e-3,
    )


def opened(case: Case, files: ModelFiles, ranks: Ranks, **more: Any) -> Trainee:
    options = options_of(**SMALL, **case.options, **more)
    learner = next(name for name in OWN if read_by(name, case.options) == case.options)
    opening = Opening(
        model=files.name,
        hash=files.hash,
        learner=learner,
        options=options,
        dtype=torch.bfloat16 if options.tuning.dtype == "bfloat16" else torch.float32,
        with_teacher=case.is_taught,
        start=adapter(files, 1) if case.with_start else {},
        references={"serving": adapter(files, 2)} if case.with_start else {},
    )
    trainee = open_first(ranks, opening, files, "cpu", None)
    state = trainee.state()
    generator = torch.Generator().manual_seed(9)
    moved = [one.detach() + 0.02 * torch.randn(one.shape, generator=generator) for one in state.parameters]
    trainee.resume(replace(state, parameters=moved))
    return trainee


def distance(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def assert_same_statistics(found: PassStats, expected: PassStats) -> None:
    assert sorted(found.nll) == pytest.approx(sorted(expected.nll), rel=1e-4, abs=1e-5)
    assert sorted(found.kl) == pytest.approx(sorted(expected.kl), rel=1e-3, abs=1e-6)
    assert sorted(torch.cat(found.log_ratios).tolist()) == pytest.approx(sorted(torch.cat(expected.log_ratios).tolist()), abs=1e-4)
    assert found.extra == pytest.approx(expected.extra, rel=1e-4, abs=1e-7)
    assert found.divergences.keys() == expected.divergences.keys()
    assert expected.divergences
    for key, values in expected.divergences.items():
        assert sorted(found.divergences[key]) == pytest.approx(sorted(values), rel=1e-3, abs=1e-6)
