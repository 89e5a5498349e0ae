"""Losses against numbers worked by hand, torch's autograd against finite differences, and estimators against sums over all actions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from perdure.learners.losses import cross_entropy, group_advantages, kl_k2, policy_gradient


def f64(*values: float, grad: bool = False) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=grad)


def test_advantages_are_rewards_less_their_mean_and_not_divided() -> None:
    assert group_advantages([1, 0, 0, 1]) == [0.5, -0.5, -0.5, 0.5]
    assert group_advantages([3.0, 0.0, 0.0]) == [2.0, -1.0, -1.0]
    assert group_advantages([2.5, 2.5]) == [0.0, 0.0]
    assert sum(group_advantages([0.1, 0.7, 0.2, 0.9, -3.0])) == pytest.approx(0, abs=1e-12)


def test_policy_gradient_by_hand() -> None:
    logp, sampler = f64(math.log(0.5), math.log(0.05), math.log(0.8)), f64(math.log(0.25), math.log(0.5), math.log(0.1))
    # ratios 2, 0.1 (it has no floor), 8 capped at 3; advantages 1, -2, 0.5; 10 tokens in the batch
    expected = -(2 * 1 * math.log(0.5) + 0.1 * -2 * math.log(0.05) + 3 * 0.5 * math.log(0.8)) / 10
    assert float(policy_gradient(logp, sampler, f64(1, -2, 0.5), 10, 3.0)) == pytest.approx(expected, rel=1e-12)


def test_the_ratio_and_its_cap_carry_no_gradient() -> None:
    logp = f64(math.log(0.5), math.log(0.25), math.log(0.8), grad=True)
    sampler = f64(math.log(0.25), math.log(0.5), math.log(0.1))
    policy_gradient(logp, sampler, f64(1, -2, 0.5), 10, 3.0).backward()
    assert logp.grad is not None
    torch.testing.assert_close(logp.grad, f64(-2 * 1 / 10, -0.5 * -2 / 10, -3 * 0.5 / 10))


def test_on_policy_the_ratio_is_one() -> None:
    logp = f64(-0.3, -1.2, grad=True)
    policy_gradient(logp, logp.detach(), f64(1, -1), 2, 1.0).backward()
    assert logp.grad is not None
    torch.testing.assert_close(logp.grad, f64(-0.5, 0.5))


def test_a_very_unlikely_token_gives_a_finite_loss() -> None:
    loss = policy_gradient(f64(-0.1, -900.0), f64(-900.0, -0.1), f64(1, -1), 2, 2.0)
    assert bool(loss.isfinite())


def test_cross_entropy_by_hand() -> None:
    logp = f64(math.log(0.5), math.log(0.25), grad=True)
    loss = cross_entropy(logp, f64(1, 0.3), 4)
    assert float(loss.detach()) == pytest.approx((math.log(2) + 0.3 * math.log(4)) / 4, rel=1e-12)
    loss.backward()
    assert logp.grad is not None
    torch.testing.assert_close(logp.grad, f64(-0.25, -0.075))


def test_kl_by_hand() -> None:
    logp = f64(-1.0, -2.0, grad=True)
    loss = kl_k2(logp, f64(-1.5, -1.0), f64(1, 0.1), 2)
    assert float(loss.detach()) == pytest.approx((0.5 * 0.25 + 0.1 * 0.5 * 1) / 2, rel=1e-12)
    loss.backward()
    assert logp.grad is not None
    torch.testing.assert_close(logp.grad, f64(0.25, -0.05))


def test_gradients_equal_finite_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    logits_AV = torch.randn(4, 5, dtype=torch.float64, generator=generator, requires_grad=True)
    token_A = torch.tensor([0, 3, 2, 4])
    fixed_A = -torch.rand(4, dtype=torch.float64, generator=generator) * 2
    weight_A = torch.randn(4, dtype=torch.float64, generator=generator)

    def logp(logits: Tensor) -> Tensor:
        return logits.log_softmax(-1).gather(1, token_A[:, None])[:, 0]

    assert gradcheck(lambda x: cross_entropy(logp(x), weight_A, 7), (logits_AV,))
    assert gradcheck(lambda x: kl_k2(logp(x), fixed_A, weight_A, 7), (logits_AV,))
    # the policy gradient of the importance-weighted return, where no ratio is capped: d/dx sum(ratio * A) = ratio * A * d logp
    loss = policy_gradient(logp(logits_AV), fixed_A, weight_A, 7, 1e9)
    (found,) = torch.autograd.grad(loss, logits_AV)
    for a in range(4):
        for v in range(5):
            step = torch.zeros_like(logits_AV)
            step[a, v] = 1e-6
            up, down = (-((logp(logits_AV.detach() + s * step) - fixed_A).exp() * weight_A).sum() / 7 for s in (1, -1))
            assert float(found[a, v]) == pytest.approx(float(up - down) / 2e-6, abs=1e-7)


def distributions() -> tuple[Tensor, Tensor, Tensor]:
    """Logits of a policy over six actions, the log-probs of another policy, and a reward for each action."""
    generator = torch.Generator().manual_seed(1)
    logits, other = torch.randn(2, 6, dtype=torch.float64, generator=generator)
    return logits.requires_grad_(), other.log_softmax(0), torch.randn(6, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("on_policy", [True, False])
def test_its_mean_over_all_actions_is_the_gradient_of_the_expected_reward(on_policy: bool) -> None:
    logits, other, reward = distributions()
    (expected,) = torch.autograd.grad((logits.softmax(0) * reward).sum(), logits)
    logp = logits.log_softmax(0)
    sampler = logp.detach() if on_policy else other
    total = torch.zeros(6, dtype=torch.float64)
    for action in range(6):
        advantage = reward[action] - 0.3  # any baseline
        loss = policy_gradient(logp[action : action + 1], sampler[action : action + 1], advantage[None], 1, 1e9)
        total += sampler[action].exp() * torch.autograd.grad(loss, logits, retain_graph=True)[0]
    torch.testing.assert_close(-total, expected)


def test_the_mean_of_the_kl_gradient_over_the_policys_own_actions_is_that_of_the_kl() -> None:
    logits, reference, _ = distributions()
    logp = logits.log_softmax(0)
    (expected,) = torch.autograd.grad((logp.exp() * (logp - reference)).sum(), logits, retain_graph=True)
    weight = logp.detach().exp()
    (found,) = torch.autograd.grad(kl_k2(logp, reference, weight, 1), logits)
    torch.testing.assert_close(found, expected)


def test_parts_of_a_batch_add_up_to_the_whole() -> None:
    generator = torch.Generator().manual_seed(2)
    logp, other, weight = torch.randn(3, 9, dtype=torch.float64, generator=generator)

    def gradient(parts: list[slice]) -> Tensor:
        x = logp.clone().requires_grad_()
        for part in parts:
            loss = policy_gradient(x[part], other[part], weight[part], 9, 2.0)
            loss = loss + cross_entropy(x[part], weight[part], 9) + kl_k2(x[part], other[part], weight[part], 9)
            loss.backward()
        assert x.grad is not None
        return x.grad

    torch.testing.assert_close(gradient([slice(0, 9)]), gradient([slice(0, 2), slice(2, 3), slice(3, 9)]))
