"""A large store: how long the queries of commands and daemon take.

It is filled without the journal, with checks and durability off: four of five episodes are live, the others those of learning jobs. Each
has ten turns of 100 new prompt tokens and 128 tokens of answer. Most live episodes are of the version that serves, which is the hard case.
Token ids and log-probs are random, so nothing can compress them. Left out: the queries (`store_queries.py`), and upkeep
(`upkeep_speed.py`).
"""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from perdure.agent.bench.journal_speed import ANSWER, MEMBERS, PROMPT, TURNS, words
from perdure.agent.bench.measure import timed
from perdure.learners.selection.best_step import unchecked
from perdure.memory import environments, versions
from perdure.memory.contracts.json_form import order_document, result_document, update_document
from perdure.memory.contracts.orders import LearnOrder
from perdure.memory.contracts.results import Cost, Evidence, GateResult, GateTerms, GroupStats, LearnResult, Leg, Update
from perdure.memory.errors import InputError
from perdure.memory.json_value import Document, to_json
from perdure.memory.layout.digests import TURN, turn_digest
from perdure.memory.layout.sqlite_library import sqlite3
from perdure.memory.schema import COUNT_RATES
from perdure.memory.store import FILE_NAME, Store, create_store, open_store

ENVIRONMENTS = tuple(f"perdure:bench?number={n}" for n in range(7))
RARE = "perdure:bench?number=rare"
"""Played only at the very beginning."""
EARLY = "v1"
"""A version that served long ago."""
EARLIER = 0.2
"""Share of the store's life before the version that serves."""
LIFE_S = 30 * 86_400.0
EPISODES_A_JOB = 336
UPDATES = 8
PAIRS = 128
REPEATS = 40
QUEUED = 28
BYTES_A_TURN = 3000
"""With room to spare."""
COPIES = 3
"""The store, its backup, and what pruning writes."""
_TEXTS = 997


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """How long one query took."""

    what: str
    seconds: list[float]
    """One for each repeat."""

    @property
    def median_s(self) -> float:
        return statistics.median(self.seconds)

    @property
    def p95_s(self) -> float:
        return sorted(self.seconds)[math.ceil(0.95 * len(self.seconds)) - 1]

    def as_json(self) -> Document:
        return {"what": self.what, "median_s": self.median_s, "p95_s": self.p95_s, "asked": len(self.seconds)}


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleBench:
    """The measurements of a large store."""

    home: Path
    episodes: int
    turns: int
    size_bytes: int
    fill_s: float
    timings: list[Timing]

    def as_json(self) -> Document:
        return {
            "episodes": self.episodes,
            "turns": self.turns,
            "size_bytes": self.size_bytes,
            "fill_s": self.fill_s,
            "queries": [timing.as_json() for timing in self.timings],
        }


def bench_scale(
    folder: Path, episodes: int, questions: Mapping[str, Callable[[Store], object]], *, repeats: int = REPEATS, say: Callable[[str], None]
) -> ScaleBench:
    """Fill a store in `folder` with `episodes` episodes and query it. Raises `InputError` if the disk has no room for it."""
    home = folder / "large"
    require_store_room(folder, episodes)
    say(f"filling a store with {episodes} episodes of {TURNS} turns")
    _, fill_s = timed(lambda: fill(home, episodes))
    say("querying it")
    timings = ask(home, questions, repeats=repeats)
    size_bytes = (home / FILE_NAME).stat().st_size
    return ScaleBench(home=home, episodes=episodes, turns=episodes * TURNS, size_bytes=size_bytes, fill_s=fill_s, timings=timings)


def ask(home: Path, questions: Mapping[str, Callable[[Store], object]], *, repeats: int) -> list[Timing]:
    """Ask each question in turn, `repeats` times, each time through a new connection, as a command does."""
    seconds: dict[str, list[float]] = {what: [] for what in questions}
    for _ in range(repeats):
        for what, question in questions.items():
            with open_store(home) as store:
                seconds[what].append(timed(partial(question, store))[1])
    return [Timing(what=what, seconds=times) for what, times in seconds.items()]


def fill(home: Path, episodes: int) -> None:
    """Make a home with a store like one after a long life."""
    jobs = max(episodes // EPISODES_A_JOB + 1, 2)
    promoted = [n for n in range(1, jobs + 1) if n == 1 or n % 10 == 0]
    with create_store(home) as store:
        versions.add_initial(store, "bench", "hash-of-bench")
        for name in (*ENVIRONMENTS, RARE):
            environments.register(store, name)
        conn = store.conn
        for setting in ("foreign_keys = OFF", "synchronous = OFF", "journal_mode = OFF", "cache_size = -200000"):
            conn.execute(f"PRAGMA {setting}").fetchall()
        conn.execute("BEGIN")
        _fill_versions(conn, jobs, promoted)
        _fill_jobs(conn, jobs)
        _fill_tasks(conn, math.ceil(0.8 * episodes / MEMBERS))
        _insert(conn, "turn", f"{TURN}, digest", _turns(episodes))  # before their episodes, whose digests cover theirs
        _insert(conn, "episode", _EPISODE, _episodes(episodes, promoted))
        conn.execute(COUNT_RATES)
        conn.execute("COMMIT")


_EPISODE = (
    'id, environment, seed, "group", member, purpose, task, job, attempt, version, step_job, step_n, temperature, state, turns, '
    "total_reward, success, score, stop_reason, started_at, finished_at"
)


def _insert(conn: sqlite3.Connection, table: str, columns: str, rows: Iterable[tuple[Any, ...]]) -> None:
    conn.executemany(f"INSERT INTO {table} ({columns}) VALUES ({', '.join('?' * (columns.count(',') + 1))})", rows)


def _fill_versions(conn: sqlite3.Connection, jobs: int, promoted: Sequence[int]) -> None:
    """One candidate of each job; the last one of those that were promoted serves."""
    conn.execute("UPDATE version SET state = 'retired'")
    states = {n: "serving" if n == promoted[-1] else "retired" for n in promoted}
    rows = (
        (f"v{n}", versions.INITIAL, states.get(n, "rejected"), f"hash-{n}", "bench", "hash-of-bench", n, _at(n / jobs))
        for n in range(1, jobs + 1)
    )
    _insert(conn, "version", "name, parent, state, hash, base_model, base_hash, job, created_at", rows)
    _insert(conn, "move", "kind, to_version, reason, moved_at", (("promote", f"v{n}", "gate", _at(n / jobs)) for n in promoted))


def _fill_jobs(conn: sqlite3.Connection, jobs: int) -> None:
    """Learning jobs with their updates, their gates, and the events of both."""
    numbers, target = range(1, jobs + 1), json.dumps([ENVIRONMENTS[0]])
    gate = GateResult(
        gate=1,
        candidate="v1",
        serving="v0",
        profile="economy",
        verdict="reject",
        reason="the gain was not shown",
        rounds=PAIRS,
        evidence=Evidence(
            environments={name: Leg(state="passed", wealth=1.25, need=20.0, note=words(100)) for name in ENVIRONMENTS},
            pooled=None,
            gain=Leg(state="not shown"),
            trained={},
            interval="time-uniform, 95%",
        ),
        continued_pairs=0,
        candidate_episodes=PAIRS,
        anchor_episodes=PAIRS,
    )
    cost = Cost(updates=UPDATES, sampled_tokens=0, learned_tokens=0, sampling_s=0.0, learning_s=0.0)
    learned = LearnResult(
        version="v1",
        verdict=gate.verdict,
        reason=gate.reason,
        diagnostics=None,
        selection=unchecked(UPDATES),
        cost=cost,
        gate=gate,
        learn_s=1.0,
        gate_s=1.0,
    )
    evidence, result = to_json(result_document(gate)), to_json(result_document(learned))
    order = to_json(order_document(LearnOrder(learner="grpo")))
    terms = to_json(asdict(GateTerms(scope="{}", nmax=PAIRS, seeds_of=None)))
    updates = [to_json(update_document(Update(update=n, groups=GroupStats(reward=0.5, success=0.5)))) for n in range(UPDATES)]
    _insert(
        conn,
        "job",
        "id, key, kind, learner, targets, options, state, attempt, candidate, result, created_at, finished_at",
        ((n, f"job-{n}", "learn", "grpo", target, order, "done", 1, f"v{n}", result, _at(n / jobs), _at(n / jobs)) for n in numbers),
    )
    _insert(
        conn,
        "step",
        "job, attempt, n, diagnostics, made_at",
        ((n, 1, k, updates[k], _at(n / jobs)) for n in numbers for k in range(UPDATES)),
    )
    _insert(  # before their gates, whose digests cover theirs
        conn,
        "pair",
        "gate, environment, role, draw, seed, reference, reference_score, candidate_score, difference",
        ((n, ENVIRONMENTS[k % 7], "earlier", k, n * PAIRS + k, "v0", 1.0, 0.0, -1.0) for n in numbers for k in range(PAIRS)),
    )
    _insert(
        conn,
        "gate",
        "id, job, attempt, candidate, serving, profile, settings, verdict, reason, evidence, started_at, finished_at",
        ((n, n, 1, f"v{n}", "v0", "economy", terms, "reject", "why", evidence, _at(n / jobs), _at(n / jobs)) for n in numbers),
    )
    _insert(conn, "event", "kind, subject, message, happened_at", (("verdict", f"job {n}", "reject", _at(n / jobs)) for n in numbers))


def _fill_tasks(conn: sqlite3.Connection, played: int) -> None:
    """The tasks that were played, and some that wait."""
    columns = "environment, seed, members, source, state, attempt, created_at, finished_at"
    done = ((_environment(n), n, MEMBERS, "stream", "done", 1, _at(n / played), _at(n / played)) for n in range(played))
    waiting = ((_environment(n + 1), played + n, MEMBERS, "stream", "queued", 0, _at(1), None) for n in range(QUEUED))
    _insert(conn, "task", columns, (*done, *waiting))


def _episodes(episodes: int, promoted: Sequence[int]) -> Iterator[tuple[Any, ...]]:
    """Four of five are live, by the version of their time; the fifth is of a job, by one of its steps."""
    for n in range(episodes):
        share, won = n / episodes, n % 3 == 0
        state, reason = ("aborted", "interrupted") if n % 97 == 0 else ("completed", "terminated")
        head: tuple[Any, ...]
        if n % 5 < 4:
            task, member = divmod(n - n // 5, MEMBERS)
            version = promoted[min(int(share / EARLIER * len(promoted)), len(promoted) - 1)]
            head = (_environment(task), task, f"task-{task + 1}", member, "live", task + 1, None, 1, f"v{version}", None, None)
        else:
            group, member = divmod(n // 5, MEMBERS)
            job = 1 + n // EPISODES_A_JOB
            head = (_environment(group), group, f"job-{job}.1-{group}", member, "learn", None, job, 1, None, job, group % UPDATES)
        yield (n + 1, *head, 1.0, state, TURNS, float(won), won, float(won), reason, _at(share), _at(share))


def _turns(episodes: int) -> Iterator[tuple[Any, ...]]:
    observations, actions = [words(PROMPT) for _ in range(_TEXTS)], [words(ANSWER) for _ in range(_TEXTS)]
    for episode in range(1, episodes + 1):
        made_at = _at(episode / episodes)
        digest: int | None = None
        for n in range(TURNS):
            columns = (
                episode,
                n,
                n * (PROMPT + ANSWER),
                _random_ids(PROMPT),
                _random_ids(ANSWER),
                _random_logprobs(ANSWER),
                random.choice(observations),
                random.choice(actions),
                None,
                0.0,
                "stop",
                versions.INITIAL,
                None,
                None,
                made_at,
            )
            digest = turn_digest(columns, digest)
            yield (*columns, digest)


def _random_ids(tokens: int) -> bytes:
    """Packed token ids of 16 bits."""
    ids = bytearray(os.urandom(4 * tokens))
    ids[2::4] = ids[3::4] = bytes(tokens)
    return bytes(ids)


def _random_logprobs(tokens: int) -> bytes:
    """Packed log-probs between -2 and -0.5: the highest byte of a float32 there is always the same."""
    logprobs = bytearray(os.urandom(4 * tokens))
    logprobs[3::4] = b"\xbf" * tokens
    return bytes(logprobs)


def _environment(group: int) -> str:
    return RARE if group == 0 else ENVIRONMENTS[group % len(ENVIRONMENTS)]


def _at(share: float) -> float:
    """A moment of the store's life, from its beginning (0) to now (1)."""
    return time.time() - (1 - share) * LIFE_S


def require_store_room(folder: Path, episodes: int) -> None:
    """Raise `InputError` if the disk of `folder` has no room for a store of this many episodes, and what is made of it."""
    wanted, free = episodes * TURNS * BYTES_A_TURN * COPIES, shutil.disk_usage(folder).free
    if wanted > free:
        raise InputError(
            f"{wanted / 1e9:.1f} GB are needed in {folder}, and {free / 1e9:.1f} GB are free: set TMPDIR to another folder, or "
            "measure fewer --episodes"
        )
