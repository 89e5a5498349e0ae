"""The benchmarks of the store run, and both sides do the work that they say they do. Numbers at this size mean nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from perdure.agent.bench.journal_speed import ANSWER, PROMPT, TURNS, bench_journal
from perdure.agent.bench.large_store import BYTES_A_TURN, ENVIRONMENTS, RARE, Timing, ask, bench_scale, fill
from perdure.agent.bench.upkeep_speed import bench_upkeep
from perdure.memory.errors import InputError
from perdure.memory.layout.sqlite_library import sqlite3
from perdure.memory.store import FILE_NAME, open_store
from perdure.memory.trajectories.episodes import count, counts, get_episode, list_episodes, success_rates
from perdure.memory.versions import serving


def quiet(line: str) -> None:
    pass


def test_the_journal_and_plain_sqlite_write_the_same_turns(tmp_path: Path) -> None:
    found = bench_journal(tmp_path, batches={1: 1, 3: 2}, repeats=2, say=quiet)
    assert [(speed.batch, speed.turns, len(speed.runs)) for speed in found.speeds] == [(1, TURNS, 2), (3, 6 * TURNS, 2)]
    assert all(seconds > 0 for speed in found.speeds for run in speed.runs for seconds in (run.ours, run.plain, run.ready, run.digests))
    assert all(speed.ratio > 0 and speed.ratio_ready > 0 for speed in found.speeds)
    columns = "count(*), sum(n), sum(shared), sum(length(prompt_ids)), sum(length(action_ids)), sum(length(logprobs)), count(version)"
    written = []
    for path in (tmp_path / "ours" / FILE_NAME, tmp_path / "plain.db"):
        conn = sqlite3.connect(path)
        written.append(conn.execute(f"SELECT {columns} FROM turn").fetchone())
        conn.close()
    assert tuple(2 * number for number in written[0]) == written[1]  # the peer writes all twice: with its rows ready, and not
    assert written[0][0] == sum(speed.turns * 2 for speed in found.speeds) + (1 + 3) * TURNS  # with the warm-ups
    json.dumps(found.as_json())


def test_the_parts_of_a_turn_add_up_to_the_file_and_a_prompt_is_stored_once(tmp_path: Path) -> None:
    size = bench_journal(tmp_path, batches={4: 2}, repeats=1, say=quiet).size
    assert (size.prompt_ids, size.answer_ids, size.logprobs) == (4 * PROMPT, 4 * ANSWER, 4 * ANSWER)
    assert size.prompt_ids + size.answer_ids + size.logprobs < 1600
    assert size.whole_prompts == pytest.approx(4 * (PROMPT + (PROMPT + ANSWER) * (TURNS - 1) / 2))
    turns = 4 * TURNS * 3
    with open_store(tmp_path / "ours") as store:
        assert counts(store)["turns"] == turns
    assert size.total * turns == pytest.approx((tmp_path / "ours" / FILE_NAME).stat().st_size)
    assert 0 < size.rest < 12_000, "most of it are the pages of empty tables and their indexes"


def test_a_filled_store_is_sound_and_looks_lived_in(tmp_path: Path) -> None:
    fill(tmp_path, 500)
    with open_store(tmp_path) as store:
        assert [row[0] for row in store.rows("PRAGMA integrity_check")] == ["ok"]
        assert store.rows("PRAGMA foreign_key_check") == []
        assert counts(store) == {"episodes": 500, "turns": 500 * TURNS}
        assert [len(turn.prompt_ids) for turn in get_episode(store, 500).turns] == [PROMPT + n * (PROMPT + ANSWER) for n in range(TURNS)]
        assert all(-2 <= logprob <= -0.5 for turn in get_episode(store, 7).turns for logprob in turn.logprobs)
        assert {summary.id for summary in list_episodes(store, RARE)} == {1, 2, 3, 4, 6, 7, 8, 9} | set(range(5, 41, 5))
        rates = success_rates(store, serving(store).name)
        assert set(rates) == {*ENVIRONMENTS, RARE}
        assert 0.7 * 400 < sum(rate.episodes for rate in rates.values()) < 400
        assert all(rate.mixed_groups == rate.groups for rate in rates.values())


def test_each_question_is_asked_as_often_as_said(tmp_path: Path) -> None:
    asked: list[int] = []
    found = bench_scale(tmp_path, 100, {"how many": lambda store: asked.append(count(store))}, repeats=3, say=quiet)
    assert asked == [100] * 3
    assert (found.episodes, found.turns, len(found.timings[0].seconds)) == (100, 100 * TURNS, 3)
    assert found.size_bytes > 100 * TURNS * 1424
    assert ask(tmp_path / "large", {}, repeats=1) == []
    json.dumps(found.as_json())


def test_upkeep_backs_up_all_and_prunes_the_oldest(tmp_path: Path) -> None:
    fill(tmp_path / "home", 200)
    found = bench_upkeep(tmp_path / "home", 200, say=quiet)
    with open_store(tmp_path / "home") as store:
        assert counts(store)["turns"] == 200 * TURNS - found.pruned_turns
    assert 0 < found.pruned_turns <= 20 * TURNS
    assert found.backup_bytes > 200 * TURNS * 1424
    assert found.archive_bytes > found.pruned_turns * 700
    assert found.freed_bytes > 0
    assert found.backup_s > 0
    assert found.prune_s > 0
    json.dumps(found.as_json())


def test_the_p95_is_a_time_that_was_seen() -> None:
    timing = Timing(what="it", seconds=[n / 1000 for n in range(40, 0, -1)])
    assert (timing.median_s, timing.p95_s) == (0.0205, 0.038)
    assert Timing(what="it", seconds=[1.0]).p95_s == 1.0


def test_a_disk_without_room_is_said_before_it_is_full(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="set TMPDIR to another folder"):
        bench_scale(tmp_path, 10**15 // BYTES_A_TURN, {}, say=quiet)
    assert list(tmp_path.iterdir()) == []
