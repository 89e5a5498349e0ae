"""The contract of every engine, with the same tests for each: the scripted fake, transformers in this process, and vLLM on a CPU or a GPU.

Log-probs are held against one ordinary forward pass over each sequence alone, in fp32, with the adapter merged: what a learner computes.
An engine in fp32 may be off by 1e-3 at any token; one in bf16 by its rounding, `MEAN_BF16` on average.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.fakes import ScriptedEngine
from tests.learners.conftest import plain_logprobs, plain_model, sharpen, with_weights
from tests.tiny_models import tiny_llama
from tests.vllm_servers import vllm_server, write_config
from transformers import PreTrainedModel

from perdure.agent.config_file import load_config
from perdure.agent.processes.open_engine import server_limits
from perdure.envs.policy import Ids, Message, PolicyError, Request, Sample
from perdure.learners.engines.engine import Engine
from perdure.learners.engines.transformers_engine import TransformersEngine
from perdure.learners.engines.vllm_engine import VllmEngine
from perdure.learners.weights.base_models import ModelFiles, resolve_model
from perdure.learners.weights.peft_format import write_lora
from perdure.learners.weights.weight_sets import LoraPair
from perdure.memory.errors import InputError, RuntimeFailure
from perdure.memory.records import Sampler, StepRef, VersionRef

FP32 = 1e-3
MEAN_BF16 = 0.1
BASE, V1, STEP = VersionRef("v0"), VersionRef("v1"), StepRef(1, 0)
SAID = ("Which number is the largest?", "Say yes", "Repeat the word. apple", "What comes next? dog east", "no", "0 1 2 3 4 5")
VLLM = (pytest.mark.vllm, pytest.mark.timeout(900))

pytestmark = pytest.mark.timeout(300)


@dataclass
class Case:
    """An engine, its samplers, and the plain model that it is compared with."""

    engine: Engine
    home: Path
    plain: PreTrainedModel | None = None
    exact: bool = True
    """Whether it computes in fp32."""
    steps: int = 0

    def step(self) -> StepRef:
        """A step that no test has used yet."""
        self.steps += 1
        return StepRef(9, self.steps)

    def ask(self, sampler: Sampler, requests: Sequence[Request]) -> list[Sample]:
        return self.engine.policy(sampler).generate(requests)

    def check_logprobs(self, weights: dict[str, LoraPair], requests: Sequence[Request], samples: Sequence[Sample]) -> None:
        turns = [(request.prompt_ids, sample.action_ids) for request, sample in zip(requests, samples, strict=True)]
        temperature = requests[0].temperature or 1.0
        assert all((request.temperature or 1.0) == temperature for request in requests)
        self.check_given(weights, turns, [sample.logprobs for sample in samples], temperature)

    def check_given(
        self,
        weights: dict[str, LoraPair],
        turns: Sequence[tuple[Ids, Ids]],
        logprobs: Sequence[tuple[float, ...]],
        temperature: float = 1.0,
    ) -> None:
        assert self.plain is not None
        model = with_weights(self.plain, weights)
        gaps = []
        for (prompt, action), logps in zip(turns, logprobs, strict=True):
            with torch.no_grad():
                wanted = plain_logprobs(model, prompt, action, temperature)
            gaps.append((torch.tensor(logps) - wanted).abs())
        gap_A = torch.cat(gaps)
        print(f"largest gap {float(gap_A.max()):.2g}, mean {float(gap_A.mean()):.2g} over {len(gap_A)} tokens")
        assert float(gap_A.max()) < FP32 if self.exact else float(gap_A.mean()) < MEAN_BF16


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelFiles:
    """A model whose greedy answers end at different lengths: likely tokens are made its end tokens."""
    folder = sharpen(tiny_llama(tmp_path_factory.mktemp("contract") / "llama", context=256, features=128), 3)
    weights = load_file(folder / "model.safetensors")
    save_file({name: w / 3 if "proj" in name else w for name, w in weights.items()}, folder / "model.safetensors", {"format": "pt"})
    files = resolve_model(str(folder), folder, print)
    engine = TransformersEngine(files, device="cpu", dtype=torch.float32, seed=0)
    engine.load(BASE, {})
    said = engine.policy(BASE).generate([Request(prompt_ids=prompt_of(engine, s), max_tokens=24, temperature=0.0) for s in SAID])
    file = folder / "generation_config.json"
    ends = sorted({sample.action_ids[k] for k, sample in zip((2, 6, 11), said, strict=False)})
    file.write_text(json.dumps({**json.loads(file.read_text()), "eos_token_id": ends}))
    return resolve_model(str(folder), folder, print)


ENGINES = [
    "scripted",
    "transformers float32",
    "transformers bfloat16",
    pytest.param("vllm cpu float32", marks=VLLM),
    pytest.param("vllm cpu bfloat16", marks=VLLM),
    pytest.param("vllm cuda bfloat16", marks=(*VLLM, pytest.mark.gpu)),
]


@pytest.fixture(scope="module", params=ENGINES)
def case(request: pytest.FixtureRequest, model: ModelFiles, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    kind, *where = request.param.split()
    home = tmp_path_factory.mktemp(kind)
    if kind == "scripted":
        yield Case(ScriptedEngine(), home)
    elif kind == "transformers":
        engine = TransformersEngine(model, device="cpu", dtype=getattr(torch, where[0]), seed=0)
        yield Case(engine, home, plain_model(model), where[0] == "float32")
    else:
        device, dtype = where
        config = write_config(home / "perdure.toml", model=str(model.path), device=device, dtype=dtype)
        with vllm_server(home, config):
            served = VllmEngine(model, home, server_limits(load_config(config).config))
            yield Case(served, home, plain_model(model), dtype == "float32")
            served.close()


@pytest.fixture
def real(case: Case) -> Case:
    if case.plain is None:
        pytest.skip("it has no model")
    return case


@pytest.fixture(scope="module")
def adapters(case: Case, model: ModelFiles) -> list[dict[str, LoraPair]]:
    """Two adapters that differ."""
    return [adapter_of(model, seed) for seed in (1, 2)]


def adapter_of(model: ModelFiles, seed: int, rank: int = 4) -> dict[str, LoraPair]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: LoraPair(
            down_RI=torch.randn(rank, parameter.shape[1], generator=generator) * 0.12,
            up_OR=torch.randn(parameter.shape[0], rank, generator=generator) * 0.12,
            scale=1.5,
        )
        for name, parameter in plain_model(model).named_parameters()
        if "proj" in name
    }


def prompt_of(engine: Engine, said: str) -> tuple[int, ...]:
    return engine.chat.prompt([Message(role="user", text=said)])


def asked(case: Case, *, max_tokens: int = 16, temperature: float = 0.0) -> list[Request]:
    return [Request(prompt_ids=prompt_of(case.engine, said), max_tokens=max_tokens, temperature=temperature) for said in SAID]


@pytest.fixture(autouse=True)
def loaded(case: Case, adapters: list[dict[str, LoraPair]], model: ModelFiles) -> None:
    """The base model, a version and a step, side by side."""
    if BASE in case.engine:
        return
    case.engine.load(BASE, {})
    folder = case.home / "versions" / V1.name
    folder.mkdir(parents=True)
    write_lora(folder, adapters[0], model)
    case.engine.load(V1, adapters[0])
    case.engine.load(STEP, adapters[1])


@pytest.mark.parametrize("sampler", [BASE, V1, STEP], ids=str)
def test_a_batch_is_answered_in_its_order_by_the_sampler_that_was_asked(case: Case, sampler: Sampler) -> None:
    requests = asked(case)
    together = case.ask(sampler, requests)
    assert [sample.sampler for sample in together] == [sampler] * len(requests)
    if case.exact:
        assert [sample.action_ids for sample in together] == [case.ask(sampler, [one])[0].action_ids for one in requests]


def test_greedy_answers_are_the_same_each_time(case: Case) -> None:
    first, second = case.ask(V1, asked(case)), case.ask(V1, asked(case))
    assert [sample.action_ids for sample in first] == [sample.action_ids for sample in second]


def test_an_answer_ends_with_a_token_that_ends_it_or_at_its_limit(case: Case) -> None:
    samples = case.ask(BASE, asked(case, max_tokens=24))
    assert {sample.finish for sample in samples} == {"stop", "length"} or isinstance(case.engine, ScriptedEngine)
    stops = {256} if isinstance(case.engine, ScriptedEngine) else set(case.engine.stop_ids)  # type: ignore[attr-defined]
    for sample in samples:
        assert len(sample.logprobs) == len(sample.action_ids) >= 1
        assert all(logp <= 0 for logp in sample.logprobs)
        assert not stops.intersection(sample.action_ids[:-1])
        assert (sample.finish == "stop") == (sample.action_ids[-1] in stops)
        assert sample.finish == "stop" or len(sample.action_ids) == 24


def test_lengths_and_temperatures_may_differ_in_one_batch(case: Case) -> None:
    requests = [
        Request(prompt_ids=prompt_of(case.engine, SAID[k % 6]), max_tokens=1 + k % 5, temperature=(0.0, 0.5, 1.0, 2.0)[k % 4])
        for k in range(20)
    ]
    samples = case.ask(STEP, requests)
    for request, sample in zip(requests, samples, strict=True):
        assert len(sample.action_ids) <= request.max_tokens
        assert sample.finish == "stop" or len(sample.action_ids) == request.max_tokens
        if request.temperature == 0 and case.exact:
            assert sample.action_ids == case.ask(STEP, [request])[0].action_ids


def given(case: Case) -> list[tuple[Ids, Ids]]:
    """Several answers to each prompt, some of which begin alike, and one of a single token."""
    answers = [case.engine.chat.answer(text) for text in ("yes", "yes, the dog", "The largest number is 12.", "no")]
    turns = [(prompt_of(case.engine, said), answer) for said in SAID for answer in answers]
    return [*turns, (turns[0][0], answers[0][:1]), turns[0]]


def test_given_answers_get_a_log_prob_for_each_token_in_their_order(case: Case) -> None:
    turns = given(case)
    together = case.engine.logprobs(STEP, turns)
    assert [len(logps) for logps in together] == [len(action) for _, action in turns]
    assert all(logp <= 0 for logps in together for logp in logps)
    if case.exact:
        alone = [case.engine.logprobs(STEP, [turn])[0] for turn in turns]
        assert all(logps == pytest.approx(by_itself, abs=FP32) for logps, by_itself in zip(together, alone, strict=True))
    assert case.engine.logprobs(STEP, []) == []


def test_log_probs_of_given_answers_are_those_that_the_learner_computes(real: Case, adapters: list[dict[str, LoraPair]]) -> None:
    turns = given(real)
    for sampler, weights in ((BASE, {}), (V1, adapters[0]), (STEP, adapters[1])):
        real.check_given(weights, turns, real.engine.logprobs(sampler, turns))
    sample = real.ask(V1, asked(real, temperature=1.0))[0]
    (logps,) = real.engine.logprobs(V1, [(prompt_of(real.engine, SAID[0]), sample.action_ids)])
    assert logps == pytest.approx(sample.logprobs, abs=FP32 if real.exact else 4 * MEAN_BF16)


def test_given_answers_that_do_not_fit_are_refused_and_so_is_a_sampler_that_is_not_loaded(case: Case) -> None:
    prompt, answer = given(case)[0]
    longest = case.engine.context_limit - 1
    for wrong in ((prompt, (5,) * (longest + 1 - len(prompt))), ((), answer), (prompt, ())):
        with pytest.raises(PolicyError, match="context"):
            case.engine.logprobs(BASE, [(prompt, answer), wrong])
    assert len(case.engine.logprobs(BASE, [(prompt, (5,) * (longest - len(prompt)))])[0]) == longest - len(prompt)
    with pytest.raises(PolicyError, match="not loaded"):
        case.engine.logprobs(case.step(), [(prompt, answer)])


@pytest.mark.parametrize("temperature", [0.0, 0.6, 1.0, 1.7])
def test_log_probs_are_those_that_the_learner_computes(real: Case, adapters: list[dict[str, LoraPair]], temperature: float) -> None:
    requests = asked(real, temperature=temperature)
    for sampler, weights in ((BASE, {}), (V1, adapters[0]), (STEP, adapters[1])):
        real.check_logprobs(weights, requests, real.ask(sampler, requests))


def test_the_temperature_is_honoured(real: Case) -> None:
    prompt_ids = prompt_of(real.engine, SAID[0])

    def answers(temperature: float) -> set[tuple[int, ...]]:
        requests = [Request(prompt_ids=prompt_ids, max_tokens=6, temperature=temperature)] * 16
        return {sample.action_ids for sample in real.ask(BASE, requests)}

    assert len(answers(0.01)) <= (1 if real.exact else 3)  # in bf16 the same prompt is rounded in more than one way
    assert len(answers(2.0)) > 8


def test_a_seed_fixes_an_answer_whatever_else_is_in_the_batch(real: Case) -> None:
    if not real.exact:
        pytest.skip("in bf16 the same prompt is rounded in more than one way")
    prompt_ids = prompt_of(real.engine, SAID[0])
    seeded = [Request(prompt_ids=prompt_ids, max_tokens=6, temperature=2.0, seed=seed) for seed in range(16)]
    together = real.ask(BASE, seeded)
    assert len({sample.action_ids for sample in together}) > 8
    unseeded = asked(real, temperature=2.0)
    mixed = real.ask(BASE, [*unseeded, *reversed(seeded)])
    assert [sample.action_ids for sample in mixed[: len(unseeded) - 1 : -1]] == [sample.action_ids for sample in together]
    assert real.ask(BASE, seeded[3:4])[0].action_ids == together[3].action_ids


def test_adapters_stand_side_by_side(case: Case) -> None:
    answers = {sampler: [sample.action_ids for sample in case.ask(sampler, asked(case))] for sampler in (BASE, V1, STEP)}
    assert answers[BASE] != answers[V1]
    assert answers[V1] != answers[STEP]
    if case.exact:
        assert [sample.action_ids for sample in case.ask(BASE, asked(case))] == answers[BASE]


def test_a_sampler_that_was_unloaded_does_not_answer(case: Case, adapters: list[dict[str, LoraPair]]) -> None:
    step = case.step()
    case.engine.load(step, adapters[0])
    policy = case.engine.policy(step)
    case.engine.unload(step)
    assert step not in case.engine
    with pytest.raises(PolicyError, match="not loaded"):
        case.engine.policy(step)
    with pytest.raises((PolicyError, KeyError)):
        policy.generate(asked(case))


def test_a_sampler_is_loaded_once(case: Case, adapters: list[dict[str, LoraPair]]) -> None:
    for sampler in (BASE, V1, STEP):
        with pytest.raises(ValueError, match="loaded"):
            case.engine.load(sampler, adapters[0])


def test_a_step_that_is_taken_again_answers_with_its_new_weights(real: Case, adapters: list[dict[str, LoraPair]]) -> None:
    """As after the death of a job's process: the same step of another attempt, whose old answers may be cached."""
    step = real.step()
    for weights in adapters:
        real.engine.load(step, weights)
        requests = asked(real)
        real.check_logprobs(weights, requests, real.ask(step, requests))
        real.engine.unload(step)


def test_what_exceeds_the_context_is_refused(case: Case) -> None:
    (prompt_ids,) = {prompt_of(case.engine, SAID[1])}
    fits = Request(prompt_ids=prompt_ids, max_tokens=4, temperature=0.0)
    for wrong in (
        Request(prompt_ids=(5,) * case.engine.context_limit, max_tokens=1, temperature=0.0),
        Request(prompt_ids=prompt_ids, max_tokens=case.engine.context_limit, temperature=0.0),
        Request(prompt_ids=(), max_tokens=4, temperature=0.0),
    ):
        with pytest.raises(PolicyError, match="context"):
            case.ask(BASE, [fits, wrong])
    whole = Request(prompt_ids=(5,) * (case.engine.context_limit - 1), max_tokens=1, temperature=0.0)
    if not isinstance(case.engine, ScriptedEngine):
        assert len(case.ask(BASE, [whole])[0].action_ids) == 1


def test_an_empty_batch_has_no_answers(case: Case) -> None:
    assert case.ask(BASE, []) == []


def test_resting_changes_no_answer(case: Case) -> None:
    before = case.ask(V1, asked(case))
    case.engine.release_memory()
    assert [sample.action_ids for sample in case.ask(V1, asked(case))] == [sample.action_ids for sample in before]


def test_vllm_refuses_what_it_cannot_serve(case: Case, model: ModelFiles, adapters: list[dict[str, LoraPair]]) -> None:
    if not isinstance(case.engine, VllmEngine):
        pytest.skip("only vLLM has these limits")
    name = next(iter(adapters[0]))
    with pytest.raises(InputError, match="engine = 'transformers'"):
        case.engine.load(case.step(), {name: torch.zeros(2, 2)})
    with pytest.raises(InputError, match=r"raise vllm\.max_rank"):
        case.engine.load(case.step(), adapter_of(model, 1, rank=32))
    with pytest.raises(InputError, match="not finite"):
        case.engine.load(case.step(), {name: LoraPair(down_RI=torch.full((4, 128), float("nan")), up_OR=torch.ones(128, 4), scale=1.0)})
    with pytest.raises(RuntimeFailure, match="cannot serve"):
        case.engine.load(VersionRef("v99"), adapters[0])


def test_an_adapter_that_overflows_is_an_error_and_the_server_goes_on(real: Case, model: ModelFiles) -> None:
    huge = {
        name: LoraPair(down_RI=torch.full_like(pair.down_RI, 1e30), up_OR=torch.full_like(pair.up_OR, 1e30), scale=1.0)
        for name, pair in adapter_of(model, 1).items()
    }
    step = real.step()
    real.engine.load(step, huge)
    with pytest.raises((RuntimeFailure, PolicyError)):
        real.ask(step, asked(real, temperature=1.0))
    with pytest.raises((RuntimeFailure, PolicyError)):
        real.engine.logprobs(step, given(real))
    real.engine.unload(step)
    assert len(real.ask(BASE, asked(real))) == len(SAID)
