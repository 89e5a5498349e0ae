"""Which environments fell, after a rejection."""

from __future__ import annotations

from random import Random

import pytest
from tests.learners.gate.streams import run, scope_of, score

from perdure.learners.gate.decision import GateDecision
from perdure.learners.gate.regressions import MOST_MORE_PAIRS, RegressionSearch, e_bh
from perdure.learners.gate.scope import Comparison


def test_e_bh_is_as_worked_by_hand() -> None:
    # Four hypotheses at .10: the k-th largest must reach 40 / k, that is 40, 20, 13.33, 10.
    assert e_bh({"a": 14.0, "b": 60.0, "c": 25.0, "d": 1.0}, 0.10) == ("a", "b", "c")
    assert e_bh({"a": 39.9, "b": 19.0, "c": 13.0, "d": 9.0}, 0.10) == ()
    assert e_bh({"a": 30.0, "b": 22.0, "c": 1.0, "d": 1.0}, 0.10) == ("a", "b")  # none of the two alone
    assert e_bh({"a": 10.0, "b": 10.0, "c": 10.0, "d": 10.0}, 0.10) == ("a", "b", "c", "d")
    assert e_bh({}, 0.10) == ()


def now_and_then(c: Comparison, n: int) -> float:
    """Every fourth pair is lost, everywhere."""
    return -float(n % 4 == 0)


def test_what_fell_is_named_and_what_held_is_not() -> None:
    def fall(c: Comparison, n: int) -> float:
        return -0.5 if c.environment in ("old1", "old3") else 0.25 * (n % 3 == 0) - 0.25 * (n % 3 == 1)

    gate = run(GateDecision(scope_of(5, 1)), fall)
    assert (gate.verdict, gate.reason.split(",")[0]) == ("reject", "the earlier environments fell together")
    assert run(RegressionSearch(gate.scope, gate.history), fall).regressed == ("old1", "old3")


def test_a_few_more_pairs_name_what_the_rejection_alone_could_not() -> None:
    gate = run(GateDecision(scope_of(5, 1)), now_and_then)
    assert (gate.verdict, gate.rounds) == ("reject", 9)
    search = RegressionSearch(gate.scope, gate.history)
    assert search.regressed == ()
    run(search, now_and_then)
    assert search.regressed == ("old0", "old1", "old2", "old3", "old4", "new0")
    assert all(len(search.history[c]) == 9 + MOST_MORE_PAIRS for c in gate.history)


def test_only_those_that_look_bad_are_played_on() -> None:
    gate = run(GateDecision(scope_of(5, 1)), lambda c, n: {"old3": 0.25, "old4": 0.0}.get(c.environment, now_and_then(c, n)))
    assert gate.verdict == "reject"
    search = RegressionSearch(gate.scope, gate.history)
    assert {comparison.environment for comparison in search.open} == {"old0", "old1", "old2", "new0"}


def test_an_environment_that_fails_too_often_is_judged_by_what_there_is() -> None:
    gate = run(GateDecision(scope_of(5, 1)), now_and_then)
    search = RegressionSearch(gate.scope, gate.history)
    spoilt = search.open[0]
    before = search.e_value(spoilt)
    search.spoil({spoilt: 21})
    run(search, now_and_then)
    assert search.e_value(spoilt) == before > 1
    assert search.history[spoilt] == gate.history[spoilt]
    assert spoilt.environment not in search.regressed


def test_a_target_that_fell_is_named_too() -> None:
    gate = run(GateDecision(scope_of(0, 1)), lambda c, n: -0.75)
    assert gate.verdict == "reject"
    assert run(RegressionSearch(gate.scope, gate.history), lambda c, n: -0.75).regressed == ("new0",)


def test_a_search_that_was_cut_off_comes_to_the_same_end() -> None:
    gate = run(GateDecision(scope_of(5, 1)), now_and_then)
    whole = run(RegressionSearch(gate.scope, gate.history), now_and_then)
    again = RegressionSearch(gate.scope, gate.history)
    for n in range(3):
        again.round({c: whole.history[c][len(gate.history[c]) + n] for c in again.open})
    run(again, now_and_then)
    assert (again.history, again.regressed) == (whole.history, whole.regressed)


@pytest.mark.simulation
def test_at_most_a_tenth_of_the_names_are_wrong() -> None:
    """Mixed candidates: some environments fall, the others stay exactly as they were; over rejected gates alone."""
    rng = Random(0)
    scope = scope_of(7, 1)
    shares, named = [], 0
    for _ in range(2000):
        fallen = {f"old{k}" for k in range(7) if rng.random() < 0.3}

        def fall(c: Comparison, n: int, fallen: set[str] = fallen) -> float:
            return score(rng, 0.2 if c.environment in fallen else 0.6, 4) - score(rng, 0.6, 4)

        gate = run(GateDecision(scope), fall)
        if gate.verdict == "reject":
            regressed = run(RegressionSearch(scope, gate.history), fall).regressed
            shares.append(sum(name not in fallen for name in regressed) / max(len(regressed), 1))
            named += len(regressed)
    assert len(shares) > 1000
    assert named > len(shares)
    assert sum(shares) / len(shares) <= 0.10
