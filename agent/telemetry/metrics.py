"""`/metrics`: a home in the text form of Prometheus.

Every scrape reads the database once, and the sizes of files. Nothing is kept between scrapes, so that it does not matter which process
answers. No label has a text from outside: names of environments are cut down to few and plain ones (`home_numbers.py:labels`). If the
database cannot be read, what is known without it is still told.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from perdure import __version__
from perdure.agent.config import DiskSection
from perdure.agent.processes.process_names import ACTOR, SUPERVISOR, VLLM
from perdure.agent.show.daemon_health import activity, troubles
from perdure.agent.supervision.disk import GIB, free_bytes, size_bytes
from perdure.agent.telemetry.home_numbers import CAUSES, LEARNER, OTHER, HomeNumbers, LearningNumbers, read_numbers
from perdure.agent.telemetry.readiness import readiness
from perdure.memory.errors import PerdureError
from perdure.memory.processes import processes
from perdure.memory.schema import MIGRATIONS
from perdure.memory.store import ARCHIVE, FILE_NAME, FOLDERS, open_store

Key = TypeVar("Key", bound=tuple[str, ...])
"""The values of the labels of a metric."""

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
STATES = ("playing", "learning", "gating", "probing", "idle", "paused", "starting", "restarting", "busy", "stopped")
NO_BUDGET = DiskSection()
VERDICTS = ("promote", "reject", "inconclusive")
VERSION_STATES = ("candidate", "serving", "retired", "rejected")


def metrics_text(home: Path, disk: DiskSection = NO_BUDGET) -> bytes:
    """All metrics of a home, with the disk budget of its configuration. Raises nothing for a home that is missing or damaged."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(HomeCollector(home, disk))
    return generate_latest(registry)


class HomeCollector:
    """A collector of prometheus-client; each `collect` reads the home anew."""

    def __init__(self, home: Path, disk: DiskSection) -> None:
        self._home = home
        self._disk = disk

    def collect(self) -> Iterator[Metric]:
        began_s = time.perf_counter()
        ready, _ = readiness(self._home)
        yield _gauge("ready", "Whether the database can be written, a version serves and the actor has its model", float(ready))
        found: list[Metric] = []
        with suppress(PerdureError):
            found = list(_of_database(self._home))
        yield _gauge("database_readable", "Whether the database could be read", float(bool(found)))
        yield from found
        yield from _of_disk(self._home, self._disk)
        yield _gauge("scrape_seconds", "Seconds that this answer took", time.perf_counter() - began_s)


def _of_database(home: Path) -> Iterator[Metric]:
    with open_store(home, reading=True) as store:
        numbers = read_numbers(store)
        supervisor = next((one for one in processes(store) if one.name == SUPERVISOR), None)
        state, why, started = activity(store, supervisor)
        healthy = not troubles(store, state, why, started)
    labels = {"program": __version__, "schema": str(len(MIGRATIONS)), "serving": _plain(numbers.serving or "none")}
    yield _gauge_of(
        "info", "The program, the schema of the database, and the version that serves", tuple(labels), {tuple(labels.values()): 1}
    )
    yield _gauge("daemon_running", "Whether a daemon runs in this home", float(started is not None))
    yield _gauge("healthy", "Whether perdure status --check finds no trouble", float(healthy))
    if started is not None:
        yield _gauge("daemon_start_time_seconds", "When the daemon started, in Unix seconds", started)
    states = {(name,): float(name == state) for name in STATES} | {(OTHER,): float(state not in STATES)}
    yield _gauge_of("state", "What the home does: 1 for its state, 0 for the others", ("state",), states)
    yield from _of_play(numbers)
    yield from _of_work(numbers)
    yield from _of_versions(numbers)
    yield from _of_processes(numbers)
    yield from _of_learning(numbers.learning)


def _of_play(numbers: HomeNumbers) -> Iterator[Metric]:
    yield _counter("episodes", "Episodes that were begun", numbers.episodes)
    yield _gauge("episodes_kept", "Episodes in the database: all but the archived ones", numbers.episodes_kept)
    yield _counter("turns", "Turns that were written", numbers.turns)
    yield _gauge("action_tokens_per_second", "Tokens of answers that were written in the last minute, a second", numbers.tokens_per_s)
    latest = {(state,): float(numbers.latest.get(state, 0)) for state in ("running", "completed", "aborted", "env_error")}
    yield _gauge_of("latest_episodes", "The newest 1000 episodes by state", ("state",), latest)
    play = numbers.play.items()
    by = ("environment",)
    yield _counter_of("live_episodes", "Live episodes that were completed", by, {(name,): row.episodes for name, row in play})
    yield _counter_of("live_successes", "Live episodes with success", by, {(name,): row.successes for name, row in play})
    counts = {(name,): float(row.serving_episodes) for name, row in play}
    yield _gauge_of("serving_episodes", "Live episodes of the version that serves", by, counts)
    rates = {(name,): row.serving_successes / row.serving_episodes for name, row in play if row.serving_episodes}
    yield _gauge_of("success_rate", "Share of the live episodes of the version that serves that had success", by, rates)


def _of_work(numbers: HomeNumbers) -> Iterator[Metric]:
    yield _gauge_of("tasks", "Tasks by state", ("state",), {(state,): float(n) for state, n in numbers.tasks.items()})
    yield _gauge_of("jobs", "Jobs by state", ("state",), {(state,): float(n) for state, n in numbers.jobs.items()})
    yield _gauge_of("job_seconds", "Seconds since the job at work began", ("kind",), {(kind,): s for kind, s in numbers.works_s.items()})
    paused = {(what,): float(what in numbers.paused) for what in ("play", "learning")}
    yield _gauge_of("paused", "Whether a person has paused it", ("what",), paused)
    yield _gauge_of("given_up", "Whether the daemon has given it up", ("what",), {("learning",): float("learning" in numbers.given_up)})


def _of_versions(numbers: HomeNumbers) -> Iterator[Metric]:
    versions = {(state,): float(numbers.versions.get(state, 0)) for state in VERSION_STATES}
    yield _gauge_of("versions", "Versions by state", ("state",), versions)
    gates = numbers.gates
    yield _counter_of("verdicts", "Verdicts of gates", ("verdict",), {(one,): gates.verdicts.get(one, 0) for one in VERDICTS})
    yield _counter("gate_seconds", "Seconds that gates took together", gates.seconds)
    if gates.last_s is not None:
        yield _gauge("last_gate_seconds", "Seconds that the last gate took", gates.last_s)
    yield _counter("promotions", "Versions that were promoted", numbers.moves.get("promote", 0))
    yield _counter("rollbacks", "Rollbacks", numbers.moves.get("rollback", 0))
    if numbers.last_promotion is not None:
        yield _gauge("last_promotion_time_seconds", "When a version was last promoted, in Unix seconds", numbers.last_promotion)
    yield _gauge("panel_skills", "Skills of the capability panel that the version that serves was scored on", numbers.panel_skills)
    yield _gauge(
        "panel_limits_broken", "Skills of the panel in which it is below the base model by more than the limit", numbers.panel_broken
    )
    yield _gauge("watched_environments", "Environments in which live play is watched", numbers.watched)
    yield _gauge("watch_alarms", "Environments in which the watch has an alarm", numbers.alarms)


def _of_processes(numbers: HomeNumbers) -> Iterator[Metric]:
    deaths: dict[tuple[str, str], float] = {
        (name, cause): 0.0 for name in (ACTOR, LEARNER, VLLM) for cause in CAUSES
    }  # a counter that begins at 1 shows no rise
    deaths |= {key: float(n) for key, n in numbers.deaths.items()}
    yield _counter_of("deaths", "Deaths of processes by cause", ("process", "cause"), deaths)
    silent = {(name,): seconds for name, seconds in numbers.silent_s.items()}
    yield _gauge_of("process_silent_seconds", "Seconds since a process last wrote what it does", ("process",), silent)


def _of_learning(learning: LearningNumbers) -> Iterator[Metric]:
    if learning.job is not None:
        yield _gauge("learning_job", "The number of the last learning job", learning.job)
        yield _gauge("learning_updates", "Updates of the last learning job", learning.updates)
        tokens = {("sampled",): float(learning.sampled_tokens), ("learned",): float(learning.learned_tokens)}
        yield _gauge_of("learning_tokens", "Action tokens that the last learning job has sampled, and learned from", ("what",), tokens)
    if learning.last is None:
        return
    groups, drift, last = learning.last.groups, learning.last.drift, learning.last
    of_update = {
        "learning_reward": ("Mean return of the targets' episodes of the last update", groups.reward),
        "learning_success": ("Success rate of the targets' episodes of the last update", groups.success),
        "learning_old_success": ("Success rate of the replayed old environments of the last update", groups.old_success),
        "learning_entropy": ("Mean negative log-prob of the sampled tokens of the last update, in nats", groups.entropy),
        "learning_mismatch_kl": ("KL of sampler and learner in the last update, in nats a token", last.ratios.mismatch_kl),
        "learning_gradient_norm": ("Norm of the gradient of the last update", last.grad_norm),
    }
    for name, (help, value) in of_update.items():
        if value is not None:
            yield _gauge(name, help, value)
    kl = {
        ("base", "new"): drift.kl_base_new,
        ("base", "old"): drift.kl_base_old,
        ("serving", "new"): drift.kl_serving_new,
        ("serving", "old"): drift.kl_serving_old,
    }
    known = {key: value for key, value in kl.items() if value is not None}
    help = "KL of the weights and a reference after the last update, in nats a token, in new and in old environments"
    yield _gauge_of("learning_kl", help, ("reference", "environments"), known)


def _of_disk(home: Path, disk: DiskSection) -> Iterator[Metric]:
    if not home.is_dir():
        return
    parts = dict.fromkeys(("database", *FOLDERS, ARCHIVE, OTHER), 0)
    with os.scandir(home) as entries:
        for entry in entries:
            part = "database" if entry.name.startswith(FILE_NAME) else entry.name if entry.name in parts else OTHER
            parts[part] += size_bytes(Path(entry.path)) if entry.is_dir(follow_symlinks=False) else _file_bytes(entry)
    yield _gauge_of("disk_bytes", "What the home takes on the disk", ("part",), {(part,): float(size) for part, size in parts.items()})
    yield _gauge("disk_budget_bytes", "The budget of the home, 0 for none", disk.budget_gib * GIB)
    yield _gauge("disk_floor_bytes", "What must stay free on its disk", disk.floor_gib * GIB)
    yield _gauge("disk_free_bytes", "What is free on its disk", free_bytes(home))


def _gauge(name: str, help: str, value: float) -> Metric:
    return GaugeMetricFamily(f"perdure_{name}", help, value=float(value))


def _gauge_of(name: str, help: str, labels: tuple[str, ...], values: Mapping[Key, float]) -> Metric:
    family = GaugeMetricFamily(f"perdure_{name}", help, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def _counter(name: str, help: str, value: float) -> Metric:
    return CounterMetricFamily(f"perdure_{name}", help, value=float(value))


def _counter_of(name: str, help: str, labels: tuple[str, ...], values: Mapping[Key, float]) -> Metric:
    family = CounterMetricFamily(f"perdure_{name}", help, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def _file_bytes(entry: os.DirEntry[str]) -> int:
    """What a file takes on the disk; 0 if it is deleted meanwhile."""
    try:
        return entry.stat(follow_symlinks=False).st_blocks * 512
    except OSError:
        return 0


def _plain(name: str) -> str:
    """A name of a version, which is ours, without anything that it could not have."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", name)[:64]
