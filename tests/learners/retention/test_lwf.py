"""Learning without forgetting: no loss at the serving version, and a gradient that leads back to it."""

from __future__ import annotations

import pytest
import torch
from tests.learners.conftest import options_of, plain_model, plain_of, random_adapter, trainee_of
from tests.learners.retention.lessons import batch_of, even, imitated

from perdure.learners.gradients import accumulate_gradient
from perdure.learners.retention.lwf import lwf
from perdure.learners.weights.base_models import ModelFiles


@pytest.mark.parametrize("serves", ["base", "another"])
def test_it_is_zero_at_the_serving_version_and_leads_back_to_it(llama: ModelFiles, serves: str) -> None:
    serving = random_adapter(trainee_of(llama), 7, 0.1).weights() if serves == "another" else {}
    trainee = trainee_of(llama, start=serving, references={"serving": serving} if serving else {})
    loss, lessons = lwf(1.0, 1.0), imitated(4)
    at_start = loss(batch_of(trainee, lessons, even(lessons)))
    assert abs(float(at_start.detach())) < 1e-5
    at_start.backward()
    assert float(trainee.take_gradient().norm()) < 1e-4
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in trainee.parameters:
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    far = []
    for _ in range(12):
        value = loss(batch_of(trainee, lessons, even(lessons)))
        far.append(float(value.detach()))
        value.backward()
        trainee.step(0.02, 1e9)
    assert far[0] > 0.01
    assert far[-1] < 0.5 * far[0]


def test_it_is_the_mean_kl_of_softened_distributions_however_the_batch_is_split(llama: ModelFiles) -> None:
    trainee, model = random_adapter(trainee_of(llama), 1), plain_model(llama)
    lessons = imitated(5)
    values = []
    for lesson in lessons:
        for prompt, action in lesson.turns:
            ids = torch.tensor([[*prompt, *action]])
            rows = slice(len(prompt) - 1, len(prompt) + len(action) - 1)
            with torch.no_grad():  # temperature 0.7 of sampling, softened by 2
                p, q = (m(input_ids=ids).logits[0, rows].div(1.4).log_softmax(-1) for m in (model, plain_of(trainee)))
            values += (p.exp() * (p - q)).sum(-1).tolist()
    for budget in (20, 10_000):
        options = options_of(budget_tokens=budget, temperature=0.7)
        seen = accumulate_gradient(trainee, lessons, options, most_tokens=9, old_logprobs={}, extra_losses={"lwf": lwf(0.5, 0.7)})
        assert seen.extra["lwf"] == pytest.approx(0.5 * sum(values) / len(values), rel=1e-3)
