"""Learning with all weights: written, read, served, gone on from, and compared with the right references."""

from __future__ import annotations

import pytest
import torch
from tests.learners.conftest import merged_logprobs, random_adapter, trainee_of
from tests.learners.home import EASY, Learner
from tests.learners.retention.lessons import imitated
from torch import Tensor

from perdure.envs.policy import Request
from perdure.learners.engines.loaded_versions import LoadedVersions
from perdure.learners.option_parsing import parse_options
from perdure.learners.weights.adapters import load_version
from perdure.learners.weights.base_models import ModelFiles
from perdure.memory import versions
from perdure.memory.contracts.orders import OptionValue
from perdure.memory.errors import InputError
from perdure.memory.records import VersionRef

TURNS = [turn for lesson in imitated(3) for turn in lesson.turns]
SMALL = {"updates": 2, "prompts": 4, "samples": 8, "lr": 1e-3, "tuning": "full"}


def test_a_full_version_is_written_read_served_and_learned_from(llama_learner: Learner) -> None:
    store, files = llama_learner.store, llama_learner.files
    version = llama_learner.learn(EASY, "grpo", **SMALL)
    assert version.path is not None
    weights = load_version(store.home, version.path, version.hash, files)
    names = {name for name, _ in trainee_of(files, tuning="full").model.net.named_parameters()}
    assert set(weights) == names
    assert all(isinstance(tensor, Tensor) for tensor in weights.values())
    LoadedVersions(store, llama_learner.engine).load(version.name)
    asked = [Request(prompt_ids=TURNS[0][0], max_tokens=6, temperature=1.0)]
    (sample,) = llama_learner.engine.generate(VersionRef(version.name), asked)
    turn = (TURNS[0][0], sample.action_ids)
    torch.testing.assert_close(torch.tensor(sample.logprobs), merged_logprobs(files, weights, [turn]), atol=2e-4, rtol=0)
    assert float((merged_logprobs(files, weights, TURNS) - merged_logprobs(files, {}, TURNS)).abs().max()) > 1e-3

    versions.promote(store, version.name, "a test wants it")
    second = llama_learner.learn(EASY, "grpo", **{**SMALL, "measure": 4})
    assert second.parent == version.name
    first_update = llama_learner.steps(2)[0]
    assert first_update.drift.kl_serving_new == pytest.approx(0, abs=1e-5)
    assert first_update.drift.kl_base_new > 1e-5

    with pytest.raises(InputError, match="an adapter cannot be trained on weights that were tuned in full: learn with tuning=full"):
        llama_learner.learn(EASY, "grpo", updates=1)
    with pytest.raises(InputError, match="tuned in full"):
        llama_learner.learn(EASY, "grpo", start="v0", updates=1)  # the version that serves would be the reference


def test_references_are_the_models_that_they_name(llama: ModelFiles) -> None:
    """Base, serving version and teacher, each against merged weights, however far the learner has gone meanwhile."""
    serving = random_adapter(trainee_of(llama), 7, 0.1).weights()
    start = random_adapter(trainee_of(llama), 8, 0.1).weights()
    for tuning in ("lora", "full"):
        trainee = trainee_of(llama, tuning=tuning, start=start, references={"serving": serving}, with_teacher=True)
        with torch.no_grad():
            torch.testing.assert_close(trainee.logprobs(TURNS, 1.0), merged_logprobs(llama, start, TURNS), atol=2e-4, rtol=0)
        trainee.logprobs(TURNS, 1.0).sum().backward()
        trainee.step(0.02, 1e9)
        for reference, weights in (("base", {}), ("serving", serving), ("teacher", start)):
            found = trainee.logprobs(TURNS, 1.0, reference)
            assert not found.requires_grad
            torch.testing.assert_close(found, merged_logprobs(llama, weights, TURNS), atol=2e-4, rtol=0)
        with torch.no_grad():
            torch.testing.assert_close(trainee.logprobs(TURNS, 1.0), merged_logprobs(llama, trainee.weights(), TURNS), atol=2e-4, rtol=0)


@pytest.mark.parametrize("kind", ["lora", "lora on a version", "stacked", "full"])
def test_a_slow_teacher_starts_as_the_learner_and_goes_part_of_the_way(llama: ModelFiles, kind: str) -> None:
    options = {"full": {"tuning": "full"}, "stacked": {"olora": 0.1}}.get(kind, {}) | {"teacher": "slow"}
    start = {} if kind == "lora" else random_adapter(trainee_of(llama, rank=3), 8, 0.1).weights()
    trainee = trainee_of(llama, start=start, with_teacher=True, **options)
    with torch.no_grad():
        at_start = trainee.logprobs(TURNS, 1.0)
    torch.testing.assert_close(trainee.logprobs(TURNS, 1.0, "teacher"), at_start, atol=1e-5, rtol=0)
    first = [parameter.detach().clone() for parameter in trainee.parameters]
    for _ in range(2):
        (-trainee.logprobs(TURNS, 1.0).mean()).backward()
        trainee.step(0.02, 1.0)
    torch.testing.assert_close(trainee.logprobs(TURNS, 1.0, "teacher"), at_start, atol=1e-5, rtol=0)
    now = [parameter.detach().clone() for parameter in trainee.parameters]
    trainee.follow(0.25)
    slow = trainee.logprobs(TURNS, 1.0, "teacher")
    state = trainee.state()
    with torch.no_grad():
        for parameter, a, b in zip(trainee.parameters, first, now, strict=True):
            parameter.copy_(torch.lerp(a, b, 0.25))
        torch.testing.assert_close(trainee.logprobs(TURNS, 1.0), slow, atol=1e-4, rtol=0)
        assert float((slow - at_start).abs().max()) > 1e-3
    again = trainee_of(llama, start=start, with_teacher=True, **options)
    again.resume(state)
    torch.testing.assert_close(again.logprobs(TURNS, 1.0, "teacher"), slow, atol=1e-5, rtol=0)


@pytest.mark.parametrize("options", [{"quantized": True}, {"olora": 0.1}, {"dtype": "bfloat16"}])
def test_what_is_for_adapters_only_is_refused(options: dict[str, OptionValue]) -> None:
    assert parse_options("grpo", options).tuning.tuning == "lora"
    with pytest.raises(InputError, match="tuning=full trains all weights in float32: quantized, olora and dtype=bfloat16 need"):
        parse_options("grpo", {"tuning": "full", **options})
