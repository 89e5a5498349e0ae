"""The watch on live play as `perdure status` shows it: what is watched, why not, and which environments have changed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from perdure.agent.watching.live_watch import alarm_of
from perdure.memory.environments import list_environments
from perdure.memory.errors import UnknownError
from perdure.memory.json_value import Document, iso_utc
from perdure.memory.store import Store
from perdure.memory.versions import serving
from perdure.memory.watches import EnvironmentWatch, gate_temperatures, live_temperature, watches


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchReport:
    """The watch on the serving version."""

    environments: tuple[EnvironmentWatch, ...]
    off: str | None
    """Why nothing is watched; None if something is."""
    changed: Mapping[str, float]
    """When each environment that has changed was found to have (Unix seconds)."""
    recoded: Collection[str] = ()
    """Those of them whose code changed; the others were found by a gate."""

    def line(self) -> str:
        """In a sentence or two."""
        alarms = [f"{alarm}; gate in job {row.alarm_job}" for row in self.environments if (alarm := alarm_of(row))]
        seen = sum(row.seen.tasks for row in self.environments)
        line = (
            f"off: {self.off}"
            if self.off
            else "; ".join(alarms)
            or (f"{len(self.environments)} environments, {seen} tasks of {self.environments[0].version}: as its gates said")
        )
        changed = [
            f"{name} has changed ({iso_utc(at)}{', its code' if name in self.recoded else ''}): its anchor began anew"
            for name, at in self.changed.items()
        ]
        return "; ".join([line, *changed])

    def as_json(self) -> Document:
        """The keys of `perdure status --json` under `watch`."""
        return {
            "off": self.off,
            "environments": {
                row.environment: {
                    "expected": [row.low, row.high],
                    "mean": row.seen.mean,
                    "tasks": row.seen.tasks,
                    "fell": row.fell,
                    "rose": row.rose,
                    "alarm": alarm_of(row),
                    "job": row.alarm_job,
                }
                for row in self.environments
            },
            "changed": {name: iso_utc(at) for name, at in self.changed.items()},
        }


def watch_report(store: Store) -> WatchReport:
    """Read it from the store alone."""
    try:
        version = serving(store).name
    except UnknownError:
        return WatchReport(environments=(), off="no version serves yet", changed={})
    live, known = live_temperature(store, version), list_environments(store)
    rows = [row for row in watches(store, version) if live in (None, row.temperature)]
    return WatchReport(
        environments=tuple(rows),
        off=None if rows else _why_off(store, version, live),
        changed={row.name: row.changed_at for row in known if row.changed_at is not None},
        recoded=[row.name for row in known if row.changed_at is not None and row.changed_gate is None],
    )


def _why_off(store: Store, version: str, live: float | None) -> str:
    gated = gate_temperatures(store, version)
    if not gated:
        return f"no gate has scored {version}, so nothing is expected of it; `perdure gate {version}` scores it"
    if live is not None and live not in gated:
        sampled = ", ".join(f"{temperature:g}" for temperature in gated)
        return f"the gates of {version} sampled at temperature {sampled} and live play samples at {live:g}; leave gate.temperature unset"
    return f"it begins when the daemon looks next, with what the gates saw of {version}"
