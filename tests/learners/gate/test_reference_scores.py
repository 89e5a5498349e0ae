"""What is known of references before a gate: dev seeds, kept and grown, and gates that were closed before."""

from __future__ import annotations

import pytest
from tests.learners.gate.gated_home import OLD, ROOT, SkilledPlayer, gate_it, held, lease

from perdure.envs.seeds import dev_seed, split_of
from perdure.learners.gate.reference_scores import ScoreSource, known_scores
from perdure.memory import gates, versions
from perdure.memory.evidence import past_pairs
from perdure.memory.evidence.dev_scores import KnownScores, known_dev_scores
from perdure.memory.records import Lease
from perdure.memory.store import Store


def source(store: Store, play: SkilledPlayer, under: Lease | None = None, temperature: float = 1.0) -> ScoreSource:
    return ScoreSource(store=store, lease=under or lease(store), play=play, temperature=temperature, root_seed=ROOT)


def test_scores_are_means_on_dev_seeds_and_those_that_fail_have_none(store: Store) -> None:
    play = SkilledPlayer(lambda v, e: 0.0 if e == "old0" else 1.0, lambda v, e, seed: e == "old1")
    found = known_scores(source(store, play), [("old0", "v1"), ("old1", "v1"), ("new", "v0")], "v2")
    assert found == {("old0", "v1"): 0.0, ("new", "v0"): 1.0}
    assert [version for version, _ in play.asked] == ["v1", "v0"]
    assert {split_of(seed) for _, draws in play.asked for _, seed in draws} == {"dev"}
    assert play.asked[1][1] == [("new", dev_seed(ROOT, "new", r)) for r in range(16)]


def test_each_gate_adds_sixteen_seeds_until_there_are_enough_and_none_is_played_twice(store: Store) -> None:
    play = SkilledPlayer(held)
    for _ in range(6):
        found = known_scores(source(store, play), [("old0", "v1")], "v2")
    seeds = [seed for _, draws in play.asked for _, seed in draws]
    assert seeds == [dev_seed(ROOT, "old0", r) for r in range(64)]
    assert known_dev_scores(store, 1.0) == {("old0", "v1"): KnownScores(seeds=64, scored=64, total=64 * found["old0", "v1"])}
    assert known_scores(source(store, play, temperature=0.5), [("old0", "v1")], "v2").keys() == {("old0", "v1")}
    assert len(play.asked) == 5, "scores at another temperature are others"


def test_gates_closed_before_the_candidates_first_count_and_spare_dev_seeds(store: Store) -> None:
    first = gate_it(store, SkilledPlayer(lambda v, e: 0.9 if v == "v1" or e == "new" else 0.6))
    assert first.verdict == "reject"
    versions.add_candidate(store, None, "v3", "v1", "h3", None, ["new"], None)
    reference = ("old2", "v1")
    pairs = [pair.reference_score or 0.0 for pair in gates.pairs_of(store, first.gate) if pair.environment == "old2"]
    nobody = SkilledPlayer(lambda v, e: 0.0)
    known = known_scores(source(store, nobody), [reference], "v3")[reference]
    assert known == pytest.approx(sum(pairs) / (len(pairs) + 16))
    assert known_scores(source(store, nobody), [reference], "v2")[reference] == 0.0, "its own gate's pairs never decide for v2"
    assert past_pairs.scores_of_references(store, 1.0, None)[reference] == KnownScores(
        seeds=len(pairs), scored=len(pairs), total=sum(pairs)
    )
    assert past_pairs.scores_of_references(store, 0.0, None) == {}
    assert past_pairs.scores_of_references(store, 1.0, first.gate) == {}


def test_scores_from_before_an_environment_changed_do_not_count(store: Store) -> None:
    first = gate_it(store, SkilledPlayer(held))
    assert {name for name, _ in past_pairs.scores_of_references(store, 1.0, None)} == {*OLD, "new"}
    second = gate_it(store, SkilledPlayer(held))
    with store.write() as conn:
        conn.execute("UPDATE environment SET first_gate = ? WHERE name = 'old1'", (second.gate,))
    assert first.gate < second.gate
    assert {name for name, _ in past_pairs.scores_of_references(store, 1.0, None)} == {*OLD, "new"} - {"old1"}
    assert past_pairs.squared_differences(store, 1.0, 4).keys() == {*OLD} - {"old1"}


def test_a_gate_that_resumes_plays_no_new_dev_seeds(store: Store) -> None:
    class Stops(SkilledPlayer):
        def scores(self, version, draws):  # type: ignore[no-untyped-def]
            raise KeyboardInterrupt

    play = SkilledPlayer(held)
    before = known_scores(source(store, play), [("old0", "v1")], "v2")
    with pytest.raises(KeyboardInterrupt):
        gate_it(store, Stops(held))
    assert known_scores(source(store, play), [("old0", "v1")], "v2") == before
    assert len(play.asked) == 1
    known_scores(source(store, play), [("old1", "v1")], "v2")
    assert len(play.asked) == 2, "only what is not known at all"
