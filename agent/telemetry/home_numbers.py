"""The numbers of a home at one moment, for `metrics.py`: read in one short transaction, and quickly in a store of a million turns.

What grows with every turn is never counted: turns and episodes are numbered, and the last number is read. Success rates are in a table of
their own, and how live play went lately is that of the newest rows. Left out: their names and labels (`metrics.py`).
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from perdure.agent.planning.life_from_store import serving_panel
from perdure.agent.processes.exit_codes import EXIT_CODES
from perdure.agent.processes.process_names import JOB_PREFIX, VLLM, is_vllm, job_process
from perdure.agent.watching.live_watch import alarm_of
from perdure.learners.panel.panel_limits import below_base
from perdure.memory import jobs, tasks
from perdure.memory.contracts.results import Update
from perdure.memory.history.shard_index import turns_ever
from perdure.memory.processes import GIVEN_UP, GOES_ON, Event, pauses, processes, since_start
from perdure.memory.store import Store
from perdure.memory.watches import watches

MOST_ENVIRONMENTS = 50
"""Environments with a label of their own."""
OTHER = "other"
LATEST_EPISODES = 1000
RECENT_S = 60.0
RECENT_TURNS = 4000
"""The turns of the last minute that are looked at, at most."""
CAUSES: tuple[str, ...] = tuple(cause for cause in (*EXIT_CODES, "hung", "killed") if cause != "stopped")
LEARNER = JOB_PREFIX.rstrip("-")
"""The label of all processes of jobs."""

_FOREIGN = re.compile(r"[^A-Za-z0-9:._/-]")
_LABEL_CHARACTERS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class PlayNumbers:
    """Live play in one environment."""

    episodes: int = 0
    successes: int = 0
    serving_episodes: int = 0
    """Those of the serving version."""
    serving_successes: int = 0

    def plus(self, other: PlayNumbers) -> PlayNumbers:
        return PlayNumbers(
            episodes=self.episodes + other.episodes,
            successes=self.successes + other.successes,
            serving_episodes=self.serving_episodes + other.serving_episodes,
            serving_successes=self.serving_successes + other.serving_successes,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class GateNumbers:
    """All gates of candidates."""

    verdicts: Mapping[str, int]
    seconds: float
    """That they took together."""
    last_s: float | None
    """That the last one took; None if there was none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningNumbers:
    """The last learning job. None: there is none, or it has made no update yet."""

    job: int | None
    updates: int
    last: Update | None
    sampled_tokens: int
    learned_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HomeNumbers:
    """A home at one moment."""

    serving: str | None
    episodes: int
    """Begun since the home was made."""
    episodes_kept: int
    turns: int
    """Written since the home was made."""
    play: Mapping[str, PlayNumbers]
    """By label."""
    latest: Mapping[str, int]
    """The newest episodes by state."""
    tokens_per_s: float
    """Action tokens that were written in the last minute."""
    tasks: Mapping[str, int]
    jobs: Mapping[str, int]
    works_s: Mapping[str, float]
    """How long the job at work has been at work, by kind."""
    versions: Mapping[str, int]
    gates: GateNumbers
    moves: Mapping[str, int]
    last_promotion: float | None
    deaths: Mapping[tuple[str, str], int]
    """By process and cause."""
    given_up: tuple[str, ...]
    silent_s: Mapping[str, float]
    """How long ago each process that runs last wrote what it does."""
    paused: tuple[str, ...]
    watched: int
    alarms: int
    panel_skills: int
    """0 if the serving version was never scored."""
    panel_broken: int
    learning: LearningNumbers


def read_numbers(store: Store) -> HomeNumbers:
    """Read them all at one moment."""
    with store.read():
        serving = next((row["name"] for row in store.rows("SELECT name FROM version WHERE state = 'serving'")), None)
        panel = serving_panel(store, serving) if serving else None
        watched = watches(store, serving) if serving else []
        moves = store.rows("SELECT kind, count(*) AS n, max(moved_at) AS at FROM move GROUP BY kind")
        return HomeNumbers(
            serving=serving,
            episodes=_number(store, "SELECT max(id) FROM episode"),
            episodes_kept=_number(store, "SELECT count(*) FROM episode"),
            turns=turns_ever(store),
            play=_play(store, serving),
            latest=_latest(store),
            tokens_per_s=_tokens_per_s(store),
            tasks=tasks.counts(store),
            jobs=jobs.counts(store),
            works_s=_works_s(store),
            versions=_by(store, "SELECT state, count(*) FROM version GROUP BY 1"),
            gates=_gates(store),
            moves={row["kind"]: row["n"] for row in moves},
            last_promotion=next((row["at"] for row in moves if row["kind"] == "promote"), None),
            deaths=_deaths(store),
            given_up=_given_up(since_start(store, GIVEN_UP, GOES_ON) or ()),
            silent_s=_silent_s(store),
            paused=tuple(one.what for one in pauses(store)),
            watched=len(watched),
            alarms=sum(alarm_of(row) is not None for row in watched),
            panel_skills=len(panel.skills) if panel else 0,
            panel_broken=len(below_base(panel)) if panel else 0,
            learning=_learning(store),
        )


def labels(names: Iterable[str]) -> dict[str, str]:
    """A label for each environment, given in the order in which they were registered.

    The first `MOST_ENVIRONMENTS` have one of their own: the name without its options, which may hold a password, and without what is no
    letter, digit or mark of a name; with `#` and its number if that is not the whole name. All others are `other`.
    """
    found = {}
    for n, name in enumerate(names, start=1):
        plain = re.sub(r"//[^/]*@", "//", name.partition("?")[0])
        plain = _FOREIGN.sub("_", plain)[:_LABEL_CHARACTERS]
        found[name] = OTHER if n > MOST_ENVIRONMENTS else plain if plain == name else f"{plain}#{n}"
    return found


def _play(store: Store, serving: str | None) -> dict[str, PlayNumbers]:
    label = labels(row["name"] for row in store.rows("SELECT name FROM environment ORDER BY rowid"))
    rows = store.rows(
        """
        SELECT environment, sum(episodes) AS episodes, sum(successes) AS successes,
               sum(iif(version IS :serving, episodes, 0)) AS serving_episodes,
               sum(iif(version IS :serving, successes, 0)) AS serving_successes
        FROM rate GROUP BY environment
        """,
        {"serving": serving},
    )
    found: dict[str, PlayNumbers] = {}
    for row in rows:
        played = dict(row)
        name = label.get(played.pop("environment"), OTHER)
        found[name] = found.get(name, PlayNumbers()).plus(PlayNumbers(**played))
    return found


def _latest(store: Store) -> dict[str, int]:
    return _by(store, f"SELECT state, count(*) FROM episode WHERE id > (SELECT max(id) FROM episode) - {LATEST_EPISODES} GROUP BY 1")


def _tokens_per_s(store: Store) -> float:
    [row] = store.rows(
        """
        SELECT coalesce(sum(length(action_ids)) / 4, 0) AS tokens, min(made_at) AS since, count(*) AS turns FROM turn
        WHERE rowid > (SELECT max(rowid) FROM turn) - :most AND made_at > :after
        """,
        {"most": RECENT_TURNS, "after": time.time() - RECENT_S},
    )
    span_s = max(time.time() - row["since"], 1.0) if row["turns"] == RECENT_TURNS else RECENT_S
    return float(row["tokens"] / span_s)


def _works_s(store: Store) -> dict[str, float]:
    rows = store.rows("SELECT kind, min(started_at) AS at FROM job WHERE state IN ('leased', 'running', 'gating') GROUP BY kind")
    return {row["kind"]: max(time.time() - row["at"], 0.0) for row in rows if row["at"] is not None}


def _gates(store: Store) -> GateNumbers:
    rows = store.rows(
        """
        SELECT g.verdict, g.finished_at - g.started_at AS seconds FROM gate g JOIN job j ON j.id = g.job
        WHERE g.verdict IS NOT NULL AND json_extract(j.options, '$.leads_to') IS NOT 'rollback' ORDER BY g.id
        """
    )
    verdicts: dict[str, int] = {}
    for row in rows:
        verdicts[row["verdict"]] = verdicts.get(row["verdict"], 0) + 1
    seconds = [max(row["seconds"] or 0.0, 0.0) for row in rows]
    return GateNumbers(verdicts=verdicts, seconds=sum(seconds), last_s=seconds[-1] if seconds else None)


def _deaths(store: Store) -> dict[tuple[str, str], int]:
    """A death's message begins with its cause (`agent/supervision/causes.py`)."""
    rows = store.rows(
        """
        SELECT subject, substr(message, 1, instr(message || ':', ':') - 1) AS cause, count(*) AS n FROM event
        WHERE kind = 'death' GROUP BY 1, 2
        """
    )
    found: dict[tuple[str, str], int] = {}
    for row in rows:
        key = process_label(row["subject"]), row["cause"] if row["cause"] in CAUSES else OTHER
        found[key] = found.get(key, 0) + row["n"]
    return found


def process_label(name: str) -> str:
    """The label of a process: jobs are all `learner`, and vLLM servers all `vllm`."""
    if name.startswith(JOB_PREFIX):
        return LEARNER
    if is_vllm(name):
        return VLLM
    return name if re.fullmatch(r"[a-z]{1,20}", name) else OTHER


def _given_up(latest: Iterable[Event]) -> tuple[str, ...]:
    """What was given up since the daemon started, and has not gone on."""
    state = {event.subject: event.kind for event in latest}
    return tuple(subject for subject, kind in state.items() if kind == GIVEN_UP)


def _silent_s(store: Store) -> dict[str, float]:
    at_work = {job_process(row["id"]) for row in store.rows("SELECT id FROM job WHERE state IN ('leased', 'running', 'gating')")}
    now = time.time()
    found: dict[str, float] = {}
    for process in processes(store):
        if process.name in at_work if process.name.startswith(JOB_PREFIX) else process.state != "stopped":
            label = process_label(process.name)
            found[label] = max(now - process.beat, found.get(label, 0.0))  # of several servers the one that is silent for longest
    return found


def _learning(store: Store) -> LearningNumbers:
    last = next((row["id"] for row in store.rows("SELECT max(id) AS id FROM job WHERE kind = 'learn'")), None)
    made = jobs.steps(store, last) if last is not None else []
    return LearningNumbers(
        job=last,
        updates=len(made),
        last=made[-1].update if made else None,
        sampled_tokens=sum(step.update.sampled_tokens for step in made),
        learned_tokens=sum(step.update.tokens for step in made),
    )


def _number(store: Store, sql: str) -> int:
    return int(store.rows(sql)[0][0] or 0)


def _by(store: Store, sql: str) -> dict[str, int]:
    rows: list[Any] = store.rows(sql)
    return {row[0]: row[1] for row in rows}
