"""One update of a learner, against the same worked out one sequence at a time."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from tests.learners.conftest import FAILS, ONE, TWO, MakeJob, moved, options_of, plain_logprobs, plain_model, plain_of

from perdure.learners.batches import Lesson, lesson, policy_gradient_lessons, replay_lessons
from perdure.learners.learning_job import LearningJob
from perdure.learners.sampling.batch_sampling import Sampled, sample
from perdure.learners.updating import update
from perdure.learners.weights.base_models import ModelFiles
from perdure.memory import jobs
from perdure.memory.errors import InputError, RuntimeFailure
from perdure.memory.trajectories.manifests import manifests


def lessons_of(sampled: Sampled) -> list[Lesson]:
    """Of every kind, with log-probs of a sampler that is some way off."""
    generator = torch.Generator().manual_seed(0)
    lessons = [lesson(episode, advantage=episode.member % 3 - 1, kl=0.2) for group in sampled.target for episode in group]
    lessons += replay_lessons(sampled.old, options_of(replay_weight=0.3, kl_old=0.1))
    found = []
    for one in lessons:
        shift = torch.randn(one.tokens, generator=generator).tolist()
        found.append(replace(one, sampler_logprobs=tuple(a + b for a, b in zip(one.sampler_logprobs, shift, strict=True))))
    assert {one.advantage > 0 for one in found} == {True, False}
    assert {len(one.turns) for one in found} == {1, 2}
    return found


@pytest.mark.parametrize("budget", [40, 100_000])
def test_an_update_is_the_step_that_its_losses_ask_for(make_job: MakeJob, files: ModelFiles, budget: int) -> None:
    job = make_job(budget_tokens=budget, kl=0.2, kl_old=0.1, ratio_cap=1.5, max_grad_norm=0.05, lr=0.01, warmup=0, updates=4, prompts=8)
    sampled = sample(job, 8)
    lessons = lessons_of(sampled)
    lessons.append(replace(lessons[0], advantage=0.0, imitation=0.4, kl=0.0))
    plain, base = moved(files), plain_model(files)
    tokens = {name: sum(one.tokens for one in lessons if one.environment == name) for name in (ONE, TWO)}
    kl, ratios = [], []
    for one in lessons:
        logp = torch.cat([plain_logprobs(plain_of(plain), *turn, 0.7) for turn in one.turns])
        with torch.no_grad():
            reference = torch.cat([plain_logprobs(base, *turn, 0.7) for turn in one.turns])
        ratio = (logp.detach() - torch.tensor(one.sampler_logprobs)).exp()
        ratios.append(ratio)
        squares = 0.5 * (logp - reference) ** 2
        if one.kl:
            kl.append(squares.detach())
        loss = -(ratio.clamp(max=1.5) * one.advantage * logp).sum() - (one.imitation * logp).sum() + (one.kl * squares).sum()
        (0.5 * loss / tokens[one.environment]).backward()  # the target and the old environment have a half each
    norm = plain.step(0.01, 0.05)
    update(job, lessons, sampled)
    assert job.tally.updates[-1].grad_norm == pytest.approx(norm, rel=1e-3)
    assert norm > 0.05  # it is clipped
    for found, expected in zip(job.trainee.parameters, plain.parameters, strict=True):
        torch.testing.assert_close(found, expected, atol=5e-4, rtol=0)
    ratio_A = torch.cat(ratios).double()
    assert job.tally.updates[-1].tokens == sum(tokens.values())
    assert job.tally.updates[-1].lr == 0.01
    assert job.tally.updates[-1].ratios.ratio_mean == pytest.approx(float(ratio_A.mean()), rel=1e-3)
    assert job.tally.updates[-1].ratios.ratio_max == pytest.approx(float(ratio_A.max()), rel=1e-3)
    assert job.tally.updates[-1].ratios.ess == pytest.approx(float(ratio_A.mean() ** 2 / (ratio_A**2).mean()), rel=1e-3)
    assert job.tally.updates[-1].ratios.mismatch_kl == pytest.approx(float((ratio_A - 1 - ratio_A.log()).mean()), rel=1e-3)
    assert job.tally.updates[-1].kl_loss == pytest.approx(float(torch.cat(kl).mean()), rel=1e-3)


def test_in_fp32_sampler_and_learner_agree(make_job: MakeJob) -> None:
    job = make_job(prompts=8)
    for _ in range(3):
        sampled = sample(job, 8)
        update(job, policy_gradient_lessons(sampled.target + sampled.old, 0.0), sampled)
        assert job.tally.updates[-1].ratios.ratio_mean == pytest.approx(1, abs=1e-4)
        assert job.tally.updates[-1].ratios.ratio_max == pytest.approx(1, abs=1e-3)
        assert job.tally.updates[-1].ratios.ess == pytest.approx(1, abs=1e-4)
        assert job.tally.updates[-1].ratios.mismatch_kl == pytest.approx(0, abs=1e-5)


def rates_of(job: LearningJob, signals: Sequence[float]) -> list[float | None]:
    """The rates of updates from the same lessons with these signals."""
    lessons = [lesson(episode, imitation=1.0) for group in sample(job, 4).target for episode in group]
    for signal in signals:
        update(job, lessons, Sampled(target=[], old=[], spoilt=0, staleness=None), signal=signal)
    return [made.lr for made in job.tally.updates]


def test_the_rate_falls_linearly_to_zero(make_job: MakeJob) -> None:
    assert rates_of(make_job(updates=4, lr=0.02, warmup=0, prompts=4, replay=0), [1.0] * 4) == pytest.approx([0.02, 0.015, 0.01, 0.005])


def test_the_first_steps_have_a_smaller_rate(make_job: MakeJob) -> None:
    """A third, two thirds and all of what falls linearly. An update without a step does not count as one."""
    settings = {"lr": 0.12, "prompts": 4, "replay": 0}
    assert rates_of(make_job(updates=12, **settings), [1.0] * 4) == pytest.approx([0.04, 0.22 / 3, 0.1, 0.09])
    assert rates_of(make_job(updates=12, **settings), [0.0, 1.0, 0.0, 1.0]) == pytest.approx([0, 0.11 / 3, 0, 0.06])
    assert rates_of(make_job(updates=8, **settings), [1.0] * 3) == pytest.approx([0.06, 0.105, 0.09]), "at most a quarter of the updates"


def test_the_rate_is_proportional_to_the_signal(make_job: MakeJob) -> None:
    found = rates_of(make_job(updates=4, lr=0.04, warmup=0, prompts=4, replay=0), [0.25, 1.0, 0.5])
    assert found == pytest.approx([0.01, 0.03, 0.01])


def test_without_signal_weights_and_optimiser_stay_whatever_is_replayed(make_job: MakeJob) -> None:
    job = make_job(prompts=8, lr=0.01, kl_old=0.5)
    for signal in (1.0, 0.0):
        before = copy.deepcopy(job.trainee.state())
        sampled = sample(job, 8)
        lessons = replay_lessons(sampled.old, job.options)
        assert any(one.advantage or one.kl for one in lessons)
        update(job, lessons, sampled, signal=signal)
        after = job.trainee.state()
        same = [torch.equal(was, now) for was, now in zip(before.parameters, after.parameters, strict=True)]
        assert same == [signal == 0] * len(same)
    moments = zip(before.optimizer["state"].values(), after.optimizer["state"].values(), strict=True)
    assert all(torch.equal(was[key], now[key]) for was, now in moments for key in was)
    last = job.tally.updates[-1]
    assert (last.lr, last.grad_norm, last.tokens, job.progress.step) == (0.0, 0.0, 0, 2)
    assert manifests(job.run.store, 1)[-1].episodes == tuple(sorted(one.id for group in sampled.target + sampled.old for one in group))


def test_without_lessons_the_weights_stay(make_job: MakeJob) -> None:
    job = make_job(prompts=4)
    before = [parameter.detach().clone() for parameter in job.trainee.parameters]
    sampled = sample(job, 4)
    update(job, [], sampled)
    assert all(torch.equal(a, b) for a, b in zip(before, job.trainee.parameters, strict=True))
    assert (job.progress.step, job.tally.updates[-1].grad_norm, job.tally.updates[-1].tokens, job.tally.updates[-1].ratios.ess) == (
        1,
        0.0,
        0,
        None,
    )


def test_the_batch_of_each_update_is_written_down(make_job: MakeJob) -> None:
    job = make_job(prompts=4, samples=4)
    expected = []
    for on_policy in (True, False):
        sampled = sample(job, 4)
        update(job, policy_gradient_lessons(sampled.target, 0.0), replace(sampled, on_policy=on_policy))
        expected.append(tuple(sorted(episode.id for group in sampled.target + sampled.old for episode in group)))
    found = manifests(job.run.store, 1)
    assert [(row.n, row.episodes, row.on_policy) for row in found] == [(1, expected[0], True), (2, expected[1], False)]
    assert [step.n for step in jobs.steps(job.run.store, 1)] == [1, 2]


def test_an_episode_is_in_one_on_policy_batch_only(make_job: MakeJob) -> None:
    job = make_job(prompts=4, samples=4)
    sampled = sample(job, 4)
    update(job, [], sampled)
    with pytest.raises(RuntimeFailure, match="cannot be in another one"):
        update(job, [], sampled)


def test_episodes_that_the_environment_spoilt_are_no_data(make_job: MakeJob) -> None:
    job = make_job(targets=[FAILS, ONE], old=(), prompts=4, samples=4)
    sampled = sample(job, 4)
    assert sampled.spoilt == 8
    assert {group[0].environment for group in sampled.target} == {ONE}
    update(job, policy_gradient_lessons(sampled.target, 0.0), sampled)
    assert job.tally.updates[-1].groups.spoilt_episodes == 8


def test_an_update_without_a_completed_episode_writes_no_manifest(make_job: MakeJob) -> None:
    job = make_job(targets=[FAILS], old=(), prompts=2, samples=2)
    update(job, [], sample(job, 2))
    assert job.progress.step == 1
    assert manifests(job.run.store, 1) == []


def test_a_diverged_update_is_a_failure_that_says_so(make_job: MakeJob) -> None:
    job = make_job(prompts=8, kl=1000)  # the largest that is allowed; the lessons weigh it as no option can
    sampled = sample(job, 8)
    with pytest.raises(RuntimeFailure, match=r"update 1 of job 1 has diverged .*smaller lr"):
        update(job, policy_gradient_lessons(sampled.target + sampled.old, 1e38), sampled)
    assert job.progress.step == 0


def test_what_a_longer_engine_sampled_is_played_and_learned_only_as_far_as_the_learner_sees(make_job: MakeJob) -> None:
    job = make_job()
    sampled = sample(job, 4)
    longest = max(len(turn.prompt_ids) + len(turn.action_ids) for group in sampled.target for one in group for turn in one.turns)
    job.trainee.model.context_limit = longest - 1
    with pytest.raises(InputError, match=f"episode [0-9]+ has {longest} tokens, but the context of .* only {longest - 1}: leave it out"):
        update(job, [lesson(one) for group in sampled.target for one in group], sampled)
    job.trainee.model.context_limit = 1
    assert sample(job, 4).spoilt > 0
