"""What a job plays for its updates: which environments, how many groups, with which weights."""

from __future__ import annotations

import pytest
import torch
from tests.learners.conftest import MANY_LETTERS, ONE, TWO, MakeJob

from perdure.envs.seeds import split_of
from perdure.learners.batches import policy_gradient_lessons
from perdure.learners.learning_job import Interrupted
from perdure.learners.sampling.batch_environments import old_group_numbers
from perdure.learners.sampling.batch_sampling import sample
from perdure.learners.updating import update
from perdure.memory.records import StepRef
from perdure.memory.trajectories.episodes import get_episode


def test_the_next_step_samples_with_the_new_weights(make_job: MakeJob) -> None:
    job = make_job(prompts=8, lr=0.05)
    sampled = sample(job, 8)
    assert {turn.sampler for group in sampled.target for episode in group for turn in episode.turns} == {StepRef(1, 0)}
    update(job, policy_gradient_lessons(sampled.target + sampled.old, 0.0), sampled)
    assert (job.progress.step, job.sampler) == (1, StepRef(1, 1))
    assert StepRef(1, 0) not in job.engine
    sampled = sample(job, 8)
    turns = [turn for group in sampled.target for episode in group for turn in episode.turns]
    assert {turn.sampler for turn in turns} == {StepRef(1, 1)}
    with torch.no_grad():
        logp_A = job.trainee.logprobs([(turn.prompt_ids, turn.action_ids) for turn in turns], 0.7)
    torch.testing.assert_close(torch.tensor([logp for turn in turns for logp in turn.logprobs]), logp_A, atol=2e-4, rtol=0)


def test_a_batch_is_members_of_fresh_tasks_of_each_purpose(make_job: MakeJob) -> None:
    other = f"py:tests.learners.easy:Starts?letters={MANY_LETTERS}&rounds=3"
    job = make_job(old=[TWO, other], prompts=6, samples=4, replay_samples=3, replay=0.5)
    groups = []
    for _ in range(2):
        sampled = sample(job, 6)
        # 24 episodes, of which 12 replay: 4 groups of 3, and 3 groups of 4
        assert [len(group) for group in sampled.target] == [4, 4, 4]
        assert [len(group) for group in sampled.old] == [3, 3, 3, 3]
        assert {episode.environment for group in sampled.target for episode in group} == {job.environments.targets[0].name}
        assert [group[0].environment for group in sampled.old] == [job.environments.old[0].name, job.environments.old[1].name] * 2
        assert {episode.purpose for group in sampled.target for episode in group} == {"learn"}
        assert {episode.purpose for group in sampled.old for episode in group} == {"replay"}
        groups += sampled.target + sampled.old
    for group in groups:
        assert len({(episode.seed, episode.group, episode.environment) for episode in group}) == 1
        assert [episode.member for episode in group] == list(range(len(group)))
        assert split_of(group[0].seed) == "train"
        assert all(get_episode(job.run.store, episode.id).turns == episode.turns for episode in group)
    assert len({group[0].seed for group in groups}) == len({group[0].group for group in groups}) == 14


def test_old_environments_take_turns_over_the_batches(make_job: MakeJob) -> None:
    names = [f"py:tests.learners.easy:Starts?letters={letters}" for letters in ("a", "b", "c")]
    job = make_job(old=names, prompts=2, samples=4, replay_samples=4, replay=0.5)
    found = []
    for _ in range(4):
        sampled = sample(job, 2)
        update(job, [], sampled)
        found.append(sampled.old[0][0].environment)
    assert found == [*names, names[0]]


@pytest.mark.parametrize(
    ("replay", "stored", "played", "read_back"), [(0.02, 0.0, 3, 0), (0.1, 0.0, 13, 0), (0.1, 0.25, 10, 3), (0.5, 0.0, 64, 0)]
)
def test_a_small_share_of_replay_adds_up_over_the_updates(
    make_job: MakeJob, replay: float, stored: float, played: int, read_back: int
) -> None:
    job = make_job(old=[TWO], updates=32, prompts=4, samples=4, replay_samples=4, replay=replay, stored=stored)
    per_update = []
    while job.progress.step < 32:
        per_update.append((len(old_group_numbers(job, 4, 1 - stored)), len(old_group_numbers(job, 4, stored))))
        job.progress.step += 1
    assert tuple(map(sum, zip(*per_update, strict=True))) == (played, read_back)
    assert max(n for n, _ in per_update) <= 2
    job.progress.step = 0
    assert len(old_group_numbers(job, 4 * 32, 1 - stored)) == played, "as many where a round plays for all updates at once"


def test_targets_take_turns_if_a_batch_is_too_small_for_all(make_job: MakeJob) -> None:
    names = [f"py:tests.learners.easy:Starts?letters={letters}" for letters in ("a", "b", "c")]
    job = make_job(targets=names, prompts=2, samples=4, replay=0.0)
    assert [group[0].environment for _ in range(3) for group in sample(job, 2).target] == names * 2


@pytest.mark.parametrize(("old", "replay"), [((), 0.5), ((TWO,), 0.0)])
def test_without_replay_all_is_played_on_the_targets(make_job: MakeJob, old: tuple[str, ...], replay: float) -> None:
    other = f"py:tests.learners.easy:Starts?letters={MANY_LETTERS}&rounds=3"
    sampled = sample(make_job(old=old, replay=replay, targets=[ONE, other], samples=4), 5)
    assert sampled.old == []
    assert [group[0].environment for group in sampled.target] == [ONE, other, ONE, other, ONE]


def test_a_stop_ends_the_sampling(make_job: MakeJob) -> None:
    asked = iter([False])
    job = make_job(stop=lambda: next(asked, True), old=(), targets=[TWO], prompts=4, samples=4)
    with pytest.raises(Interrupted, match="job 1 was stopped after 0 updates"):
        sample(job, 4)
    states = [row["state"] for row in job.run.store.rows("SELECT state FROM episode")]
    assert "aborted" in states
    assert set(states) <= {"aborted", "completed"}


@pytest.mark.parametrize("of", [1, 2, 3, 4])
def test_each_part_of_a_round_has_all_environments(make_job: MakeJob, of: int) -> None:
    names = [f"py:tests.learners.easy:Starts?letters={letters}" for letters in ("a", "b")]
    sampled = sample(make_job(targets=names, old=[], samples=2), 8)
    parts = [sampled.part(n, of) for n in range(of)]
    assert [group for part in parts for group in part.target] == sampled.target
    assert [{group[0].environment for group in part.target} for part in parts] == [set(names)] * of
    assert [part.staleness for part in parts] == list(range(of))
    assert [part.on_policy for part in parts] == [n == 0 for n in range(of)]


def test_a_batch_is_played_all_at_once(make_job: MakeJob) -> None:
    """However many episodes it has, there are as many rounds of generation as the longest game has turns."""
    rounds = []
    for prompts in (1, 40):
        calls: list[None] = []
        sampled = sample(make_job(each_round=lambda calls=calls: calls.append(None), targets=[ONE], old=(), samples=4), prompts)
        assert len(sampled.target) == prompts
        rounds.append(len(calls))
    assert rounds[0] == rounds[1]
