"""Ten families in the contract of a model: they play, learn and serve with the numbers of plain transformers, whatever their layers are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.families import BY_ROWS, CONTEXT, EACH_FAMILY, family, packed
from tests.learners.conftest import branches, engine_of, plain_logprobs, plain_model, plain_of, random_adapter, trainee_of, with_weights
from tests.learners.home import EASY, Learner
from transformers import PreTrainedModel

from perdure.envs.policy import Ids, Message, Request
from perdure.learners.engines.loaded_versions import LoadedVersions
from perdure.learners.engines.transformers_engine import TransformersEngine
from perdure.learners.model.adapted_model import AdaptedModel
from perdure.learners.model.tree import build_tree
from perdure.learners.weights.adapters import load_version
from perdure.learners.weights.base_models import ModelFiles, resolve_model
from perdure.learners.weights.weight_sets import LoraPair, Weights
from perdure.memory.records import StepRef, VersionRef
from perdure.memory.store import create_store

EXACT = 1e-4
MEAN_BF16 = 0.1
BASE, STEP = VersionRef("v0"), StepRef(1, 0)


@pytest.fixture(scope="module", params=EACH_FAMILY)
def of_family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ModelFiles:
    folder = family(request.param, tmp_path_factory.mktemp("families") / request.param)
    return resolve_model(str(folder), folder, print)


@pytest.fixture(scope="module")
def engine(of_family: ModelFiles) -> TransformersEngine:
    made = engine_of(of_family)
    made.load(BASE, {})
    made.load(STEP, adapter_of(made.model, 5))
    return made


@pytest.fixture(scope="module")
def plain(of_family: ModelFiles) -> PreTrainedModel:
    return plain_model(of_family)


def adapter_of(model: AdaptedModel, seed: int, rank: int = 3) -> dict[str, LoraPair]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: LoraPair(
            down_RI=torch.randn(rank, layer.shape[1], generator=generator) * 0.15,
            up_OR=torch.randn(layer.shape[0], rank, generator=generator) * 0.15,
            scale=0.7,
        )
        for name, layer in model.layers.items()
    }


def long_branches() -> list[list[int]]:
    """Sequences that share prefixes, longer than any window or chunk of the families."""
    first, *rest = branches(300, 1)
    return [*branches(300), [*first, *rest[3], *rest[4]], [*first, *rest[3], *rest[5]]]


def test_families_that_a_tree_cannot_compute_take_rows(of_family: ModelFiles, engine: TransformersEngine) -> None:
    assert engine.model.by_rows == (of_family.path.name in BY_ROWS)
    assert engine.context_limit == (CONTEXT // 2 if of_family.path.name == "phi-4-mini" else CONTEXT)


@pytest.mark.parametrize("sampler", [BASE, STEP], ids=str)
def test_hidden_states_of_a_tree_give_the_logits_of_each_sequence_alone(
    engine: TransformersEngine, plain: PreTrainedModel, sampler: VersionRef | StepRef
) -> None:
    weights: Weights = adapter_of(engine.model, 5) if sampler == STEP else {}
    engine.model.use(engine.model.prepare(weights))
    tree, exact = build_tree(long_branches()), with_weights(plain, weights)
    with torch.no_grad():
        logits_NV = engine.model.head.logits(engine.model.hidden(tree))
        for path, sequence in zip(tree.paths, long_branches(), strict=True):
            expected_TV = exact(input_ids=torch.tensor([sequence])).logits[0]
            torch.testing.assert_close(logits_NV[path].log_softmax(-1), expected_TV.log_softmax(-1), atol=EXACT, rtol=0)


def test_three_turns_are_sampled_with_the_log_probs_of_a_plain_pass(engine: TransformersEngine, plain: PreTrainedModel) -> None:
    engine.release_memory()
    prompts: list[Ids] = [tuple(prompt) for prompt in long_branches()]
    for _ in range(3):
        requests = [Request(prompt_ids=prompt, max_tokens=3 + n % 5, temperature=1.0) for n, prompt in enumerate(prompts)]
        samples = engine.generate(STEP, requests)
        check(plain, adapter_of(engine.model, 5), prompts, [(sample.action_ids, sample.logprobs) for sample in samples])
        prompts = [
            (*prompt, *sample.action_ids, *range(7, 9 + n % 3)) for n, (prompt, sample) in enumerate(zip(prompts, samples, strict=True))
        ]


def check(model: PreTrainedModel, weights: Weights, prompts: Sequence[Ids], answers: Sequence[tuple[Ids, Sequence[float]]]) -> None:
    exact = with_weights(model, weights)
    for prompt, (action, logprobs) in zip(prompts, answers, strict=True):
        with torch.no_grad():
            expected = plain_logprobs(exact, prompt, action, 1.0)
        torch.testing.assert_close(torch.tensor(logprobs), expected, atol=EXACT, rtol=0)


def test_greedy_answers_are_those_of_generate(engine: TransformersEngine, plain: PreTrainedModel) -> None:
    engine.release_memory()
    prompts = [tuple(prompt) for prompt in long_branches()]
    samples = engine.generate(BASE, [Request(prompt_ids=prompt, max_tokens=12, temperature=0.0) for prompt in prompts])
    for prompt, sample in zip(prompts, samples, strict=True):
        ids = torch.tensor([prompt])
        out = plain.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=12)  # type: ignore[operator]
        assert list(sample.action_ids) == out[0, len(prompt) :].tolist()


def test_log_probs_of_given_answers_are_those_of_a_plain_pass(engine: TransformersEngine, plain: PreTrainedModel) -> None:
    turns: list[tuple[Ids, Ids]] = [(tuple(one[:-2]), tuple(one[-2:])) for one in long_branches() if len(one) > 2]
    found = engine.logprobs(STEP, turns)
    check(plain, adapter_of(engine.model, 5), [p for p, _ in turns], [(a, f) for (_, a), f in zip(turns, found, strict=True)])


def test_gradients_are_those_of_a_plain_pass(of_family: ModelFiles) -> None:
    trainee = random_adapter(trainee_of(of_family), 3)
    turns: list[tuple[Ids, Ids]] = [(tuple(one[:-2]), tuple(one[-2:])) for one in long_branches() if len(one) > 2]
    trainee.logprobs(turns, 0.7).sum().backward()
    ours = trainee.take_gradient()
    exact = plain_of(trainee)
    torch.cat([plain_logprobs(exact, prompt, action, 0.7) for prompt, action in turns]).sum().backward()
    theirs = trainee.take_gradient()
    assert float(theirs.norm()) > 0.1
    assert float((ours - theirs).norm() / theirs.norm()) < EXACT


@pytest.fixture
def learner(of_family: ModelFiles, tmp_path: Path) -> Iterator[Learner]:
    with create_store(tmp_path / "home") as store:
        yield Learner(store, of_family)


@pytest.mark.parametrize("name", ["grpo", "sft"])
def test_it_learns_and_what_it_learned_is_served(learner: Learner, of_family: ModelFiles, plain: PreTrainedModel, name: str) -> None:
    settings = {"epochs": 1} if name == "sft" else {"prompts": 4}
    version = learner.learn(EASY, name, **{"updates": 1, **settings})
    assert version.path is not None
    weights = load_version(learner.store.home, version.path, version.hash, of_family)
    assert any(float(pair.up_OR.abs().max()) > 0 for pair in weights.values() if isinstance(pair, LoraPair))
    engine = engine_of(of_family)  # another process would serve it
    ref = LoadedVersions(learner.store, engine).load(version.name)
    prompt = engine.chat.prompt([Message(role="user", text="Say yes or no.")])
    (sample,) = engine.policy(ref).generate([Request(prompt_ids=prompt, max_tokens=8, temperature=1.0)])
    check(plain, weights, [prompt], [(sample.action_ids, sample.logprobs)])


def test_bfloat16_rounds_and_changes_nothing_else(of_family: ModelFiles, plain: PreTrainedModel) -> None:
    engine = TransformersEngine(of_family, device="cpu", dtype=torch.bfloat16, seed=0)
    engine.load(BASE, {})
    prompts = [tuple(prompt) for prompt in long_branches()]
    samples = engine.generate(BASE, [Request(prompt_ids=prompt, max_tokens=6, temperature=1.0) for prompt in prompts])
    with torch.no_grad():
        expected = torch.cat([plain_logprobs(plain, p, s.action_ids, 1.0) for p, s in zip(prompts, samples, strict=True)])
    assert float((torch.tensor([logp for s in samples for logp in s.logprobs]) - expected).abs().mean()) < MEAN_BF16


@pytest.mark.parametrize("options", [{"tuning": "full"}, {"checkpointing": True}], ids=str)
def test_other_ways_of_tuning_have_the_gradients_of_a_plain_pass(of_family: ModelFiles, options: dict[str, Any]) -> None:
    trainee = trainee_of(of_family, **options)
    if "tuning" not in options:
        random_adapter(trainee, 3)
    turns: list[tuple[Ids, Ids]] = [(tuple(one[:-2]), tuple(one[-2:])) for one in long_branches() if len(one) > 2]
    trainee.logprobs(turns, 0.7).sum().backward()
    ours = trainee.take_gradient()
    exact = plain_of(trainee)
    torch.cat([plain_logprobs(exact, prompt, action, 0.7) for prompt, action in turns]).sum().backward()
    theirs = trainee.take_gradient()
    assert float((ours - theirs).norm() / theirs.norm()) < EXACT


def test_experts_in_mxfp4_are_unpacked(tmp_path: Path) -> None:
    """As gpt-oss is published: pairs of four bits, and a scale for each 32 of them."""
    folder = packed(family("gpt-oss", tmp_path / "gpt-oss"))
    files = resolve_model(str(folder), folder, print)
    engine, plain = engine_of(files), plain_model(files).float()  # transformers unpacks into bfloat16
    engine.load(BASE, {})
    turns: list[tuple[Ids, Ids]] = [(tuple(one[:-2]), tuple(one[-2:])) for one in long_branches() if len(one) > 2]
    found = engine.logprobs(BASE, turns)
    check(plain, {}, [p for p, _ in turns], [(a, f) for (_, a), f in zip(turns, found, strict=True)])
