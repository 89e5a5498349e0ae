"""Turns per second of the journal beside plain `sqlite3`, and the bytes that a turn takes.

Both sides write the same turns in the same transactions, in turn, into databases of the same settings and the same table. The peer packs
its blobs with `struct` and inserts rows, as any program with `sqlite3` would. It is also timed with rows that were ready before the clock
ran, which is SQLite alone. Ours also renews the leases of its tasks, checks that each episode still runs and that each prompt continues the
turn before, counts turns, and computes their digests. Left out: a large store (`large_store.py`).
"""

from __future__ import annotations

import gc
import random
import statistics
import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perdure.agent.bench.measure import median_ratio
from perdure.memory import environments, tasks, versions
from perdure.memory.json_value import Document
from perdure.memory.layout.digests import turn_digest
from perdure.memory.layout.sqlite_library import sqlite3
from perdure.memory.leases import TTL_S, BootClock
from perdure.memory.records import Ending, EpisodePlan, Turn, VersionRef
from perdure.memory.schema import PAGE_SIZE_BYTES
from perdure.memory.store import Store, checkpoint, create_store, open_store
from perdure.memory.trajectories.journal import StoreJournal

BATCHES = {1: 8, 8: 4, 64: 2}
"""Turns written at once, and how many sets of episodes make a run."""
MEMBERS = 8
TURNS = 10
"""Of an episode."""
PROMPT, ANSWER = 100, 128
"""Tokens that each turn adds to its prompt, and tokens of its answer."""
VOCABULARY = 49_152
ENVIRONMENT = "perdure:bench"
_SAMPLER = VersionRef("v0")
_INSERT = """
INSERT INTO turn (episode, n, shared, prompt_ids, action_ids, logprobs, observation, action, reward, finish,
                  version, step_job, step_n, made_at, invalid)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_WORDS = ("the", "number", "is", "not", "larger", "than", "your", "last", "guess,", "so", "try", "again", "with", "word", "of", "list")


@dataclass(frozen=True, slots=True)
class Run:
    """Seconds that the transactions of one run took, by side."""

    ours: float
    plain: float
    ready: float
    """The peer with its rows ready."""
    digests: float
    """Of ours, what the digests of the turns take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalSpeed:
    """One size of batch, written several times by each side."""

    batch: int
    turns: int
    """Of each run."""
    runs: list[Run]

    @property
    def turns_per_second(self) -> float:
        """Of ours, the median over the runs."""
        return statistics.median(self.turns / run.ours for run in self.runs)

    @property
    def plain(self) -> float:
        """The same of the peer."""
        return statistics.median(self.turns / run.plain for run in self.runs)

    @property
    def plain_ready(self) -> float:
        """The same of the peer with rows that were ready."""
        return statistics.median(self.turns / run.ready for run in self.runs)

    @property
    def ratio(self) -> float:
        """Our speed over the peer's, the median over the runs."""
        return median_ratio((run.plain, run.ours) for run in self.runs)

    @property
    def ratio_ready(self) -> float:
        """The same, over the peer with rows that were ready."""
        return median_ratio((run.ready, run.ours) for run in self.runs)

    @property
    def digests(self) -> float:
        """The share of our time that goes into digests, the median over the runs."""
        return median_ratio((run.digests, run.ours) for run in self.runs)

    def as_json(self) -> Document:
        return {
            "batch": self.batch,
            "runs": len(self.runs),
            "turns_per_second": self.turns_per_second,
            "plain": self.plain,
            "ratio": self.ratio,
            "plain_ready": self.plain_ready,
            "ratio_ready": self.ratio_ready,
            "digests": self.digests,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """What one turn takes on the disk, in bytes, by part. The parts add up to the file."""

    prompt_ids: float
    answer_ids: float
    logprobs: float
    texts: float
    rest: float
    """Numbers, keys, indexes, the rows of episodes and tasks, and free space in their pages."""
    whole_prompts: float
    """What the prompts would take if each were stored whole."""

    @property
    def total(self) -> float:
        return self.prompt_ids + self.answer_ids + self.logprobs + self.texts + self.rest

    def as_json(self) -> Document:
        return {
            "prompt_ids": self.prompt_ids,
            "answer_ids": self.answer_ids,
            "logprobs": self.logprobs,
            "texts": self.texts,
            "rest": self.rest,
            "total": self.total,
            "whole_prompts": self.whole_prompts,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalBench:
    """Speeds by size of batch, and the size of what was written."""

    sqlite: str
    speeds: list[JournalSpeed]
    size: Size

    def as_json(self) -> Document:
        return {"sqlite": self.sqlite, "batches": [speed.as_json() for speed in self.speeds], "bytes_per_turn": self.size.as_json()}


def bench_journal(folder: Path, *, batches: Mapping[int, int] = BATCHES, repeats: int, say: Callable[[str], None]) -> JournalBench:
    """Measure in `folder`, which should be on the same disk as a home."""
    create_store(folder / "ours").close()
    with open_store(folder / "ours") as store, Plain(folder / "plain.db", store) as plain:
        environments.register(store, ENVIRONMENT)
        versions.add_initial(store, "bench", "hash-of-bench")
        speeds = []
        for batch, sets in batches.items():
            say(f"journal: batches of {batch}")
            _run(store, plain, batch, 1, 0)  # a warm-up
            runs = [_run(store, plain, batch, sets, n) for n in range(repeats)]
            speeds.append(JournalSpeed(batch=batch, turns=sets * TURNS * batch, runs=runs))
        checkpoint(store)
        return JournalBench(sqlite=sqlite3.sqlite_version, speeds=speeds, size=turn_size(store))


def turn_size(store: Store) -> Size:
    """What a turn of this store takes. Reads every turn."""
    (row,) = store.rows(
        """
        SELECT count(*) AS turns, total(length(prompt_ids)) AS prompts, total(length(action_ids)) AS answers,
               total(length(logprobs)) AS logprobs,
               total(length(CAST(observation AS BLOB)) + length(CAST(action AS BLOB))) AS texts, total(shared) AS shared
        FROM turn
        """
    )
    n = row["turns"]
    parts = row["prompts"] + row["answers"] + row["logprobs"] + row["texts"]
    pages = int(store.rows("PRAGMA page_count")[0][0]) - int(store.rows("PRAGMA freelist_count")[0][0])
    return Size(
        prompt_ids=row["prompts"] / n,
        answer_ids=row["answers"] / n,
        logprobs=row["logprobs"] / n,
        texts=row["texts"] / n,
        rest=(pages * PAGE_SIZE_BYTES - parts) / n,
        whole_prompts=(row["prompts"] + 4 * row["shared"]) / n,
    )


class Plain:
    """The peer: one table in one file, with the durability that the store has, and rows that are ready to insert."""

    def __init__(self, path: Path, store: Store) -> None:
        self._conn = sqlite3.connect(path, isolation_level=None)
        for setting in (f"page_size = {PAGE_SIZE_BYTES}", "auto_vacuum = INCREMENTAL", "journal_mode = WAL", "synchronous = FULL"):
            self._conn.execute(f"PRAGMA {setting}").fetchall()
        self._conn.execute("PRAGMA wal_autocheckpoint = 0").fetchall()
        ((table,),) = store.rows("SELECT sql FROM sqlite_master WHERE name = 'turn'")
        self._conn.execute(table)
        self._episodes = 0

    def write(self, batch: int, *, ready: bool) -> float:
        """Write a set of episodes; returns the seconds of the transactions, and of making the rows unless they are `ready`."""
        numbers = range(self._episodes, self._episodes + batch)
        self._episodes += batch
        sets = sets_of_turns(batch)
        made = [_rows(numbers, n, turns) for n, turns in enumerate(sets)] if ready else []
        with _clock() as seconds:
            for n, turns in enumerate(sets):
                rows = made[n] if ready else _rows(numbers, n, turns)
                self._conn.execute("BEGIN IMMEDIATE")
                self._conn.executemany(_INSERT, rows)
                self._conn.execute("COMMIT")
        return seconds[0]

    def checkpoint(self) -> None:
        self._conn.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def __enter__(self) -> Plain:
        return self

    def __exit__(self, *exc: object) -> None:
        self._conn.close()


def words(tokens: int) -> str:
    """A text of about four characters per token."""
    return " ".join(random.choices(_WORDS, k=tokens))[: 4 * tokens]


@contextmanager
def _clock() -> Iterator[list[float]]:
    """Appends the seconds that this lasted. Python's garbage collection waits meanwhile, as in `timeit`: it would go through all the turns
    that the benchmark holds ready, during the run of either side."""
    seconds: list[float] = []
    gc.disable()
    started = time.perf_counter()
    yield seconds
    seconds.append(time.perf_counter() - started)
    gc.enable()


def _rows(episodes: Sequence[int], n: int, turns: Sequence[Turn]) -> list[tuple[Any, ...]]:
    """The rows of a batch, as a program would write them that needs nothing else."""
    return [
        (
            episode,
            n,
            turn.shared,
            struct.pack(f"<{len(turn.prompt_ids) - turn.shared}i", *turn.prompt_ids[turn.shared :]),
            struct.pack(f"<{len(turn.action_ids)}i", *turn.action_ids),
            struct.pack(f"<{len(turn.logprobs)}f", *turn.logprobs),
            turn.observation,
            turn.action,
            turn.reward,
            turn.finish,
            _SAMPLER.name,
            None,
            None,
            time.time(),
            turn.invalid,
        )
        for episode, turn in zip(episodes, turns, strict=True)
    ]


def _run(store: Store, plain: Plain, batch: int, sets: int, n: int) -> Run:
    """One run of each side, set by set in turn, in another order in every set; the logs are truncated in between."""
    seconds = [0.0, 0.0, 0.0]
    sides = (lambda: _ours(store, batch), lambda: plain.write(batch, ready=False), lambda: plain.write(batch, ready=True))
    for k in range(sets):
        for side in range(3):
            which = (side + k + n) % 3
            seconds[which] += sides[which]()
        checkpoint(store)
        plain.checkpoint()
    ours, peer, ready = seconds
    return Run(ours, peer, ready, sum(_digests(batch) for _ in range(sets)))


def _digests(batch: int) -> float:
    """Compute the digests of a set of episodes, each batch as soon as its rows are made; returns the seconds of it."""
    last: list[int | None] = [None] * batch
    total = 0.0
    for n, turns in enumerate(sets_of_turns(batch)):
        made = [
            (*head, invalid, reward, finish, version, step_job, step_n, made_at)
            for *head, reward, finish, version, step_job, step_n, made_at, invalid in _rows(range(batch), n, turns)
        ]
        with _clock() as seconds:
            last = [turn_digest(columns, before) for columns, before in zip(made, last, strict=True)]
        total += seconds[0]
    return total


def _ours(store: Store, batch: int) -> float:
    """Write a set of episodes; returns the seconds of the calls of `turns`."""
    members = min(batch, MEMBERS)
    clock = BootClock()
    tasks.add_tasks(store, ENVIRONMENT, list(range(batch // members)), members, "stream")
    leased = tasks.lease_tasks(store, "bench", batch, TTL_S, clock)
    journal = StoreJournal(store, clock)
    ids = journal.start(
        [
            EpisodePlan(
                environment=ENVIRONMENT,
                seed=task.seed,
                group=f"task-{task.id}",
                member=member,
                purpose="live",
                sampler=_SAMPLER,
                temperature=1.0,
                lease=lease,
            )
            for task, lease in leased
            for member in range(members)
        ]
    )
    entries = [[(episode, n, turn) for episode, turn in zip(ids, turns, strict=True)] for n, turns in enumerate(sets_of_turns(batch))]
    with _clock() as seconds:
        for ready in entries:
            journal.turns(ready)
    journal.finish(
        [Ending(episode=episode, state="completed", stop_reason="terminated", total_reward=1.0, success=True, score=1.0) for episode in ids]
    )
    for _, lease in leased:
        tasks.finish_task(store, lease)
    return seconds[0]


def sets_of_turns(batch: int) -> list[list[Turn]]:
    """The turns of a set of episodes, by number of the turn: each prompt continues the turn before."""
    contexts: list[tuple[int, ...]] = [()] * batch
    turns: list[list[Turn]] = []
    for _ in range(TURNS):
        turns.append([_turn(context) for context in contexts])
        contexts = [turn.prompt_ids + turn.action_ids for turn in turns[-1]]
    return turns


def _turn(context: tuple[int, ...]) -> Turn:
    return Turn(
        prompt_ids=(*context, *random.choices(range(VOCABULARY), k=PROMPT)),
        action_ids=tuple(random.choices(range(VOCABULARY), k=ANSWER)),
        logprobs=tuple(-random.random() for _ in range(ANSWER)),
        observation=words(PROMPT),
        action=words(ANSWER),
        reward=0.0,
        sampler=_SAMPLER,
        finish="stop",
        shared=len(context),
    )
