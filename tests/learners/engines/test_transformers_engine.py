"""The engine against transformers itself: the same tokens, log-probs and weights; and samples that follow their distribution.

All in fp32, where log-probs of the two ways of computing agree to about 1e-5.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.learners.conftest import branches, copied, engine_of, plain_logprobs, plain_model, plain_of, random_adapter, trainee_of
from transformers import PreTrainedModel

from perdure.agent.home import cache_dir
from perdure.envs.policy import Message, PolicyError, Request, Sample
from perdure.learners.engines.transformers_engine import TransformersEngine, stop_ids
from perdure.learners.weights.base_models import ModelFiles, resolve_model
from perdure.learners.weights.weight_sets import LoraPair
from perdure.memory.errors import RuntimeFailure
from perdure.memory.records import StepRef, VersionRef

BASE = VersionRef("v0")
TOLERANCE = 1e-4


def requests(prompts: list[list[int]], *, max_tokens: int = 8, temperature: float = 0.0) -> list[Request]:
    return [Request(prompt_ids=tuple(prompt), max_tokens=max_tokens, temperature=temperature) for prompt in prompts]


def loaded(files: ModelFiles, *, seed: int = 0, budget_tokens: int = 1536) -> TransformersEngine:
    engine = engine_of(files, seed=seed, budget_tokens=budget_tokens)
    engine.load(BASE, {})
    return engine


def greedy(model: PreTrainedModel, prompt: list[int], max_tokens: int) -> list[int]:
    """The continuation by transformers, with the prompt alone in its batch."""
    ids = torch.tensor([prompt])
    with torch.no_grad():
        out = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=max_tokens)
    return out[0, len(prompt) :].tolist()


def with_stops(files: ModelFiles, folder: Path, stops: list[int]) -> ModelFiles:
    """The same model, with more tokens that end an answer."""
    shutil.copytree(files.path, folder)
    file = folder / "generation_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "eos_token_id": stops}))
    return resolve_model(str(folder), folder, print)


@pytest.fixture(scope="module")
def stopping(files: ModelFiles, tmp_path_factory: pytest.TempPathFactory) -> ModelFiles:
    """A model whose answers to `branches` end at many different lengths; random weights rarely sample their own end token."""
    model = plain_model(files)
    said = [greedy(model, prompt, 24) for prompt in branches(model.config.vocab_size)]
    ends = {answer[k] for k, answer in zip((1, 4, 9, 16), said, strict=False)}
    return with_stops(files, tmp_path_factory.mktemp("models") / "stopping", sorted(ends))


def test_greedy_tokens_are_those_of_transformers_when_rows_end_at_different_times(stopping: ModelFiles) -> None:
    model, engine = plain_model(stopping), loaded(stopping)
    prompts = branches(model.config.vocab_size)
    seen: list[int] = []

    def count(module: Any, arguments: Any, given: dict[str, Any]) -> None:
        seen.append(given["memory"].shared_keys)

    engine.model.net.base_model.register_forward_pre_hook(count, with_kwargs=True)
    samples = engine.generate(BASE, requests(prompts, max_tokens=24))
    assert len({len(sample.action_ids) for sample in samples}) >= 4
    assert {sample.finish for sample in samples} == {"stop", "length"}
    assert seen[1] > seen[-1] > 0, "what no living row looks at was never dropped"
    stops = model.generation_config.eos_token_id
    for prompt, sample in zip(prompts, samples, strict=True):
        assert list(sample.action_ids) == greedy(model, prompt, 24)
        assert (sample.finish == "stop") == (sample.action_ids[-1] in stops)
        assert sample.sampler == BASE


@pytest.mark.parametrize("temperature", [0.0, 0.6, 1.0, 1.7])
def test_log_probs_are_those_of_a_plain_forward(stopping: ModelFiles, temperature: float) -> None:
    model, engine = plain_model(stopping), loaded(stopping)
    prompts = branches(model.config.vocab_size)
    for prompt, sample in zip(prompts, engine.generate(BASE, requests(prompts, max_tokens=24, temperature=temperature)), strict=True):
        with torch.no_grad():
            expected = plain_logprobs(model, prompt, sample.action_ids, temperature or 1.0)
        torch.testing.assert_close(torch.tensor(sample.logprobs), expected, atol=TOLERANCE, rtol=0)


def test_each_row_of_a_batch_has_its_own_temperature_and_length(files: ModelFiles) -> None:
    model, engine = plain_model(files), loaded(files)
    prompt = branches(model.config.vocab_size)[0]
    asked = [Request(prompt_ids=tuple(prompt), max_tokens=1 + k, temperature=t) for k, t in enumerate([0.0, 0.5, 1.5, 0.0, 2.0])]
    samples = engine.generate(BASE, asked)
    assert samples[3].action_ids == tuple(greedy(model, prompt, 4))
    for request, sample in zip(asked, samples, strict=True):
        assert len(sample.action_ids) == request.max_tokens
        with torch.no_grad():
            expected = plain_logprobs(model, prompt, sample.action_ids, request.temperature or 1.0)
        torch.testing.assert_close(torch.tensor(sample.logprobs), expected, atol=TOLERANCE, rtol=0)


def test_a_small_budget_changes_neither_tokens_nor_order(files: ModelFiles) -> None:
    prompts = branches(300)
    whole, split = loaded(files), loaded(files, budget_tokens=25)
    assert [s.action_ids for s in whole.generate(BASE, requests(prompts))] == [
        s.action_ids for s in split.generate(BASE, requests(prompts))
    ]
    assert split.usage.prefilled_tokens > whole.usage.prefilled_tokens


def test_what_prompts_share_is_computed_once(files: ModelFiles) -> None:
    engine = loaded(files)
    prompt = list(range(3, 103))
    engine.generate(BASE, requests([prompt] * 16, max_tokens=2))
    assert (engine.usage.prompt_tokens, engine.usage.prefilled_tokens) == (1600, 100)
    assert engine.usage.sampled_tokens <= 32


def test_an_end_token_is_kept_and_ends_the_answer_at_once(files: ModelFiles, tmp_path: Path) -> None:
    model = plain_model(files)
    prompt = branches(model.config.vocab_size)[0]
    first = greedy(model, prompt, 1)[0]
    engine = loaded(with_stops(files, tmp_path / "model", [first]))
    (sample,) = engine.generate(BASE, requests([prompt]))
    assert (sample.action_ids, sample.finish) == ((first,), "stop")


def test_every_place_that_names_an_end_token_counts() -> None:
    assert stop_ids(None, 3, [4, 5], None) == {3, 4, 5}
    assert stop_ids(None) == frozenset()


def chi_square_p(counts: torch.Tensor, probabilities: torch.Tensor) -> float:
    """The p-value of Pearson's test; outcomes expected fewer than five times share one bin."""
    n = float(counts.sum())
    rare = probabilities * n < 5
    observed = torch.cat([counts[~rare], counts[rare].sum()[None]]).double()
    expected = torch.cat([probabilities[~rare], probabilities[rare].sum()[None]]).double() * n
    statistic = ((observed - expected) ** 2 / expected).sum()
    return float(torch.special.gammaincc(torch.tensor((len(observed) - 1) / 2).double(), statistic / 2))


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.6])
def test_samples_follow_the_distribution_at_their_temperature(files: ModelFiles, temperature: float) -> None:
    model, engine = plain_model(files), loaded(files, seed=5)
    prompt = branches(model.config.vocab_size)[0]
    samples = engine.generate(BASE, requests([prompt] * 4000, max_tokens=1, temperature=temperature))
    counts = torch.bincount(torch.tensor([sample.action_ids[0] for sample in samples]), minlength=model.config.vocab_size)
    with torch.no_grad():
        logits_V = model(input_ids=torch.tensor([prompt])).logits[0, -1].double()
    assert chi_square_p(counts, (logits_V / temperature).softmax(-1)) > 1e-3
    assert chi_square_p(counts, (logits_V / (temperature * 1.25)).softmax(-1)) < 1e-6  # the test has the power to fail


def test_later_tokens_follow_their_distribution_too(files: ModelFiles) -> None:
    model, engine = plain_model(files), loaded(files, seed=6)
    prompt = branches(model.config.vocab_size)[0]
    samples = engine.generate(BASE, requests([prompt] * 3000, max_tokens=2, temperature=0.5))
    stops = stop_ids(model.generation_config.eos_token_id)
    with torch.no_grad():
        first_V = (model(input_ids=torch.tensor([prompt])).logits[0, -1].double() / 0.5).softmax(-1)
        likely = [int(token) for token in first_V.topk(40).indices if int(token) not in stops]
        after_LV = model(input_ids=torch.tensor([[*prompt, token] for token in likely])).logits[:, -1].double()
    joint_LV = first_V[likely, None] * (after_LV / 0.5).softmax(-1)
    counts_LV = torch.zeros_like(joint_LV)
    for sample in samples:
        if sample.action_ids[0] in likely:
            counts_LV[likely.index(sample.action_ids[0]), sample.action_ids[1]] += 1
    others = torch.tensor([3000 - float(counts_LV.sum())])
    counts = torch.cat([counts_LV.flatten(), others])
    assert chi_square_p(counts, torch.cat([joint_LV.flatten(), 1 - joint_LV.sum()[None]])) > 1e-3
    unconditional_LV = first_V[likely, None] * first_V[None]
    assert chi_square_p(counts, torch.cat([unconditional_LV.flatten(), 1 - unconditional_LV.sum()[None]])) < 1e-6


def test_same_seed_same_samples(files: ModelFiles) -> None:
    prompts = branches(300)

    def sample(seed: int) -> list[Sample]:
        return loaded(files, seed=seed).generate(BASE, requests(prompts, temperature=1.0))

    assert sample(3) == sample(3)
    assert [s.action_ids for s in sample(3)] != [s.action_ids for s in sample(4)]


def test_members_of_a_group_are_drawn_independently(files: ModelFiles) -> None:
    samples = loaded(files).generate(BASE, requests([branches(300)[0]] * 16, max_tokens=6, temperature=1.0))
    assert len({sample.action_ids for sample in samples}) > 12


def test_an_adapter_samples_as_merged_weights_do(files: ModelFiles) -> None:
    trainee = random_adapter(trainee_of(files, rank=4, alpha=8), 4)
    engine, step = loaded(files), StepRef(7, 2)
    engine.load(step, copied(trainee.weights()))
    prompts = branches(300)
    for prompt, sample in zip(prompts, engine.generate(step, requests(prompts)), strict=True):
        with torch.no_grad():
            expected = plain_logprobs(plain_of(trainee), prompt, sample.action_ids, 1.0)
            logits_TV = plain_of(trainee)(input_ids=torch.tensor([[*prompt, *sample.action_ids]])).logits[0]
        torch.testing.assert_close(torch.tensor(sample.logprobs), expected, atol=TOLERANCE, rtol=0)
        assert logits_TV[len(prompt) - 1 : -1].argmax(-1).tolist() == list(sample.action_ids)
        assert sample.sampler == step


def test_the_base_is_bitwise_the_same_after_many_versions(files: ModelFiles) -> None:
    engine, trainee = loaded(files), trainee_of(files, rank=4, alpha=8)
    before = {name: tensor.clone() for name, tensor in engine.model.net.state_dict().items()}
    prompts = requests(branches(300), max_tokens=4)
    said = engine.generate(BASE, prompts)
    kept = StepRef(1, 0)
    for n in range(12):
        engine.load(StepRef(1, n), copied(random_adapter(trainee, n).weights()))
        assert engine.generate(StepRef(1, n), prompts) != said
        if n % 2:
            engine.unload(StepRef(1, n))  # while it is in use
            assert StepRef(1, n) not in engine
            assert all(torch.equal(tensor, before[name]) for name, tensor in engine.model.net.state_dict().items())
    engine.release_memory()  # or keys that are kept would be used
    step_said = engine.generate(kept, prompts)
    assert engine.generate(BASE, prompts) == said
    engine.release_memory()
    assert engine.generate(kept, prompts) == step_said
    engine.generate(BASE, prompts)
    assert all(torch.equal(tensor, before[name]) for name, tensor in engine.model.net.state_dict().items())


def test_samplers_with_adapters_on_different_layers_do_not_mix(files: ModelFiles) -> None:
    trainee = random_adapter(trainee_of(files, rank=4, alpha=8), 8)
    table = copied(trainee.weights())
    first = {name: pair for name, pair in table.items() if ".layers.0." in name}
    second = {name: pair for name, pair in table.items() if ".layers.1." in name}
    prompts = requests(branches(300), max_tokens=4)

    def alone(part: dict[str, LoraPair]) -> list[Sample]:
        engine = engine_of(files)
        engine.load(VersionRef("v1"), part)
        return engine.generate(VersionRef("v1"), prompts)

    engine = loaded(files)
    engine.load(VersionRef("v1"), first)
    assert engine.generate(VersionRef("v1"), prompts) == alone(first)
    engine.load(VersionRef("v2"), second)  # while the first is in use
    assert [s.action_ids for s in engine.generate(VersionRef("v2"), prompts)] == [s.action_ids for s in alone(second)]
    engine.release_memory()  # or keys that are kept would be used
    assert engine.generate(VersionRef("v1"), prompts) == alone(first)


def test_a_name_is_loaded_once(files: ModelFiles) -> None:
    engine = loaded(files)
    with pytest.raises(ValueError, match="already loaded"):
        engine.load(BASE, {})


def test_only_loaded_samplers_have_a_policy(files: ModelFiles) -> None:
    engine = loaded(files)
    with pytest.raises(PolicyError, match="v9 is not loaded"):
        engine.policy(VersionRef("v9"))
    (sample,) = engine.policy(BASE).generate(requests([[5, 6, 7]], max_tokens=2))
    assert sample.sampler == BASE
    assert engine.policy(BASE).generate([]) == []


@pytest.mark.parametrize(("prompt", "more", "fits"), [(255, 1, True), (256, 1, False), (250, 7, False), (0, 1, False)])
def test_a_prompt_must_leave_room_for_its_answer(llama: ModelFiles, prompt: int, more: int, fits: bool) -> None:
    engine = loaded(llama)
    asked = requests([[5] * prompt], max_tokens=more)
    if fits:
        assert len(engine.generate(BASE, asked)[0].action_ids) == more
    else:
        with pytest.raises(PolicyError, match=f"a prompt of {prompt} tokens and an answer of {more} do not fit"):
            engine.generate(BASE, asked)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_weights_that_have_diverged_are_a_failure_that_says_so(llama: ModelFiles, temperature: float) -> None:
    engine = loaded(llama)
    name = "model.layers.0.mlp.up_proj.weight"
    outputs, inputs = engine.model.net.get_parameter(name).shape
    pair = LoraPair(down_RI=torch.full((1, inputs), torch.nan), up_OR=torch.ones(outputs, 1), scale=1.0)
    engine.load(StepRef(3, 1), {name: pair})
    with pytest.raises(RuntimeFailure, match=r"job 3 step 1.*not finite"):
        engine.generate(StepRef(3, 1), requests([[5, 6, 7]], temperature=temperature))


def test_the_chat_of_an_engine_ends_turns_with_the_end_tokens_of_its_model(qwen: ModelFiles) -> None:
    chat = engine_of(qwen).chat
    prompt = chat.prompt([Message(role="user", text="Say yes or no.")])
    end, other = 2, 0  # <|im_end|> and <|endoftext|>, as `tiny_qwen` names them in its generation_config.json
    assert chat.follow(prompt, (9, end), "next")[len(prompt) :][:2] == (9, end)
    assert chat.follow(prompt, (9, other), "next").count(end) == prompt.count(end) + 1


@pytest.mark.long
@pytest.mark.model
def test_the_default_model_says_what_transformers_says() -> None:
    files = resolve_model("smollm2-135m", cache_dir(), print)
    engine, model = loaded(files), plain_model(files)
    questions = ["What is the capital of France?", "Say hello.", "Which is larger, 3 or 9? Answer with one number.", "Name a colour."]
    prompts = [list(engine.chat.prompt([Message(role="user", text=question)])) for question in questions]
    samples = engine.generate(BASE, requests(prompts, max_tokens=12))
    assert len({sample.finish for sample in samples}) == 2
    for prompt, sample in zip(prompts, samples, strict=True):
        assert list(sample.action_ids) == greedy(model, prompt, 12)
        with torch.no_grad():
            expected = plain_logprobs(model, prompt, sample.action_ids, 1.0)
        torch.testing.assert_close(torch.tensor(sample.logprobs), expected, atol=1e-3, rtol=0)
    assert "Paris" in engine.chat.text(samples[0].action_ids)
