"""The size of a learner's steps: what the targets of a batch teach."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tests.learners.conftest import MANY_LETTERS, MakeJob

from perdure.learners.learning_job import LearningJob
from perdure.learners.loops.grpo import grpo
from perdure.learners.loops.iterative_sft import iterative_sft
from perdure.learners.loops.reinforce import reinforce

MIXED = f"py:tests.learners.easy:Starts?letters={MANY_LETTERS}&rounds=2"
NEVER = "py:tests.learners.easy:Never"


@pytest.mark.parametrize("learn", [grpo, reinforce, iterative_sft])
def test_a_batch_whose_targets_teach_nothing_moves_no_weight_whatever_is_replayed(
    make_job: MakeJob, learn: Callable[[LearningJob], None]
) -> None:
    """Even if KL terms on the targets' episodes have a weight."""
    job = make_job(targets=[NEVER], old=[MIXED], updates=2, prompts=4, samples=4, kl=0.5, kl_old=0.5, lr=0.01)
    job.progress.learned = True  # as after an earlier update that taught something; otherwise the job would fail
    before = [parameter.detach().clone() for parameter in job.trainee.parameters]
    learn(job)
    assert all(torch.equal(was, now) for was, now in zip(before, job.trainee.parameters, strict=True))
    assert [(made.lr, made.grad_norm, made.tokens) for made in job.tally.updates] == [(0.0, 0.0, 0)] * 2
    assert job.tally.updates[0].groups.old_success is not None


@pytest.mark.parametrize("refill", [0, 1])
def test_the_rate_of_grpo_follows_the_share_of_mixed_target_groups(make_job: MakeJob, refill: int) -> None:
    """Of the six that a batch wants: groups that are played again count as well."""
    job = make_job(targets=[MIXED], old=(), updates=3, prompts=6, samples=2, lr=0.003, refill=refill)
    job.progress.learned = True
    grpo(job)
    mixed = [made.groups.groups - made.groups.dropped_groups for made in job.tally.updates]
    played = [made.groups.groups for made in job.tally.updates]
    assert all(n == 6 for n in played) == (refill == 0)
    assert any(0 < n < 6 for n in mixed)
    assert [made.lr for made in job.tally.updates] == pytest.approx([0.003 * (1 - n / 3) * min(1, m / 6) for n, m in enumerate(mixed)])
