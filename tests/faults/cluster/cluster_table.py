"""What the suite of the cluster found, and how it is written into docs/reliability.md."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median

from tests.faults.invariants import Findings
from tests.faults.table import broken_rules, markdown_table, sums

BEGIN, END = "<!-- faults-cluster: written by `make faults-cluster` -->", "<!-- faults-cluster: end -->"
ELSEWHERE_S = 20.0
"""What a dead node played is played elsewhere within this time."""

HEADER = (
    "fault",
    "times",
    "acknowledged turns lost",
    "members completed twice",
    "batches doubled",
    "other broken rules",
    "its work goes on elsewhere: median",
    "worst",
    "all play again: median",
    "worst",
)


@dataclass(slots=True)
class ClusterRow:
    """All times that one fault was tried."""

    fault: str
    findings: list[Findings] = field(default_factory=list)
    elsewhere_s: list[float] = field(default_factory=list)
    """Until all that the dead one held was begun by others. Not of those that held nothing."""
    again_s: list[float] = field(default_factory=list)
    """Until every player has had a turn acknowledged again."""
    again_most_s: float | None = None

    @property
    def broken(self) -> list[str]:
        """What was not as it must be, in words."""
        told = broken_rules(self.fault, self.findings)
        for what, seconds, most_s in (
            ("its work to go on elsewhere", self.elsewhere_s, ELSEWHERE_S),
            ("all to play again", self.again_s, self.again_most_s),
        ):
            if most_s is not None and max(seconds, default=0.0) > most_s:
                told.append(f"{self.fault}: it took {max(seconds):.1f} s for {what}, and not under {most_s:g}")
        return told

    def cells(self) -> tuple[object, ...]:
        return (
            self.fault,
            *sums(self.findings),
            *_times(self.elsewhere_s),
            *_times(self.again_s),
        )


class ClusterTable:
    """Rows by fault, in the order in which they were first tried."""

    def __init__(self, record: Path) -> None:
        """Each time is written into `record` too, and what is there already is part of the table: of a run that was ended early."""
        self._rows: dict[str, ClusterRow] = {}
        self._record = record
        for line in record.read_text().splitlines() if record.exists() else ():
            fault, found, *times = json.loads(line)
            self._note(fault, Findings(**{**found, "broken": tuple(found["broken"])}), *times)

    def add(
        self,
        fault: str,
        findings: Findings,
        elsewhere_s: float | None = None,
        again_s: float | None = None,
        again_most_s: float | None = None,
    ) -> None:
        """One more time that a fault was tried, and the run went on."""
        with self._record.open("a") as file:
            file.write(json.dumps([fault, asdict(findings), elsewhere_s, again_s, again_most_s]) + "\n")
        self._note(fault, findings, elsewhere_s, again_s, again_most_s)

    def _note(self, fault: str, findings: Findings, elsewhere_s: float | None, again_s: float | None, again_most_s: float | None) -> None:
        row = self._rows.setdefault(fault, ClusterRow(fault, again_most_s=again_most_s))
        row.findings.append(findings)
        row.elsewhere_s += [] if elsewhere_s is None else [elsewhere_s]
        row.again_s += [] if again_s is None else [again_s]

    def rows(self) -> Sequence[ClusterRow]:
        return list(self._rows.values())

    def times_of(self, fault: str) -> int:
        return len(self._rows[fault].findings) if fault in self._rows else 0

    @property
    def times(self) -> int:
        return sum(len(row.findings) for row in self._rows.values())

    @property
    def broken(self) -> list[str]:
        return [line for row in self._rows.values() for line in row.broken]

    def markdown(self) -> str:
        """The table, with a last line of sums."""
        return markdown_table(HEADER, [row.cells() for row in self.rows()], summed=range(1, 6))


def report(table: ClusterTable, faults: Sequence[str], kills: int, broken: Sequence[str], seed: int, seconds: float | None) -> str:
    """What is written into the page; without seconds if it was done in several runs."""
    cores = len(os.sched_getaffinity(0))
    about = (
        f"Run of {datetime.now(UTC):%d %B %Y} on {cores} cores ({platform.machine()}, {platform.system()}), Python "
        f"{platform.python_version()}, Ray {version('ray')}, seed {seed}: {table.times} kills "
        f"{'in several runs' if seconds is None else f'in {seconds / 60:.0f} minutes'}"
        f"{'' if table.times >= kills else f', and not {kills}: it was ended early'}."
    )
    missing = [fault for fault in faults if not table.times_of(fault)]
    not_tried = [f"Not tried in this run: {'; '.join(missing)}."] if missing else []
    told = [f"- **{line}**" for line in broken]
    return "\n\n".join([about, table.markdown(), *not_tried, *(["\n".join(told)] if told else [])])


def _times(seconds: Sequence[float]) -> tuple[str, str]:
    return (f"{median(seconds):.1f} s", f"{max(seconds):.1f} s") if seconds else ("-", "-")
