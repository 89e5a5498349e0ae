"""After a verdict: where the candidate becomes the anchor, and which environments fell; also if the process dies in between."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from tests.learners.gate.gated_home import ANCHORS, OLD, SkilledPlayer, gate_it, held, lease, stored

from perdure.learners.gate.player import Draw, Scores
from perdure.memory import gates, versions
from perdure.memory.environments import anchor_of
from perdure.memory.store import Store

SCORES = dict.fromkeys(OLD, 0.6) | {"new": 0.0}
WITH_NEW = ANCHORS | {"new": "v0"}


def lifts(version: str, environment: str) -> float:
    """v2 wins the new one, and by the way two of the old ones much more often; v3 throws that away again."""
    if environment == "new":
        return {"v2": 0.9, "v3": 1.0}.get(version, 0.1)
    return 0.95 if environment in ("old1", "old3") and version == "v2" else 0.6


def test_a_promotion_finds_where_the_candidate_beats_its_anchor_trained_there_or_not(store: Store) -> None:
    result = gate_it(store, SkilledPlayer(lifts), anchors=WITH_NEW, scores=SCORES, leads_to="promotion")
    assert result.verdict == "promote"
    assert set(result.new_anchors) == {"old1", "old3", "new"}
    legs = result.evidence.environments
    assert all((legs[name].anchor_wealth or 0.0) >= 200 for name in ("old1", "old3"))
    assert all((legs[name].anchor_wealth or 0.0) < 200 for name in ("old0", "old2", "old4"))
    kept = gates.pairs_of(store, result.gate)
    assert sum(pair.environment == "old1" for pair in kept) > legs["old1"].n, "pairs after the verdict are pairs of the gate"
    assert gates.get_gate(store, result.gate).result == result


def test_what_was_won_by_the_way_is_protected_from_then_on(store: Store) -> None:
    first = gate_it(store, SkilledPlayer(lifts), anchors=WITH_NEW, scores=SCORES, leads_to="promotion")
    versions.promote(store, "v2", first.reason, gate=first.gate, anchors=first.new_anchors)
    anchors = {name: anchor_of(store, name) or "" for name in (*OLD, "new")}
    assert anchors == {name: "v2" if name in ("old1", "old3", "new") else anchors[name] for name in anchors}
    versions.add_candidate(store, None, "v3", "v2", "h3", None, ["new"], None)
    careless = gate_it(store, SkilledPlayer(lifts), candidate="v3", anchors=anchors, leads_to="promotion")
    assert careless.verdict == "reject"
    assert set(careless.evidence.regressed) >= {"old1", "old3"} - {careless.reason.split(" ")[0]}
    # Against the anchors of before, as if none had moved, it would have passed.
    assert gate_it(store, SkilledPlayer(lifts), candidate="v3", anchors=ANCHORS, leads_to="promotion").verdict != "reject"


@pytest.mark.parametrize("leads_to", ["nothing", "rollback"])
def test_no_anchor_is_looked_for_if_no_promotion_follows(store: Store, leads_to: str) -> None:
    result = gate_it(store, SkilledPlayer(lifts), anchors=WITH_NEW, scores=SCORES, leads_to=leads_to)  # type: ignore[arg-type]
    assert (result.verdict, result.new_anchors) == ("promote", ())


def test_after_a_rejection_the_environments_that_fell_are_named(store: Store) -> None:
    result = gate_it(store, SkilledPlayer(lambda v, e: held(v, e) - (0.5 if (v, e) == ("v2", "old3") else 0.0)), leads_to="promotion")
    assert result.verdict == "reject"
    assert result.evidence.regressed == ("old3",)
    silent = gate_it(store, SkilledPlayer(lambda v, e: held(v, e) * (v != "v2")), leads_to="rollback")
    assert (silent.verdict, silent.evidence.regressed) == ("reject", ()), "a gate before a rollback asks only for that loss"


def test_a_gate_before_a_rollback_takes_up_no_older_gate(store: Store) -> None:
    assert gate_it(store, SkilledPlayer(lambda v, e: held(v, e) * (v != "v2"))).verdict == "reject"
    fresh = gate_it(store, SkilledPlayer(held), leads_to="rollback")
    assert (fresh.verdict, fresh.continued_pairs) == ("promote", 0)


class Dying(SkilledPlayer):
    """Brings the process down at one of the candidate's batches after the verdict."""

    def __init__(self, skill: Callable[[str, str], float], batch: int) -> None:
        super().__init__(skill)
        self.batch = batch

    def scores(self, version: str, draws: Sequence[Draw]) -> list[Scores]:
        found = super().scores(version, draws)
        if version == "v2" and sum(asked == "v2" for asked, _ in self.asked) == self.batch:
            raise KeyboardInterrupt
        return found


def worse(version: str, environment: str) -> float:
    return held(version, environment) - (0.3 if version == "v2" and environment in OLD else 0.0)


@pytest.mark.parametrize("skill", [lifts, worse])
@pytest.mark.parametrize("same_attempt", [True, False])
def test_a_gate_that_died_anywhere_goes_on_as_if_nothing_had_happened(
    store: Store, skill: Callable[[str, str], float], same_attempt: bool
) -> None:
    def gated(play: SkilledPlayer, **more: object) -> object:
        result = gate_it(store, play, anchors=WITH_NEW, scores=SCORES, leads_to="promotion", **more)  # type: ignore[arg-type]
        return result.verdict, result.reason, result.rounds, result.evidence, result.new_anchors

    play = SkilledPlayer(skill)
    whole, pairs = gated(play), sorted(stored(store))
    batches = sum(version == "v2" for version, _ in play.asked)
    assert batches > 3
    for batch in range(1, batches + 1):
        with store.write() as conn:
            conn.execute("DELETE FROM pair")
            conn.execute("DELETE FROM gate")
        under = lease(store)
        with pytest.raises(KeyboardInterrupt):
            gated(Dying(skill, batch), under=under)
        assert gated(SkilledPlayer(skill), under=under if same_attempt else None) == whole
        assert sorted(stored(store)) == pairs
