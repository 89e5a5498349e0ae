"""The benchmark of a cluster measures real processes, and says what it found. Numbers of so short runs mean little."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.agent.bench.test_cycle_model import COSTS
from tests.agent.bench.test_store_bench import quiet

from perdure.agent.bench import tables
from perdure.agent.bench.cluster.bench_head import MEMBERS, WIDTH, bench_head
from perdure.agent.bench.cluster.cluster_bench import ClusterBench, forecasts
from perdure.agent.bench.cluster.constants import ModelCheck, measure_small_messages
from perdure.agent.bench.cluster.players import IdleCost, PlayerLoss, PlayGrowth, PlayRate, bench_growth, bench_idle, bench_loss
from perdure.agent.bench.cluster.players_writing import PlayersWriting
from perdure.agent.bench.cluster.waiting_player import ANSWER, END, VOCABULARY
from perdure.memory.store import open_store
from perdure.memory.trajectories.turns import read_turns


@pytest.mark.processes
def test_players_that_wait_play_real_episodes_and_more_of_them_play_more(tmp_path: Path) -> None:
    found = bench_growth(tmp_path, (1, 3), 1, 4.0, quiet)
    assert 2.0 < found.times_one(3) < 4.0
    assert 0 < found.of(1) <= found.waits_only == 16.0
    with open_store(tmp_path / "home") as store:
        ended = store.rows("SELECT id, success FROM episode WHERE state = 'completed'")
        assert ended
        turns = read_turns(store, [ended[0]["id"]])[ended[0]["id"]]
        assert [row["n"] for row in store.rows("SELECT count(*) AS n FROM task WHERE state = 'done'")] != [0]
        twice = store.rows("""SELECT 1 FROM episode WHERE state = 'completed' GROUP BY "group", member HAVING count(*) > 1""")
    assert twice == []
    assert [len(turn.action_ids) for turn in turns] == [ANSWER] * 5
    assert all(0 <= one < VOCABULARY for turn in turns for one in turn.action_ids)
    assert turns[0].action_ids[-1] == END
    assert turns[1].shared == len(turns[0].prompt_ids) + ANSWER


@pytest.mark.processes
def test_players_without_tasks_cost_little(tmp_path: Path) -> None:
    assert 0 <= bench_idle(tmp_path, 2, 4.0, quiet).journal_cpu < 0.25


@pytest.mark.processes
def test_the_tasks_of_a_killed_player_are_played_elsewhere(tmp_path: Path) -> None:
    found = bench_loss(tmp_path, 2, quiet, silence_s=6)
    assert 1 <= found.tasks <= WIDTH // MEMBERS + 1
    assert 4.0 < found.first_s <= found.all_s < 90.0


@pytest.mark.processes
def test_pings_and_versions_are_measured_at_the_journal(tmp_path: Path) -> None:
    ping_s, bytes_s = measure_small_messages(tmp_path, quiet)
    assert 0 < ping_s < 0.1
    assert bytes_s > 1e5


@pytest.mark.processes
def test_a_process_that_ends_by_itself_is_said(tmp_path: Path) -> None:
    with bench_head(tmp_path) as head:
        head.start("player-x", ["perdure.agent.bench.cluster.waiting_player", str(tmp_path / "no-order")])
        with pytest.raises(RuntimeError, match="player-x ended while a turn was waited for"):
            head.wait("a turn", lambda: head.turns())


def test_the_table_says_what_was_measured_and_what_is_forecast(capsys: pytest.CaptureFixture[str]) -> None:
    rates = tuple(PlayRate(players=n, turns_per_s=11.0 * n, journal_cpu=0.01 * n, player_cpu=0.01) for n in (1, 8))
    writing = PlayersWriting(players=16, width=64, turns=5000, seconds=[1.0], journal_cpu_s=[0.75])
    bench = ClusterBench(
        growth=PlayGrowth(rates=rates, waits_only=16.0),
        writing=writing,
        small_messages=writing,
        idle=IdleCost(players=8, journal_cpu=0.031),
        loss=PlayerLoss(tasks=2, first_s=10.9, all_s=11.4),
        costs=COSTS,
        checks=[ModelCheck(players=1, measured=11.0, modelled=11.0), ModelCheck(players=8, measured=88.0, modelled=80.0)],
        forecasts=forecasts(COSTS),
    )
    tables.print_cluster(bench)
    said = " ".join(capsys.readouterr().out.split())
    assert "8 players play 8.00 times as much as one" in said
    assert "journal: 5000 turns/s from 16 players in messages of 64" in said
    assert "8 players take 3.1% of a core" in said
    assert "2 tasks of a killed player were played elsewhere 10.9 to 11.4 s later" in said
    assert "one GPU with vLLM" in said
    document = bench.as_json()
    assert document["model_against_runs"][1]["ratio"] == 1.1
    assert document["growth"]["times_one"] == {"1": 1.0, "8": 8.0}
