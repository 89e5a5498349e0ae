"""What old environments left in the store: successes to hold on to, and mixed groups to learn from again."""

from __future__ import annotations

from typing import Any

import pytest
from tests.learners.home import EASY, Learner

from perdure.learners.learning_job import Retention
from perdure.learners.old_lessons import stored_lessons
from perdure.learners.retention.episodic_memory import episodic_memory
from perdure.learners.retention.retention_terms import retention_terms
from perdure.learners.sampling.batch_sampling import replay_attempts
from perdure.memory.errors import InputError
from perdure.memory.trajectories.episodes import get_episode

OLD = "py:tests.learners.easy:Starts?letters=abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ&rounds=2"
NEVER = "py:tests.learners.easy:Never"
ALWAYS = "py:tests.learners.easy:Always"


def test_the_newest_successes_of_each_old_environment_are_episodic_memory(llama_learner: Learner) -> None:
    for name in (OLD, NEVER, ALWAYS):
        llama_learner.play_live(name, 6)
    found = episodic_memory(llama_learner.job([EASY], [OLD, NEVER, ALWAYS], memory=5))
    episodes = [[get_episode(llama_learner.store, lesson.episode or 0) for lesson in memory] for memory in found]
    assert [{episode.environment for episode in memory} for memory in episodes] == [{OLD}, {ALWAYS}]
    assert all(episode.success and episode.purpose == "live" for memory in episodes for episode in memory)
    assert [len(memory) for memory in episodes][1] == 5
    last = [
        row["id"] for row in llama_learner.store.rows("SELECT id FROM episode WHERE environment = ? ORDER BY id DESC LIMIT 5", (ALWAYS,))
    ]
    assert [episode.id for episode in episodes[1]] == last


def test_without_an_old_success_ewc_and_gem_say_so(llama_learner: Learner) -> None:
    llama_learner.play_live(NEVER, 2)
    with pytest.raises(InputError, match="there are none yet: let them be played first"):
        episodic_memory(llama_learner.job([EASY], [NEVER]))
    for settings in ({"ewc": 1.0}, {"gem": "gem"}):
        with pytest.raises(InputError, match="there are none yet"):
            llama_learner.learn(EASY, "grpo", updates=1, prompts=2, **settings)


@pytest.mark.parametrize("settings", [{"ewc": 1.0}, {"gem": "gem"}, {"gem": "a-gem"}])
def test_without_old_environments_ewc_and_gem_do_nothing(llama_learner: Learner, settings: dict[str, Any]) -> None:
    """As in the first stage of a stream."""
    job = llama_learner.job([EASY], [], **settings)
    assert retention_terms(job) == Retention()
    llama_learner.learn(EASY, "grpo", updates=1, prompts=2, samples=4, **settings)


def test_stored_replay_is_mixed_groups_as_they_were_sampled(llama_learner: Learner) -> None:
    """Of 4 prompts x 8 samples half are replay, and half of that is stored: 8 episodes, two groups of 4."""
    llama_learner.play_live(EASY, 10)
    llama_learner.play_live(NEVER, 3)
    job = llama_learner.job([EASY], [EASY, NEVER], prompts=4, samples=8, replay=0.5, replay_samples=4, stored=0.5, kl_old=0.1)
    lessons = stored_lessons(job)
    assert len(lessons) == 4  # the turn of an environment without a mixed group gives nothing
    episodes = [get_episode(llama_learner.store, lesson.episode or 0) for lesson in lessons]
    assert len({(episode.group, episode.environment, episode.purpose) for episode in episodes}) == 1
    assert {episode.environment for episode in episodes} == {EASY}
    assert len({episode.total_reward for episode in episodes}) == 2
    assert sum(lesson.advantage for lesson in lessons) == pytest.approx(0)
    for lesson, episode in zip(lessons, episodes, strict=True):
        assert lesson.kl == 0.1
        assert lesson.sampler_logprobs == tuple(logp for turn in episode.turns for logp in turn.logprobs)
    job.progress.step = 1
    assert {lesson.episode for lesson in stored_lessons(job)} != {lesson.episode for lesson in lessons}
    assert len(replay_attempts(job, 4)) == 2 * 4  # what is played afresh is the other half


@pytest.mark.parametrize(
    "settings",
    [
        {"ewc": 100.0},
        {"gem": "a-gem"},
        {"gem": "gem"},
        {"lwf": 0.5},
        {"olora": 0.1},
        {"interpolate": 0.5},
        {"stored": 0.5},
        {"tuning": "full", "interpolate": 0.5, "lr": 1e-3},
    ],
)
def test_a_job_learns_with_each_way_to_keep_old_skills(llama_learner: Learner, settings: dict[str, Any]) -> None:
    """From a version that serves, so that there is something to keep; what it leaves behind can be played."""
    llama_learner.play_live(OLD, 6)
    small = {"updates": 2, "prompts": 4, "samples": 4, "replay_samples": 2}
    full = {"tuning": "full"} if "tuning" in settings else {}
    first = llama_learner.learn(EASY, "grpo", **small, **full)
    second = llama_learner.learn(EASY, "grpo", start=first.name, **{**small, **settings})
    last = llama_learner.steps(2)[-1]
    assert second.parent == first.name
    assert last.grad_norm > 0
    for name in ("ewc", "lwf", "olora"):
        assert (name in last.extra_losses) == (name in settings)
    assert 0 <= llama_learner.success(second.name, EASY, episodes=4) <= 1
