"""The lessons of an update, and what is left out."""

from __future__ import annotations

from itertools import count
from typing import Any

from perdure.learners.batches import completed, imitation_lessons, is_mixed, policy_gradient_lessons, replay_lessons
from perdure.learners.options import LearnOptions
from perdure.memory.records import Episode, EpisodeState, Turn, VersionRef

IDS = count(1000)


def turn(n: int, reward: float = 0.0) -> Turn:
    return Turn(
        prompt_ids=tuple(range(n + 2)),
        action_ids=(10 + n, 20 + n),
        logprobs=(-0.5 - n, -0.25),
        observation="?",
        action="!",
        reward=reward,
        sampler=VersionRef("v0"),
        finish="stop",
    )


def episode(
    reward: float, *, success: bool | None = None, turns: int = 1, state: EpisodeState = "completed", id_: int | None = None
) -> Episode:
    return Episode(
        id=next(IDS) if id_ is None else id_,
        environment="e",
        seed=1,
        group="g",
        member=0,
        purpose="learn",
        state=state,
        turns=tuple(turn(n) for n in range(turns)),
        total_reward=reward,
        success=reward >= 1 if success is None else success,
        score=reward,
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
    lessons = policy_gradient_lessons([[episode(1), episode(0), episode(0), episode(0)], [episode(5), episode(6)]], 0.1)
    assert weights(lessons) == [(0.75, 0, 0.1), (-0.25, 0, 0.1), (-0.25, 0, 0.1), (-0.25, 0, 0.1), (-0.5, 0, 0.1), (0.5, 0, 0.1)]


def test_a_lesson_is_a_whole_episode_as_it_was_sampled() -> None:
    played = [episode(1, turns=3, id_=7), episode(0, turns=1, id_=8)]
    lessons = policy_gradient_lessons([played], 0.0)
    assert [(lesson.episode, lesson.advantage, lesson.tokens) for lesson in lessons] == [(7, 0.5, 6), (8, -0.5, 2)]
    for lesson, kept in zip(lessons, played, strict=True):
        assert lesson.turns == tuple((turn.prompt_ids, turn.action_ids) for turn in kept.turns)
        assert lesson.sampler_logprobs == tuple(logp for turn in kept.turns for logp in turn.logprobs)
        assert lesson.sequences == [turn.prompt_ids + turn.action_ids for turn in kept.turns]


def test_only_successes_are_imitated() -> None:
    lessons = imitation_lessons([[episode(1, turns=2), episode(0.9)], [episode(0)], [episode(0, success=True)]], 0.7, 0.2)
    assert weights(lessons) == [(0, 0.7, 0.2)] * 2


def test_replay_compares_the_members_of_mixed_groups_and_imitates_groups_in_which_all_succeeded() -> None:
    mixed, solved, failed = [episode(1), episode(0)], [episode(1), episode(1, turns=2)], [episode(0), episode(0)]
    lessons = replay_lessons([failed, mixed, solved], LearnOptions(replay_weight=0.3, kl_old=0.05))
    assert weights(lessons) == [(0.5, 0, 0.05), (-0.5, 0, 0.05)] + [(0, 0.3, 0.05)] * 2 + [(0, 0, 0.05)] * 2
    assert (
        weights(replay_lessons([failed, mixed, solved], LearnOptions(replay_weight=0.3, kl_old=0.0)))
        == [(0.5, 0, 0), (-0.5, 0, 0)] + [(0, 0.3, 0)] * 2
    )
