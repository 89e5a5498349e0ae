"""Keys and values that are kept between the turns of a conversation: the same log-probs as of each sequence alone, for less work."""

from __future__ import annotations

import pytest
import torch
from tests.learners.conftest import branches, copied, engine_of, merged_logprobs, random_adapter, trainee_of

from perdure.envs.policy import Ids, Request
from perdure.learners.engines.transformers_engine import MOST_KEPT, MOST_NODES, TransformersEngine
from perdure.learners.weights.base_models import ModelFiles
from perdure.learners.weights.weight_sets import Weights
from perdure.memory.records import Sampler, StepRef, VersionRef

BASE = VersionRef("v0")
OBSERVATION = (7, 8, 9)
TOLERANCE = 1e-4


def loaded(files: ModelFiles, *, budget_tokens: int = 1536) -> TransformersEngine:
    engine = engine_of(files, budget_tokens=budget_tokens)
    engine.load(BASE, {})
    return engine


def adapter(files: ModelFiles) -> Weights:
    return copied(random_adapter(trainee_of(files, rank=4, alpha=8), 8).weights())


def opening() -> list[Ids]:
    return [tuple(prompt) for prompt in branches(300)]


def turn(engine: TransformersEngine, sampler: Sampler, weights: Weights, prompts: list[Ids]) -> tuple[list[Ids], int]:
    """One turn, whose log-probs are checked; returns the prompts of the next one, and how many tokens of these prompts were computed."""
    before = engine.usage.prefilled_tokens
    samples = engine.generate(sampler, [Request(prompt_ids=prompt, max_tokens=6, temperature=1.0) for prompt in prompts])
    exact = merged_logprobs(engine.files, weights, [(prompt, sample.action_ids) for prompt, sample in zip(prompts, samples, strict=True)])
    torch.testing.assert_close(torch.tensor([p for sample in samples for p in sample.logprobs]), exact, atol=TOLERANCE, rtol=0)
    later = [(*prompt, *sample.action_ids, *OBSERVATION) for prompt, sample in zip(prompts, samples, strict=True)]
    return later, engine.usage.prefilled_tokens - before


@pytest.mark.parametrize("budget_tokens", [1536, 25])
def test_a_prompt_that_continues_a_conversation_is_computed_from_its_new_tokens_on(files: ModelFiles, budget_tokens: int) -> None:
    engine, prompts = loaded(files, budget_tokens=budget_tokens), opening()
    for n in range(4):
        prompts, computed = turn(engine, BASE, {}, prompts)
        if n:
            assert computed <= len(prompts) * (1 + len(OBSERVATION)), "the last token of an answer was sampled, not computed"


@pytest.mark.parametrize("event", ["other samplers", "other weights", "memory is released"])
def test_what_was_computed_is_forgotten_with_its_weights(files: ModelFiles, event: str) -> None:
    engine, weights = loaded(files), adapter(files)
    prompts, whole = turn(engine, BASE, {}, opening())
    if event == "other samplers":
        for n in range(MOST_KEPT):
            engine.load(StepRef(1, n), weights)
            turn(engine, StepRef(1, n), weights, opening())
    elif event == "other weights":
        engine.unload(BASE)
        engine.load(BASE, weights)
    else:
        engine.release_memory()
    _, computed = turn(engine, BASE, weights if event == "other weights" else {}, prompts)
    assert computed > whole


def test_samplers_that_are_asked_in_turn_each_keep_what_was_computed(files: ModelFiles) -> None:
    engine = loaded(files)
    weights: dict[Sampler, Weights] = {BASE: {}} | {StepRef(1, n): adapter(files) for n in range(1, MOST_KEPT)}
    for sampler in list(weights)[1:]:
        engine.load(sampler, weights[sampler])
    prompts = dict.fromkeys(weights, opening())
    for n in range(3):
        for sampler in weights:
            prompts[sampler], computed = turn(engine, sampler, weights[sampler], prompts[sampler])
            if n:
                assert computed <= len(prompts[sampler]) * (1 + len(OBSERVATION))


def test_a_tree_that_has_grown_too_large_is_begun_anew(llama: ModelFiles) -> None:
    engine = loaded(llama)

    def computed(first: int) -> int:
        before = engine.usage.prefilled_tokens
        engine.generate(BASE, [Request(prompt_ids=(first, *range(3, 202)), max_tokens=1, temperature=0.0)])
        return engine.usage.prefilled_tokens - before

    fit = MOST_NODES // 200 + 1
    assert [computed(first) for first in range(3, 3 + fit)] == [200] * fit
    assert [computed(3), computed(3), computed(4)] == [200, 1, 200]
