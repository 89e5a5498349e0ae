"""What is told of an update, against the same by plain forward passes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import pytest
import torch
from tests.learners.conftest import copied, options_of, plain_model, random_adapter, trainee_of, with_weights

from perdure.learners.batches import Lesson, Turns
from perdure.learners.diagnostics import drift_of
from perdure.learners.gradients import Measured, accumulate_gradient
from perdure.learners.trainees.trainee import Trainee
from perdure.learners.weights.base_models import ModelFiles
from perdure.learners.weights.weight_sets import Weights
from perdure.memory.contracts.results import Drift

NEW = [(((5, 6, 7), (8, 9)),), (((5, 6), (10, 11, 12)), ((5, 6, 10, 11, 12, 20), (21,)))]
OLD = [(((30, 31), (32, 33, 34)),)]


def drift(trainee: Trainee, old: Sequence[Turns], temperature: float, budget_tokens: int) -> Drift:
    """As an update measures it, beside lessons with a KL term in the same trees."""
    lessons = [Lesson(episode=None, environment="a", turns=NEW[0], sampler_logprobs=None, kl=0.1)]
    measured = [Measured(turns=turns, is_old=turns in old) for turns in (*NEW, *old)]
    options = options_of(temperature=temperature, budget_tokens=budget_tokens)
    seen = accumulate_gradient(trainee, lessons, options, most_tokens=4, old_logprobs={}, extra_losses={}, measured=measured)
    assert bool(trainee.take_gradient().any())
    return drift_of(seen.divergences, trainee.serving)


def test_drift_is_the_mean_kl_from_the_present_weights_of_each_side(llama: ModelFiles) -> None:
    """KL(present || other): neither the other direction nor the other side, and the serving version is not the base."""
    serving = copied(random_adapter(trainee_of(llama), 7, 0.1).weights())
    trainee = random_adapter(trainee_of(llama, references={"serving": serving}), 8, 0.1)
    found = drift(trainee, OLD, 0.7, budget_tokens=16)

    def distributions(weights: Weights, side: object) -> torch.Tensor:
        model = with_weights(plain_model(llama), weights)
        rows = []
        with torch.no_grad():
            for turns in NEW if side is NEW else OLD:
                for prompt, action in turns:
                    logits_TV = model(input_ids=torch.tensor([[*prompt, *action]])).logits[0] / 0.7
                    rows += [logits_TV[len(prompt) - 1 + t].double().log_softmax(-1) for t in range(len(action))]
        return torch.stack(rows)

    for side, name in ((NEW, "new"), (OLD, "old")):
        present_AV = distributions(trainee.weights(), side)
        for reference, weights in (("base", {}), ("serving", serving)):
            kl = (present_AV.exp() * (present_AV - distributions(weights, side))).sum(-1).mean()
            assert kl > 1e-3
            assert asdict(found)[f"kl_{reference}_{name}"] == pytest.approx(float(kl), rel=1e-3)
    assert len({round(value, 9) for value in asdict(found).values() if value is not None}) == 4


def test_if_the_base_model_serves_both_kls_are_equal_and_without_old_episodes_there_is_no_old_kl(llama: ModelFiles) -> None:
    found = drift(random_adapter(trainee_of(llama), 8, 0.1), [], 1.0, budget_tokens=512)
    assert found.kl_serving_new == found.kl_base_new
    assert found.kl_base_old is found.kl_serving_old is None
