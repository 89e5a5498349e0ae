"""FSDP2 over gloo with a tiny Llama: ranks that each hold a part of the model step as one that holds all of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.learners.conftest import options_of
from tests.learners.ranks.rank_lessons import CASES, SMALL, Case, assert_same_statistics, batch_of, distance, opened
from torch import Tensor

from perdure.learners.batch_steps import Stepped, learn_batch
from perdure.learners.checkpoint import TrainingState, read_state, state_bytes
from perdure.learners.ranks.process_group import ProcessGroup
from perdure.learners.ranks.rank_bytes import batch_bytes, memory_bytes
from perdure.learners.ranks.ranks import ALONE, Alone, leads
from perdure.learners.ranks.sharded_trainee import open_sharded
from perdure.learners.retention.retention_terms import terms_with
from perdure.learners.trainees.trainee import Trainee
from perdure.learners.weights.base_models import ModelFiles
from perdure.learners.weights.weight_sets import LoraPair
from perdure.memory.errors import InputError

pytestmark = pytest.mark.processes

SHARDED = {"sharded": True}
NAMES = (
    "policy gradient",
    "three passes",
    "imitation",
    "replay and general prompts",
    "fewer lessons than ranks",
    "distillation",
    "lwf",
    "all weights",
)


def learn(trainee: Trainee, case: Case, **more: Any) -> Stepped:
    options, batch = options_of(**SMALL, **case.options, **more), batch_of(case)
    if leads(trainee.ranks):
        trainee.ranks.tell("retention", memory_bytes(case.memories))
    retention = terms_with(trainee, options, case.memories)
    if leads(trainee.ranks):
        trainee.ranks.tell("batch", batch_bytes(batch))
    return learn_batch(trainee, batch, options, retention)


def moments(state: TrainingState) -> Tensor:
    """AdamW's mean of the gradients: after one step a tenth of the gradient."""
    return torch.cat([one["exp_avg"].flatten() for _, one in sorted(state.optimizer["state"].items())])


def flat(state: TrainingState) -> Tensor:
    return torch.cat([one.detach().flatten() for one in state.parameters])


@pytest.mark.parametrize("name", NAMES)
def test_sharded_ranks_step_as_one_that_holds_the_whole_model(llama: ModelFiles, ranks: ProcessGroup, name: str) -> None:
    case = CASES[name]
    alone, sharded = opened(case, llama, ALONE), opened(case, llama, ranks, **SHARDED)
    assert distance(flat(sharded.state()), flat(alone.state())) == 0
    expected, found = learn(alone, case), learn(sharded, case, **SHARDED)
    assert distance(moments(sharded.state()), moments(alone.state())) < 1e-5
    assert distance(flat(sharded.state()), flat(alone.state())) < 1e-3  # AdamW's first step has the sign of a gradient, also of noise
    assert found.norm == pytest.approx(expected.norm, rel=1e-5)
    assert_same_statistics(found.seen, expected.seen)
    ours, theirs = sharded.weights(), alone.weights()
    assert list(ours) == list(theirs)
    for key, weight in theirs.items():
        mine = ours[key]
        if isinstance(weight, LoraPair):
            assert isinstance(mine, LoraPair)
            assert (mine.down_RI.shape, mine.up_OR.shape, mine.scale) == (weight.down_RI.shape, weight.up_OR.shape, weight.scale)
        else:
            assert isinstance(mine, Tensor)
            assert torch.allclose(mine, weight, atol=3e-3)


@pytest.mark.parametrize("name", ["replay and general prompts", "all weights"])
def test_a_checkpoint_of_one_kind_of_ranks_is_resumed_by_another(llama: ModelFiles, ranks: ProcessGroup, name: str) -> None:
    """Weights and optimiser: of one rank, of ranks that each have all, and of ranks that each have a part."""
    case = CASES[name]
    alone = opened(case, llama, ALONE)
    learn(alone, case)
    kept = state_bytes(alone.state())
    expected = learn(alone, case)
    for more in ({}, SHARDED):
        several = opened(case, llama, ranks, **more)
        several.resume(read_state(kept))  # an optimiser goes on with the tensors that it is given
        assert distance(flat(several.state()), flat(read_state(kept))) == 0
        assert learn(several, case, **more).norm == pytest.approx(expected.norm, rel=1e-4)
        assert distance(moments(several.state()), moments(alone.state())) < 1e-4
        written = read_state(state_bytes(several.state()))
        again = opened(case, llama, ALONE)
        again.resume(written)
        assert distance(moments(again.state()), moments(written)) == 0
        assert distance(flat(again.state()), flat(alone.state())) < 1e-3


def test_restart_and_a_slow_teacher_reach_every_part(llama: ModelFiles, ranks: ProcessGroup) -> None:
    slow = opened(CASES["distillation"], llama, ranks, **SHARDED)
    teacher = [one.clone() for one in slow.state().teacher]
    slow.follow(0.25)
    for before, after, own in zip(teacher, slow.state().teacher, slow.state().parameters, strict=True):
        assert torch.allclose(after, before.lerp(own, 0.25), atol=1e-6)
    case = Case(options={"restart": True}, lessons=CASES["imitation"].lessons)
    first = opened(case, llama, ranks, **SHARDED)
    first.restart()
    begun = flat(first.state())
    learn(first, case, **SHARDED)
    assert distance(flat(first.state()), begun) > 0
    first.restart()
    assert distance(flat(first.state()), begun) == 0
    assert first.state().optimizer["state"] == {}


def test_products_in_bfloat16_are_sharded_too(llama: ModelFiles, ranks: ProcessGroup) -> None:
    case = CASES["imitation"]
    alone, sharded = opened(case, llama, ALONE, dtype="bfloat16"), opened(case, llama, ranks, dtype="bfloat16", **SHARDED)
    learn(alone, case)
    learn(sharded, case, **SHARDED)
    assert distance(moments(sharded.state()), moments(alone.state())) < 0.1


@pytest.mark.parametrize(
    ("options", "words"), [({"ewc": 1.0}, "ewc does not go"), ({"gem": "gem"}, "gem does not go"), ({"olora": 1.0}, "olora")]
)
def test_what_cannot_be_sharded_is_refused_by_name(llama: ModelFiles, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        open_sharded(
            llama,
            device="cpu",
            dtype=torch.float32,
            options=options_of(**SHARDED, **options),
            start={},
            references={},
            with_teacher=False,
            ranks=Two(),
        )


def test_one_rank_alone_shards_nothing(llama: ModelFiles) -> None:
    with pytest.raises(InputError, match="needs a job of several ranks"):
        opened(CASES["imitation"], llama, ALONE, **SHARDED)


class Two(Alone):
    """The first of two ranks, for what does not ask the other."""

    count = 2
