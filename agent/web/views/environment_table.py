"""The environments of a home: how the serving version does in each, what its anchor is, how much may be lost there, and what it costs.

Left out: success over time (`learning_curves.py`), and all versions beside each other (`retention_matrix.py`).
"""

from __future__ import annotations

from collections.abc import Mapping

from perdure.agent.config import GateSection
from perdure.agent.planning.life_from_store import read_life
from perdure.agent.planning.track_record import relative_costs
from perdure.agent.show.check_notes import last_checks
from perdure.agent.show.life_report import AnchorRow, life_report
from perdure.agent.show.short_names import short_names
from perdure.agent.watching.watch_report import WatchReport, watch_report
from perdure.learners.gate.intervals import interval_of_mean
from perdure.learners.gate.scope import PROFILES, margin_of
from perdure.memory.environments import Registration, list_environments
from perdure.memory.json_value import Document
from perdure.memory.store import Store
from perdure.memory.trajectories.episodes import RateRow, success_rates
from perdure.memory.trajectories.play_records import record_before_job

LEVEL = 0.95
TOKENS_OF = 64
"""Live episodes whose tokens are counted, the newest."""
NO_JOB = -1


def environments_document(store: Store, gate: GateSection) -> Document:
    """All environments in the order of registration. Margins are those of the profile that `gate` names."""
    life, watch = read_life(store), watch_report(store)
    report = None if life is None else life_report(store, life)
    known = list_environments(store)
    short, checks = short_names([row.name for row in known]), last_checks(store)
    rates: Mapping[str, RateRow] = success_rates(store, life.serving) if life is not None else {}
    costs = relative_costs(life) if life is not None else {}
    watched: Mapping[str, Document] = watch.as_json()["environments"]
    anchors: Mapping[str, AnchorRow] = report.anchors if report is not None else {}
    return {
        "serving": None if life is None else life.serving,
        "profile": gate.profile,
        "watch": watch.line() if known else None,
        "environments": [
            {
                **row.as_json(),
                "short": short[row.name],
                "chance": row.chance,
                "oracle": row.oracle,
                **_live(rates.get(row.name)),
                **_anchor(row, anchors.get(row.name), gate),
                "cost": costs.get(row.name),
                "tokens": _tokens(store, row.name),
                "watch": _watch(row.name, watched, watch),
                "check": checks.get(row.name),
            }
            for row in known
        ],
    }


def _live(rate: RateRow | None) -> Document:
    """Of the serving version. The unit of the interval is the group, since its episodes have one task."""
    if rate is None or not rate.episodes:
        return {"episodes": 0, "success": None, "low": None, "high": None, "mixed": None}
    success = rate.successes / rate.episodes
    low, high = interval_of_mean(success, max(rate.groups, 1), LEVEL)
    return {
        "episodes": rate.episodes,
        "success": success,
        "low": low,
        "high": high,
        "mixed": rate.mixed_groups / rate.groups if rate.groups else None,
    }


def _anchor(row: Registration, anchor: AnchorRow | None, gate: GateSection) -> Document:
    score = None if anchor is None else anchor.score
    standing = None if anchor is None else anchor.standing
    return {
        "anchor": row.anchor if anchor is None else anchor.version,
        "anchor_score": score,
        "difference": None if standing is None else standing.difference,
        "pairs": 0 if standing is None else standing.pairs,
        "margin": margin_of(PROFILES[gate.profile], score, critical=row.critical or row.name in gate.critical),
    }


def _tokens(store: Store, environment: str) -> float | None:
    """Of one episode, in the mean."""
    record = record_before_job(store, environment, NO_JOB, TOKENS_OF)
    return record.tokens / record.episodes if record.episodes else None


def _watch(name: str, watched: Mapping[str, Document], watch: WatchReport) -> Document | None:
    return watched.get(name) if watch.off is None else None
