"""Several ranks in real processes, over gloo: their gradient, steps and statistics are those of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from tests.learners.conftest import options_of
from tests.learners.ranks.rank_lessons import CASES, SMALL, Case, assert_same_statistics, batch_of, distance, opened
from torch import Tensor

from perdure.learners.batch_steps import Retention, Stepped, learn_batch
from perdure.learners.ranks.process_group import ProcessGroup
from perdure.learners.ranks.rank_bytes import batch_bytes, memory_bytes
from perdure.learners.ranks.ranks import ALONE, Ranks, leads
from perdure.learners.retention.retention_terms import terms_with
from perdure.learners.trainees.trainee import Trainee
from perdure.learners.weights.base_models import ModelFiles

pytestmark = pytest.mark.processes


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    gradients: Sequence[Tensor]
    """Of each pass."""
    stepped: Stepped
    parameters: Tensor


def learned(case: Case, files: ModelFiles, ranks: Ranks) -> Learned:
    """One batch, on one rank or several; the gradient of each pass is that after a projection."""
    trainee, options, batch = opened(case, files, ranks), options_of(**SMALL, **case.options), batch_of(case)
    if leads(ranks):
        ranks.tell("retention", memory_bytes(case.memories))
    retention = terms_with(trainee, options, case.memories)
    gradients = []

    def seen(trainee: Trainee, gradient_P: Tensor) -> Tensor:
        gradients.append(retention.project_gradient(trainee, gradient_P) if retention.project_gradient else gradient_P)
        return gradients[-1]

    if leads(ranks):
        ranks.tell("batch", batch_bytes(batch))
    stepped = learn_batch(trainee, batch, options, Retention(extra_losses=retention.extra_losses, project_gradient=seen))
    return Learned(gradients=gradients, stepped=stepped, parameters=torch.cat([one.detach().flatten() for one in trainee.parameters]))


@pytest.mark.parametrize("name", CASES)
def test_gradient_and_statistics_of_several_ranks_are_those_of_one(llama: ModelFiles, ranks: ProcessGroup, name: str) -> None:
    one, several = learned(CASES[name], llama, ALONE), learned(CASES[name], llama, ranks)
    assert float(one.gradients[0].norm()) > 1e-3
    assert len(one.gradients) == len(several.gradients) == CASES[name].passes
    for found, expected in zip(several.gradients, one.gradients, strict=True):
        assert distance(found, expected) < 1e-5
    assert distance(several.parameters, one.parameters) < 1e-5
    assert several.stepped.norm == pytest.approx(one.stepped.norm, rel=1e-5)
    assert_same_statistics(several.stepped.seen, one.stepped.seen)
