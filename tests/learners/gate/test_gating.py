"""The gate as a process, on a real store: what is asked of the player, what is stored, and what a second try may use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random

import pytest
from tests.learners.gate.gated_home import ANCHORS, OLD, ROOT, STANDARD, SkilledPlayer, gate_it, held, lease, stored
from tests.results import TERMS

from perdure.envs.seeds import gate_seed, split_of
from perdure.learners.gate.gating import past_q
from perdure.learners.gate.player import Draw, Scores
from perdure.learners.gate.scope import PROFILES
from perdure.memory import gates, versions
from perdure.memory.contracts.json_form import result_document
from perdure.memory.environments import mark_changed
from perdure.memory.errors import InputError, LeaseLost, RuntimeFailure
from perdure.memory.store import Store


def test_a_candidate_that_holds_and_gains_is_promoted_and_every_pair_is_stored(store: Store) -> None:
    play, said = SkilledPlayer(held), list[str]()
    result = gate_it(store, play, said=said)
    assert (result.verdict, result.reason) == ("promote", "all held, gain shown")
    assert versions.serving(store).name == "v1"  # it never moves the pointer
    kept = gates.get_gate(store, result.gate)
    assert (kept.verdict, kept.profile) == ("promote", "standard")
    assert kept.result == result, "what is read back is what was written"
    pairs = gates.pairs_of(store, result.gate)
    assert len(pairs) == result.candidate_episodes == result.anchor_episodes == play.episodes("v2")
    for pair in pairs:
        assert pair.seed == gate_seed(ROOT, result.gate, pair.environment, pair.draw)
        assert split_of(pair.seed) == "probe"
        assert pair.candidate_score is not None
        assert pair.reference_score is not None
        assert pair.difference == pair.candidate_score - pair.reference_score
    assert said
    assert f"gate {result.gate} of v2: round" in said[0]


def test_the_answer_has_the_keys_that_scripts_rely_on(store: Store) -> None:
    found = result_document(gate_it(store, SkilledPlayer(held)))
    assert {"verdict", "reason", "environments", "pooled", "gain", "episodes"} <= found.keys()
    assert found["episodes"].keys() == {"candidate", "anchor"}
    assert found["environments"].keys() == set(OLD)
    one = found["environments"]["old0"]
    assert {"state", "n", "wins", "losses", "mean_difference", "interval", "wealth", "need", "margin", "reference", "voids"} <= one.keys()
    assert (one["state"], one["candidate_failures"], one["reference_score"]) == ("passed", 0, one["candidate_score"])
    assert found["gain"]["environments"]["new"]["candidate_score"] == 1.0


def test_each_side_of_a_block_is_one_batch_and_the_reference_plays_first(store: Store) -> None:
    play = SkilledPlayer(held)
    gate_it(store, play)
    assert [version for version, _ in play.asked] == ["v1", "v2"] * (len(play.asked) // 2)
    assert [len(draws) for _, draws in play.asked[:2]] == [6 * 6, 6 * 6]
    assert len(play.asked[2][1]) <= 4 * 6


def test_rounds_that_were_not_needed_are_stored_and_enter_no_test(store: Store) -> None:
    result = gate_it(store, SkilledPlayer(held))
    used = sum(test.n for test in (*result.evidence.environments.values(), *result.evidence.trained.values()))
    assert used < len(gates.pairs_of(store, result.gate))
    assert max(test.n for test in result.evidence.environments.values()) <= result.rounds


@pytest.mark.parametrize(
    ("skill", "says"),
    [
        (lambda v, e: held(v, e) - 0.9 * (v == "v2" and e == "old3"), "old3 (-"),
        (lambda v, e: held(v, e) - 0.25 * (v == "v2" and e in OLD), "fell together"),
        (lambda v, e: held("v2", e) - 0.5 * (v == "v2" and e == "new"), "no gain: new (-"),
    ],
)
def test_planted_regressions_are_rejected_and_named(store: Store, skill: Callable[[str, str], float], says: str) -> None:
    result = gate_it(store, SkilledPlayer(skill))
    assert result.verdict == "reject"
    assert says in result.reason


def test_a_candidate_that_crashes_on_what_it_would_lose_is_not_promoted(store: Store) -> None:
    def broken(version: str, environment: str, seed: int) -> bool:
        return version == "v2" and environment == "old1" and seed % 2 == 0

    result = gate_it(store, SkilledPlayer(held, broken))
    assert result.verdict == "reject"
    assert result.reason.startswith("the earlier environments fell together, most: old1 (-0.")
    assert "old2" not in result.reason
    failed = [pair for pair in gates.pairs_of(store, result.gate) if pair.candidate_score is None]
    assert failed
    assert {pair.difference for pair in failed} == {-1.0}
    assert result.evidence.environments["old1"].candidate_failures > 0


def test_a_void_pair_is_replaced_before_the_candidate_plays(store: Store) -> None:
    play = SkilledPlayer(held, lambda version, environment, seed: version == "v1" and environment == "old1" and seed % 4 == 0)
    result = gate_it(store, play)
    pairs = [pair for pair in gates.pairs_of(store, result.gate) if pair.environment == "old1"]
    voids = {pair.seed for pair in pairs if pair.difference is None}
    assert voids
    assert all(pair.reference_score is None and pair.candidate_score is None for pair in pairs if pair.seed in voids)
    assert not voids & {seed for version, draws in play.asked if version == "v2" for name, seed in draws if name == "old1"}
    assert sorted(pair.draw for pair in pairs) == list(range(len(pairs)))
    assert result.verdict == "promote"
    assert result.evidence.environments["old1"].voids == len(voids)


def test_an_environment_that_fails_too_often_makes_the_gate_inconclusive(store: Store) -> None:
    play = SkilledPlayer(held, lambda version, environment, seed: environment == "old4")
    result = gate_it(store, play)
    assert result.verdict == "inconclusive"
    assert result.reason == "the environment fails too often to judge: old4 (24 void pairs with v1)"
    assert play.episodes("v2") == 0


@pytest.mark.parametrize("answer", [[(1.0,)], [(1.0,)] * 35 + [(1.5,)], [(1.0,)] * 35 + [(1.0, float("nan"))], [(1.0,)] * 35 + [()]])
def test_an_answer_that_is_not_a_score_for_each_draw_stops_the_gate(store: Store, answer: list[Scores]) -> None:
    class Wrong(SkilledPlayer):
        def scores(self, version: str, draws: Sequence[Draw]) -> list[Scores]:
            return super().scores(version, draws) if version == "v1" else [*answer]

    with pytest.raises(RuntimeFailure, match="this batch is discarded"):
        gate_it(store, Wrong(held))
    assert stored(store) == []
    assert gates.last_verdict(store) is None


class Dying(SkilledPlayer):
    """Brings the process down at its third batch of the candidate."""

    def scores(self, version: str, draws: Sequence[Draw]) -> list[Scores]:
        found = super().scores(version, draws)
        if version == "v2" and sum(asked == "v2" for asked, _ in self.asked) == 3:
            raise KeyboardInterrupt
        return found


@pytest.mark.parametrize("same_attempt", [True, False])
def test_a_gate_that_was_cut_off_goes_on_with_its_wealth_and_with_the_seeds_that_were_lost(store: Store, same_attempt: bool) -> None:
    def slow(version: str, environment: str) -> float:
        return held(version, environment) if environment in OLD else 0.5 + 0.2 * (version == "v2")

    dying, under = Dying(slow), lease(store)
    with pytest.raises(KeyboardInterrupt):
        gate_it(store, dying, under=under)
    before = stored(store)
    assert before
    play, said = SkilledPlayer(slow), list[str]()
    result = gate_it(store, play, under=under if same_attempt else None, said=said)
    assert "continues with" in said[0]
    assert result.continued_pairs > 0
    lost = next(draws for version, draws in reversed(dying.asked) if version == "v2")
    assert play.asked[1] == ("v2", lost)
    after_crash = stored(store)
    # As if nothing had happened: the same pairs and the same verdict as a gate in one piece.
    with store.write() as conn:
        conn.execute("DELETE FROM pair")
        conn.execute("DELETE FROM gate")
    whole = gate_it(store, SkilledPlayer(slow))
    assert whole.gate == 1
    assert sorted(stored(store)) == sorted(after_crash)
    assert (whole.verdict, whole.reason, whole.evidence) == (result.verdict, result.reason, result.evidence)


def test_voids_from_before_a_gate_was_cut_off_count(store: Store) -> None:
    def fails(version: str, environment: str, seed: int) -> bool:
        return version == "v1" and environment == "old1" and seed % 2 == 0

    with pytest.raises(KeyboardInterrupt):
        gate_it(store, Dying(held, fails))
    before = sum(name == "old1" and difference is None for name, *_, difference in stored(store))
    assert 0 < before <= 20
    always = SkilledPlayer(held, lambda version, environment, seed: environment == "old1")
    result = gate_it(store, always)
    played = sum(name == "old1" for _, draws in always.asked for name, _ in draws)
    assert result.reason == f"the environment fails too often to judge: old1 ({before + played} void pairs with v1)"
    assert before + played < 20 + 5


def test_a_rejected_candidate_stays_rejected_without_another_episode(store: Store) -> None:
    first = gate_it(store, SkilledPlayer(lambda v, e: held(v, e) * (v != "v2")))
    again = SkilledPlayer(held)
    second = gate_it(store, again)
    assert (second.verdict, second.reason) == (first.verdict, first.reason)
    assert again.asked == []
    assert second.gate != first.gate


def test_gating_again_after_no_decision_goes_on_with_new_seeds(store: Store) -> None:
    short = replace(PROFILES["economy"], nmax=48)
    first = gate_it(store, SkilledPlayer(lambda v, e: 0.9), settings=short)
    assert (first.verdict, first.rounds) == ("inconclusive", 48)
    assert sum(name == "new" for name, *_ in stored(store)) == 48
    second = gate_it(store, SkilledPlayer(held), settings=short)
    assert (second.verdict, second.gate) == ("promote", 2)
    assert second.continued_pairs > 48
    assert 48 < second.rounds < 96
    assert second.candidate_episodes < 30  # the old ones had been shown to hold already
    assert second.evidence.trained["new"].n == second.rounds
    assert {seed for *_, seed, _ in stored(store)[: first.candidate_episodes]}.isdisjoint(
        {seed for *_, seed, _ in stored(store)[first.candidate_episodes :]}
    )


def test_stored_pairs_of_an_environment_that_has_changed_since_do_not_count(store: Store) -> None:
    gate_it(store, SkilledPlayer(lambda v, e: 0.9), settings=replace(PROFILES["economy"], nmax=48))
    showing = gates.start_gate(store, lease(store), "v1", "v1", "economy", TERMS)
    mark_changed(store, "old0", showing, "v1")
    play = SkilledPlayer(held)
    result = gate_it(store, play)
    assert {name for name, _ in play.asked[0][1]} == {"old0"}, "only there pairs are missing"
    assert result.evidence.environments["old0"].n == sum(pair.environment == "old0" for pair in gates.pairs_of(store, result.gate))
    assert result.evidence.environments["old1"].n > sum(pair.environment == "old1" for pair in gates.pairs_of(store, result.gate))


def test_a_new_serving_version_is_a_new_question_about_the_gain(store: Store) -> None:
    gate_it(store, SkilledPlayer(lambda v, e: 0.9), settings=replace(PROFILES["economy"], nmax=48))
    versions.add_candidate(store, None, "v3", "v1", "h3", None, [], None)
    versions.promote(store, "v3", "another one")
    play = SkilledPlayer(held)
    result = gate_it(store, play, settings=PROFILES["economy"])
    assert result.verdict == "promote"
    assert result.evidence.trained["new"].reference == "v3"
    assert result.evidence.trained["new"].losses == 0
    assert play.episodes("v1") == 0  # against the anchors, what is stored is enough


def test_a_rejected_gate_tells_nothing_about_candidates_that_hold(store: Store) -> None:
    slipping = SkilledPlayer(lambda v, e: held(v, e) - 0.1 * (v == "v2" and e in OLD))
    result = gate_it(store, slipping, settings=replace(PROFILES["strict"], nmin=25))
    assert result.verdict == "reject"
    assert sum(pair.role == "earlier" for pair in gates.pairs_of(store, result.gate)) >= 100
    assert past_q(store, STANDARD) == {}


def test_nobody_writes_without_the_lease(store: Store) -> None:
    stale = replace(lease(store), attempt=99)
    play = SkilledPlayer(held)
    with pytest.raises(LeaseLost):
        gate_it(store, play, under=stale)
    assert play.asked == []


def test_a_trained_one_with_another_anchor_is_compared_with_both_on_the_same_seeds(store: Store) -> None:
    play = SkilledPlayer(lambda v, e: {"v0": 0.9, "v1": 0.2, "v2": 0.6}[v] if e == "new" else 0.9)
    result = gate_it(store, play, anchors={**ANCHORS, "new": "v0"})
    assert result.verdict == "reject"
    assert result.reason.startswith("new (-0.")
    assert result.evidence.environments["new"].note == "trained: held outside the pool"
    both = [
        {pair.seed for pair in gates.pairs_of(store, result.gate) if pair.environment == "new" and pair.reference == v}
        for v in ("v0", "v1")
    ]
    assert both[0] & both[1]
    assert play.episodes("v2") < len(gates.pairs_of(store, result.gate))  # the candidate plays a seed once


def test_a_vacuous_environment_is_not_played(store: Store) -> None:
    play = SkilledPlayer(held)
    result = gate_it(store, play, scores={"old0": 0.1})
    assert result.verdict == "promote"
    assert not [name for _, draws in play.asked for name, _ in draws if name == "old0"]
    assert result.evidence.environments["old0"].state == "vacuous"


def test_the_serving_version_cannot_be_asked_for_a_gain_over_itself(store: Store) -> None:
    versions.promote(store, "v2", "by hand")
    with pytest.raises(InputError, match="gate it without a target"):
        gate_it(store, SkilledPlayer(held))
    assert gate_it(store, SkilledPlayer(held), trained=()).verdict == "promote"


def test_a_gate_has_more_rounds_if_past_gates_show_that_it_would_refuse_good_candidates(store: Store) -> None:
    assert past_q(store, STANDARD) == {}
    shaky = Random(3)

    class Shaky(SkilledPlayer):
        def scores(self, version: str, draws: Sequence[Draw]) -> list[Scores]:
            self.asked.append((version, list(draws)))
            return [(float(shaky.random() < (0.8 if name != "old4" else 1.0)),) for name, _ in draws]

    assert gate_it(store, Shaky(held), settings=PROFILES["strict"], trained=()).verdict != "reject"
    q = past_q(store, STANDARD)
    assert q.keys() == set(OLD)
    assert q.pop("old4") == 0.0, "each environment has its own"
    assert all(0.2 < of < 0.45 for of in q.values())
    assert past_q(store, replace(STANDARD, samples=2)) == past_q(store, replace(STANDARD, temperature=0.5)) == {}
    versions.add_candidate(store, None, "v3", "v1", "h3", None, ["new"], None)
    play = SkilledPlayer(lambda version, environment: 0.9 if environment in OLD else float(version == "v3"))
    said: list[str] = []
    result = gate_it(store, play, candidate="v3", settings=replace(STANDARD, nmax=48), said=said)
    assert gates.get_gate(store, result.gate).terms.nmax > 48
    assert "rounds" in said[0]
    assert result.verdict == "promote"
