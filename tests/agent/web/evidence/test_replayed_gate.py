"""A gate drawn from its stored pairs comes to the numbers of its verdict."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from math import log
from pathlib import Path

import pytest
from tests.learners.gate.gated_home import OLD, SkilledPlayer, gate_it, held, lease

from perdure.agent.web.evidence.replayed_gate import GAIN, POOL, ReplayedGate, replay_gate
from perdure.learners.gate.scope import PROFILES, fix_scope, read_scope
from perdure.memory import environments, gates, versions
from perdure.memory.contracts.results import GateResult
from perdure.memory.store import Store, create_store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """v1 serves, v2 is a candidate trained on `new` and `newer`, and seven environments are known."""
    with create_store(tmp_path / "home") as store:
        for name in (*OLD, "new", "newer"):
            environments.register(store, name)
        versions.add_initial(store, "tiny", "abc")
        versions.add_candidate(store, None, "v1", "v0", "h1", None, ["old0"], None)
        versions.promote(store, "v1", "a first one")
        versions.add_candidate(store, None, "v2", "v1", "h2", None, ["new", "newer"], None)
        yield store


def wealth(replay: ReplayedGate, test: str) -> dict[str, float]:
    return {curve.environment: curve.wealth for curve in replay.curves if curve.test == test}


def check_equal(replay: ReplayedGate | None, result: GateResult) -> None:
    assert replay is not None
    assert replay.rounds == result.rounds
    evidence = result.evidence
    assert wealth(replay, "hold") == {name: pytest.approx(leg.wealth) for name, leg in evidence.environments.items()}
    gains = wealth(replay, "gain")
    assert gains.pop(GAIN, None) == (pytest.approx(evidence.gain.wealth) if len(evidence.trained) > 1 else None)
    assert gains == {name: pytest.approx(leg.wealth) for name, leg in evidence.trained.items()}
    assert evidence.pooled is not None
    assert wealth(replay, "pool") == {POOL: pytest.approx(evidence.pooled.wealth)}


def test_the_curves_end_at_the_e_values_of_the_verdict(store: Store) -> None:
    result = gate_it(store, SkilledPlayer(held), trained=("new", "newer"))
    replay = replay_gate(store, gates.get_gate(store, result.gate))
    assert result.verdict in ("promote", "inconclusive")
    check_equal(replay, result)
    assert replay is not None
    assert replay.continued == 0
    for curve in replay.curves:
        assert curve.log_wealth[0] == 0.0
        assert curve.need == pytest.approx(20)
        assert len(curve.log_wealth) <= result.rounds + 1
        assert all(value < log(20) for value in curve.log_wealth[6:-1]), "it ends with the round in which it passed"


def test_a_candidate_that_fell_is_drawn_down_to_its_rejection(store: Store) -> None:
    def fallen(version: str, environment: str) -> float:
        return 0.0 if version == "v2" and environment == "old3" else held(version, environment)

    result = gate_it(store, SkilledPlayer(fallen))
    assert result.verdict == "reject"
    replay = replay_gate(store, gates.get_gate(store, result.gate))
    check_equal(replay, result)
    assert replay is not None
    low = min(replay.curves, key=lambda curve: curve.log_wealth[-1] - log(curve.futile))
    assert low.log_wealth[-1] <= log(low.futile)


def test_a_second_gate_begins_with_the_pairs_of_the_first(store: Store) -> None:
    def even(version: str, environment: str) -> float:
        return 0.6

    short = PROFILES["standard"].__class__(profile="standard", pool_margin=0.07, task_margin=0.25, nmax=8)
    first = gate_it(store, SkilledPlayer(even), settings=short)
    assert first.verdict == "inconclusive"
    second = gate_it(store, SkilledPlayer(held))
    replay = replay_gate(store, gates.get_gate(store, second.gate))
    check_equal(replay, second)
    assert replay is not None
    assert replay.continued == first.rounds > 0


def test_an_open_gate_is_drawn_as_far_as_it_was_played(store: Store) -> None:
    settings = PROFILES["standard"]
    scope = fix_scope(settings, serving="v1", anchors=dict.fromkeys(OLD, "v1"), trained=["new"])
    under = lease(store)
    from perdure.memory.contracts.results import GateTerms
    from perdure.memory.records import Pair

    gate = gates.start_gate(store, under, "v2", "v1", "standard", GateTerms(scope=scope.text(), nmax=192, seeds_of=None))
    pairs = [
        Pair(
            environment=c.environment,
            role=c.role,
            draw=0,
            seed=2**31 + n,
            reference="v1",
            reference_score=1.0,
            candidate_score=1.0,
            difference=0.0,
        )
        for n, c in enumerate(scope.comparisons)
    ]
    gates.add_pairs(store, under, gate, pairs)
    replay = replay_gate(store, gates.get_gate(store, gate))
    assert replay is not None
    assert (replay.rounds, replay.most_rounds) == (1, 192)
    (new,) = (curve for curve in replay.curves if curve.environment == "new")
    assert new.log_wealth == (0.0, 0.0)


def test_a_scope_is_read_as_it_was_written() -> None:
    scope = fix_scope(
        PROFILES["strict"],
        serving="v1",
        anchors={"a": "v0", "b": "v1", "c": "v1", "weak": "v1", "d": "v1", "e": "v0"},
        trained=["c", "new", "full"],
        anchor_scores={"weak": 0.01},
        serving_scores={"full": 0.99},
    )
    assert read_scope(scope.text()) == scope
    assert read_scope("{}") is None
    assert read_scope("[]") is None
    assert read_scope('{"hold": 1}') is None


@pytest.mark.processes
def test_drawing_a_gate_loads_no_torch() -> None:
    code = "import sys, perdure.agent.web.evidence.replayed_gate; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
