"""Log-probs of given answers by a server with the protocol of vLLM. What a right server says is tested in `test_policy_contract.py`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.learners.engines.vllm_speaker import Change, Speaker, every

from perdure.envs.policy import PolicyError
from perdure.learners.engines.vllm_client import base_name, write_server
from perdure.learners.engines.vllm_engine import VllmEngine
from perdure.learners.engines.vllm_replicas import ServerLimits
from perdure.learners.weights.base_models import ModelFiles
from perdure.learners.weights.weight_sets import LoraPair
from perdure.memory.records import StepRef, VersionRef

BASE, STEP = VersionRef("v0"), StepRef(1, 0)
PAIR = LoraPair(down_RI=torch.ones(4, 32), up_OR=torch.ones(64, 4), scale=2.0)


@pytest.fixture
def speaker(llama: ModelFiles) -> Iterator[Speaker]:
    speaker = Speaker(base_name(llama))
    yield speaker
    speaker.stop()


@pytest.fixture
def engine(speaker: Speaker, tmp_path: Path, llama: ModelFiles) -> Iterator[VllmEngine]:
    (tmp_path / "run").mkdir()
    write_server(tmp_path, speaker.server)
    engine = VllmEngine(llama, tmp_path, ServerLimits(start_s=2.0, answer_s=0.5))
    engine.load(BASE, {})
    yield engine
    engine.close()


GIVEN = [((5, 6), (4, 8)), ((5, 6, 7), (1,))]


def test_log_probs_of_given_answers_are_read_from_those_of_the_prompt(engine: VllmEngine, speaker: Speaker) -> None:
    assert engine.logprobs(BASE, GIVEN) == [(-1.0, -2.0), (-0.25,)]
    many = GIVEN * 200
    assert engine.logprobs(BASE, many) == [(-1.0, -2.0), (-0.25,)] * 200
    assert speaker.calls.count("/v1/completions") == 1 + 4
    engine.load(STEP, {"model.layers.0.mlp.up_proj.weight": PAIR})
    speaker.adapters.clear()
    assert engine.logprobs(STEP, GIVEN) == [(-1.125, -2.125), (-0.375,)], "a lost adapter is loaded once more"


WRONG_GIVEN: dict[str, tuple[Change, str]] = {
    "another version": (lambda a: a | {"model": "v7"}, "answered as 'v7', but 'base-"),
    "no log-probs": (every(lambda c: c.update(prompt_logprobs=None)), "malformed"),
    "too few log-probs": (every(lambda c: c["prompt_logprobs"].pop()), "malformed"),
    "those of other tokens": (every(lambda c: c["prompt_logprobs"].reverse()), "malformed"),
    "another prompt": (every(lambda c: c.update(prompt_token_ids=[1])), "another prompt"),
    "too few answers": (lambda a: a | {"choices": a["choices"][:1]}, "malformed"),
    "too many answers": (lambda a: a | {"choices": [*a["choices"], a["choices"][0] | {"index": 9}]}, "answers to"),
    "no JSON": (lambda a: "<html>", "malformed"),
    "a refusal": (lambda a: 400, r"status 400\): no"),
}


@pytest.mark.parametrize("wrong", WRONG_GIVEN)
def test_wrong_log_probs_of_given_answers_are_refused(engine: VllmEngine, speaker: Speaker, wrong: str) -> None:
    speaker.change, message = WRONG_GIVEN[wrong]
    with pytest.raises(PolicyError, match=message):
        engine.logprobs(BASE, GIVEN)
