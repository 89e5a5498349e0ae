"""Which old environments the batches of a job replay: its budget of tokens, and what has fallen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
from tests.learners.conftest import MANY_LETTERS, ONE, TWO, MakeJob
from tests.learners.home import Learner

from perdure.learners.learning_job import Interrupted, LearningJob
from perdure.learners.sampling.batch_sampling import replay_attempts, sample
from perdure.learners.updating import update
from perdure.memory.records import Episode

SIX = f"py:tests.learners.easy:Starts?letters={MANY_LETTERS}&rounds=6"
NEVER = "py:tests.learners.easy:Never"
ALWAYS = "py:tests.learners.easy:Always"


def tokens(groups: Sequence[Sequence[Episode]]) -> int:
    return sum(len(episode.turns[-1].prompt_ids + episode.turns[-1].action_ids) for group in groups for episode in group)


def replayed(job: LearningJob, prompts: int) -> list[str]:
    """The environments of the next batch, a name for each group; nothing is played."""
    members = [attempt.environment.name for attempt in replay_attempts(job, prompts)]
    return members[:: job.options.replay.samples]


def test_replay_has_no_more_tokens_than_the_targets_once_their_sizes_are_known(make_job: MakeJob) -> None:
    job = make_job(old=[TWO, SIX], prompts=8, samples=4, replay_samples=2, replay=0.5)
    first = sample(job, 8)
    update(job, [], first)
    assert Counter(group[0].environment for group in first.old) == {TWO: 4, SIX: 4}
    assert tokens(first.old) > 1.5 * tokens(first.target)
    for _ in range(2):
        sampled = sample(job, 8)
        assert len(sampled.target) == len(first.target)
        assert {group[0].environment for group in sampled.old} == {TWO, SIX}
        assert len(sampled.old) < len(first.old)
        assert tokens(sampled.old) < 1.1 * tokens(sampled.target)
        update(job, [], sampled)


def test_a_larger_budget_of_tokens_leaves_that_of_episodes(make_job: MakeJob) -> None:
    job = make_job(old=[TWO, SIX], prompts=8, samples=4, replay_samples=2, replay=0.5, replay_tokens=9.0)
    for _ in range(2):
        sampled = sample(job, 8)
        update(job, [], sampled)
        assert Counter(group[0].environment for group in sampled.old) == {TWO: 4, SIX: 4}


def test_what_live_play_has_shown_sets_the_budget_of_the_first_batch(llama_learner: Learner) -> None:
    for name in (ONE, TWO, SIX):
        llama_learner.play_live(name, 2)
    job = llama_learner.job([ONE], [TWO, SIX], prompts=8, samples=4, replay_samples=2, replay=0.5)
    sampled = sample(job, 8)
    assert len(sampled.old) < 8
    assert tokens(sampled.old) < 1.1 * tokens(sampled.target)


def test_an_environment_that_falls_is_replayed_first_and_more(llama_learner: Learner) -> None:
    """As if the version that serves had always won the one that cannot be won any more."""
    for name in (ALWAYS, NEVER):
        llama_learner.play_live(name, 2)
    with llama_learner.store.write() as conn:
        conn.execute("UPDATE episode SET success = 1, total_reward = 1, score = 1 WHERE environment = ?", (NEVER,))
    job = llama_learner.job([ONE], [ALWAYS, NEVER], prompts=5, samples=4, replay_samples=4, replay=0.6, replay_tokens=9.0)
    first = sample(job, 5)
    assert [group[0].environment for group in first.old] == [ALWAYS, NEVER, ALWAYS]
    update(job, [], first)
    assert replayed(job, 5) == [NEVER, NEVER, ALWAYS]


def test_a_resumed_job_replays_what_it_would_have_replayed(make_job: MakeJob) -> None:
    """Episodes of an attempt that was stopped within a batch change nothing."""
    rounds, most = list[None](), [1000]
    settings = {"prompts": 8, "samples": 4, "replay": 0.4, "replay_tokens": 9.0}
    job = make_job(each_round=lambda: rounds.append(None), stop=lambda: len(rounds) > most[0], old=[TWO, SIX, ALWAYS], **settings)
    update(job, [], sample(job, 8))
    before = replayed(job, 8)
    most[0] = len(rounds) + 2
    with pytest.raises(Interrupted):
        sample(job, 8)
    states = {row["state"] for row in job.run.store.rows("SELECT state FROM episode WHERE step_n = 1")}
    assert states == {"completed", "aborted"}
    assert replayed(job, 8) == before
    assert set(before) == {TWO, SIX, ALWAYS}
