"""Elastic weight consolidation with a Fisher that is known exactly, and on a quadratic with a known minimum."""

from __future__ import annotations

import pytest
import torch
from tests.learners.conftest import options_of, plain_logprobs, plain_of, random_adapter, trainee_of
from tests.learners.retention.lessons import batch_of, even, imitated

from perdure.learners.gradients import accumulate_gradient
from perdure.learners.retention.ewc import ewc, fisher
from perdure.learners.weights.base_models import ModelFiles


def test_the_fisher_is_the_mean_squared_gradient_of_each_episode_alone(llama: ModelFiles) -> None:
    trainee = random_adapter(trainee_of(llama), 1)
    memory = imitated(3)
    expected = torch.zeros(sum(parameter.numel() for parameter in trainee.parameters))
    for lesson in memory:
        sum(plain_logprobs(plain_of(trainee), prompt, action, 0.7).sum() for prompt, action in lesson.turns).backward()
        expected += trainee.take_gradient().square() / len(memory)
    found = fisher(trainee, memory, 0.7)
    assert float(expected.norm()) > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * float(expected.max()))
    assert not fisher(trainee, [], 0.7).any()


def test_over_all_answers_it_is_the_variance_of_the_score(llama: ModelFiles) -> None:
    """The diagonal Fisher information of one token: the mean of its squared score over the model's own distribution."""
    trainee = random_adapter(trainee_of(llama), 1)
    (prompt, _), *_ = imitated(1)[0].turns
    logp_V = plain_of(trainee)(input_ids=torch.tensor([[*prompt]])).logits[0, -1].log_softmax(-1)
    by_hand, by_fisher = torch.zeros(2, sum(parameter.numel() for parameter in trainee.parameters))
    chosen = logp_V.detach().topk(6).indices.tolist()
    for token in chosen:
        share = float(logp_V[token].detach().exp())
        gradients = torch.autograd.grad(logp_V[token], trainee.parameters, retain_graph=True)
        by_hand += share * torch.cat([gradient.flatten() for gradient in gradients]).square()
        by_fisher += share * fisher(trainee, imitated(1, turns=(((prompt, (token,)),),)), 1.0)
    torch.testing.assert_close(by_fisher, by_hand, rtol=1e-3, atol=1e-5 * float(by_hand.max()))


def test_the_penalty_and_its_gradient_by_hand(llama: ModelFiles) -> None:
    trainee = random_adapter(trainee_of(llama), 1)
    weight_P = torch.rand(sum(p.numel() for p in trainee.parameters), generator=torch.Generator().manual_seed(0))
    loss = ewc(trainee, weight_P, 4.0)
    part = imitated(2)
    assert float(loss(batch_of(trainee, part, even(part))).detach()) == 0
    with torch.no_grad():
        for parameter in trainee.parameters:
            parameter.add_(0.5)
    found = loss(batch_of(trainee, part, even(part, 0.25)))  # a quarter of the batch
    assert float(found.detach()) == pytest.approx(0.25 * 2 * 0.25 * float(weight_P.sum()), rel=1e-4)
    found.backward()
    torch.testing.assert_close(trainee.take_gradient(), 0.25 * 4 * weight_P * 0.5, rtol=1e-3, atol=1e-6)


def test_shares_of_the_batch_add_up_to_the_whole_penalty(llama: ModelFiles) -> None:
    trainee = random_adapter(trainee_of(llama), 1)
    loss = ewc(trainee, torch.ones(sum(p.numel() for p in trainee.parameters)), 1.0)
    with torch.no_grad():
        for parameter in trainee.parameters:
            parameter.add_(0.1)
    seen = []
    for budget in (20, 10_000):
        options = options_of(budget_tokens=budget)
        stats = accumulate_gradient(trainee, imitated(6), options, most_tokens=9, old_logprobs={}, extra_losses={"ewc": loss})
        seen.append(stats.extra["ewc"])
        trainee.take_gradient()
    assert seen[0] == pytest.approx(seen[1], rel=1e-4)
    assert seen[1] == pytest.approx(0.01 / 2 * sum(p.numel() for p in trainee.parameters), rel=1e-3)


def test_the_minimum_balances_two_quadratics(llama: ModelFiles) -> None:
    """1/2 (theta - t)^2 + w/2 F (theta - theta*)^2 has its minimum at (t + w F theta*) / (1 + w F)."""
    trainee = random_adapter(trainee_of(llama), 1)
    size = sum(p.numel() for p in trainee.parameters)
    start_P = torch.cat([p.detach().flatten() for p in trainee.parameters]).clone()
    fisher_P = 3 * torch.rand(size, generator=torch.Generator().manual_seed(2))
    goal_P = start_P + 1
    loss = ewc(trainee, fisher_P, 2.0)
    batch = imitated(1)
    for _ in range(200):
        now_P = torch.cat([p.flatten() for p in trainee.parameters])
        (0.5 * (now_P - goal_P).square().sum() + loss(batch_of(trainee, batch, even(batch)))).backward()
        with torch.no_grad():
            for parameter, step in zip(
                trainee.parameters, trainee.take_gradient().split([p.numel() for p in trainee.parameters]), strict=True
            ):
                parameter.sub_(0.2 * step.view_as(parameter))
    now_P = torch.cat([p.detach().flatten() for p in trainee.parameters])
    torch.testing.assert_close(now_P, (goal_P + 2 * fisher_P * start_P) / (1 + 2 * fisher_P), atol=1e-3, rtol=0)
