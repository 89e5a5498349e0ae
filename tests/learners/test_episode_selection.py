"""Which episodes a learner learns from: traces of others, successes of each round, and rewards from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.learners.conftest import trainee_of
from tests.learners.easy import Dries
from tests.learners.home import EASY, Learner

from perdure.envs.policy import Message
from perdure.envs.registry import load_here as load
from perdure.envs.rollout import opening
from perdure.learners.batches import Lesson, imitation_lessons, is_mixed, policy_gradient_lessons, turns_of
from perdure.learners.engines.version_loading import version_weights
from perdure.learners.epochs import per_task
from perdure.learners.gradients import MicroBatch
from perdure.learners.learning_job import LearningJob, Retention
from perdure.learners.loops.grpo import grpo
from perdure.learners.loops.iterative_sft import iterative_sft
from perdure.learners.loops.reinforce import reinforce
from perdure.learners.loops.trace_sft import trace_sft
from perdure.learners.reward_source import rewarder
from perdure.learners.sampling.batch_sampling import refilled, sample
from perdure.learners.weights.weight_sets import LoraPair
from perdure.memory import versions
from perdure.memory.errors import InputError, PerdureError, RuntimeFailure, UnknownError
from perdure.memory.exchange.import_traces import import_file
from perdure.memory.records import Episode
from perdure.memory.trajectories.episodes import get_episode
from perdure.memory.trajectories.manifests import manifests
from perdure.memory.trajectories.rewards import add_rewards
from perdure.memory.trajectories.traces import job_traces, live_traces

SMALL = {"updates": 2, "prompts": 4, "samples": 4, "measure": 0}
TOLD = "py:tests.learners.easy:Starts?instructions=Say a letter."
NEVER = "py:tests.learners.easy:Never"
ALWAYS = "py:tests.learners.easy:Always"
DRIES = "py:tests.learners.easy:Dries"


class LongAnswers:
    """Rewards answers by their tokens."""

    def rewards(self, episodes: Sequence[Episode]) -> list[float]:
        return [float(len(episode.turns[0].action_ids)) - 1 for episode in episodes]


class SomeTasks:
    """Rewards the first member of one group in three, and nobody else."""

    def rewards(self, episodes: Sequence[Episode]) -> list[float]:
        return [float(episode.member == 0 and episode.seed % 3 == 0) for episode in episodes]


class Wrong(LongAnswers):
    def rewards(self, episodes: Sequence[Episode]) -> list[float]:
        return [1.0]


class NoNumber(LongAnswers):
    def rewards(self, episodes: Sequence[Episode]) -> list[float]:
        return [float("nan")] * len(episodes)


class Mute:
    """Judges nothing."""


def spied(job: LearningJob) -> tuple[list[Lesson], LearningJob]:
    """The job with a term of the loss that is 0 and looks on, and the lessons that it has seen."""
    seen: list[Lesson] = []

    def spy(batch: MicroBatch) -> torch.Tensor:
        seen.extend(batch.lessons)
        return torch.zeros(())

    return seen, replace(job, retention=Retention(extra_losses={"seen": spy}))


def judged(job: LearningJob, model: str) -> LearningJob:
    """The job with the rewards of a model of this file."""
    return replace(job, rewarder=rewarder(job.run.store, f"py:tests.learners.test_episode_selection:{model}"))


def learned(learner: Learner, job: int) -> list[int]:
    return [episode for one in manifests(learner.store, job) for episode in one.episodes]


def test_traces_of_the_stream_are_its_newest_successes_within_the_bound(llama_learner: Learner) -> None:
    store = llama_learner.store
    llama_learner.play_live(EASY, 8)
    before = {row["id"] for row in store.rows("SELECT id FROM episode")}
    version = llama_learner.learn(EASY, "sft", **{**SMALL, "updates": 1})
    versions.promote(store, version.name, "a test wants it")
    llama_learner.play_live(EASY, 8)
    fresh = list(live_traces(store, [EASY], 0))
    assert {trace.staleness for trace in fresh} == {0}
    assert not before & {trace.episode.id for trace in fresh}
    every = list(live_traces(store, [EASY], 1))
    assert {trace.episode.id for trace in every if trace.staleness == 1} == before
    llama_learner.learn(EASY, "trace-sft", **{**SMALL, "staleness": 0})
    used = [get_episode(store, id_) for id_ in learned(llama_learner, 2)]
    assert used
    assert all(episode.success and episode.id not in before for episode in used)
    assert llama_learner.steps(2)[0].data_staleness == 0
    assert not any(one.on_policy for one in manifests(store, 2))


def test_traces_of_a_job_are_what_it_played_to_learn(llama_learner: Learner) -> None:
    llama_learner.learn(EASY, "grpo", **{**SMALL, "updates": 3, "prompts": 6, "samples": 8})
    traces = list(job_traces(llama_learner.store, 1, [EASY], 1))
    assert {trace.staleness for trace in traces} == {0, 1}
    assert [trace.episode.id for trace in traces] == sorted((trace.episode.id for trace in traces), reverse=True)
    llama_learner.learn(EASY, "trace-sft", **{**SMALL, "traces": "1", "per_task": 1})
    used = [get_episode(llama_learner.store, id_) for id_ in learned(llama_learner, 2)]
    assert used
    assert {episode.job for episode in used} == {1}
    tasks = [(episode.environment, episode.seed) for episode in {episode.id: episode for episode in used}.values()]
    assert len(tasks) == len(set(tasks))


@pytest.mark.parametrize(
    ("traces", "kind", "names"),
    [
        ("99", UnknownError, "job 99 has played nothing to learn from"),
        ("everything", InputError, "give stream, the number of a job, or import:LABEL"),
        ("import:nowhere", UnknownError, "nothing was imported as 'nowhere'"),
        ("stream", RuntimeFailure, "no success among the traces of stream"),
    ],
)
def test_missing_traces_are_an_error_that_names_them(llama_learner: Learner, traces: str, kind: type[PerdureError], names: str) -> None:
    with pytest.raises(kind, match=names):
        llama_learner.learn(EASY, "trace-sft", traces=traces, updates=1)
    assert llama_learner.nothing_was_left()


def imported(learner: Learner, tmp_path: Path, *rows: dict[str, Any]) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    import_file(learner.store, file, "others")


def test_imported_episodes_are_learned_from_their_tokens_or_else_their_texts(llama_learner: Learner, tmp_path: Path) -> None:
    chat, name = llama_learner.engine.chat, llama_learner.files.name
    mine = {"prompt_ids": [5, 6, 7], "action_ids": [8, 9], "logprobs": [-1.0, -1.0]}
    said = {"messages": [{"role": "user", "content": "Say b."}], "action": "b"}
    imported(
        llama_learner,
        tmp_path,
        {"environment": "e", "base_model": name, "success": True, "turns": [mine]},
        {"environment": "e", "base_model": "another", "success": True, "turns": [{**mine, **said}]},
        {"environment": "e", "total_reward": 1.0, "turns": [{"observation": "1?", "action": "a"}, {"observation": "2?", "action": "c"}]},
        {"environment": load(TOLD).name, "success": True, "turns": [{"observation": "1?", "action": "b"}]},
        {"environment": "e", "success": False, "turns": [{"observation": "1?", "action": "lost"}]},
    )
    seen, job = spied(llama_learner.job([TOLD], traces="import:others", updates=1))
    trace_sft(job)
    first = chat.prompt([Message(role="user", text="1?")])
    expected = {
        (((5, 6, 7), (8, 9)),),
        ((chat.prompt([Message(role="user", text="Say b.")]), chat.answer("b")),),
        ((first, chat.answer("a")), (chat.follow(first, chat.answer("a"), "2?"), chat.answer("c"))),
    }
    asked = opening(load(TOLD), "1?")
    assert [message.role for message in asked] == ["system", "user"]
    assert {lesson.turns for lesson in seen} == expected | {((chat.prompt(asked), chat.answer("b")),)}


@pytest.mark.parametrize("empty", ["prompt_ids", "action_ids"])
def test_an_imported_turn_without_tokens_is_learned_from_its_texts_or_refused(llama_learner: Learner, tmp_path: Path, empty: str) -> None:
    tokens = {"prompt_ids": [5, 6, 7], "action_ids": [8, 9], "logprobs": [-1.0, -1.0], empty: []}
    tokens["logprobs"] = [-1.0] * len(tokens["action_ids"])
    said = {"messages": [{"role": "user", "content": "Say b."}], "action": "b"}
    row = {"environment": "e", "base_model": llama_learner.files.name, "success": True}
    imported(llama_learner, tmp_path, {**row, "turns": [{**tokens, **said}]})
    llama_learner.learn(EASY, "trace-sft", traces="import:others", **SMALL)
    imported(llama_learner, tmp_path, {**row, "turns": [tokens]})
    with pytest.raises(InputError, match="imported episode 2 has a turn with neither texts nor tokens of"):
        llama_learner.learn(EASY, "trace-sft", traces="import:others", **SMALL)


def test_per_task_limits_imported_episodes_except_those_of_unknown_tasks(llama_learner: Learner, tmp_path: Path) -> None:
    said = {"environment": "e", "success": True, "turns": [{"observation": "1?", "action": "a"}]}
    imported(llama_learner, tmp_path, *[{**said, "seed": 7}] * 5, {**said, "seed": 8}, *[said] * 3)
    llama_learner.learn(EASY, "trace-sft", traces="import:others", per_task=2, **SMALL)
    assert [step.lessons for step in llama_learner.steps(1)] == [2 + 1 + 3] * 2
    assert [(step.staleness, step.data_staleness) for step in llama_learner.steps(1)] == [(None, None)] * 2


def test_imported_tokens_of_another_model_without_texts_are_refused(llama_learner: Learner, tmp_path: Path) -> None:
    tokens = {"prompt_ids": [5, 6, 7], "action_ids": [8, 9], "logprobs": [-1.0, -1.0]}
    imported(llama_learner, tmp_path, {"environment": "e", "base_model": "another", "success": True, "turns": [tokens]})
    with pytest.raises(InputError, match="has a turn with neither texts nor tokens of"):
        llama_learner.learn(EASY, "trace-sft", traces="import:others", updates=1)


def test_per_task_limits_the_successes_imitated_of_a_group(llama_learner: Learner) -> None:
    groups = sample(llama_learner.job([EASY], samples=8), 6).target
    for most in (1, 3):
        kept = per_task(groups, most)
        assert [len(group) for group in kept] == [min(most, sum(episode.success for episode in group)) for group in groups]
        assert all(lesson.imitation == 1 for lesson in imitation_lessons(kept, 1.0, 0.0))


def test_with_restart_each_round_learns_from_the_start_at_the_full_rate(llama_learner: Learner) -> None:
    settings = {**SMALL, "updates": 4, "rounds": 2, "prompts": 8, "samples": 8}
    llama_learner.learn(EASY, "iterative-sft", **settings, restart=True)
    assert [step.lr for step in llama_learner.steps(1)] == [0.01, 0.005, 0.01, 0.005]
    llama_learner.learn(EASY, "iterative-sft", **settings)
    assert [step.lr for step in llama_learner.steps(2)] == [0.01, 0.0075, 0.005, 0.0025]


@pytest.mark.parametrize("after", [1, 2, 3])
def test_a_round_resumed_in_its_middle_is_not_restarted(llama_learner: Learner, after: int) -> None:
    """Two rounds of two updates: only an attempt that begins with the second round goes back to the start."""
    settings = {**SMALL, "updates": 4, "rounds": 2, "prompts": 8, "samples": 8}
    llama_learner.interrupted(EASY, "iterative-sft", after=after, **settings, restart=True)
    assert [step.lr for step in llama_learner.steps(1)] == [0.01, 0.005, 0.01, 0.005]


def test_restart_goes_back_to_weights_and_optimiser_of_the_start(llama_learner: Learner) -> None:
    trainee = trainee_of(llama_learner.files, restart=True)
    start = [parameter.detach().clone() for parameter in trainee.parameters]
    moved = []
    for _ in range(2):
        (-trainee.logprobs([((5, 6), (7, 8))], 1.0).mean()).backward()
        trainee.step(0.02, 1.0)
        moved.append([parameter.detach().clone() for parameter in trainee.parameters])
        trainee.restart()
        assert all(torch.equal(a, b) for a, b in zip(trainee.parameters, start, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(*moved, strict=True))  # Adam begins anew as well


def test_refill_plays_more_groups_if_rewards_were_equal(llama_learner: Learner) -> None:
    job = llama_learner.job([EASY], samples=4)
    sampled = refilled(job, sample(job, 8), 8, 3)
    once = llama_learner.store.rows("SELECT count(*) AS n FROM episode")[0]["n"]
    assert once == 4 * len(sampled.target) > 8 * 4  # those of equal rewards are still there, for what they tell
    assert sum(is_mixed(group) for group in sampled.target) >= 8 or once == 4 * (8 + 3 * 8)
    assert len({group[0].group for group in sampled.target}) == len(sampled.target)
    assert all(len(sample(llama_learner.job([EASY], samples=4), n).target) == n for n in (1, 3))


def test_grpo_refills_as_often_as_its_option_says(llama_learner: Learner) -> None:
    for refill in (0, 2):
        job = llama_learner.job([ALWAYS], samples=4, prompts=3, updates=1, measure=0, refill=refill)
        with pytest.raises(RuntimeFailure, match="nothing to learn from"):
            grpo(job)
        assert job.tally.updates[-1].groups.groups == 3 * (1 + refill)


def test_a_reward_model_is_what_is_learned_from(llama_learner: Learner) -> None:
    job = judged(llama_learner.job([EASY], samples=8), "LongAnswers")
    for group in sample(job, 4).target:
        for episode in group:
            assert episode.total_reward == len(episode.turns[0].action_ids) - 1
            assert episode.success == (episode.total_reward >= 1)
            assert get_episode(job.run.store, episode.id).total_reward != episode.total_reward or episode.total_reward in (0, 1)
    llama_learner.learn(NEVER, "reinforce", **SMALL, rewards="py:tests.learners.test_episode_selection:LongAnswers")
    assert llama_learner.steps(2)[0].groups.reward > 0  # where the environment never pays


@pytest.mark.parametrize(
    ("rewards", "kind", "names"),
    [
        ("py:tests.learners.test_episode_selection", InputError, "name a class as py:package.module:Class"),
        ("py:tests.learners.test_episode_selection:Nobody", InputError, "cannot be loaded: AttributeError"),
        ("py:tests.learners.test_episode_selection:Mute", InputError, r"has no method rewards\(episodes\)"),
        ("py:tests.learners.test_episode_selection:Wrong", RuntimeFailure, "gave 1 rewards for 16 episodes"),
        ("py:tests.learners.test_episode_selection:NoNumber", RuntimeFailure, "a reward must be a finite number"),
        ("anna", InputError, "this source has no rewards"),
    ],
)
def test_wrong_rewards_are_an_error_that_names_them(llama_learner: Learner, rewards: str, kind: type[PerdureError], names: str) -> None:
    with pytest.raises(kind, match=names):
        llama_learner.learn(EASY, "grpo", **SMALL, rewards=rewards)
    assert llama_learner.nothing_was_left()


def test_stored_rewards_decide_which_traces_are_learned(llama_learner: Learner) -> None:
    store = llama_learner.store
    llama_learner.play_live(NEVER, 4)
    judged = [row["id"] for row in store.rows("SELECT id FROM episode ORDER BY id")][:10]
    add_rewards(store, "anna", {id_: float(n % 2) for n, id_ in enumerate(judged)})
    llama_learner.learn(NEVER, "trace-sft", **SMALL, rewards="anna")
    purposes = {row["id"]: row["purpose"] for row in store.rows("SELECT id, purpose FROM episode")}
    assert {id_ for id_ in learned(llama_learner, 1) if purposes[id_] == "live"} == set(judged[1::2])
    assert "replay" in purposes.values()  # which nobody judged: there the environment's rewards count
    assert not any(get_episode(store, id_).success for id_ in judged)  # what the environment said stays


def test_one_member_alone_and_equal_rewards_teach_nothing(llama_learner: Learner) -> None:
    groups = sample(llama_learner.job([EASY], samples=2), 3).target
    assert policy_gradient_lessons([group[:1] for group in groups], 0.0) == []
    assert all(turns_of(episode) for group in groups for episode in group)


def test_reinforce_weighs_each_token_by_the_return(llama_learner: Learner) -> None:
    store = llama_learner.store
    seen, job = spied(judged(llama_learner.job([EASY], updates=1, prompts=6, samples=8, temperature=1.0), "LongAnswers"))
    reinforce(job)
    played = [get_episode(store, row["id"]) for row in store.rows("SELECT id FROM episode")]
    assert {lesson.episode for lesson in seen} == {episode.id for episode in played if len(episode.turns[0].action_ids) > 1}
    assert all(lesson.advantage == lesson.tokens - 1 for lesson in seen)


@pytest.mark.parametrize("learner", [grpo, reinforce, iterative_sft])
def test_episodes_without_an_advantage_or_imitation_still_have_the_kl_term(llama_learner: Learner, learner: Callable[..., None]) -> None:
    seen, job = spied(judged(llama_learner.job([EASY], updates=1, prompts=6, samples=4, temperature=1.0, kl=0.5), "SomeTasks"))
    learner(job)
    assert sorted(lesson.episode for lesson in seen) == [row["id"] for row in job.run.store.rows("SELECT id FROM episode ORDER BY id")]
    assert {lesson.kl for lesson in seen} == {0.5}
    assert {bool(lesson.advantage or lesson.imitation) for lesson in seen} == {True, False}


def test_fixed_data_makes_no_more_updates_than_it_has_lessons(llama_learner: Learner, tmp_path: Path) -> None:
    file = tmp_path / "demos.jsonl"
    file.write_text(json.dumps({"observation": "1?", "action": "a"}) + "\n")
    llama_learner.learn(EASY, "sft", **{**SMALL, "updates": 12, "epochs": 3, "demos": str(file), "lr": 0.01})
    steps = llama_learner.steps(1)
    assert len(steps) == 3
    assert all(step.nll is not None for step in steps)
    assert [step.lr for step in steps] == pytest.approx([0.01, 0.01 * 2 / 3, 0.01 / 3])


def test_staleness_is_reported_if_it_is_known(llama_learner: Learner) -> None:
    llama_learner.learn(EASY, "self-sft", **{**SMALL, "updates": 3, "samples": 8})
    assert [step.staleness for step in llama_learner.steps(1)] == [0, 1, 2]
    llama_learner.learn(EASY, "sft", **{**SMALL, "updates": 3})
    assert [step.staleness for step in llama_learner.steps(2)] == [None] * 3


def test_the_first_update_of_self_sft_reports_the_statistics_of_its_sample(llama_learner: Learner) -> None:
    store = llama_learner.store
    llama_learner.learn(EASY, "self-sft", **{**SMALL, "updates": 3, "samples": 8})
    first, *others = llama_learner.steps(1)
    played = store.rows("SELECT id, success, total_reward FROM episode WHERE job = 1 AND purpose = 'learn'")
    assert first.groups.success == pytest.approx(sum(row["success"] for row in played) / len(played))
    assert first.groups.reward == pytest.approx(sum(row["total_reward"] for row in played) / len(played))
    assert first.groups.entropy > 0
    assert first.groups.groups == len(played) / 8
    assert {(step.groups.success, step.groups.entropy, step.groups.groups) for step in others} == {(None, None, 0)}


@pytest.mark.parametrize("restart", [False, True])
def test_a_late_round_without_a_success_does_not_undo_the_earlier_ones(llama_learner: Learner, restart: bool) -> None:
    Dries.left = Dries.EPISODES
    version = llama_learner.learn(DRIES, "iterative-sft", **{**SMALL, "rounds": 2, "replay": 0.0, "restart": restart})
    assert [step.groups.success for step in llama_learner.steps(1)] == [1.0, 0.0]
    assert Dries.left < 0
    learned = version_weights(llama_learner.store, llama_learner.files, version)
    assert all(isinstance(pair, LoraPair) and pair.up_OR.any() for pair in learned.values())
    with pytest.raises(RuntimeFailure, match="no success in a round"):
        llama_learner.learn(DRIES, "iterative-sft", **{**SMALL, "rounds": 2, "replay": 0.0})


def test_a_late_update_without_a_right_answer_ends_no_self_distillation(llama_learner: Learner) -> None:
    """The oracle plays each task as well."""
    Dries.left = Dries.EPISODES + SMALL["prompts"]
    llama_learner.learn(DRIES, "sdft", **{**SMALL, "replay": 0.0})
    first, second = llama_learner.steps(1)
    assert first.extra_losses["distillation"] > 0
    assert (second.groups.success, second.tokens) == (0.0, 0)
    with pytest.raises(RuntimeFailure, match="its oracle solved none of the 4 tasks"):
        llama_learner.learn(DRIES, "sdft", **{**SMALL, "replay": 0.0})


@pytest.mark.parametrize(
    ("learner", "settings", "reason"),
    [
        ("reinforce", {"updates": 9}, "no episode was rewarded in 4 updates"),
        ("self-sft", {}, "the start succeeded in none of 4 tasks"),
        ("sft", {}, "no demonstration is right"),
        ("sft", {"style": "styled"}, "no demonstration is right"),
        ("sdft", {}, "its oracle solved none of the 2 tasks"),
    ],
)
def test_a_learner_says_that_nothing_can_be_learned(llama_learner: Learner, learner: str, settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(RuntimeFailure, match=f"nothing to learn from in {NEVER}: {reason}"):
        llama_learner.learn(NEVER, learner, **{**SMALL, **settings})
    assert llama_learner.nothing_was_left()


def test_kl_on_old_prompts_is_measured_on_live_episodes_if_none_are_replayed(llama_learner: Learner) -> None:
    llama_learner.play_live(ALWAYS, 1)
    for learner, options in (("grpo", {"replay": 0.0}), ("sft", {"replay": 0.0}), ("grpo", {"replay": 0.5, "stored": 0.99})):
        llama_learner.learn(EASY, learner, **{**SMALL, "measure": 4, "lr": 0.01, **options})
    for job in (1, 2, 3):
        first, second = llama_learner.steps(job)
        assert first.drift.kl_base_old == pytest.approx(0, abs=1e-6)
        assert second.drift.kl_base_old > 1e-6
        assert second.drift.kl_base_old != second.drift.kl_base_new
