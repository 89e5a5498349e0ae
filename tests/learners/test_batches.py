"""The lessons of an update, and what is left out."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from typing import Any

import pytest
from tests.learners.conftest import options_of

from perdure.learners.batches import (
    GENERAL,
    Lesson,
    completed,
    imitation_lessons,
    is_mixed,
    lesson_weights,
    policy_gradient_lessons,
    replay_lessons,
    taught_share,
)
from perdure.memory.records import Episode, EpisodeState, Turn, VersionRef

IDS = count(1000)


def turn(n: int, *, cut: bool = False) -> Turn:
    return Turn(
        prompt_ids=tuple(range(n + 2)),
        action_ids=(10 + n, 20 + n),
        logprobs=(-0.5 - n, -0.25),
        observation="?",
        action="!",
        reward=0.0,
        sampler=VersionRef("v0"),
        finish="length" if cut else "stop",
    )


def episode(
    score: float,
    *,
    total_reward: float | None = None,
    success: bool | None = None,
    turns: int = 1,
    cut: tuple[int, ...] = (),
    state: EpisodeState = "completed",
    id_: int | None = None,
    environment: str = "e",
) -> Episode:
    return Episode(
        id=next(IDS) if id_ is None else id_,
        environment=environment,
        seed=1,
        group="g",
        member=0,
        purpose="learn",
        state=state,
        turns=tuple(turn(n, cut=n in cut) for n in range(turns)),
        total_reward=score if total_reward is None else total_reward,
        success=score >= 1 if success is None else success,
        score=score,
        stop_reason="terminated",
        temperature=1.0,
    )


def weights(lessons: list[Any]) -> list[tuple[float, float, float]]:
    return [(lesson.advantage, lesson.imitation, lesson.kl) for lesson in lessons]


def test_episodes_that_did_not_complete_are_left_out_and_not_scored_zero() -> None:
    group = [episode(1), episode(0, state="env_error"), episode(1), episode(0, state="aborted"), episode(0, state="running")]
    (kept,) = completed([group])
    assert [e.total_reward for e in kept] == [1, 1]
    assert policy_gradient_lessons([kept], 0.0) == []


def test_one_episode_alone_is_no_group() -> None:
    assert completed([[episode(1)], [episode(1), episode(0, state="env_error")], [], [episode(0), episode(1, turns=0)]]) == []


def test_groups_of_equal_rewards_are_dropped() -> None:
    assert not is_mixed([episode(1), episode(1)])
    assert is_mixed([episode(1), episode(0.5)])
    assert policy_gradient_lessons([[episode(0), episode(0)], [episode(1), episode(1)]], 0.5) == []


def test_mixed_groups_become_advantages_in_their_own_group() -> None:
    """Less the mean of the others, so that a success beside failures weighs the same in a group of two and in one of four."""
    lessons = policy_gradient_lessons([[episode(1), episode(0), episode(0), episode(0)], [episode(0.5), episode(1)]], 0.1)
    third = pytest.approx(-1 / 3)
    assert weights(lessons) == [(1, 0, 0.1), (third, 0, 0.1), (third, 0, 0.1), (third, 0, 0.1), (-0.5, 0, 0.1), (0.5, 0, 0.1)]


def test_lessons_compare_scores_and_not_returns() -> None:
    """Returns from -200 to 8 weigh as much as those from 0 to 1; returns whose scores are equal have no policy gradient."""
    wide = [episode(score, total_reward=-200 + 208 * score) for score in (1.0, 0.0, 0.25)]
    narrow = [episode(score) for score in (1.0, 0.0, 0.25)]
    for group in (wide, narrow):
        assert [lesson.advantage for lesson in policy_gradient_lessons([group], 0.0)] == pytest.approx([0.875, -0.625, -0.25])
    assert not is_mixed([episode(1, total_reward=8), episode(1, total_reward=9)])


def test_answers_cut_off_at_the_limit_can_be_left_out_of_the_policy_gradient() -> None:
    """Their scores count for the others. Without a KL term an episode with nothing left is dropped."""
    group = [episode(1, turns=2, id_=1), episode(0, turns=2, cut=(1,), id_=2), episode(0, cut=(0,), id_=3), episode(0, id_=4)]
    plain = policy_gradient_lessons([group], 0.0)
    assert [(lesson.episode, lesson.cut_turns) for lesson in plain] == [(1, ()), (2, ()), (3, ()), (4, ())]
    masked = policy_gradient_lessons([group], 0.0, mask_truncated=True)
    assert [(lesson.episode, lesson.cut_turns) for lesson in masked] == [(1, ()), (2, (1,)), (4, ())]
    assert [lesson.advantage for lesson in masked] == pytest.approx([1, -1 / 3, -1 / 3])
    looked = policy_gradient_lessons([group], 0.1, mask_truncated=True)
    assert [(lesson.episode, lesson.cut_turns) for lesson in looked] == [
        (1, ()),
        (2, (1,)),
        (3, (0,)),
        (4, ()),
    ]
    options = options_of(mask_truncated=True, kl_old=0.0)
    assert [(lesson.episode, lesson.cut_turns) for lesson in replay_lessons([group], options)] == [(1, ()), (2, (1,)), (4, ())]


def test_the_share_of_groups_that_teach_is_counted_against_what_was_wanted() -> None:
    """Two of four groups are mixed; of the answers of one of them only a failure's was cut off, of the other's all."""
    mixed, cut = [episode(1), episode(0, cut=(0,))], [episode(1, cut=(0,)), episode(0, cut=(0,))]
    groups = [mixed, [episode(1), episode(1)], cut, [episode(0), episode(0)]]
    lessons = policy_gradient_lessons(groups, 0.1)
    assert [taught_share(groups, lessons, wanted) for wanted in (4, 2, 1)] == [0.5, 1.0, 1.0]
    assert taught_share(groups, policy_gradient_lessons(groups, 0.1, mask_truncated=True), 4) == 0.25
    assert taught_share(groups, imitation_lessons([mixed], 1.0, 0.1), 4) == 0


def test_a_lesson_is_a_whole_episode_as_it_was_sampled() -> None:
    played = [episode(1, turns=3, id_=7), episode(0, turns=1, id_=8)]
    lessons = policy_gradient_lessons([played], 0.0)
    assert [(lesson.episode, lesson.advantage, lesson.tokens) for lesson in lessons] == [(7, 1, 6), (8, -1, 2)]
    assert [(lesson.environment, lesson.of_target) for lesson in lessons] == [("e", True)] * 2
    for lesson, kept in zip(lessons, played, strict=True):
        assert lesson.turns == tuple((turn.prompt_ids, turn.action_ids) for turn in kept.turns)
        assert lesson.sampler_logprobs == tuple(logp for turn in kept.turns for logp in turn.logprobs)
        assert lesson.sequences == [turn.prompt_ids + turn.action_ids for turn in kept.turns]


def test_only_successes_are_imitated() -> None:
    lessons = imitation_lessons([[episode(1, turns=2), episode(0.9)], [episode(0)], [episode(0, success=True)]], 0.7, 0.2)
    assert weights(lessons) == [(0, 0.7, 0.2)] * 2


def test_replay_compares_the_members_of_mixed_groups_and_imitates_groups_in_which_all_succeeded() -> None:
    mixed, solved, failed = [episode(1), episode(0)], [episode(1), episode(1, turns=2)], [episode(0), episode(0)]
    lessons = replay_lessons([failed, mixed, solved], options_of(replay_weight=0.3, kl_old=0.05))
    assert weights(lessons) == [(1, 0, 0.05), (-1, 0, 0.05)] + [(0, 0.3, 0.05)] * 2 + [(0, 0, 0.05)] * 2
    assert not any(lesson.of_target for lesson in lessons)
    assert (
        weights(replay_lessons([failed, mixed, solved], options_of(replay_weight=0.3, kl_old=0.0)))
        == [(1, 0, 0), (-1, 0, 0)] + [(0, 0.3, 0)] * 2
    )
    assert weights(replay_lessons([failed, mixed, solved], options_of(replay_weight=0.0, kl_old=0.0))) == [(1, 0, 0), (-1, 0, 0)]


def made(environment: str, tokens: int, *, of_target: bool) -> Lesson:
    return Lesson(
        episode=next(IDS), environment=environment, of_target=of_target, turns=(((1,), (2,) * tokens),), sampler_logprobs=None, kl=0.1
    )


TARGET = [made("target", tokens, of_target=True) for tokens in (2, 3)]
SHORT = [made("short", 1, of_target=False)] * 5
GAME = [made("game", 40, of_target=False), made("game", 160, of_target=False)]


def test_each_environment_has_its_share_whatever_it_replays() -> None:
    """With replay = .4: the targets have .6; two old environments .2 each. Within an environment every token weighs the same."""
    found = lesson_weights(TARGET + SHORT + GAME, "token", 8, 0.4)
    assert found == pytest.approx([0.6 / 5] * 2 + [0.2 / 5] * 5 + [0.2 / 200] * 2)
    assert lesson_weights(TARGET + SHORT, "token", 8, 0.4) == pytest.approx([0.6 / 5] * 2 + [0.4 / 5] * 5)
    shuffled = [GAME[1], SHORT[0], TARGET[1]]
    assert lesson_weights(shuffled, "token", 8, 0.4) == pytest.approx([0.2 / 160, 0.2, 0.6 / 3])


def test_each_of_several_targets_has_the_same_share() -> None:
    other = made("other target", 30, of_target=True)
    assert lesson_weights([*TARGET, other, *SHORT], "token", 8, 0.4) == pytest.approx([0.3 / 5] * 2 + [0.3 / 30] + [0.4 / 5] * 5)


def test_a_side_without_lessons_leaves_its_share_to_the_other() -> None:
    assert lesson_weights(TARGET, "token", 8, 0.4) == pytest.approx([1 / 5] * 2)
    assert lesson_weights(SHORT + GAME, "token", 8, 0.4) == pytest.approx([0.5 / 5] * 5 + [0.5 / 200] * 2)
    silent = replace(TARGET[0], turns=(((1,), ()),))
    assert lesson_weights([silent, *SHORT], "token", 8, 0.4) == pytest.approx([0] + [1 / 5] * 5)
    assert lesson_weights([silent], "token", 8, 0.4) == [0]
    assert lesson_weights([], "token", 8, 0.4) == []


def test_general_prompts_have_their_share_of_replay() -> None:
    """With replay = .4 and general = .25 it is .1 of the batch; without targets or old environments the others keep their proportions."""
    asked = [made(GENERAL, 20, of_target=False), made(GENERAL, 5, of_target=False)]
    found = lesson_weights(TARGET + SHORT + asked, "token", 8, 0.4, 0.25)
    assert found == pytest.approx([0.6 / 5] * 2 + [0.3 / 5] * 5 + [0.1 / 25] * 2)
    assert lesson_weights(SHORT + asked, "token", 8, 0.4, 0.25) == pytest.approx([0.75 / 5] * 5 + [0.25 / 25] * 2)
    assert lesson_weights(TARGET + asked, "token", 8, 0.4, 0.25) == pytest.approx([6 / 7 / 5] * 2 + [1 / 7 / 25] * 2)
    assert lesson_weights(asked, "token", 8, 0.4, 0.25) == pytest.approx([1 / 25] * 2)


def test_a_variant_weighs_the_tokens_of_each_environment_in_its_own_way() -> None:
    """`sequence`: a half for each of two sequences. `constant`: the share by tokens, all of it 5 / (2 * 8), as for the target alone."""
    batch = TARGET + GAME
    assert lesson_weights(batch, "sequence", 8, 0.4) == pytest.approx([0.6 / 4, 0.6 / 6, 0.4 / 80, 0.4 / 320])
    assert lesson_weights(TARGET, "sequence", 8, 0.4) == pytest.approx([1 / 4, 1 / 6])
    assert lesson_weights(TARGET, "constant", 8, 0.4) == pytest.approx([1 / 16] * 2)
    full = 5 / 16
    assert lesson_weights(batch, "constant", 8, 0.4) == pytest.approx([full * 0.6 / 5] * 2 + [full * 0.4 / 200] * 2)
