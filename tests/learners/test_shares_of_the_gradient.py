"""What of a batch reaches the gradient: the share of each environment, and turns that are left out of the policy gradient."""

from __future__ import annotations

import pytest
from tests.learners.conftest import random_adapter, trainee_of
from tests.learners.test_gradients import alone, assert_near, by_loops, fields, gathered, gradient_of, lessons_of, near

from perdure.learners.batches import Lesson
from perdure.learners.losses import VARIANTS
from perdure.learners.weights.base_models import ModelFiles


@pytest.mark.parametrize("name", VARIANTS)
def test_the_gradient_of_a_batch_is_the_mean_of_its_environments(llama: ModelFiles, name: str) -> None:
    """All terms of the loss keep their share: .7 for the target, .15 for each of two old environments, one of which plays long games.

    With the constant of `dr_grpo` an old environment has the size of the target: its tokens by the mean length of the target's answers.
    """
    trainee = random_adapter(trainee_of(llama), 1)
    target = [Lesson(**{**fields(lesson), "kl": 0.3}) for lesson in lessons_of(turns=1)]
    old = [
        Lesson(**{**fields(lesson), "environment": environment, "of_target": False, "kl": 0.2, **weights})
        for environment, turns, weights in (("short", 1, {}), ("game", 5, {"advantage": 0.0, "imitation": 0.5}))
        for lesson in lessons_of(turns=turns, seed=turns)
    ]
    apart = [gathered(trainee, part, variant=name)[0] for part in (target, old[:6], old[6:])]
    if name == "dr_grpo":
        sizes = [sum(one.tokens for one in part) for part in (target, old[:6], old[6:])]
        apart = [gradient * sizes[0] / size for gradient, size in zip(apart, sizes, strict=True)]
    found, _ = gathered(trainee, target + old, variant=name, replay=0.3, budget_tokens=30)
    assert_near(found, 0.7 * apart[0] + 0.15 * apart[1] + 0.15 * apart[2])


@pytest.mark.parametrize("name", VARIANTS)
def test_turns_left_out_have_no_policy_gradient_but_their_kl_term(llama: ModelFiles, name: str) -> None:
    """Here the second turn of each game; by loops over what is left, weighed as if nothing were missing."""
    trainee = random_adapter(trainee_of(llama), 1)
    lessons = lessons_of(turns=2)
    logp = [alone(trainee, lesson) for lesson in lessons]
    old = [near(one, n, 0.3) for n, one in enumerate(logp)]
    cut = [Lesson(**{**fields(lesson), "cut_turns": (1,)}) for lesson in lessons]
    firsts = [len(lesson.turns[0][1]) for lesson in lessons]
    left = [one[:n] for one, n in zip(logp, firsts, strict=True)], [one[:n] for one, n in zip(old, firsts, strict=True)]
    expected = gradient_of(trainee, by_loops(name, lessons, *left, lengths=[len(one) for one in logp]))
    assert_near(gathered(trainee, cut, dict(zip(cut, old, strict=True)), variant=name)[0], expected)
    none = [Lesson(**{**fields(lesson), "cut_turns": (0, 1), "kl": 0.3}) for lesson in lessons]
    looked = [Lesson(**{**fields(lesson), "advantage": 0.0, "kl": 0.3}) for lesson in lessons]
    assert_near(gathered(trainee, none, variant=name)[0], gathered(trainee, looked, variant=name)[0])
