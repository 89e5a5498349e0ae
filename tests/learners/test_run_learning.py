"""Whole learning jobs: a real store, a tiny model, an environment that can be learned in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.fakes import ListJournal
from tests.learners.conftest import engine_of
from tests.learners.home import EASY, Learner, never

from perdure.envs.policy import Request
from perdure.envs.registry import load_here as load
from perdure.envs.seeds import split_of
from perdure.learners.engines.loaded_versions import LoadedVersions
from perdure.learners.gate.engine_player import EnginePlayer
from perdure.learners.gate.player import Sampling
from perdure.learners.learning_job import Interrupted, JobRun
from perdure.learners.loops.learner_table import LEARNERS
from perdure.learners.loops.nothing_to_learn import UPDATES_WITHOUT_SIGNAL
from perdure.learners.option_parsing import parse_options
from perdure.learners.options import IterativeSftOptions
from perdure.learners.weights.adapters import load_version
from perdure.learners.weights.base_models import ModelFiles, resolve_model
from perdure.learners.weights.weight_sets import LoraPair, Weights
from perdure.memory import environments, versions
from perdure.memory.errors import InputError, PerdureError, RuntimeFailure, Unavailable, UnknownError
from perdure.memory.files import manifest_hash
from perdure.memory.records import Sampler, StepRef, Version, VersionRef
from perdure.memory.store import create_store
from perdure.memory.trajectories.episodes import get_episode, list_episodes
from perdure.memory.trajectories.manifests import manifests

TWO_TURNS = "py:tests.learners.easy:Starts?rounds=2"
NEVER = "py:tests.learners.easy:Never"
ALWAYS = "py:tests.learners.easy:Always"
FAILS = "py:tests.learners.easy:Fails"
BASE = VersionRef("v0")


def prepared(learner: Learner, name: str, target: str) -> dict[str, Any]:
    """What a learner needs before it can learn, and its settings."""
    if name == "trace-sft":
        learner.play_live(target, 96)
    if name == "sft":
        return {"lr": 0.03, "epochs": 8}
    if name == "sdft":
        return {"lr": 0.02, "replay_tokens": 2.0}  # games of two turns are replayed: half of them would be noise beside a small term
    if name == "iterative-sft":
        return {"prompts": 12}  # with 8, one of four streams of sampled answers has too few successes in its first rounds
    return {"lr": 0.03, "prompts": 12} if name in ("self-sft", "trace-sft") else {}


def has_learned(learner: Learner, name: str, version: Version) -> bool:
    """Whether it reached what it can reach here in 18 updates, from a success of about a quarter.

    Imitating a fixed set spreads over the thirteen right letters, so that success is slow to come; and a model of random weights makes
    nothing of a demonstration in sight. There it is the learner's own loss that must have fallen.
    """
    steps = learner.steps(1)
    if name == "sft":
        return bool(steps[-1].nll < 0.4 * steps[0].nll)
    if name == "sdft":
        losses = [float(step.extra_losses["distillation"]) for step in steps]
        return sum(losses[-6:]) / 6 < 0.75 * sum(losses[:3]) / 3
    return learner.success(version.name, EASY) > (0.42 if name in ("self-sft", "trace-sft") else 0.7)


@pytest.mark.learning
@pytest.mark.parametrize("name", LEARNERS)
def test_each_learner_improves_on_an_easy_game(llama_learner: Learner, name: str) -> None:
    environments.register(llama_learner.store, TWO_TURNS)
    base_hash = resolve_model(str(llama_learner.files.path), Path(), print).hash
    said = llama_learner.engine
    said.load(BASE, {})
    asked = [Request(prompt_ids=tuple(range(5, 5 + n)), max_tokens=6, temperature=0.0) for n in (3, 9, 20)]
    before = said.generate(BASE, asked)

    settings = prepared(llama_learner, name, EASY)
    version = llama_learner.learn(EASY, name, **settings)
    assert llama_learner.success("v0", EASY) < 0.35
    assert has_learned(llama_learner, name, version)

    assert (version.name, version.parent, version.state, version.targets, version.job) == ("v1", "v0", "candidate", (EASY,), 1)
    assert versions.serving(llama_learner.store).name == "v0"
    assert version.path is not None
    assert version.hash == manifest_hash(llama_learner.store.home / version.path)
    weights = load_version(llama_learner.store.home, version.path, version.hash, llama_learner.files)
    assert {(len(pair.down_RI), pair.scale) for pair in weights.values() if isinstance(pair, LoraPair)} == {(8, 2.0)}
    # neither the base model on the disk nor the one in memory has moved, and no step is left loaded
    assert resolve_model(str(llama_learner.files.path), Path(), print).hash == base_hash
    assert llama_learner.engine.generate(BASE, asked) == before
    assert not any(StepRef(1, n) in llama_learner.engine for n in range(20))
    rows = llama_learner.store.rows("SELECT purpose, environment, seed, state, temperature FROM episode")
    played = {"sft": [], "trace-sft": ["live"]}.get(name, ["learn"])
    assert {row["purpose"] for row in rows} == {*played, "replay"}
    assert {row["environment"] for row in rows if row["purpose"] != "replay"} <= {EASY}
    assert {row["environment"] for row in rows if row["purpose"] == "replay"} == {TWO_TURNS}
    assert {split_of(row["seed"]) for row in rows} == {"train"}
    assert {row["state"] for row in rows} == {"completed"}
    written = manifests(llama_learner.store, 1)
    assert [row.n for row in written] == list(range(1, 19))
    if name in ("grpo", "reinforce", "iterative-sft", "sdft"):
        assert len({episode for row in written for episode in row.episodes}) == sum(len(row.episodes) for row in written) == len(rows)
    # 18 updates are 5 + 5 + 4 + 4 in four rounds; only the first of a round is on-policy
    on_policy = [row.n for row in written if row.on_policy]
    assert on_policy == ([1, 6, 11, 15] if name == "iterative-sft" else list(range(1, 19)))
    steps = llama_learner.steps(1)
    assert [step.update for step in steps] == list(range(1, 19))
    assert all(step.grad_norm >= 0 for step in steps)


@pytest.mark.learning
def test_another_architecture_learns_as_well(qwen: ModelFiles, tmp_path: Path) -> None:
    with create_store(tmp_path / "home") as store:
        learner = Learner(store, qwen)
        assert has_learned(learner, "grpo", learner.learn(EASY, "grpo"))


def test_a_turn_is_sampled_by_the_step_that_stands_in_it(llama_learner: Learner) -> None:
    llama_learner.learn(EASY, "grpo", updates=3, prompts=2, samples=2)
    rows = llama_learner.store.rows(
        "SELECT DISTINCT m.n AS update_, t.step_job, t.step_n FROM manifest m JOIN turn t ON t.episode = m.episode ORDER BY 1"
    )
    assert [tuple(row) for row in rows] == [(1, 1, 0), (2, 1, 1), (3, 1, 2)]


@pytest.mark.learning
def test_learning_goes_on_from_the_version_that_serves(llama_learner: Learner) -> None:
    first = llama_learner.learn()
    versions.promote(llama_learner.store, first.name, "a test wants it")
    second = llama_learner.learn(updates=1, lr=1e-6)
    assert (second.name, second.parent) == ("v2", "v1")
    assert llama_learner.steps(2)[0].groups.success > 0.7
    assert llama_learner.success("v2", EASY) > 0.7
    third = llama_learner.learn(start="v0", updates=1, lr=1e-6)
    assert (third.name, third.parent) == ("v3", "v0")
    assert llama_learner.steps(3)[0].groups.success < 0.35


def test_a_repair_goes_on_from_a_rejected_candidate(llama_learner: Learner) -> None:
    first = llama_learner.learn(updates=1)
    versions.reject(llama_learner.store, first.name)
    second = llama_learner.learn(start=first.name, updates=1)
    assert (second.parent, second.state) == (first.name, "candidate")
    assert versions.rolled_back_ancestor(llama_learner.store, second.name) is None
    assert versions.promote(llama_learner.store, second.name, "a test wants it").state == "serving"


def test_learning_does_not_go_on_from_a_damaged_version(llama_learner: Learner) -> None:
    first = llama_learner.learn(updates=1)
    file = llama_learner.store.home / "versions" / first.name / "adapter_model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(RuntimeFailure, match="changed or damaged"):
        llama_learner.learn(start=first.name, updates=1)


@pytest.mark.parametrize("replay", [0.0, 0.5])
def test_old_environments_are_played_by_the_share_that_is_asked_for(llama_learner: Learner, replay: float) -> None:
    environments.register(llama_learner.store, ALWAYS)
    llama_learner.learn(updates=2, prompts=4, samples=4, replay_samples=2, replay=replay, refill=0)
    counts = {row["purpose"]: row["n"] for row in llama_learner.store.rows("SELECT purpose, count(*) AS n FROM episode GROUP BY purpose")}
    assert counts == ({"learn": 32} if replay == 0 else {"learn": 16, "replay": 16})
    assert {step.groups.old_success for step in llama_learner.steps(1)} == ({None} if replay == 0 else {1.0})


def test_the_same_job_on_the_same_seeds_learns_the_same(llama: ModelFiles, tmp_path: Path) -> None:
    found = []
    for n in range(2):
        with create_store(tmp_path / f"home-{n}") as store:
            learner = Learner(store, llama)
            found.append((learner.learn(updates=3).hash, [(step.groups.success, step.grad_norm) for step in learner.steps(1)]))
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("target", "why"),
    [
        (NEVER, f"in {UPDATES_WITHOUT_SIGNAL} updates"),
        (ALWAYS, f"in {UPDATES_WITHOUT_SIGNAL} updates"),
        (FAILS, f"none of {64 * UPDATES_WITHOUT_SIGNAL} episodes completed"),
    ],
)
def test_grpo_says_when_all_rewards_are_equal(llama_learner: Learner, target: str, why: str) -> None:
    with pytest.raises(RuntimeFailure, match=f"nothing to learn from in {target}: {why}"):
        llama_learner.learn(target, "grpo")
    assert len(llama_learner.steps(1)) == UPDATES_WITHOUT_SIGNAL
    assert llama_learner.nothing_was_left()


def test_grpo_says_so_at_the_end_of_a_short_job_too(llama_learner: Learner) -> None:
    with pytest.raises(RuntimeFailure, match="in 2 updates"):
        llama_learner.learn(NEVER, "grpo", updates=2)


@pytest.mark.parametrize("target", [NEVER, FAILS])
def test_iterative_sft_says_when_nothing_succeeded(llama_learner: Learner, target: str) -> None:
    with pytest.raises(RuntimeFailure, match=f"nothing to learn from in {target}: no success in a round"):
        llama_learner.learn(target, "iterative-sft")
    assert llama_learner.nothing_was_left()


@pytest.mark.learning
@pytest.mark.parametrize("name", [pytest.param(name, marks=[] if name in ("grpo", "sft") else [pytest.mark.long]) for name in LEARNERS])
def test_an_environment_that_fails_half_of_the_time_is_learned_from_the_other_half(llama_learner: Learner, name: str) -> None:
    target = "py:tests.learners.easy:Fails?odd_only=true"
    settings = prepared(llama_learner, name, target)
    version = llama_learner.learn(target, name, replay=0, **settings)
    assert has_learned(llama_learner, name, version)
    assert any(row["state"] == "env_error" for row in llama_learner.store.rows("SELECT state FROM episode")) != (name == "sft")


def test_an_engine_that_cannot_load_the_weights_fails_the_job_with_its_error(
    llama_learner: Learner, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = llama_learner.engine.load

    def loads_the_first(sampler: Sampler, weights: Weights) -> None:
        if sampler == StepRef(1, 1):
            raise Unavailable("no server answers")
        load(sampler, weights)

    monkeypatch.setattr(llama_learner.engine, "load", loads_the_first)
    with pytest.raises(Unavailable, match="no server answers"):
        llama_learner.learn(EASY, "grpo", updates=2, prompts=2, samples=2)
    assert not any(StepRef(1, n) in llama_learner.engine for n in range(3))


@pytest.mark.parametrize("settings", [{}, {"kl": 0.1}, {"replay": 0.5}])
def test_a_job_that_diverges_fails_and_leaves_no_candidate(steep_learner: Learner, settings: dict[str, float]) -> None:
    environments.register(steep_learner.store, ALWAYS)
    with pytest.raises(PerdureError, match="diverged") as caught:
        steep_learner.learn(**settings)
    assert "\n" not in str(caught.value)
    assert steep_learner.nothing_was_left()


@pytest.mark.learning
@pytest.mark.parametrize("rank", [1, pytest.param(32, marks=pytest.mark.long)])
def test_the_largest_rate_there_is_leaves_a_candidate_that_can_be_played(llama_learner: Learner, rank: int) -> None:
    version = llama_learner.learn(lr=1.0, rank=rank)
    assert 0 <= llama_learner.success(version.name, EASY) <= 1


def test_a_stop_between_batches_leaves_no_candidate(llama_learner: Learner) -> None:
    asked = iter([False] * 20)
    with pytest.raises(Interrupted, match=r"job 1 was stopped after [1-9]"):
        llama_learner.learn(stop=lambda: next(asked, True))
    assert llama_learner.nothing_was_left()


def test_a_job_that_lost_its_lease_writes_nothing_more(llama_learner: Learner) -> None:
    store = llama_learner.store
    asked = iter(range(1000))

    def taken_over() -> bool:
        if next(asked) == 12:
            with store.write() as conn:
                conn.execute("UPDATE job SET owner = 'somebody else', attempt = attempt + 1")
        return False

    with pytest.raises(RuntimeFailure, match="lost its lease"):
        llama_learner.learn(stop=taken_over)
    assert llama_learner.nothing_was_left()


@pytest.mark.parametrize(
    ("target", "learner", "start", "settings", "kind", "names"),
    [
        (EASY, "magic", None, {}, UnknownError, "no learner 'magic': there are grpo, iterative-sft"),
        (None, "grpo", None, {}, InputError, "needs a target"),
        (EASY, "grpo", "v7", {}, UnknownError, "no version 'v7'"),
        (EASY, "grpo", None, {"learning_rate": 1}, InputError, "no option 'learning_rate'"),
        (EASY, "grpo", None, {"lr": "fast"}, InputError, "option lr='fast'"),
        (EASY, "grpo", None, {"lr": float("nan")}, InputError, "option lr="),
        (EASY, "grpo", None, {"kl": float("inf")}, InputError, "option kl="),
        (EASY, "grpo", None, {"lr": 0}, InputError, "option lr=0"),
        (EASY, "grpo", None, {"samples": 1}, InputError, "option samples=1"),
        (EASY, "grpo", None, {"replay": 1}, InputError, "option replay=1"),
        (EASY, "grpo", None, {"rank": 10_000}, InputError, "option rank=10000"),
        ("py:tests.learners.easy:Nothing", "grpo", None, {}, UnknownError, "Nothing"),
    ],
)
def test_wrong_input_is_an_error_before_anything_is_played(
    llama_learner: Learner,
    target: str | None,
    learner: str,
    start: str | None,
    settings: dict[str, Any],
    kind: type[PerdureError],
    names: str,
) -> None:
    with pytest.raises(kind, match=names) as caught:
        llama_learner.learn(target, learner, start=start, **settings)
    assert "\n" not in str(caught.value)
    assert llama_learner.store.rows("SELECT count(*) AS n FROM episode")[0]["n"] == 0


def test_a_target_that_the_home_does_not_know_is_named(llama_learner: Learner) -> None:
    job, lease = llama_learner.queued(TWO_TURNS)
    with pytest.raises(UnknownError, match=r"no environment 'py:tests\.learners\.easy:Starts\?rounds=2' in this home"):
        llama_learner.run(job, lease, never)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["lr", "kl", "replay_weight", "temperature"])
def test_options_are_finite(name: str, value: float | str) -> None:
    with pytest.raises(InputError, match=f"option {name}="):
        parse_options("grpo", {name: value})


def test_options_come_as_text_too() -> None:
    options = parse_options("iterative-sft", {"lr": "0.01", "updates": "3", "replay": "0", "hints": "true"})
    assert (options.common.lr, options.common.updates, options.replay.share) == (0.01, 3, 0.0)
    assert options.of(IterativeSftOptions).hints


def test_a_version_is_loaded_once(llama_learner: Learner) -> None:
    version = llama_learner.learn(updates=1)
    engine = engine_of(llama_learner.files)
    loaded = LoadedVersions(llama_learner.store, engine)
    assert loaded.load(version.name) == VersionRef("v1")
    weight = engine.model.net.get_submodule("model.layers.0.mlp.up_proj").weight
    assert loaded.load(version.name) == VersionRef("v1")
    engine.generate(VersionRef("v1"), [Request(prompt_ids=(5, 6), max_tokens=1, temperature=0.0)])
    loaded.load("v0")
    engine.generate(BASE, [Request(prompt_ids=(5, 6), max_tokens=1, temperature=0.0)])
    assert torch.equal(weight, engine_of(llama_learner.files).model.net.get_submodule("model.layers.0.mlp.up_proj").weight)
    with pytest.raises(UnknownError, match="v9"):
        loaded.load("v9")


def test_learning_and_judging_a_game_for_several_meet_the_version_that_serves(llama_learner: Learner) -> None:
    store, table = llama_learner.store, "py:tests.envs.tables:Table"
    version = llama_learner.learn(table, updates=2, prompts=2, samples=4)
    played = [get_episode(store, entry.id) for entry in list_episodes(store, limit=99)]
    seats = {seat: [episode for episode in played if (episode.environment, episode.seat) == (table, seat)] for seat in (0, 1)}
    assert len(seats[0]) == len(seats[1]) > 0
    assert {turn.sampler for episode in seats[0] for turn in episode.turns} == {StepRef(1, 0), StepRef(1, 1)}
    assert {turn.sampler for episode in seats[1] for turn in episode.turns} == {BASE}
    learned = {id_ for manifest in manifests(store, 1) for id_ in manifest.episodes}
    assert not learned & {episode.id for episode in seats[1]}

    lease = llama_learner.leased(table)[1]
    journal = ListJournal()
    player = EnginePlayer(
        versions=LoadedVersions(store, llama_learner.engine),
        run=JobRun(store=store, lease=lease, journal=journal),
        load=load,
        purpose="gate",
        sampling=Sampling(temperature=0.0, samples=1),
        width=4,
    )
    versions.promote(store, version.name, "the gate has begun already")
    for name in (version.name, "v0"):
        assert (None,) not in player.scores(name, [(table, 2**31), (f"{table}?opponent={version.name}", 2**31)])
    assert [(str(plan.sampler), plan.seat) for plan in journal.plans.values()] == [
        *[(version.name, 0)] * 2,
        ("v0", 1),
        (version.name, 1),
        *[("v0", 0)] * 2,
        ("v0", 1),
        (version.name, 1),
    ]
