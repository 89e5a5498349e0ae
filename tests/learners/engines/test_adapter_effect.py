"""An engine that loads an adapter and does not use it is found out before anything is played."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.fakes import ScriptedEngine
from tests.learners.conftest import engine_of, random_adapter, trainee_of
from tests.learners.engines.vllm_speaker import Speaker

from perdure.learners.engines.adapter_effect import require_effect
from perdure.learners.engines.vllm_client import base_name, write_server
from perdure.learners.engines.vllm_engine import VllmEngine
from perdure.learners.engines.vllm_replicas import ServerLimits
from perdure.learners.weights.base_models import ModelFiles
from perdure.learners.weights.weight_sets import LoraPair
from perdure.memory.errors import RuntimeFailure
from perdure.memory.records import StepRef, VersionRef

V1, STEP = VersionRef("v1"), StepRef(1, 0)
LAYER = "model.layers.0.mlp.up_proj.weight"


def pair(size: float) -> dict[str, LoraPair]:
    return {LAYER: LoraPair(down_RI=torch.ones(4, 32), up_OR=torch.full((64, 4), size), scale=2.0)}


@pytest.fixture
def speaker(llama: ModelFiles) -> Iterator[Speaker]:
    speaker = Speaker(base_name(llama))
    yield speaker
    speaker.stop()


@pytest.fixture
def vllm(speaker: Speaker, tmp_path: Path, llama: ModelFiles) -> Iterator[VllmEngine]:
    (tmp_path / "run").mkdir()
    write_server(tmp_path, speaker.server)
    engine = VllmEngine(llama, tmp_path, ServerLimits(start_s=2.0, answer_s=0.5))
    yield engine
    engine.close()


def test_an_adapter_without_effect_is_refused(speaker: Speaker, vllm: VllmEngine) -> None:
    """The server takes it, and answers as the base model under its name."""
    speaker.effect = 0.0
    with pytest.raises(
        RuntimeFailure, match=r"job 1 step 0 scores exactly as the base model, though its adapter is not zero: the engine \(vllm"
    ):
        vllm.load(STEP, pair(1.0))
    assert STEP not in vllm
    assert speaker.adapters == {}


def test_an_adapter_with_an_effect_is_served(speaker: Speaker, vllm: VllmEngine) -> None:
    vllm.load(STEP, pair(1.0))
    assert STEP in vllm


@pytest.mark.parametrize("size", [0.0, 1e-9, float("nan")], ids=["zero", "too small to be seen", "diverged"])
def test_adapters_that_need_no_effect_are_served(speaker: Speaker, size: float) -> None:
    """One that has diverged is told when it is sampled from."""
    engine = ScriptedEngine()
    engine.load(V1, {})
    require_effect(engine, V1, pair(size))
    assert V1 in engine


def test_the_check_itself_does_not_pass_an_idle_engine() -> None:
    engine = ScriptedEngine()
    engine.load(V1, pair(1.0))
    with pytest.raises(RuntimeFailure, match="v1 scores exactly as the base model"):
        require_effect(engine, V1, pair(1.0))
    assert V1 not in engine


@pytest.mark.parametrize("lr", [1e-7, 1e-4, 1e-2])
def test_the_first_step_of_a_job_has_an_effect_however_small_its_rate(llama: ModelFiles, lr: float) -> None:
    """After one step of Adam each entry of B is about the learning rate."""
    trainee = trainee_of(llama)
    with torch.no_grad():
        for pair_ in trainee.weights().values():
            assert isinstance(pair_, LoraPair)
            pair_.up_OR.copy_(lr * torch.randn(pair_.up_OR.shape, generator=torch.Generator().manual_seed(1)).sign())
    engine_of(llama).load(STEP, trainee.weights())


def test_comparing_changes_nothing_that_is_sampled(llama: ModelFiles) -> None:
    weights = random_adapter(trainee_of(llama), 1).weights()
    engine, turns = engine_of(llama), [((5, 6, 7), (8, 9))]
    engine.load(VersionRef("v0"), {})
    before = engine.logprobs(VersionRef("v0"), turns)
    engine.load(V1, weights)
    assert engine.logprobs(VersionRef("v0"), turns) == before
    assert engine.logprobs(V1, turns) != before
