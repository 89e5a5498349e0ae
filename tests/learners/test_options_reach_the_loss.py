"""The way from an option to the loss: what each option says is what reaches the lessons, the gradient, the candidate and the diagnostics.

The formulas have tests of their own; here they are taken as given, and what is asked is whether the right one was called.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.learners.conftest import copied, plain_model, random_adapter, trainee_of, with_weights
from tests.learners.home import SETTINGS, Learner
from tests.learners.retention.lessons import adapter_of
from torch import Tensor

from perdure.learners.batches import Lesson
from perdure.learners.engines.version_loading import version_weights
from perdure.learners.gradients import ExtraLoss, MicroBatch, ProjectGradient
from perdure.learners.learning_job import LearningJob, Retention
from perdure.learners.loops.grpo import grpo
from perdure.learners.loops.iterative_sft import iterative_sft
from perdure.learners.loops.reinforce import reinforce
from perdure.learners.loops.sdft import sdft, teaching
from perdure.learners.loops.self_sft import self_sft
from perdure.learners.loops.sft import sft
from perdure.learners.loops.trace_sft import trace_sft
from perdure.learners.retention.episodic_memory import episodic_memory
from perdure.learners.retention.ewc import ewc, fisher
from perdure.learners.retention.gradient_projection import gradient_projection
from perdure.learners.retention.interpolation import interpolate
from perdure.learners.retention.lwf import lwf
from perdure.learners.retention.olora import olora
from perdure.learners.trainees.trainee import Trainee
from perdure.learners.weights.weight_sets import LoraPair, Weights
from perdure.memory import environments
from perdure.memory.exchange.import_traces import import_file
from perdure.memory.records import Episode
from perdure.memory.trajectories.episodes import get_episode

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
TARGET = f"py:tests.learners.easy:Starts?letters={LETTERS}"
MIXED = f"{TARGET}&rounds=2"
ALWAYS = "py:tests.learners.easy:Always"
NEVER = "py:tests.learners.easy:Never"

KL, KL_OLD, REPLAY_WEIGHT = 0.5, 0.25, 0.125
BATCH = {"updates": 1, "prompts": 16, "samples": 4, "replay": 0.5, "replay_samples": 4, "stored": 0.5, "measure": 0}
TURNS = [((5, 6, 7), (8, 9)), ((5, 6), (10, 11, 12))]

Weighed = tuple[float, float, float]
"""Advantage, imitation and KL of a lesson."""
Weigh = Callable[[float, float], Weighed]
"""From an episode's reward and the mean of the other members of its group to its weights."""


def contrasted(reward: float, others: float) -> Weighed:
    return reward - others, 0.0, KL


def paid(reward: float, others: float) -> Weighed:
    return reward, 0.0, KL


def imitated(reward: float, others: float) -> Weighed:
    return 0.0, 1.0, KL


def looked_at(reward: float, others: float) -> Weighed:
    return 0.0, 0.0, KL


def of_old(reward: float, others: float, is_mixed: bool) -> Weighed:
    """As replay weighs what is played in old environments."""
    return (reward - others, 0.0, KL_OLD) if is_mixed else (0.0, REPLAY_WEIGHT * (reward == 1), KL_OLD)


def less_others(reward: float, rewards: Sequence[float]) -> float:
    return reward - (sum(rewards) - reward) / (len(rewards) - 1)


def job_of(
    learner: Learner, old: Sequence[str] = (), *, start: Weights | None = None, with_teacher: bool = False, **options: Any
) -> LearningJob:
    """A job whose trainee starts as it does when these options are ordered."""
    torch.manual_seed(0)
    trainee = trainee_of(learner.files, start=start, with_teacher=with_teacher, **options)
    return learner.job([TARGET], old, trainee=trainee, **options)


def spied(job: LearningJob) -> tuple[list[Lesson], LearningJob]:
    """The job with a loss of nothing, and the lessons that this is shown."""
    lessons = list[Lesson]()
    return lessons, replace(job, retention=replace(job.retention, extra_losses=spy(lessons)))


def spy(lessons: list[Lesson]) -> dict[str, ExtraLoss]:
    """A loss of nothing that keeps the lessons it is shown."""

    def loss(batch: MicroBatch) -> Tensor:
        lessons.extend(batch.lessons)
        return torch.zeros(())

    return {"spy": loss}


def flat(trainee: Trainee) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in trainee.parameters])


def played(job: LearningJob) -> list[Episode]:
    """What this job has played."""
    rows = job.run.store.rows("SELECT id FROM episode WHERE job = ? ORDER BY id", (job.id,))
    return [get_episode(job.run.store, row["id"]) for row in rows]


def groups_of(episodes: Sequence[Episode]) -> dict[str, list[Episode]]:
    groups: dict[str, list[Episode]] = {}
    for episode in episodes:
        groups.setdefault(episode.group, []).append(episode)
    return groups


def demonstrations(tmp_path: Path, answers: str = "aaaa") -> str:
    """A file of answers: what is learned from it is the same in every job."""
    file = tmp_path / "demos.jsonl"
    file.write_text(
        "".join(json.dumps({"observation": f"Which number is the largest? {n}", "action": a}) + "\n" for n, a in enumerate(answers))
    )
    return str(file)


@pytest.mark.parametrize(
    ("learn", "settings", "weigh"),
    [
        (grpo, {}, contrasted),
        (reinforce, {}, paid),
        (iterative_sft, {}, imitated),
        (iterative_sft, {"prompts": 32, "samples": 2, "hints": True}, imitated),
        (self_sft, {}, imitated),
        (trace_sft, {}, imitated),
        (trace_sft, {"traces": "import:others"}, imitated),
        (sft, {}, imitated),
        (sft, {"samples": 8, "style": "styled"}, imitated),
        (sdft, {}, looked_at),
    ],
)
def test_every_lesson_weighs_what_the_options_say(
    llama_learner: Learner, tmp_path: Path, learn: Callable[..., None], settings: dict[str, Any], weigh: Weigh
) -> None:
    """Replay and what is stored beside it included; and with a gradient of nothing in place of its own no learner moves."""
    store = llama_learner.store
    for name in (ALWAYS, NEVER):
        environments.register(store, name)
    llama_learner.play_live(MIXED, 2)
    if learn is trace_sft:
        llama_learner.play_live(TARGET, 4)
        (tmp_path / "rows.jsonl").write_text('{"environment": "e", "success": true, "turns": [{"observation": "1?", "action": "a"}]}\n')
        import_file(store, tmp_path / "rows.jsonl", "others")
    options = {**BATCH, "kl": KL, "kl_old": KL_OLD, "replay_weight": REPLAY_WEIGHT, **settings}
    job = job_of(llama_learner, [MIXED, ALWAYS, NEVER], with_teacher=learn is sdft, **options)
    before = flat(job.trainee)
    still = Retention(project_gradient=lambda trainee, gradient_P: torch.zeros_like(gradient_P))
    lessons, job = spied(replace(job, retention=still))
    learn(job)
    assert job.progress.step == 1
    assert torch.equal(flat(job.trainee), before)

    assert {(one.advantage, one.imitation, one.kl) for one in lessons if one.episode is None} <= {(0.0, 1.0, KL)}
    by_episode = {one.episode: one for one in lessons if one.episode is not None}
    known = {id_: get_episode(store, id_) for id_ in by_episode}
    kinds = set()
    for group in groups_of(list(known.values())).values():
        rewards = [episode.total_reward for episode in group]
        for episode in group:
            found = by_episode[episode.id]
            others = (sum(rewards) - episode.total_reward) / (len(rewards) - 1) if len(rewards) > 1 else 0.0
            assert (found.environment, found.of_target) == (episode.environment, episode.environment == TARGET)
            if episode.environment != TARGET:
                expected = of_old(episode.total_reward, others, len(set(rewards)) > 1)
                kinds.add((episode.purpose, bool(found.advantage), bool(found.imitation)))
            elif weigh is imitated and not episode.success:
                continue  # it may be looked at by a KL term
            else:
                expected = weigh(episode.total_reward, others)
            assert (found.advantage, found.imitation, found.kl) == pytest.approx(expected), episode
    # stored mixed groups; and of replay those that are mixed, all won, and all lost
    assert kinds >= {("live", True, False), ("replay", True, False), ("replay", False, True), ("replay", False, False)}
    looked = [episode.id for episode in played(job) if episode.purpose == "replay" or weigh is not imitated]
    assert set(looked) <= by_episode.keys()
    if weigh is imitated:
        assert any(one.imitation == 1.0 for one in lessons)
    if settings.keys() & {"hints", "style"}:
        assert any(episode.purpose == "hinted" for episode in known.values())


@pytest.mark.parametrize(
    ("variant", "by_hand"),
    [
        ("centred", less_others),
        ("dr_grpo", lambda r, rs: r - statistics.fmean(rs)),
        ("rloo", less_others),
        *((name, lambda r, rs: (r - statistics.fmean(rs)) / (statistics.stdev(rs) + 1e-4)) for name in ("grpo", "dapo", "cispo", "gspo")),
    ],
)
def test_grpo_has_the_advantages_of_its_variant(
    llama_learner: Learner, variant: str, by_hand: Callable[[float, Sequence[float]], float]
) -> None:
    """In the target, in what is replayed and in what is stored."""
    llama_learner.play_live(MIXED, 2)
    lessons, job = spied(job_of(llama_learner, [MIXED], **BATCH, variant=variant))
    grpo(job)
    found = {one.episode: one.advantage for one in lessons if one.episode is not None}
    episodes = [get_episode(llama_learner.store, id_) for id_ in found]
    assert {episode.purpose for episode in episodes if found[episode.id]} == {"learn", "replay", "live"}
    expected = {}
    for group in groups_of(episodes).values():
        rewards = [episode.total_reward for episode in group]
        is_mixed = len(set(rewards)) > 1
        expected |= {episode.id: by_hand(episode.total_reward, rewards) if is_mixed else 0.0 for episode in group}
    assert found == pytest.approx(expected)


@pytest.mark.parametrize(
    ("learn", "settings", "steps"),
    [(grpo, {"passes": 1}, 2), (grpo, {"passes": 3}, 6), (reinforce, {}, 2), (iterative_sft, {"rounds": 2}, 2)],
)
def test_a_batch_of_grpo_makes_as_many_steps_as_there_are_passes(
    llama_learner: Learner, learn: Callable[..., None], settings: dict[str, Any], steps: int
) -> None:
    """Of two updates; the other learners make one pass. The episodes are the newest in any case."""
    job = job_of(llama_learner, **{**BATCH, "updates": 2, "prompts": 6}, **settings)
    learn(job)
    assert {int(state["step"]) for state in job.trainee.state().optimizer["state"].values()} == {steps}
    assert [update.staleness for update in job.tally.updates] == [0.0, 0.0]


def test_diagnostics_of_an_update_by_hand(llama_learner: Learner) -> None:
    environments.register(llama_learner.store, MIXED)
    lessons, job = spied(job_of(llama_learner, [MIXED], **{**BATCH, "stored": 0.0, "prompts": 8}))
    grpo(job)
    every, last = played(job), job.tally.updates[-1]
    target = [episode for episode in every if episode.purpose == "learn"]
    logprobs = [logp for episode in target for turn in episode.turns for logp in turn.logprobs]
    mixed = [len({episode.total_reward for episode in group}) > 1 for group in groups_of(target).values()]
    assert (last.groups.groups, last.groups.dropped_groups) == (len(mixed), mixed.count(False))
    assert len(set(mixed)) == 2
    assert last.groups.entropy == pytest.approx(-sum(logprobs) / len(logprobs))
    assert last.groups.entropy > 0
    assert last.groups.success == pytest.approx(statistics.fmean(episode.success for episode in target))
    assert last.groups.old_success == pytest.approx(statistics.fmean(episode.success for episode in every if episode.purpose == "replay"))
    assert last.sampled_tokens == sum(len(turn.action_ids) for episode in every for turn in episode.turns)
    assert last.tokens == sum(one.tokens for one in lessons) > 0
    assert last.tokens_per_s == pytest.approx((last.sampled_tokens + last.tokens) / last.seconds, rel=0.02)


@pytest.mark.learning
def test_each_retention_option_adds_its_own_term(llama_learner: Learner, tmp_path: Path) -> None:
    """Each job is made once more by hand, with the term or the projection of that weight and no other."""
    for name in (MIXED, ALWAYS):
        llama_learner.play_live(name, 6)
    fixed = {**SETTINGS, "updates": 2, "epochs": 2, "replay": 0.0, "measure": 0, "demos": demonstrations(tmp_path)}
    first = llama_learner.learn(TARGET, "sft", **fixed)
    start = version_weights(llama_learner.store, llama_learner.files, first)

    def projected(job: LearningJob, *, mean: bool) -> ProjectGradient:
        return gradient_projection(episodic_memory(job), mean=mean, temperature=1.0, budget_tokens=512)

    def held(job: LearningJob) -> ExtraLoss:
        memory = [one for memory in episodic_memory(job) for one in memory]
        return ewc(job.trainee, fisher(job.trainee, memory, 1.0), 1000.0)

    by_hand: Mapping[str, tuple[dict[str, Any], Callable[[LearningJob], Retention]]] = {
        "nothing": ({}, lambda job: Retention()),
        "ewc": ({"ewc": 1000.0}, lambda job: Retention(extra_losses={"ewc": held(job)})),
        "lwf": ({"lwf": 0.5}, lambda job: Retention(extra_losses={"lwf": lwf(0.5, 1.0)})),
        "olora": ({"olora": 0.1}, lambda job: Retention(extra_losses={"olora": olora(adapter_of(job.trainee), 0.1)})),
        "a-gem": ({"gem": "a-gem"}, lambda job: Retention(project_gradient=projected(job, mean=True))),
        "gem": ({"gem": "gem"}, lambda job: Retention(project_gradient=projected(job, mean=False))),
    }
    found, expected = {}, {}
    for name, (settings, terms) in by_hand.items():
        ordered = llama_learner.learn(TARGET, "sft", start=first.name, **fixed, **settings).job
        assert ordered is not None
        job = job_of(llama_learner, [MIXED, ALWAYS], start=start, **fixed, **settings)
        sft(replace(job, retention=terms(job)))
        for updates, told in ((llama_learner.steps(ordered), found), (job.tally.updates, expected)):
            for n, update in enumerate(updates):
                told |= {(name, n, "nll"): update.nll, (name, n, "grad_norm"): update.grad_norm, (name, n, "kl"): update.kl_loss}
                told |= {(name, n, key): value for key, value in update.extra_losses.items()}
    expected = {key: value for key, value in expected.items() if value is not None}
    assert {key: value for key, value in found.items() if value is not None} == pytest.approx(expected, rel=1e-4)
    assert {key[0] for key, value in found.items() if key[2] == key[0] and value} == {"ewc", "lwf", "olora"}
    norms = {name: [round(found[name, n, "grad_norm"], 5) for n in range(2)] for name in by_hand}
    assert len(set(map(tuple, norms.values()))) == len(by_hand), f"each follows another gradient: {norms}"


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_the_candidate_is_interpolated_between_the_start_and_the_learned_weights(
    llama_learner: Learner, tmp_path: Path, tuning: str
) -> None:
    fixed = {**SETTINGS, "updates": 2, "replay": 0.0, "measure": 0, "tuning": tuning, "demos": demonstrations(tmp_path)}
    start = llama_learner.learn(TARGET, "sft", **fixed, seed=1)

    def whole(weights: Weights) -> dict[str, Tensor]:
        """What is added to the base model, or stands in its place."""
        return {name: one.scale * one.up_OR @ one.down_RI if isinstance(one, LoraPair) else one for name, one in weights.items()}

    for first, share in ((None, 0.25), (start, 0.25), (start, 0.5)):
        made = [
            llama_learner.learn(TARGET, "sft", start="v0" if first is None else first.name, **fixed, interpolate=part)
            for part in (1.0, share)
        ]
        begun, learned, candidate = (
            {} if one is None else version_weights(llama_learner.store, llama_learner.files, one) for one in (first, *made)
        )
        if first is None and tuning == "full":
            begun = {name: parameter.detach() for name, parameter in plain_model(llama_learner.files).named_parameters()}
        expected = whole(interpolate(begun, learned, share))
        found = whole(candidate)
        assert found.keys() == expected.keys()
        for name, weight in expected.items():
            torch.testing.assert_close(found[name], weight, atol=1e-5, rtol=1e-4)
        far = [float((found[name] - weight).abs().max()) for name, weight in whole(learned).items()]
        assert max(far) > 1e-3, "it is not what was learned"
        if tuning == "full" or first is None:  # products of a sum of ranks are only nearly theirs
            for name, weight in whole(learned).items():
                before = whole(begun).get(name, torch.zeros_like(weight))
                torch.testing.assert_close(found[name], (1 - share) * before + share * weight, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("direction", ["reverse", "forward"])
def test_the_student_follows_its_teacher_in_the_direction_that_is_asked_for(llama_learner: Learner, direction: str) -> None:
    """Both have the start's weights, which are not the base model's: by plain passes of it, one sequence at a time."""
    files = llama_learner.files
    start = copied(random_adapter(trainee_of(files), 3, 0.1).weights())
    job = job_of(llama_learner, start=start, with_teacher=True, **{**BATCH, "prompts": 3}, direction=direction)
    sdft(job)
    model = with_weights(plain_model(files), start)

    def distributions(turns: Sequence[tuple[Sequence[int], Sequence[int]]]) -> Tensor:
        with torch.no_grad():
            logits = [model(input_ids=torch.tensor([[*prompt, *action]])).logits[0, len(prompt) - 1 : -1] for prompt, action in turns]
        return torch.cat(logits).log_softmax(-1)

    kl = []
    for lesson, turns in teaching(job, list(groups_of(played(job)).values())).items():
        student_AV, teacher_AV = distributions(lesson.turns), distributions(turns)
        first_AV, second_AV = (student_AV, teacher_AV) if direction == "reverse" else (teacher_AV, student_AV)
        kl += (first_AV.exp() * (first_AV - second_AV)).sum(-1).tolist()
    assert job.tally.updates[-1].tokens == len(kl) > 0
    assert job.tally.updates[-1].extra_losses["distillation"] == pytest.approx(statistics.fmean(kl), rel=1e-3)


def test_a_slow_teacher_follows_each_update_before_the_next_and_a_frozen_one_never(llama_learner: Learner) -> None:
    seen: list[tuple[list[Tensor], list[Tensor]]] = []

    def keep(trainee: Trainee, gradient_P: Tensor) -> Tensor:
        state = trainee.state()
        seen.append(([one.clone() for one in state.teacher], [one.detach().clone() for one in state.parameters]))
        return gradient_P

    settings = {**BATCH, "updates": 3, "prompts": 3, "lr": 0.01}
    job = job_of(llama_learner, with_teacher=True, **settings, teacher="frozen", teacher_rate=0.25)
    before = job.trainee.logprobs(TURNS, 1.0, "teacher")
    sdft(job)
    assert torch.equal(job.trainee.logprobs(TURNS, 1.0, "teacher"), before)

    job = job_of(llama_learner, with_teacher=True, **settings, teacher="slow", teacher_rate=0.25)
    sdft(replace(job, retention=Retention(project_gradient=keep)))
    assert len(seen) == 3
    for (teacher, _), (after, learner) in pairwise(seen):
        for was, is_, now in zip(teacher, after, learner, strict=True):
            torch.testing.assert_close(is_, was + 0.25 * (now - was))
        assert not all(torch.equal(was, is_) for was, is_ in zip(teacher, after, strict=True))
