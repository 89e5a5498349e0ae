"""Jobs that learn from live play: which groups are their batches, with which gradient, and what a later job or attempt takes.

The target is won in about a quarter of the episodes, so that most groups are mixed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.learners.conftest import MANY_LETTERS, engine_of
from tests.learners.home import EASY, Learner, never
from torch import Tensor

from perdure.envs.seeds import SPLITS
from perdure.learners.batches import Lesson, policy_gradient_lessons
from perdure.learners.gradients import accumulate_gradient
from perdure.learners.learning_job import LearningJob
from perdure.learners.sampling.batch_sampling import sample
from perdure.learners.sampling.live_batches import choose_live, is_on_policy, take_live
from perdure.memory import environments, jobs
from perdure.memory.errors import Diverged
from perdure.memory.leases import BootClock
from perdure.memory.records import Episode, StepRef
from perdure.memory.store import Store
from perdure.memory.trajectories.episodes import get_episode
from perdure.memory.trajectories.manifests import manifests
from perdure.memory.upkeep.prune import Keep, prune
from perdure.memory.versions import promote

TARGET = EASY
OLD = f"py:tests.learners.easy:Starts?letters={MANY_LETTERS}&rounds=2"
OTHER = f"py:tests.learners.easy:Starts?letters={MANY_LETTERS}&rounds=3"
SAMPLING = ("grpo", "reinforce", "iterative-sft", "sdft")
SMALL: dict[str, Any] = {
    "updates": 2,
    "prompts": 4,
    "samples": 4,
    "replay_samples": 4,
    "replay_tokens": 99.0,
    "measure": 0,
    "check_every": 0,
}
"""Two groups of the target in a batch, and two of old environments."""
ALWAYS = "py:tests.learners.easy:Always"
MARKS = (
    """SELECT e.id, m.on_policy FROM manifest m JOIN episode e ON e.id = m.episode WHERE m.attempt = ? AND e.purpose = 'live' ORDER BY 1"""
)
LIVE, FRESH = {"from": "live"}, {"from": "fresh"}


def batches(store: Store, job: int) -> list[list[Episode]]:
    return [[get_episode(store, id_) for id_ in one.episodes] for one in manifests(store, job)]


def names(episodes: Sequence[Episode], environment: str = TARGET) -> set[str]:
    return {episode.group for episode in episodes if episode.environment == environment}


def live_names(store: Store, environment: str = TARGET) -> list[str]:
    """The newest first."""
    sql = """SELECT "group" FROM episode WHERE purpose = 'live' AND environment = ? GROUP BY 1 ORDER BY max(id) DESC"""
    return [row["group"] for row in store.rows(sql, (environment,))]


def played(store: Store, job: int) -> dict[str, int]:
    rows = store.rows("SELECT purpose, count(*) AS n FROM episode WHERE job = ? GROUP BY 1", (job,))
    return {row["purpose"]: row["n"] for row in rows}


def with_choice(learner: Learner, old: Sequence[str] = (OLD,), **options: Any) -> LearningJob:
    """A job at step 0 that has made its choice."""
    job = learner.job([TARGET], old, **{**SMALL, **options})
    made = choose_live(learner.store, job.id, "v0", job.options, targets=[TARGET], old=old, target_groups=2)
    job.progress.chosen, job.progress.updates = made.episodes, made.updates
    return job


def gradient(job: LearningJob, lessons: Sequence[Lesson]) -> tuple[Tensor, Tensor]:
    """Of these lessons, with all parameters laid end to end; and the log-ratios of learner to sampler."""
    stats = accumulate_gradient(job.trainee, lessons, job.options, most_tokens=2, old_logprobs={}, extra_losses={})
    return job.trainee.take_gradient().clone(), torch.cat(stats.log_ratios)


def test_the_first_batch_is_the_newest_live_play_and_nothing_is_sampled_for_it(llama_learner: Learner) -> None:
    store = llama_learner.store
    for name in (TARGET, OLD):
        llama_learner.play_live(name, 3)
    llama_learner.learn(TARGET, "grpo", **SMALL, refill=0)
    first, second = batches(store, 1)
    assert names(first) == set(live_names(store)[:2]), "by age alone"
    assert names(first, OLD) == set(live_names(store, OLD)[:2])
    assert {episode.purpose for episode in first} == {"live"}
    assert [episode.member for episode in first] == [0, 1, 2, 3] * 4, "as many of each task as are played afresh"
    assert {episode.purpose for episode in second} == {"learn", "replay"}
    assert [one.on_policy for one in manifests(store, 1)] == [True, True]
    made = llama_learner.steps(1)
    assert [step.groups.live_groups for step in made] == [4, 0]
    assert [step.groups.groups for step in made] == [2, 2]
    assert [step.sampled_tokens > 0 for step in made] == [False, True]
    assert [(step.staleness, step.data_staleness) for step in made] == [(0.0, None)] * 2
    assert made[0].ratios.ratio_max == pytest.approx(1, abs=2e-3)
    assert made[0].ratios.ess == pytest.approx(1, abs=1e-5)


def test_what_is_lacking_is_played(llama_learner: Learner) -> None:
    store = llama_learner.store
    environments.register(store, OLD)
    llama_learner.play_live(TARGET, 1)
    llama_learner.learn(TARGET, "grpo", **{**SMALL, "updates": 1}, refill=0)
    [batch] = batches(store, 1)
    assert names(batch) & set(live_names(store)) == set(live_names(store))
    assert len(names(batch)) == len(names(batch, OLD)) == 2
    assert played(store, 1) == {"learn": 4, "replay": 8}
    assert manifests(store, 1)[0].on_policy


def test_groups_of_equal_rewards_are_replaced_by_older_ones_before_any_is_played(llama_learner: Learner) -> None:
    """As fresh play drops them: they are in the statistics, and the next group is the next one by age."""
    store = llama_learner.store
    llama_learner.play_live(TARGET, 5)
    newest = live_names(store)[0]
    with store.write() as conn:
        conn.execute("""UPDATE episode SET total_reward = 0, score = 0, success = 0 WHERE "group" = ?""", (newest,))
    llama_learner.learn(TARGET, "grpo", **{**SMALL, "updates": 1, "prompts": 2})
    [batch] = batches(store, 1)
    newest_two = live_names(store)[:2]
    equal = sum(len({one.total_reward for one in batch if one.group == name}) == 1 for name in newest_two)
    assert equal > 0
    assert names(batch) == set(live_names(store)[: 2 + equal])
    assert llama_learner.steps(1)[0].groups.dropped_groups >= equal
    assert played(store, 1) == {}


def test_a_live_batch_has_the_gradient_of_the_same_episodes_sampled_by_the_job(llama_learner: Learner) -> None:
    """The log-probs in the store are those of the start's weights, which are the job's too before its first update."""
    for name in (TARGET, OLD):
        llama_learner.play_live(name, 6)
    job = with_choice(llama_learner, prompts=8, replay=0.5)
    sampled = sample(job, 8)
    assert {episode.purpose for group in sampled.target + sampled.old for episode in group} == {"live"}
    assert sampled.on_policy
    lessons = policy_gradient_lessons(sampled.target + sampled.old, 0.0)
    assert len(lessons) >= 8
    with torch.no_grad():
        own = [tuple(job.trainee.logprobs(list(one.turns), 1.0).tolist()) for one in lessons]
    stored, ratios = gradient(job, lessons)
    afresh, no_ratios = gradient(job, [replace(one, sampler_logprobs=logps) for one, logps in zip(lessons, own, strict=True)])
    assert float(stored.norm()) > 0
    torch.testing.assert_close(stored, afresh, rtol=1e-3, atol=1e-5 * float(afresh.abs().max()))
    assert float(ratios.abs().max()) < 2e-3
    assert float(no_ratios.abs().max()) < float(ratios.abs().max()) + 1e-4


def test_in_bfloat16_the_ratio_is_one_within_its_noise(llama_learner: Learner) -> None:
    llama_learner.play_live(TARGET, 4)
    llama_learner.learn(TARGET, "grpo", **{**SMALL, "updates": 1, "dtype": "bfloat16"})
    made = llama_learner.steps(1)[0]
    assert made.groups.live_groups == 4
    assert made.ratios.ratio_mean == pytest.approx(1, abs=0.02)
    assert made.ratios.mismatch_kl < 0.01


def test_a_second_job_from_the_same_version_takes_other_groups(llama_learner: Learner) -> None:
    store = llama_learner.store
    llama_learner.play_live(TARGET, 5)
    one = {**SMALL, "updates": 1, "prompts": 2, "refill": 0}
    for _ in range(3):
        llama_learner.learn(TARGET, "grpo", **one)
    taken = [names(batch) for [batch] in (batches(store, job) for job in (1, 2, 3))]
    newest = live_names(store)
    assert taken[:2] == [set(newest[:2]), set(newest[2:4])]
    assert len(taken[2] & set(newest)) == 1
    assert played(store, 3) == {"learn": 4}, "the rest is played"
    assert all(manifest.on_policy for job in (1, 2, 3) for manifest in manifests(store, job))
    llama_learner.learn(TARGET, "grpo", **{**one, **LIVE})
    assert names(batches(store, 4)[0]) == set(newest[:2])
    assert not manifests(store, 4)[0].on_policy, "job 1 was on-policy with them"


def test_only_play_of_the_start_is_the_first_batch(llama_learner: Learner) -> None:
    """Neither that of another version, nor at another temperature, nor on seeds that are kept for probes."""
    store = llama_learner.store
    first = llama_learner.learn(TARGET, "sft", **{**SMALL, "updates": 1})
    llama_learner.play_live(TARGET, 3)
    promote(store, first.name, "a test wants it")
    llama_learner.learn(TARGET, "grpo", **SMALL)
    llama_learner.play_live(TARGET, 3)
    llama_learner.learn(TARGET, "grpo", **SMALL, temperature=0.5)
    store.rows("UPDATE episode SET seed = ? WHERE version = 'v1'", (SPLITS["probe"][0],))
    llama_learner.learn(TARGET, "grpo", **SMALL)
    assert [step.groups.live_groups for job in (2, 3, 4) for step in llama_learner.steps(job)] == [0] * 6
    llama_learner.learn(TARGET, "grpo", start="v0", **SMALL)
    assert llama_learner.steps(5)[0].groups.live_groups > 0, "v0 does not serve, and the job starts from it"


@pytest.mark.parametrize("name", SAMPLING)
def test_each_learner_that_samples_begins_with_live_play(llama_learner: Learner, name: str) -> None:
    store = llama_learner.store
    for environment in (TARGET, OLD):
        llama_learner.play_live(environment, 3)
    llama_learner.learn(TARGET, name, **SMALL, **{"grpo": {"refill": 0}, "iterative-sft": {"rounds": 1}}.get(name, {}))
    first, second = batches(store, 1)
    assert names(first) == set(live_names(store)[:2])
    assert {episode.purpose for episode in first} == {"live"}
    if name == "iterative-sft":  # both updates of its round: three groups are live, and the fourth is played
        assert [step.groups.live_groups for step in llama_learner.steps(1)] == [4, 2]
        assert names(second) & set(live_names(store)) == {live_names(store)[2]}
        assert [one.on_policy for one in manifests(store, 1)] == [True, False]
    else:
        assert not {episode.purpose for episode in second} & {"live"}


@pytest.mark.parametrize("name", SAMPLING)
def test_fresh_takes_nothing_from_live_play(llama_learner: Learner, name: str) -> None:
    for environment in (TARGET, OLD):
        llama_learner.play_live(environment, 3)
    llama_learner.learn(TARGET, name, **SMALL, **FRESH)
    assert not {episode.purpose for batch in batches(llama_learner.store, 1) for episode in batch} & {"live"}


def test_what_was_pruned_is_not_missed(llama_learner: Learner) -> None:
    store = llama_learner.store
    llama_learner.play_live(TARGET, 4)
    kept = live_names(store)[0]
    prune(store, Keep(episodes=8, live=0), lambda line: None)
    assert live_names(store) == [kept]
    llama_learner.learn(TARGET, "grpo", **{**SMALL, "updates": 1, "prompts": 2, "refill": 0})
    [batch] = batches(store, 1)
    assert names(batch) & {kept} == {kept}
    assert played(store, 1) == {"learn": 4}


def test_an_attempt_that_begins_anew_has_the_same_first_batch(steep_learner: Learner) -> None:
    """The first one wrote its batch, diverged, and left no step. Live play went on meanwhile, and the batch is on-policy for the second."""
    store = steep_learner.store
    environments.register(store, ALWAYS)
    steep_learner.play_live(TARGET, 12)
    options = {**SMALL, "check_every": 1, "check_episodes": 2}
    job, lease = steep_learner.leased(TARGET, "grpo", **options)
    with pytest.raises(Diverged):
        steep_learner.run(job, lease, never)
    jobs.release_job(store, lease)
    steep_learner.play_live(TARGET, 12)
    steep_learner.engine = engine_of(steep_learner.files)
    again = jobs.lease_job(store, "another", 60.0, BootClock())
    assert again is not None
    with pytest.raises(Diverged):
        steep_learner.run(*again, never)
    first, second = ([tuple(row) for row in store.rows(MARKS, (attempt,))] for attempt in (1, 2))
    assert [id_ for id_, _ in first] == [id_ for id_, _ in second] != []
    assert {mark for _, mark in first} == {0}
    assert {mark for _, mark in second} == {1}


def test_an_episode_that_is_too_long_for_the_learner_is_passed_over(llama_learner: Learner) -> None:
    llama_learner.play_live(TARGET, 2)
    job = with_choice(llama_learner, old=())
    newest, older = live_names(llama_learner.store)
    too_long = b"\5\0\0\0" * job.context_limit
    with llama_learner.store.write() as conn:
        conn.execute(
            """UPDATE turn SET prompt_ids = ? WHERE episode = (SELECT min(id) FROM episode WHERE "group" = ?)""", (too_long, newest)
        )
    taken = take_live(job, TARGET, 4)
    assert taken is not None
    assert taken[0].group == older
    assert take_live(job, TARGET, 4) is None


def test_replay_goes_on_with_the_environments_that_the_first_batch_had_not(llama_learner: Learner) -> None:
    """Live groups count when old environments take turns."""
    store = llama_learner.store
    for name in (TARGET, OLD, OTHER):
        llama_learner.play_live(name, 1)
    llama_learner.learn(TARGET, "grpo", **{**SMALL, "prompts": 2})
    replayed = [{episode.environment for episode in batch} - {TARGET} for batch in batches(store, 1)]
    assert sorted(map(len, replayed)) == [1, 1]
    assert replayed[0] != replayed[1]


def test_fresh_groups_are_on_policy_and_older_ones_are_not(llama_learner: Learner) -> None:
    llama_learner.play_live(TARGET, 1)
    job = with_choice(llama_learner, old=())
    sampled = sample(job, 2)
    assert {turn.sampler for group in sampled.target for one in group for turn in one.turns} >= {StepRef(job.id, 0)}
    assert is_on_policy(job, sampled.target)
    job.progress.step = 1
    assert not is_on_policy(job, sampled.target)
