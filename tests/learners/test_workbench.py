"""One batch and one update of a learner, against the same worked out one sequence at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.learners.conftest import engine_of, plain_logprobs, plain_model, random_adapter, trainee_of

from perdure.envs.registry import load_here as load
from perdure.envs.seeds import split_of
from perdure.learners.batches import Lesson, lesson, policy_gradient_lessons, replay_lessons
from perdure.learners.options import LearnOptions
from perdure.learners.reward_source import from_environment
from perdure.learners.trainee import Trainee
from perdure.learners.weights.base_models import ModelFiles
from perdure.learners.workbench import Interrupted, Sampled, Workbench
from perdure.memory import environments, jobs, versions
from perdure.memory.contracts.orders import LearnOrder
from perdure.memory.errors import InputError, RuntimeFailure
from perdure.memory.leases import BootClock
from perdure.memory.records import StepRef, VersionRef
from perdure.memory.store import Store, create_store
from perdure.memory.trajectories.episodes import get_episode
from perdure.memory.trajectories.journal import StoreJournal
from perdure.memory.trajectories.manifests import manifests

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
ONE = f"py:tests.learners.easy:Starts?letters={LETTERS}"
TWO = f"py:tests.learners.easy:Starts?letters={LETTERS}&rounds=2"
FAILS = "py:tests.learners.easy:Fails"

Make = Callable[..., Workbench]


def moved(files: ModelFiles) -> Trainee:
    """Away from the base, so that there is a KL to the version that serves."""
    return random_adapter(trainee_of(files), 3, 0.1)


@pytest.fixture
def make(files: ModelFiles, tmp_path: Path) -> Iterator[Make]:
    """Makes workbenches, each on a store of its own, at step 0 of a job that learns ONE beside TWO."""
    stores: list[Store] = []

    def make(
        *,
        stop: Callable[[], bool] = lambda: False,
        targets: Sequence[str] = (ONE,),
        old: Sequence[str] = (TWO,),
        temperature: float = 0.7,
        width: int = 64,
        **options: Any,
    ) -> Workbench:
        store = create_store(tmp_path / f"home-{len(stores)}")
        stores.append(store)
        for name in {*targets, *old}:
            environments.register(store, name)
        versions.add_initial(store, files.name, files.hash)
        jobs.add_job(store, "a job", list(targets), LearnOrder(learner="grpo"))
        leased = jobs.lease_job(store, "me", 60.0, BootClock())
        assert leased is not None
        engine = engine_of(files, seed=1)
        engine.load(VersionRef("v0"), {})
        workbench = Workbench(
            store=store,
            lease=leased[1],
            journal=StoreJournal(store, BootClock()),
            engine=engine,
            trainee=moved(files),
            options=LearnOptions(temperature=temperature, **options),
            targets=[load(name) for name in targets],
            old=[load(name) for name in old],
            width=width,
            stop=stop,
            rewarder=from_environment(store),
        )
        workbench.start()
        return workbench

    yield make
    for store in stores:
        store.close()


def lessons_of(sampled: Sampled) -> list[Lesson]:
    """Of every kind, with log-probs of a sampler that is some way off."""
    generator = torch.Generator().manual_seed(0)
    lessons = [lesson(episode, advantage=episode.member % 3 - 1, kl=0.2) for group in sampled.target for episode in group]
    lessons += replay_lessons(sampled.old, LearnOptions(replay_weight=0.3, kl_old=0.1))
    found = []
    for one in lessons:
        shift = torch.randn(one.tokens, generator=generator).tolist()
        found.append(replace(one, sampler_logprobs=tuple(a + b for a, b in zip(one.sampler_logprobs, shift, strict=True))))
    assert {one.advantage > 0 for one in found} == {True, False}
    assert {len(one.turns) for one in found} == {1, 2}
    return found


@pytest.mark.parametrize("budget", [40, 100_000])
def test_an_update_is_the_step_that_its_losses_ask_for(make: Make, files: ModelFiles, budget: int) -> None:
    workbench = make(budget_tokens=budget, kl=0.2, kl_old=0.1, ratio_cap=1.5, max_grad_norm=0.05, lr=0.01, updates=4, prompts=8)
    sampled = workbench.sample(8)
    lessons = lessons_of(sampled)
    lessons.append(replace(lessons[0], advantage=0.0, imitation=0.4, kl=0.0))
    plain, base = moved(files), plain_model(files)
    tokens = {name: sum(one.tokens for one in lessons if one.environment == name) for name in (ONE, TWO)}
    kl, ratios = [], []
    for one in lessons:
        logp = torch.cat([plain_logprobs(plain.model, *turn, 0.7) for turn in one.turns])
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
    workbench.update(lessons, sampled, on_policy=True)
    assert workbench.updates[-1].grad_norm == pytest.approx(norm, rel=1e-3)
    assert norm > 0.05  # it is clipped
    for found, expected in zip(workbench.trainee.parameters, plain.parameters, strict=True):
        torch.testing.assert_close(found, expected, atol=5e-4, rtol=0)
    ratio_A = torch.cat(ratios).double()
    assert workbench.updates[-1].tokens == sum(tokens.values())
    assert workbench.updates[-1].lr == 0.01
    assert workbench.updates[-1].ratios.ratio_mean == pytest.approx(float(ratio_A.mean()), rel=1e-3)
    assert workbench.updates[-1].ratios.ratio_max == pytest.approx(float(ratio_A.max()), rel=1e-3)
    assert workbench.updates[-1].ratios.ess == pytest.approx(float(ratio_A.mean() ** 2 / (ratio_A**2).mean()), rel=1e-3)
    assert workbench.updates[-1].ratios.mismatch_kl == pytest.approx(float((ratio_A - 1 - ratio_A.log()).mean()), rel=1e-3)
    assert workbench.updates[-1].kl_loss == pytest.approx(float(torch.cat(kl).mean()), rel=1e-3)


def test_in_fp32_sampler_and_learner_agree(make: Make) -> None:
    workbench = make(prompts=8)
    for _ in range(3):
        sampled = workbench.sample(8)
        workbench.update(policy_gradient_lessons(sampled.target + sampled.old, 0.0), sampled, on_policy=True)
        assert workbench.updates[-1].ratios.ratio_mean == pytest.approx(1, abs=1e-4)
        assert workbench.updates[-1].ratios.ratio_max == pytest.approx(1, abs=1e-3)
        assert workbench.updates[-1].ratios.ess == pytest.approx(1, abs=1e-4)
        assert workbench.updates[-1].ratios.mismatch_kl == pytest.approx(0, abs=1e-5)


def test_the_next_step_samples_with_the_new_weights(make: Make) -> None:
    workbench = make(prompts=8, lr=0.05)
    sampled = workbench.sample(8)
    assert {turn.sampler for group in sampled.target for episode in group for turn in episode.turns} == {StepRef(1, 0)}
    workbench.update(policy_gradient_lessons(sampled.target + sampled.old, 0.0), sampled, on_policy=True)
    assert (workbench.step, workbench.sampler) == (1, StepRef(1, 1))
    assert StepRef(1, 0) not in workbench.engine
    sampled = workbench.sample(8)
    turns = [turn for group in sampled.target for episode in group for turn in episode.turns]
    assert {turn.sampler for turn in turns} == {StepRef(1, 1)}
    with torch.no_grad():
        logp_A = workbench.trainee.logprobs([(turn.prompt_ids, turn.action_ids) for turn in turns], 0.7)
    torch.testing.assert_close(torch.tensor([logp for turn in turns for logp in turn.logprobs]), logp_A, atol=2e-4, rtol=0)


def test_the_rate_falls_linearly_to_zero(make: Make) -> None:
    workbench = make(updates=4, lr=0.02, prompts=1, samples=2, replay=0)
    rates = []
    for _ in range(4):
        workbench.update([], Sampled(target=[], old=[], spoilt=0, staleness=None), on_policy=True)
        rates.append(workbench.updates[-1].lr)
    assert rates == pytest.approx([0.02, 0.015, 0.01, 0.005])


def test_without_lessons_the_weights_stay(make: Make) -> None:
    workbench = make(prompts=4)
    before = [parameter.detach().clone() for parameter in workbench.trainee.parameters]
    sampled = workbench.sample(4)
    workbench.update([], sampled, on_policy=True)
    assert all(torch.equal(a, b) for a, b in zip(before, workbench.trainee.parameters, strict=True))
    assert (workbench.step, workbench.updates[-1].grad_norm, workbench.updates[-1].tokens, workbench.updates[-1].ratios.ess) == (
        1,
        0.0,
        0,
        None,
    )


def test_a_batch_is_members_of_fresh_tasks_of_each_purpose(make: Make) -> None:
    other = f"py:tests.learners.easy:Starts?letters={LETTERS}&rounds=3"
    workbench = make(old=[TWO, other], prompts=6, samples=4, replay_samples=3, replay=0.5, width=7)
    groups = []
    for _ in range(2):
        sampled = workbench.sample(6)
        # 24 episodes, of which 12 replay: 4 groups of 3, and 3 groups of 4
        assert [len(group) for group in sampled.target] == [4, 4, 4]
        assert [len(group) for group in sampled.old] == [3, 3, 3, 3]
        assert {episode.environment for group in sampled.target for episode in group} == {workbench.targets[0].name}
        assert [group[0].environment for group in sampled.old] == [workbench.old[0].name, workbench.old[1].name] * 2
        assert {episode.purpose for group in sampled.target for episode in group} == {"learn"}
        assert {episode.purpose for group in sampled.old for episode in group} == {"replay"}
        groups += sampled.target + sampled.old
    for group in groups:
        assert len({(episode.seed, episode.group, episode.environment) for episode in group}) == 1
        assert [episode.member for episode in group] == list(range(len(group)))
        assert split_of(group[0].seed) == "train"
        assert all(get_episode(workbench.store, episode.id).turns == episode.turns for episode in group)
    assert len({group[0].seed for group in groups}) == len({group[0].group for group in groups}) == 14


def test_old_environments_take_turns_over_the_batches(make: Make) -> None:
    names = [f"py:tests.learners.easy:Starts?letters={letters}" for letters in ("a", "b", "c")]
    workbench = make(old=names, prompts=2, samples=4, replay_samples=4, replay=0.5)
    found = []
    for _ in range(4):
        sampled = workbench.sample(2)
        workbench.update([], sampled, on_policy=True)
        found.append(sampled.old[0][0].environment)
    assert found == [*names, names[0]]


@pytest.mark.parametrize(
    ("replay", "stored", "played", "read_back"), [(0.02, 0.0, 3, 0), (0.1, 0.0, 13, 0), (0.1, 0.25, 10, 3), (0.5, 0.0, 64, 0)]
)
def test_a_small_share_of_replay_adds_up_over_the_updates(make: Make, replay: float, stored: float, played: int, read_back: int) -> None:
    workbench = make(old=[TWO], updates=32, prompts=4, samples=4, replay_samples=4, replay=replay, stored=stored)
    per_update = []
    while workbench.step < 32:
        per_update.append((len(workbench.old_group_numbers(4, 1 - stored)), len(workbench.old_group_numbers(4, stored))))
        workbench.step += 1
    assert tuple(map(sum, zip(*per_update, strict=True))) == (played, read_back)
    assert max(n for n, _ in per_update) <= 2
    workbench.step = 0
    assert len(workbench.old_group_numbers(4 * 32, 1 - stored)) == played, "as many where a round plays for all updates at once"


def test_targets_take_turns_if_a_batch_is_too_small_for_all(make: Make) -> None:
    names = [f"py:tests.learners.easy:Starts?letters={letters}" for letters in ("a", "b", "c")]
    workbench = make(targets=names, prompts=2, samples=4, replay=0.0)
    assert [group[0].environment for _ in range(3) for group in workbench.sample(2).target] == names * 2


@pytest.mark.parametrize(("old", "replay"), [((), 0.5), ((TWO,), 0.0)])
def test_without_replay_all_is_played_on_the_targets(make: Make, old: tuple[str, ...], replay: float) -> None:
    other = f"py:tests.learners.easy:Starts?letters={LETTERS}&rounds=3"
    sampled = make(old=old, replay=replay, targets=[ONE, other], samples=4).sample(5)
    assert sampled.old == []
    assert [group[0].environment for group in sampled.target] == [ONE, other, ONE, other, ONE]


def test_the_batch_of_each_update_is_written_down(make: Make) -> None:
    workbench = make(prompts=4, samples=4)
    expected = []
    for on_policy in (True, False):
        sampled = workbench.sample(4)
        workbench.update(policy_gradient_lessons(sampled.target, 0.0), sampled, on_policy=on_policy)
        expected.append(tuple(sorted(episode.id for group in sampled.target + sampled.old for episode in group)))
    found = manifests(workbench.store, 1)
    assert [(row.n, row.episodes, row.on_policy) for row in found] == [(1, expected[0], True), (2, expected[1], False)]
    assert [step.n for step in jobs.steps(workbench.store, 1)] == [1, 2]


def test_an_episode_is_in_one_on_policy_batch_only(make: Make) -> None:
    workbench = make(prompts=4, samples=4)
    sampled = workbench.sample(4)
    workbench.update([], sampled, on_policy=True)
    with pytest.raises(RuntimeFailure, match="cannot be in another one"):
        workbench.update([], sampled, on_policy=True)


def test_episodes_that_the_environment_spoilt_are_no_data(make: Make) -> None:
    workbench = make(targets=[FAILS, ONE], old=(), prompts=4, samples=4)
    sampled = workbench.sample(4)
    assert sampled.spoilt == 8
    assert {group[0].environment for group in sampled.target} == {ONE}
    workbench.update(policy_gradient_lessons(sampled.target, 0.0), sampled, on_policy=True)
    assert workbench.updates[-1].groups.spoilt_episodes == 8


def test_an_update_without_a_completed_episode_writes_no_manifest(make: Make) -> None:
    workbench = make(targets=[FAILS], old=(), prompts=2, samples=2)
    workbench.update([], workbench.sample(2), on_policy=True)
    assert workbench.step == 1
    assert manifests(workbench.store, 1) == []


def test_a_diverged_update_is_a_failure_that_says_so(make: Make) -> None:
    workbench = make(prompts=8, kl=1e38)
    sampled = workbench.sample(8)
    with pytest.raises(RuntimeFailure, match=r"update 1 of job 1 has diverged .*smaller lr"):
        workbench.update(policy_gradient_lessons(sampled.target + sampled.old, 1e38), sampled, on_policy=True)
    assert workbench.step == 0


def test_a_stop_ends_the_sampling(make: Make) -> None:
    asked = iter([False, False])
    workbench = make(stop=lambda: next(asked, True), old=(), targets=[TWO], prompts=4, samples=4, width=2)
    with pytest.raises(Interrupted, match="job 1 was stopped after 0 updates"):
        workbench.sample(4)
    states = [row["state"] for row in workbench.store.rows("SELECT state FROM episode")]
    assert states
    assert set(states) <= {"aborted", "completed"}


@pytest.mark.parametrize("of", [1, 2, 3, 4])
def test_each_part_of_a_round_has_all_environments(make: Make, of: int) -> None:
    names = [f"py:tests.learners.easy:Starts?letters={letters}" for letters in ("a", "b")]
    sampled = make(targets=names, old=[], samples=2).sample(8)
    parts = [sampled.part(n, of) for n in range(of)]
    assert [group for part in parts for group in part.target] == sampled.target
    assert [{group[0].environment for group in part.target} for part in parts] == [set(names)] * of
    assert [part.staleness for part in parts] == list(range(of))


def test_what_a_longer_engine_sampled_is_played_and_learned_only_as_far_as_the_learner_sees(make: Make) -> None:
    workbench = make()
    sampled = workbench.sample(4)
    longest = max(len(turn.prompt_ids) + len(turn.action_ids) for group in sampled.target for one in group for turn in one.turns)
    workbench.trainee.context_limit = longest - 1
    with pytest.raises(InputError, match=f"episode [0-9]+ has {longest} tokens, but the context of .* only {longest - 1}: leave it out"):
        workbench.update([lesson(one) for group in sampled.target for one in group], sampled, on_policy=True)
    workbench.trainee.context_limit = 1
    assert workbench.sample(4).spoilt > 0
