"""Losses compared with numbers worked by hand, autograd with finite differences, and estimators with sums over all actions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from perdure.learners.losses import (
    VARIANTS,
    centred,
    cispo,
    clipped,
    kl_divergence,
    kl_penalty,
    leave_one_out,
    sequence_clipped,
    standardised,
    token_weights,
    truncated_ratio,
)

ONE_EACH = torch.arange(6)


def f64(*values: float, grad: bool = False) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=grad)


def logs(*values: float, grad: bool = False) -> Tensor:
    return f64(*(math.log(value) for value in values), grad=grad)


def test_advantages_by_hand() -> None:
    assert centred([1, 0, 0, 1]) == [0.5, -0.5, -0.5, 0.5]
    assert centred([3.0, 0.0, 0.0]) == [2.0, -1.0, -1.0]
    assert centred([2.5, 2.5]) == [0.0, 0.0]
    # deviation of (3, 0, 0) with two degrees of freedom: root 3
    assert standardised([3.0, 0.0, 0.0]) == pytest.approx([2 / (3**0.5 + 1e-4), -1 / (3**0.5 + 1e-4), -1 / (3**0.5 + 1e-4)])
    assert standardised([2.5, 2.5]) == [0.0, 0.0]
    assert leave_one_out([3.0, 0.0, 0.0]) == pytest.approx([3.0, -1.5, -1.5])  # 3 - 0, and 0 less the mean of 3 and 0


def test_the_clip_by_hand() -> None:
    # ratios 2, 2, 0.5, 0.5, 1 with advantages of both signs: clipping only removes gains
    logp, old = logs(0.5, 0.5, 0.25, 0.25, 0.3), logs(0.25, 0.25, 0.5, 0.5, 0.3)
    found = clipped(0.2, 0.3)(logp, old, f64(1, -1, 1, -1, 2), ONE_EACH)
    torch.testing.assert_close(found, f64(1.3, -2, 0.5, -0.8, 2))


def test_a_clipped_token_has_no_gradient_but_under_cispo() -> None:
    old, advantage = logs(0.25, 0.25), f64(1, 1)
    for surrogate, expected in ((clipped(0.2, 0.2), f64(0, 1.1)), (cispo(0.2), f64(1.2, 1.1))):
        logp = logs(0.5, 0.275, grad=True)  # ratios 2 and 1.1
        surrogate(logp, old, advantage, ONE_EACH).sum().backward()
        torch.testing.assert_close(logp.grad, expected)


def test_sequence_ratios_by_hand() -> None:
    logp, old = logs(0.5, 0.25, 0.4), logs(0.25, 0.25, 0.5)  # ratios 2, 1 | 0.8
    sequence = torch.tensor([0, 0, 1])
    product = sequence_clipped(10, 10, geometric=False)(logp, old, f64(1, 1, 3), sequence)
    torch.testing.assert_close(product, f64(2, 2, 2.4))
    mean = sequence_clipped(10, 10, geometric=True)(logp, old, f64(1, 1, 3), sequence)
    torch.testing.assert_close(mean, f64(2**0.5, 2**0.5, 2.4))
    clip = sequence_clipped(0.1, 0.1, geometric=True)(logp, old, f64(1, 1, -3), sequence)
    torch.testing.assert_close(clip, f64(1.1, 1.1, -2.7))


def test_token_weights_by_hand() -> None:
    assert token_weights([2, 3], "token", 8) == [1 / 5, 1 / 5]
    assert token_weights([2, 3], "sequence", 8) == [1 / 4, 1 / 6]
    assert token_weights([2, 3], "constant", 8) == [1 / 16, 1 / 16]


@pytest.mark.parametrize("name", VARIANTS)
def test_on_the_policys_own_samples_every_variant_follows_the_same_gradient(name: str) -> None:
    """The advantage times the gradient of the log-prob, up to the factor that a geometric mean spreads over the tokens of a sequence."""
    logp = logs(0.5, 0.25, 0.4, grad=True)
    advantage, sequence = f64(2, 2, -1), torch.tensor([0, 0, 1])
    VARIANTS[name].surrogate(logp, logp.detach(), advantage, sequence).sum().backward()
    # RLOO's ratio is of the whole sequence: summed over two tokens each gradient counts twice
    torch.testing.assert_close(logp.grad, f64(4, 4, -1) if name == "rloo" else advantage)


def test_the_correction_is_truncated_and_carries_no_gradient() -> None:
    logp = logs(0.5, 0.05, 0.8, grad=True)
    ratio = truncated_ratio(logp, logs(0.25, 0.5, 0.1), 3.0)
    torch.testing.assert_close(ratio, f64(2, 0.1, 3))  # it has no floor
    assert not ratio.requires_grad


def test_a_very_unlikely_token_gives_a_finite_loss() -> None:
    logp, sampler = f64(-0.1, -900.0), f64(-900.0, -0.1)
    for variant in VARIANTS.values():
        value = variant.surrogate(logp, logp, f64(1, -1), torch.tensor([0, 1])) * truncated_ratio(logp, sampler, 2.0)
        assert bool(value.isfinite().all())


def test_kl_by_hand() -> None:
    logp = f64(-1.0, -2.0, grad=True)
    reference = f64(-1.5, -1.0)
    torch.testing.assert_close(kl_penalty(logp, reference, "k2"), f64(0.125, 0.5))
    k3 = kl_penalty(logp, reference, "k3")
    torch.testing.assert_close(k3, f64(math.exp(-0.5) - 1 + 0.5, math.exp(1) - 1 - 1))
    k3.sum().backward()
    torch.testing.assert_close(logp.grad, f64(1 - math.exp(-0.5), 1 - math.exp(1)))
    p, q = logs(0.5, 0.25, 0.25), logs(0.25, 0.25, 0.5)
    torch.testing.assert_close(kl_divergence(p[None], q[None]), f64(0.5 * math.log(2) - 0.25 * math.log(2)))
    torch.testing.assert_close(kl_divergence(p[None], p[None]), f64(0))


def of(logits_AV: Tensor, token_A: Tensor) -> Tensor:
    return logits_AV.log_softmax(-1).gather(1, token_A[:, None])[:, 0]


@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "cispo"])
def test_gradients_equal_finite_differences(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    logits_AV = torch.randn(4, 5, dtype=torch.float64, generator=generator, requires_grad=True)
    token_A, sequence_A = torch.tensor([0, 3, 2, 4]), torch.tensor([0, 0, 1, 2])
    old_A = of(logits_AV.detach() + 0.3 * torch.randn(4, 5, dtype=torch.float64, generator=generator), token_A)
    advantage_A = torch.randn(4, dtype=torch.float64, generator=generator)
    assert gradcheck(lambda x: VARIANTS[name].surrogate(of(x, token_A), old_A, advantage_A, sequence_A), (logits_AV,))


def test_gradients_of_the_kl_terms_equal_finite_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    logits_AV, other_AV = torch.randn(2, 4, 5, dtype=torch.float64, generator=generator).unbind()
    token_A = torch.tensor([0, 3, 2, 4])
    logits_AV.requires_grad_()
    assert gradcheck(lambda x: kl_penalty(of(x, token_A), of(other_AV, token_A), "k2"), (logits_AV,))
    assert gradcheck(lambda x: kl_penalty(of(x, token_A), of(other_AV, token_A), "k3"), (logits_AV,))
    assert gradcheck(lambda x: kl_divergence(x.log_softmax(-1), other_AV.log_softmax(-1)), (logits_AV,))
    assert gradcheck(lambda x: kl_divergence(other_AV.log_softmax(-1), x.log_softmax(-1)), (logits_AV,))


def test_cispo_is_the_importance_weighted_policy_gradient_if_no_ratio_is_capped() -> None:
    """d/dx sum(ratio A) = ratio A d log pi."""
    generator = torch.Generator().manual_seed(0)
    logits_AV = torch.randn(4, 5, dtype=torch.float64, generator=generator, requires_grad=True)
    token_A = torch.tensor([0, 3, 2, 4])
    old_A, advantage_A = torch.randn(2, 4, dtype=torch.float64, generator=generator)
    (found,) = torch.autograd.grad(cispo(1e9)(of(logits_AV, token_A), old_A, advantage_A, ONE_EACH).sum(), logits_AV)
    (expected,) = torch.autograd.grad(((of(logits_AV, token_A) - old_A).exp() * advantage_A).sum(), logits_AV)
    torch.testing.assert_close(found, expected)


def distributions() -> tuple[Tensor, Tensor, Tensor]:
    """Logits of a policy over six actions, the log-probs of another policy, and a reward for each action."""
    generator = torch.Generator().manual_seed(1)
    logits, other = torch.randn(2, 6, dtype=torch.float64, generator=generator)
    return logits.requires_grad_(), other.log_softmax(0), torch.randn(6, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("on_policy", [True, False])
@pytest.mark.parametrize("name", VARIANTS)
def test_the_mean_over_all_actions_is_the_gradient_of_the_expected_reward(name: str, on_policy: bool) -> None:
    """A one-step bandit with a known gradient: sampled by the policy itself, or by another one and corrected."""
    logits, other, reward = distributions()
    (expected,) = torch.autograd.grad((logits.softmax(0) * reward).sum(), logits)
    logp = logits.log_softmax(0)
    sampler = logp.detach() if on_policy else other
    total = torch.zeros(6, dtype=torch.float64)
    for action in range(6):
        one = slice(action, action + 1)
        advantage = (reward[action] - 0.3)[None]  # any baseline
        value = VARIANTS[name].surrogate(logp[one], logp[one].detach(), advantage, torch.zeros(1, dtype=torch.long))
        value = value * truncated_ratio(logp[one], sampler[one], 1e9)
        total += sampler[action].exp() * torch.autograd.grad(value.sum(), logits, retain_graph=True)[0]
    torch.testing.assert_close(total, expected)


def test_the_gradients_of_the_estimators_are_those_of_the_two_kls() -> None:
    """Averaged over the policy's own actions: k2 has the gradient of KL(policy || reference), k3 that of KL(reference || policy)."""
    logits, reference, _ = distributions()
    logp = logits.log_softmax(0)
    own = logp.detach().exp()
    for estimator, kl in (("k2", (logp.exp() * (logp - reference)).sum()), ("k3", (reference.exp() * (reference - logp)).sum())):
        (expected,) = torch.autograd.grad(kl, logits, retain_graph=True)
        (found,) = torch.autograd.grad(
            (own * kl_penalty(logp, reference, "k2" if estimator == "k2" else "k3")).sum(), logits, retain_graph=True
        )
        torch.testing.assert_close(found, expected)
    exact = (own * (logp - reference)).sum()
    torch.testing.assert_close((own * kl_penalty(logp, reference, "k3")).sum(), exact)
