"""Pruning: what is needed stays, what goes is in an archive token for token before it goes, and an interruption costs nothing."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.memory.everything import CLOCK, leased_job, leased_task, play
from tests.results import learn_result

from perdure.memory import jobs, tasks
from perdure.memory.contracts.orders import LearnOrder
from perdure.memory.errors import InputError, RuntimeFailure, UnknownError
from perdure.memory.exchange.documents import document_schema, read_documents
from perdure.memory.exchange.import_traces import import_file
from perdure.memory.processes import events
from perdure.memory.records import VersionRef
from perdure.memory.store import FILE_NAME, Store, checkpoint, create_store, open_store
from perdure.memory.trajectories import manifests
from perdure.memory.trajectories.episodes import get_episode, live_episodes, success_rates
from perdure.memory.trajectories.rewards import add_rewards, rewards_of, sources
from perdure.memory.upkeep.backup import backup
from perdure.memory.upkeep.integrity import check
from perdure.memory.upkeep.prune import Keep, archived_ids, archives, plan, prune

NONE = Keep(episodes=0, live=0)
"""Keep only what has to be kept."""


def quiet(line: str) -> None:
    """Nobody listens."""


def ids(store: Store) -> list[int]:
    return [row["id"] for row in store.rows("SELECT id FROM episode ORDER BY id")]


def done_task(store: Store, rewards: Sequence[float], turns: int = 1, sampler: str = "v0") -> list[int]:
    lease = leased_task(store)
    played = play(store, lease, f"task-{lease.subject}", rewards, turns=turns, sampler=VersionRef(sampler))
    tasks.finish_task(store, lease)
    return played


def archived(home: Path) -> list[dict[str, Any]]:
    return [row for path in archives(home) for row in pq.read_table(path).to_pylist()]


def many(store: Store, groups: int, members: int = 8, turns: int = 1) -> list[int]:
    return [episode for _ in range(groups) for episode in done_task(store, [1.0] * members, turns)]


def test_what_goes_is_in_the_archive_as_it_was(full: Store) -> None:
    before = read_documents(full, ids(full)).to_pylist()
    done = prune(full, NONE, quiet)
    assert ids(full) == [4, 5, 12], "of a task that waits, being played, the newest of all"
    assert (done.episodes, done.turns, done.kept) == (9, 11, 3)
    assert done.archives == (full.home / "archive" / "episodes-000000001-000000011.parquet",)
    assert archived(full.home) == [row for row in before if row["id"] not in (4, 5, 12)]
    assert archived_ids(done.archives[0]) == [1, 2, 3, 6, 7, 8, 9, 10, 11]
    assert manifests.manifests(full, 1) == [], "their batches are in the archive"
    assert sources(full) == [], "and their rewards"
    assert [reward["source"] for row in archived(full.home) for reward in row["rewards"]] == ["anna", "judge-2", "anna"]
    assert check(full, CLOCK) == []
    assert events(full, 1)[0].message == "9 episodes were moved to 1 files in archive/"


def test_what_is_judged_while_it_is_archived_stays(full: Store) -> None:
    before = ids(full)

    def judges(line: str) -> None:
        with open_store(full.home) as other:
            add_rewards(other, "anna", {1: 0.25})  # of those that are judged already: another reward
            add_rewards(other, "judge-3", {2: 0.5})

    done = prune(full, NONE, judges)
    assert (done.episodes, done.turns, done.kept) == (7, 9, 5)
    assert ids(full) == [1, 2, 4, 5, 12]
    assert (rewards_of(full, 1)["anna"], rewards_of(full, 2)["judge-3"]) == (0.25, 0.5)
    assert [episode for path in done.archives for episode in archived_ids(path)] == [one for one in before if one not in (4, 5, 12)]
    again = prune(full, NONE, quiet)
    assert (again.episodes, ids(full)) == (2, [4, 5, 12])
    (path,) = again.archives
    kept = {row["id"]: row["rewards"] for row in pq.read_table(path).to_pylist()}
    assert {(one["source"], one["value"]) for one in kept[2]} >= {("judge-3", 0.5)}
    assert {(one["source"], one["value"]) for one in kept[1]} >= {("anna", 0.25)}
    assert check(full, CLOCK) == []


def test_an_archive_can_be_imported(full: Store) -> None:
    (path,) = prune(full, NONE, quiet).archives
    assert import_file(full, path, "from the archive").episodes == 6


def test_a_plan_changes_nothing_and_is_what_then_happens(full: Store) -> None:
    planned = plan(full, NONE)
    assert (planned.episodes, planned.turns, planned.kept, planned.archives) == (9, 11, 3, ())
    assert planned.freed_bytes > 0
    assert len(ids(full)) == 12
    assert not (full.home / "archive").exists()
    done = prune(full, NONE, quiet)
    assert (done.episodes, done.turns, done.kept) == (planned.episodes, planned.turns, planned.kept)


def test_nothing_to_prune_makes_no_archive(full: Store) -> None:
    done = prune(full, Keep(since=0.0), quiet)
    assert (done.episodes, done.kept, done.archives) == (0, 12, ())
    assert not (full.home / "archive").exists()
    assert [event.kind for event in events(full)] == ["start"]


def test_young_episodes_stay(store: Store) -> None:
    old, young = done_task(store, [1.0, 0.0]), done_task(store, [1.0, 0.0])
    store.rows("UPDATE episode SET started_at = 500 WHERE id <= ?", (old[-1],))
    assert prune(store, Keep(since=1000.0, live=0), quiet).episodes == 2
    assert ids(store) == young


def test_the_newest_episodes_stay_and_groups_stay_whole(store: Store) -> None:
    first, second, third = (done_task(store, [1.0, 0.0]) for _ in range(3))
    assert prune(store, Keep(episodes=3, live=0), quiet).episodes == 2
    assert ids(store) == second + third, "the fourth newest is of a group of which one member stays"
    assert first == archived_ids(archives(store.home)[0])


def test_what_a_task_or_job_still_needs_stays(store: Store) -> None:
    task = leased_task(store)
    waiting = play(store, task, "task-1", [1.0])
    tasks.release_task(store, task)
    (again,) = tasks.lease_tasks(store, "actor", 1, 60.0, CLOCK)
    job = leased_job(store, "learning", LearnOrder(learner="grpo"))
    learning = play(store, job, "job-1.1-0", [1.0, 0.0], purpose="learn")
    ended = leased_job(store, "ended", LearnOrder(learner="grpo"))
    learned = play(store, ended, "job-2.1-0", [1.0, 0.0], purpose="learn")
    jobs.finish_job(store, ended, learn_result(None), None)
    newest = done_task(store, [1.0])
    prune(store, NONE, quiet)
    assert ids(store) == waiting + learning + newest
    jobs.fail_job(store, job, "as a test")
    tasks.finish_task(store, again[1])
    prune(store, NONE, quiet)
    assert ids(store) == newest
    assert [archived_ids(path) for path in archives(store.home)] == [waiting + learning, learned]


def test_what_the_daemon_chooses_by_stays(full: Store) -> None:
    """The newest live episodes of the version that serves; those of versions before it need not."""
    old = done_task(full, [1.0, 0.0])
    serving = done_task(full, [1.0, 0.0, 1.0], sampler="v1")
    newer = [*done_task(full, [1.0], sampler="v1"), *done_task(full, [1.0], sampler="v1")]
    rates, count = success_rates(full, "v1"), live_episodes(full, "v1", 0.0)
    prune(full, Keep(episodes=0), quiet)
    assert ids(full) == [5, *serving, *newer]
    assert not set(old) & set(ids(full))
    assert (success_rates(full, "v1"), live_episodes(full, "v1", 0.0)) == (rates, count)
    prune(full, Keep(episodes=0, live=2), quiet)
    assert ids(full) == [5, *newer]


def test_no_number_is_given_twice(store: Store) -> None:
    newest = many(store, 3)[-1]
    prune(store, NONE, quiet)
    assert newest in ids(store)
    assert min(done_task(store, [1.0])) > newest


def test_an_archived_episode_is_in_no_second_batch(store: Store) -> None:
    lease = leased_job(store, "first", LearnOrder(learner="grpo"))
    episodes = play(store, lease, "job-1.1-0", [1.0, 0.0], purpose="learn")
    manifests.write_manifest(store, lease, 1, episodes, on_policy=True)
    jobs.finish_job(store, lease, learn_result(None), None)
    done_task(store, [1.0])
    prune(store, NONE, quiet)
    second = leased_job(store, "second", LearnOrder(learner="grpo"))
    with pytest.raises(InputError, match=f"no episode {episodes[0]}"):
        manifests.write_manifest(store, second, 1, episodes, on_policy=True)
    with pytest.raises(UnknownError, match=r"no episode 1; the latest is \d, and old ones are in .*archive"):
        get_episode(store, 1)


def test_space_goes_back_to_the_disk(store: Store) -> None:
    many(store, 30, turns=4)
    store.rows("UPDATE turn SET observation = hex(randomblob(4000))")
    checkpoint(store)
    before = (store.home / FILE_NAME).stat().st_size
    done = prune(store, NONE, quiet)
    after = (store.home / FILE_NAME).stat().st_size
    assert after < before / 5
    assert done.freed_bytes == before - after
    assert store.rows("PRAGMA freelist_count")[0][0] == 0
    assert store.rows("PRAGMA integrity_check")[0][0] == "ok"


PRUNE = """
import sys
from pathlib import Path
from perdure.memory.upkeep.prune import Keep, prune
from perdure.memory.store import open_store
with open_store(Path(sys.argv[1])) as store:
    prune(store, Keep(episodes=0, live=0), print, file_turns=40, deleted_turns=16)
"""


@pytest.mark.processes
@pytest.mark.parametrize("at", [1, 2, 4, 5])
def test_an_interrupted_prune_loses_nothing_and_goes_on(store: Store, at: int) -> None:
    """Archives of 40 turns, deleted 16 at a time: the points lie before, within and between archives."""
    many(store, 12)
    before = {row["id"]: row for row in read_documents(store, ids(store)).to_pylist()}
    command = [sys.executable, "-c", PRUNE, str(store.home)]
    killed = subprocess.run(command, env={**os.environ, "PERDURE_FAULT": f"mid-prune:{at}"}, timeout=60, stdout=subprocess.DEVNULL)
    assert killed.returncode == -signal.SIGKILL
    kept, gone = set(ids(store)), set(before) - set(ids(store))
    assert gone <= {row["id"] for row in archived(store.home)}
    assert len(gone) == {1: 0, 2: 16, 4: 40, 5: 56}[at]
    assert kept | gone == set(before)
    assert {finding.rule for finding in check(store, CLOCK)} == {"archives"}
    again = subprocess.run(command, timeout=60, capture_output=True, text=True, check=True)
    assert "already, from an earlier run" in again.stdout
    rows = archived(store.home)
    assert [number for number, times in Counter(row["id"] for row in rows).items() if times > 1] == []
    assert {row["id"] for row in rows} | set(ids(store)) == set(before)
    assert all(before[row["id"]] == row for row in rows)
    assert check(store, CLOCK) == []


def test_an_archive_cut_off_is_written_again(store: Store) -> None:
    many(store, 2)
    (store.home / "archive").mkdir()
    (store.home / "archive" / ".making-episodes-000000001-000000008.parquet-77").write_text("half of it")
    prune(store, NONE, quiet)
    assert [path.name for path in (store.home / "archive").iterdir()] == ["episodes-000000001-000000008.parquet"]


def test_after_a_restore_other_episodes_of_the_same_number_are_archived_too(store: Store, tmp_path: Path) -> None:
    many(store, 2)
    backup(store, tmp_path / "b.db")
    many(store, 2)
    prune(store, NONE, quiet)
    lost = {row["id"]: row for row in archived(store.home)}
    (tmp_path / "again").mkdir()
    shutil.copyfile(tmp_path / "b.db", tmp_path / "again" / FILE_NAME)
    shutil.copytree(store.home / "archive", tmp_path / "again" / "archive")
    with create_store(tmp_path / "again") as again:
        same = ids(again)
        other = [episode for _ in range(2) for episode in done_task(again, [0.0] * 8, 2)]
        assert set(other) & set(lost), "numbers that the other course of things had given too"
        prune(again, NONE, quiet)
        newest = ids(again)
    rows = archived(tmp_path / "again")
    times = Counter(row["id"] for row in rows)
    assert {episode: times[episode] for episode in same} == dict.fromkeys(same, 1), "what was archived is not archived twice"
    assert [row["total_reward"] for row in rows if row["id"] == other[0]] == [1.0, 0.0]
    assert set(other) <= set(times) | set(newest)


def test_a_damaged_archive_stops_no_prune(store: Store) -> None:
    many(store, 2)
    (path,) = prune(store, NONE, quiet).archives
    path.write_bytes(path.read_bytes()[:-9])
    many(store, 2)
    said: list[str] = []
    done = prune(store, NONE, said.append)
    assert [path.name for path in done.archives] == ["episodes-000000009-000000024.parquet"]
    assert any("episodes-000000001-000000008.parquet is damaged" in line for line in said)


def test_no_archive_takes_the_name_of_another(store: Store, tmp_path: Path) -> None:
    """They may be moved elsewhere, all into one folder."""
    for n in range(3):
        many(store, 2)
        (path,) = prune(store, NONE, quiet).archives
        if n < 2:
            path.rename(tmp_path / path.name)
    assert len({entry.name for entry in tmp_path.glob("*.parquet")} | {path.name}) == 3


def test_what_does_not_read_back_is_not_deleted(store: Store) -> None:
    """A value that is not equal to itself stands for a disk that changes what it is given."""
    many(store, 2)
    store.rows("UPDATE turn SET logprobs = x'0000c07f0000c07f' WHERE episode = 3")
    before = ids(store)
    with pytest.raises(RuntimeFailure, match="differs from the store when it is read back: none of its episodes was deleted"):
        prune(store, NONE, quiet)
    assert ids(store) == before


FULL = """
import resource, signal, sys
from pathlib import Path
from perdure.memory.errors import RuntimeFailure
from perdure.memory.upkeep.prune import Keep, prune
from perdure.memory.store import open_store
store = open_store(Path(sys.argv[1]))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))
try:
    prune(store, Keep(episodes=0, live=0), print)
except RuntimeFailure as error:
    print(error)
"""


@pytest.mark.processes
def test_a_disk_that_is_full_deletes_nothing(full: Store) -> None:
    done = subprocess.run([sys.executable, "-c", FULL, str(full.home)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "could not write" in done.stdout
    assert len(ids(full)) == 12
    assert list((full.home / "archive").iterdir()) == []


def test_others_can_write_between_archives(store: Store) -> None:
    many(store, 20, turns=5)
    with open_store(store.home) as other:
        other.db.conn.execute("PRAGMA busy_timeout = 0")
        prune(store, NONE, lambda line: leased_task(other), file_turns=100)
    assert store.rows("SELECT count(*) FROM task WHERE state = 'leased'")[0][0] == len(archives(store.home)) == 8


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda row: row["turns"][0].update(reward=row["turns"][0]["reward"] + 1), "episode 1 turn 0"),
        (lambda row: row["turns"][0].update(logprobs=[0.0] * len(row["turns"][0]["logprobs"])), "episode 1 turn 0"),
        (lambda row: row.update(score=0.5), "episode 1"),
        (lambda row: row["rewards"][0].update(value=9.0), "episode 1 reward of anna"),
        (lambda row: row["batches"][0].update(on_policy=True), "episode 1 batch of job 1 step 2"),
    ],
    ids=["reward", "log-probs", "score", "judgement", "batch"],
)
def test_an_archive_that_was_changed_since_is_found(full: Store, change: Callable[[dict[str, Any]], None], part: str) -> None:
    """Parquet's own checksums see damage of its pages, not another program's writing."""
    (path,) = prune(full, Keep(episodes=1, live=0), lambda line: None).archives
    assert [finding for finding in check(full, CLOCK) if finding.rule == "archives"] == []
    rows = pq.read_table(path).to_pylist()
    change(rows[0])
    pq.write_table(pa.Table.from_pylist(rows, document_schema()), path)
    assert [(one.level, one.message.partition(" differs")[0]) for one in check(full, CLOCK) if one.rule == "archives"] == [("error", part)]
