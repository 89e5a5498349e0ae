"""Gates whose draws others play: the verdict is that of one machine, whichever player plays what, and nothing waits for ever."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

import pytest
from tests.agent.cluster.judging.same_answers import ELSEWHERE, HERE, NAMES, gated, make_home, means, work_on
from tests.agent.skill import Stumbles

from perdure.agent.cluster.judging.errand_play import judge_once, play_errands
from perdure.agent.cluster.judging.errand_player import ErrandPlayer
from perdure.agent.cluster.judging.store_desk import StoreDesk
from perdure.agent.processes.job_work import Work
from perdure.agent.stream.registering import register_environments
from perdure.learners.gate.engine_player import EnginePlayer
from perdure.learners.gate.player import Player, Sampling, Scores
from perdure.learners.learning_job import Interrupted
from perdure.memory import leases, versions
from perdure.memory.errands.errand_leases import errands_now, lease_errands, note_judge
from perdure.memory.errands.errand_queue import queue_errands
from perdure.memory.errands.errand_records import ErrandTerms
from perdure.memory.errors import InputError, RuntimeFailure, UnknownError
from perdure.memory.evidence.dev_scores import known_dev_scores
from perdure.memory.gates import pairs_of
from perdure.memory.leases import BootClock
from perdure.memory.processes import events
from perdure.memory.store import Store
from perdure.memory.trajectories.journal import StoreJournal
from perdure.memory.upkeep.integrity import check

CLOCK = BootClock()
TWO = Sampling(temperature=1.0, samples=2)
DRAWS = [(name, 2**31 + 10 * n) for n in range(1, 3) for name in NAMES[:3]]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with make_home(tmp_path / "home") as store:
        yield store


@dataclass
class Judges:
    """Players of this process, of which a random one takes its turn whenever the job looks."""

    store: Store
    limits: tuple[int, ...] = (1, 3, 64)
    chance: Random = field(default_factory=lambda: Random(5))
    played: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.means = [means(self.store) for _ in self.limits]

    def turn(self) -> None:
        n = self.chance.randrange(len(self.limits))
        played = judge_once(StoreDesk(store=self.store, owner=f"player-{n}", clock=CLOCK), self.means[n], self.limits[n])
        if played:
            self.played.append(played)


def player_of(work: Work, **limits: float) -> ErrandPlayer:
    player = work.player("gate", TWO)
    assert isinstance(player, ErrandPlayer)
    for name, value in limits.items():
        setattr(player, name, value)
    return player


@pytest.mark.parametrize(("candidate", "verdict"), [("v1", "promote"), ("v2", "reject")])
def test_the_verdict_of_many_players_is_that_of_one_machine(tmp_path: Path, candidate: str, verdict: str) -> None:
    with make_home(tmp_path / "one") as one, make_home(tmp_path / "many") as many:
        alone = work_on(one, candidate, HERE)
        assert isinstance(alone.player("gate", TWO), EnginePlayer)
        expected = gated(alone)
        judges = Judges(many)
        work = work_on(many, candidate, ELSEWHERE, judges.turn)
        result = gated(work)
        assert expected.verdict == verdict
        assert result == expected, "verdict, reason, evidence, and numbers of episodes"
        assert pairs_of(many, result.gate) == pairs_of(one, expected.gate)
        voids = any(pair.difference is None for pair in pairs_of(many, result.gate))
        assert voids == (verdict == "promote"), "a verdict that comes early has met none"
        assert known_dev_scores(many, 1.0) == known_dev_scores(one, 1.0) != {}
        assert versions.serving(many).name == versions.serving(one).name
        assert len(judges.played) > 10
        for home in (one, many):
            assert check(home, CLOCK) == []
        played = "SELECT environment, seed, version, state, score FROM episode ORDER BY environment, seed, version, member, state, score"
        assert [tuple(row) for row in many.rows(played)] == [tuple(row) for row in one.rows(played)], "each answer was given once"


def test_a_job_that_dies_in_the_middle_comes_to_the_same_verdict(tmp_path: Path) -> None:
    with make_home(tmp_path / "one") as one, make_home(tmp_path / "many") as many:
        expected = gated(work_on(one, "v1", HERE))
        judges = Judges(many, (2, 5))

        def dies() -> None:
            judges.turn()
            if len(judges.played) == 45:
                raise KeyboardInterrupt

        work = work_on(many, "v1", ELSEWHERE, dies)
        with pytest.raises(KeyboardInterrupt):
            gated(work)
        leases.end_leases_of(many, work.lease.owner)
        judges.turn()
        assert errands_now(many, CLOCK).at == {}
        result = gated(work_on(many, "v1", ELSEWHERE, Judges(many, (2, 5)).turn))
        assert (result.verdict, result.reason, result.evidence) == (expected.verdict, expected.reason, expected.evidence)
        pairs = sorted((pair.environment, pair.role, pair.seed, pair.difference or 9) for gate in (1, 2) for pair in pairs_of(many, gate))
        assert len(set(pairs)) == len(pairs), "no pair is stored twice"
        assert pairs == sorted((pair.environment, pair.role, pair.seed, pair.difference or 9) for pair in pairs_of(one, 1))
        assert check(many, CLOCK) == []


@pytest.mark.parametrize("elsewhere", [True, False])
@pytest.mark.parametrize(("times", "voids"), [(1, False), (9, True)])
def test_an_episode_that_failed_is_played_once_more_wherever_it_is_played(store: Store, times: int, voids: bool, elsewhere: bool) -> None:
    Stumbles.played.clear()
    stumbles = f"py:tests.agent.skill:Stumbles?name=a&times={times}"
    trusting = HERE.sandbox.model_copy(update={"trusted": ("py:tests.agent.skill:Stumbles",)})
    config = (ELSEWHERE if elsewhere else HERE).model_copy(update={"sandbox": trusting})
    (stumbles,) = register_environments(store, [config.environment(stumbles)])
    judges = Judges(store, (2,))
    judges.means = [replace(judges.means[0], load=config.environment)]
    player = work_on(store, "v1", config, judges.turn).player("gate", TWO)
    answers = player.scores("v1", [(stumbles, 2**31 + n) for n in range(4)])
    assert [len(of_draw) for of_draw in answers] == [2] * 4
    assert [None in of_draw for of_draw in answers] == [voids] * 4
    failed = store.rows("SELECT count(*) FROM episode WHERE state = 'env_error'")[0][0]
    assert failed == (16 if voids else 4)
    assert (judges.played == [2, 2]) == elsewhere


def expected(store: Store) -> list[Scores]:
    """The answers of v1 to `DRAWS` on one machine."""
    player: Player = work_on(store, "v1", HERE).player("gate", TWO)
    assert isinstance(player, EnginePlayer)
    return player.scores("v1", DRAWS)


def test_if_no_player_asks_the_job_plays_itself_and_says_so_once(store: Store) -> None:
    wanted = expected(store)
    player = player_of(work_on(store, "v2", ELSEWHERE), nobody_s=0.2)
    assert player.scores("v1", DRAWS) == wanted
    assert player.scores("v1", DRAWS) == wanted
    (event,) = [event for event in events(store) if event.kind == "no players"]
    assert event.subject == "job 2"
    assert event.message.startswith("no player has asked for 0 s: the job plays what is left")
    assert check(store, CLOCK) == []


def test_players_that_come_late_get_what_is_left(store: Store) -> None:
    wanted = expected(store)
    judges, came = Judges(store, (2,)), list[bool]()
    player = player_of(work_on(store, "v2", ELSEWHERE, lambda: judges.turn() if came else None), nobody_s=0.2)

    def comes() -> None:
        came.append(True)
        player.nobody_s = 500.0
        note_judge(store, "player-0", CLOCK)

    player.own = replace(player.own, at_once=1, each_round=comes)
    assert player.scores("v1", DRAWS) == wanted
    assert sum(judges.played) == len(DRAWS) - 1


def test_a_home_without_a_cluster_that_players_ask_lets_them_play(store: Store) -> None:
    work = work_on(store, "v1", HERE)
    assert isinstance(work.player("probe", TWO), EnginePlayer)
    note_judge(store, "player-1", CLOCK)
    assert isinstance(work.player("probe", TWO), ErrandPlayer)


def test_a_stop_ends_the_wait_and_leaves_no_errand(store: Store) -> None:
    stopped: list[bool] = []
    work = work_on(store, "v1", ELSEWHERE, lambda: stopped.append(True), lambda: len(stopped) > 3)
    with pytest.raises(Interrupted, match="job 1 was stopped while it waited for held-out tasks"):
        player_of(work).scores("v1", DRAWS)
    assert len(stopped) == 4, "the pulse went on"
    assert {row["state"] for row in store.rows("SELECT state FROM errand")} == {"abandoned"}


def test_what_no_player_can_play_is_played_by_the_job(store: Store) -> None:
    wanted = expected(store)
    desk = StoreDesk(store=store, owner="player-1", clock=CLOCK)

    def fails(name: str) -> None:
        raise InputError(f"{name}: no module of that name")

    poor = replace(means(store), load=fails)  # type: ignore[arg-type]
    tried: list[str] = []

    def turn() -> None:
        try:
            judge_once(desk, poor, 9)
        except InputError as error:
            tried.append(str(error))

    assert player_of(work_on(store, "v2", ELSEWHERE, turn)).scores("v1", DRAWS) == wanted
    assert len(tried) == 3
    rows = store.rows("SELECT DISTINCT spent, owner, error FROM errand")
    assert [tuple(row) for row in rows] == [(3, "job-2:1", None)]
    assert not [event for event in events(store) if event.kind == "no players"]


@pytest.mark.parametrize("takes", [0, 4, 9])
def test_what_players_do_not_end_the_job_plays(store: Store, takes: int) -> None:
    wanted = expected(store)

    def hold() -> None:
        lease_errands(store, "stuck", takes, 600.0, CLOCK)

    player = player_of(work_on(store, "v2", ELSEWHERE, hold), stuck_s=0.3)
    player.own = replace(player.own, at_once=2)
    assert player.scores("v1", DRAWS) == wanted
    (event,) = [event for event in events(store) if event.kind == "errands called back"]
    assert event.message == "no held-out task of its batch had ended for 0 s, though players ask: the job plays what is left itself"


def test_a_failure_of_the_jobs_own_engine_is_that_of_one_machine(store: Store) -> None:
    player = player_of(work_on(store, "v1", ELSEWHERE), nobody_s=0.0)
    with pytest.raises(UnknownError, match="v9"):
        player.scores("v9", DRAWS)
    with store.write() as conn:
        conn.execute("UPDATE version SET path = 'versions/v2' WHERE name = 'v2'")
    with pytest.raises(RuntimeFailure, match="v2"):
        player.scores("v2", DRAWS)
    assert {row["state"] for row in store.rows("SELECT state FROM errand")} == {"abandoned"}


def test_a_player_that_lost_its_errands_drops_what_it_played(store: Store) -> None:
    work = work_on(store, "v1", ELSEWHERE)
    terms = ErrandTerms(version="v1", serving="v0", purpose="gate", temperature=1.0, samples=2)
    queue_errands(store, work.lease, terms, DRAWS)
    taken: list[int] = []

    def taken_over() -> None:
        if not taken:
            leases.end_leases_of(store, "slow")
            taken.extend(errand.id for errand in lease_errands(store, "quick", 1, 600.0, CLOCK))

    slow = StoreDesk(store=store, owner="slow", clock=CLOCK)
    assert judge_once(slow, replace(means(store), each_round=taken_over), 9) == 6
    assert taken
    assert {row["state"] for row in store.rows("SELECT state FROM errand")} == {"queued", "leased"}, "no score of it was written"
    assert {row["state"] for row in store.rows("SELECT state FROM episode")} <= {"aborted"}


def test_a_player_that_stops_gives_its_errands_back_unspent(store: Store) -> None:
    work = work_on(store, "v1", ELSEWHERE)
    terms = ErrandTerms(version="v1", serving="v0", purpose="gate", temperature=1.0, samples=2)
    queue_errands(store, work.lease, terms, DRAWS)
    asked: list[bool] = []
    stopping = replace(means(store), stop=lambda: bool(asked), each_round=lambda: asked.append(True))
    with pytest.raises(Interrupted):
        judge_once(StoreDesk(store=store, owner="player-1", clock=CLOCK), stopping, 9)
    assert [tuple(row) for row in store.rows("SELECT DISTINCT state, spent FROM errand")] == [("queued", 0)]
    assert judge_once(StoreDesk(store=store, owner="player-2", clock=CLOCK), means(store), 9) == 3, "player-1 has asked too: half is its"


def test_errands_of_two_batches_are_not_played_together(store: Store) -> None:
    work = work_on(store, "v1", ELSEWHERE)
    terms = ErrandTerms(version="v1", serving="v0", purpose="gate", temperature=1.0, samples=2)
    for version in ("v0", "v1"):
        queue_errands(store, work.lease, replace(terms, version=version), DRAWS[:1])
    both = [errand for owner in "ab" for errand in lease_errands(store, owner, 9, 60.0, CLOCK)]
    assert len(both) == 2
    with pytest.raises(InputError, match="take those of one"):
        play_errands(both, means(store), StoreJournal(store, CLOCK))
