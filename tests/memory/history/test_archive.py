"""Archiving: turns move into shards bit for bit, everything reads them as before, and each is in one place at any moment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from tests.memory.everything import CLOCK, leased_job, leased_task, play
from tests.memory.test_migrations import contents
from tests.results import learn_result

from perdure.memory import gates, jobs, tasks
from perdure.memory.contracts.orders import LearnOrder
from perdure.memory.errors import RuntimeFailure
from perdure.memory.exchange.documents import read_documents
from perdure.memory.exchange.export import export
from perdure.memory.history.archive import archive, plan_archive
from perdure.memory.history.shard_files import shard_schema
from perdure.memory.history.shard_index import runs_of, runs_outside, shards, shards_of, unfinished
from perdure.memory.processes import events
from perdure.memory.schema import MIGRATIONS
from perdure.memory.store import FILE_NAME, Store, checkpoint, create_store, open_store
from perdure.memory.trajectories import manifests
from perdure.memory.trajectories.episodes import counts, episodes_by_id, get_episode, live_episodes
from perdure.memory.trajectories.play_records import record_before_job, records_of_job, tokens_of_gates
from perdure.memory.trajectories.rewards import add_rewards, rewards_of
from perdure.memory.trajectories.traces import job_traces, live_traces, recent_groups
from perdure.memory.upkeep.integrity import check

NOW = 1e11
"""After every episode began."""


def quiet(line: str) -> None:
    """Nobody listens."""


def ids(store: Store) -> list[int]:
    return [row["id"] for row in store.rows("SELECT id FROM episode ORDER BY id")]


def in_database(store: Store) -> list[int]:
    return [row["episode"] for row in store.rows("SELECT DISTINCT episode FROM turn ORDER BY 1")]


def done_task(store: Store, rewards: Sequence[float], turns: int = 1) -> list[int]:
    lease = leased_task(store)
    played = play(store, lease, f"task-{lease.subject}", rewards, turns=turns)
    tasks.finish_task(store, lease)
    return played


def many(store: Store, groups: int, members: int = 8, turns: int = 1) -> list[int]:
    return [episode for n in range(groups) for episode in done_task(store, [n % 3 / 2] * members, turns)]


def files(store: Store) -> list[Path]:
    return [store.home / shard.place for shard in shards(store)]


def findings(store: Store) -> list[tuple[str, str, str]]:
    return [(one.level, one.rule, one.subject) for one in check(store, CLOCK) if one.rule != "running-episodes"]


def readings(store: Store) -> dict[str, object]:
    """What is read of turns in any way."""
    names = ["perdure:add", "perdure:sort?numbers=3"]
    return {
        **contents(store),
        "documents": read_documents(store, ids(store)).to_pylist(),
        "live": [*live_traces(store, names, 10)],
        "of a job": [*job_traces(store, 1, names, 10)],
        "groups": [recent_groups(store, name, 5) for name in names],
        "records": (record_before_job(store, names[0], 99, 10), records_of_job(store, 1, 5), tokens_of_gates(store, 1)),
        "live episodes": live_episodes(store, "v0", 0.0),
        "gates": gates.gates_of(store, "v1"),
    }


def test_everything_reads_what_moved_as_if_it_had_not(full: Store, tmp_path: Path) -> None:
    before = readings(full)
    export(full, tmp_path / "before.jsonl", "jsonl")
    done = archive(full, NOW, quiet)
    assert in_database(full) == [4, 5], "of a task that waits, and one that is being played"
    assert (done.episodes, done.turns, done.kept_turns, done.damaged) == (10, 12, 2 + 1, ())
    after = readings(full)
    told = after.pop("events")
    assert after == {name: read for name, read in before.items() if name != "events"}
    assert told[0] == ("archive", "store", "12 turns were moved to 1 shards")  # type: ignore[index]
    export(full, tmp_path / "after.jsonl", "jsonl")
    assert (tmp_path / "after.jsonl").read_bytes() == (tmp_path / "before.jsonl").read_bytes()
    assert findings(full) == []
    with open_store(full.home, reading=True) as other:
        assert get_episode(other, 3) == get_episode(full, 3)


def test_a_shard_has_what_was_played(full: Store) -> None:
    archive(full, NOW, quiet)
    (file,) = files(full)
    table = pq.read_table(file)
    assert table.schema.names == shard_schema().names
    third = [row for row in table.to_pylist() if row["episode"] == 3]
    assert [(row["n"], row["prompt_ids"], row["shared"], row["action_ids"], row["observation"]) for row in third] == [
        (0, [1, 2, 3], 0, [10, 256], "1 + 0? é\n"),
        (1, [1, 2, 3, 10, 256, 20], 0, [11, 256], "1 + 1? é\n"),
        (2, [1, 2, 3, 10, 256, 20, 11, 256, 21], 0, [12, 256], "1 + 2? é\n"),
    ]
    assert [(row["reward"], row["episode_total_reward"], row["episode_turns"]) for row in third] == [(0.0, 0.5, 3)] * 2 + [(0.5, 0.5, 3)]
    assert {row["episode_environment"] for row in third} == {"perdure:sort?numbers=3"}
    (shard,) = shards(full)
    assert (shard.episodes, shard.turns, shard.runs) == (10, 12, ((1, 3), (6, 12)))
    assert shard.size_bytes == file.stat().st_size
    assert [row["tokens"] for row in full.rows("SELECT tokens FROM shelved WHERE episode = 3")] == [11]


def test_what_a_task_or_job_that_has_not_ended_played_stays(store: Store) -> None:
    task = leased_task(store)
    waiting = play(store, task, "task-1", [1.0])
    tasks.release_task(store, task)
    (again,) = tasks.lease_tasks(store, "actor", 1, 60.0, CLOCK)
    job = leased_job(store, "learning", LearnOrder(learner="grpo"))
    learning = play(store, job, "job-1.1-0", [1.0, 0.0], purpose="learn")
    ended = leased_job(store, "ended", LearnOrder(learner="grpo"))
    learned = play(store, ended, "job-2.1-0", [1.0, 0.0], purpose="learn")
    jobs.finish_job(store, ended, learn_result(None), None)
    archive(store, NOW, quiet)
    assert in_database(store) == waiting + learning
    assert shards_of(store, learned).keys() == set(learned)
    jobs.fail_job(store, job, "as a test")
    tasks.finish_task(store, again[1])
    archive(store, NOW, quiet)
    assert in_database(store) == []
    assert [shard.runs for shard in shards(store)] == [((4, 5),), ((1, 3),)]
    assert findings(store) == []


def test_young_episodes_stay_and_a_second_run_takes_what_is_new(store: Store) -> None:
    old, young = done_task(store, [1.0, 0.0]), done_task(store, [1.0, 0.0])
    store.rows("UPDATE episode SET started_at = 500 WHERE id <= ?", (old[-1],))
    assert (plan_archive(store, 1000.0).episodes, len(in_database(store))) == (2, 4), "a plan changes nothing"
    assert archive(store, 1000.0, quiet).episodes == 2
    assert in_database(store) == young
    assert archive(store, 1000.0, quiet).shards == ()
    assert archive(store, NOW, quiet).episodes == 2
    assert archive(store, NOW, quiet).shards == ()
    assert counts(store) == {"episodes": 4, "turns": 4}
    assert len(files(store)) == 2
    assert findings(store) == []


def test_shards_are_filled_and_read_across(store: Store) -> None:
    played = many(store, 5, turns=3)
    before = episodes_by_id(store, played)
    done = archive(store, NOW, quiet, shard_turns=50)
    assert [shard.turns for shard in done.shards] == [48, 48, 24], "episodes are not cut in two"
    mixed = played[::-3] + done_task(store, [1.0])
    assert [episode.id for episode in episodes_by_id(store, mixed)] == sorted(mixed)
    assert episodes_by_id(store, played) == before
    assert runs_outside(store) == [(-(2**63), 0), (41, 2**63 - 1)]


def test_runs_of_ids_are_found() -> None:
    assert runs_of([1, 2, 3, 7, 9, 10]) == [(1, 3), (7, 7), (9, 10)]
    assert runs_of([]) == []


def test_later_rewards_and_batches_of_moved_episodes(full: Store) -> None:
    archive(full, NOW, quiet)
    add_rewards(full, "judge-3", {3: 0.75})
    assert rewards_of(full, 3) == {"judge-3": 0.75}
    lease = leased_job(full, "again", LearnOrder(learner="grpo"))
    manifests.write_manifest(full, lease, 1, [3], on_policy=False)
    assert read_documents(full, [3]).to_pylist()[0]["batches"][0]["job"] == lease.subject
    assert findings(full) == []


def test_the_digest_of_an_episode_covers_turns_that_have_moved(full: Store) -> None:
    archive(full, NOW, quiet)
    full.rows("UPDATE episode SET instructions = 'Add.' WHERE id = 3")  # by us: its digest is computed anew
    assert findings(full) == []
    full.rows("DROP TRIGGER shelved_digest_again")
    full.rows("UPDATE shelved SET chain = chain + 1 WHERE episode = 3")
    assert {(rule, subject) for _, rule, subject in findings(full) if rule == "digests"} == {
        ("digests", "episode 3"),
        ("digests", "shelved 3"),
    }


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE turn SET reward = reward + 1 WHERE episode = 3 AND n = 1",
        "DELETE FROM turn WHERE episode = 3 AND n = 1",
        "UPDATE turn SET digest = NULL WHERE episode = 3 AND n = 2",
        "UPDATE turn SET prompt_ids = x'010203' WHERE episode = 3 AND n = 0",
        "UPDATE turn SET observation = CAST(x'ff41' AS TEXT) WHERE episode = 3 AND n = 0",
    ],
)
def test_a_damaged_episode_is_named_and_stays(full: Store, damage: str) -> None:
    full.rows(damage)
    said: list[str] = []
    done = archive(full, NOW, said.append)
    assert (done.damaged, done.episodes) == ((3,), 9)
    assert any("episode 3 differs from its digest and stays" in line for line in said)
    assert in_database(full) == [3, 4, 5]
    assert archive(full, NOW, quiet).shards == (), "of a shard without episodes nothing stays"
    assert (len(shards(full)), unfinished(full), len([*(full.home / "history").iterdir()])) == (1, {}, 1)


def test_a_value_that_is_not_a_number_moves_bit_for_bit(store: Store) -> None:
    played = done_task(store, [1.0, 0.0])
    store.rows("UPDATE turn SET logprobs = x'0100c07f0200c0ff' WHERE episode = ?", (played[0],))
    store.rows(f"UPDATE turn SET digest = (SELECT -1 - turn_chain({_TURN}) FROM turn t WHERE t.rowid = turn.rowid)")
    store.rows("UPDATE episode SET state = state")
    assert archive(store, NOW, quiet).damaged == ()
    from perdure.memory.trajectories.turns import turn_rows

    assert [row["logprobs"].hex() for row, _ in turn_rows(store, played[:1])] == ["0100c07f0200c0ff"]


_TURN = (
    "episode, n, shared, prompt_ids, action_ids, logprobs, observation, action, invalid, reward, finish, version, step_job, step_n, made_at"
)


def test_space_goes_back_to_the_disk(store: Store) -> None:
    many(store, 30, turns=4)
    store.rows("UPDATE turn SET observation = hex(randomblob(4000))")
    store.rows(f"UPDATE turn SET digest = (SELECT -1 - turn_chain({_TURN}) FROM turn t WHERE t.rowid = turn.rowid) WHERE n = 0")
    for n in (1, 2, 3):
        _chain_on(store, n)
    store.rows("UPDATE episode SET state = state")
    checkpoint(store)
    before = (store.home / FILE_NAME).stat().st_size
    done = archive(store, NOW, quiet)
    after = (store.home / FILE_NAME).stat().st_size
    assert (done.turns, done.damaged) == (960, ())
    assert after < before / 5
    assert done.freed_bytes == before - after
    assert store.rows("PRAGMA freelist_count")[0][0] == 0
    assert store.rows("PRAGMA integrity_check")[0][0] == "ok"


def _chain_on(store: Store, n: int) -> None:
    """Write the digests of the n-th turns anew."""
    from perdure.memory.layout.digests import turn_digest

    for row in store.rows(f"SELECT {_TURN} FROM turn WHERE n = ?", (n,)):
        [last] = store.rows("SELECT digest FROM turn WHERE episode = ? AND n = ?", (row["episode"], n - 1))
        store.rows("UPDATE turn SET digest = ? WHERE episode = ? AND n = ?", (turn_digest(tuple(row), last["digest"]), row["episode"], n))


ARCHIVE = """
import sys
from pathlib import Path
from perdure.memory.history.archive import archive
from perdure.memory.store import open_store
with open_store(Path(sys.argv[1])) as store:
    archive(store, 1e11, print, shard_turns=40)
"""


@pytest.mark.processes
@pytest.mark.parametrize(
    ("fault", "shards_made", "left"),
    [
        ("mid-shard:1", 0, 1),
        ("mid-shard:2", 0, 2),
        ("between-shard-and-index:1", 0, 2),
        ("between-shard-and-index:2", 1, 2),
        ("mid-archive:1", 0, 2),
        ("mid-archive:3", 2, 1),
    ],
)
def test_an_archive_that_is_killed_loses_nothing_and_doubles_nothing(store: Store, fault: str, shards_made: int, left: int) -> None:
    """Shards of 40 turns, of 96: while one is put into the index, the next is already begun."""
    played = many(store, 12)
    before = episodes_by_id(store, played)
    command = [sys.executable, "-c", ARCHIVE, str(store.home)]
    killed = subprocess.run(command, env={**os.environ, "PERDURE_FAULT": fault}, timeout=60, stdout=subprocess.DEVNULL)
    assert killed.returncode == -signal.SIGKILL
    assert (len(shards(store)), len(unfinished(store))) == (shards_made, left)
    assert len(in_database(store)) == 96 - 40 * shards_made
    assert episodes_by_id(store, played) == before
    assert {(level, rule) for level, rule, _ in findings(store)} <= {("warning", "history"), ("warning", "left-behind")}
    subprocess.run(command, timeout=60, stdout=subprocess.DEVNULL, check=True)
    assert episodes_by_id(store, played) == before
    assert (in_database(store), unfinished(store)) == ([], {})
    assert sorted(files(store)) == sorted((store.home / "history").iterdir()), "nothing is left over"
    assert counts(store) == {"episodes": 96, "turns": 96}
    assert findings(store) == []


FULL = """
import resource, signal, sys
from pathlib import Path
from perdure.memory.errors import RuntimeFailure
from perdure.memory.history.archive import archive
from perdure.memory.store import open_store
store = open_store(Path(sys.argv[1]))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
size = (Path(sys.argv[1]) / "perdure.db-wal").stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100_000, size + 100_000))
try:
    archive(store, 1e11, print)
except RuntimeFailure as error:
    print(error)
"""


@pytest.mark.processes
def test_a_disk_that_is_full_moves_nothing(store: Store) -> None:
    played = many(store, 30, turns=4)
    store.rows("UPDATE turn SET observation = hex(randomblob(4000))")
    store.rows(f"UPDATE turn SET digest = (SELECT -1 - turn_chain({_TURN}) FROM turn t WHERE t.rowid = turn.rowid) WHERE n = 0")
    for n in (1, 2, 3):
        _chain_on(store, n)
    store.rows("UPDATE episode SET state = state")
    store.rows("PRAGMA wal_checkpoint(TRUNCATE)")
    done = subprocess.run([sys.executable, "-c", FULL, str(store.home)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "could not write" in done.stdout
    assert in_database(store) == played
    assert [*(store.home / "history").iterdir()] == []
    assert findings(store) == [("warning", "history", place) for place in unfinished(store).values()]
    assert archive(store, NOW, quiet).episodes == len(played)


def test_reading_while_turns_move(store: Store) -> None:
    """Another connection reads each episode once, wherever it is at that moment."""
    played = many(store, 10)
    before = episodes_by_id(store, played)
    with open_store(store.home) as other:
        seen: list[bool] = []
        archive(store, NOW, lambda line: seen.append(episodes_by_id(other, played) == before), shard_turns=16)
    assert seen == [True] * 5


def test_a_home_of_before_the_history(tmp_path: Path) -> None:
    """Its rows and digests are as they were, and it can be archived, also turns from before there were digests."""
    home = tmp_path / "home"
    with create_store(home, MIGRATIONS[:MIGRATIONS_BEFORE]) as old:
        from tests.memory.everything import fill

        fill(old, with_errands=False)
        digests = [tuple(row) for row in old.rows("SELECT id, digest FROM episode")]
    with create_store(home) as store:
        assert [tuple(row) for row in store.rows("SELECT id, digest FROM episode")] == digests
        store.rows("UPDATE turn SET digest = NULL")
        store.rows("UPDATE episode SET state = state")
        assert findings(store) == []
        before = readings(store)
        assert archive(store, NOW, quiet).damaged == ()
        assert {**readings(store), "events": before["events"]} == before
        assert findings(store) == []


MIGRATIONS_BEFORE = next(n for n, sql in enumerate(MIGRATIONS) if "CREATE TABLE shard " in sql)


def test_events_say_what_moved_and_names_stay_unique(store: Store) -> None:
    started = time.time()
    many(store, 2)
    archive(store, NOW, quiet, shard_turns=8)
    assert (events(store, 1)[0].message, len(set(files(store)))) == ("16 turns were moved to 2 shards", 2)
    assert all(shard.made_at >= started for shard in shards(store))
    modes: Any = {file.parent.stat().st_mode & 0o777 for file in files(store)}
    assert modes == {0o700}, "episodes are private"


def test_the_place_for_shards_cannot_be_written(full: Store) -> None:
    (full.home / "history").write_text("no folder")
    with pytest.raises(RuntimeFailure, match=r"cannot write to .*history"):
        archive(full, NOW, quiet)
    assert len(in_database(full)) == 12
