"""What the suite found, and how it is written into docs/reliability.md."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from tests.faults.invariants import Findings

BEGIN, END = "<!-- faults: written by `make faults` -->", "<!-- faults: end -->"
SERVES_AGAIN_S = 5.0
"""With the scripted model, every fault is over within this time."""

HEADER = (
    "fault",
    "times",
    "acknowledged turns lost",
    "members completed twice",
    "batches doubled",
    "other broken rules",
    "serving again: median",
    "worst",
)


@dataclass(slots=True)
class Row:
    """All times that one fault was tried."""

    fault: str
    limit_s: float | None
    seconds: list[float] = field(default_factory=list)
    findings: list[Findings] = field(default_factory=list)

    @property
    def broken(self) -> list[str]:
        """What was not as it must be, in words."""
        told = broken_rules(self.fault, self.findings)
        if self.limit_s is not None and max(self.seconds, default=0.0) > self.limit_s:
            told.append(f"{self.fault}: it took {max(self.seconds):.1f} s to serve again, and not under {self.limit_s:g}")
        return told

    def cells(self) -> tuple[object, ...]:
        return (
            self.fault,
            *sums(self.findings),
            f"{median(self.seconds):.2f} s" if self.seconds else "-",
            f"{max(self.seconds):.2f} s" if self.seconds else "-",
        )


class Table:
    """Rows by fault, in the order in which they were first tried. Several threads may add to it.

    Serving again takes at most `limit_s`; where that is None it is only told.
    """

    def __init__(self, limit_s: float | None = SERVES_AGAIN_S) -> None:
        self.ends = threading.Event()
        """Set where one lane has failed, so that the other comes to its end."""
        self._limit_s = limit_s
        self._rows: dict[str, Row] = {}
        self._lock = threading.Lock()

    def add(self, fault: str, seconds: float, findings: Findings) -> None:
        """One more time that a fault was tried and the daemon served again."""
        with self._lock:
            row = self._rows.setdefault(fault, Row(fault, self._limit_s))
            row.seconds.append(seconds)
            row.findings.append(findings)

    def rows(self) -> list[Row]:
        return list(self._rows.values())

    @property
    def times(self) -> int:
        return sum(len(row.findings) for row in self._rows.values())

    @property
    def broken(self) -> list[str]:
        return [line for row in self._rows.values() for line in row.broken]


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """A state of the machine that is no kill: what was done, and what was seen."""

    name: str
    done: str
    seen: str
    broken: tuple[str, ...] = ()


def broken_rules(fault: str, findings: Sequence[Findings]) -> list[str]:
    """What was not as it must be after a fault, in words."""
    told = [f"{fault}: {line}" for found in findings for line in found.broken]
    told += [f"{fault}: {found.lost} turns lost" for found in findings if found.lost]
    told += [f"{fault}: {found.twice} members completed twice" for found in findings if found.twice]
    told += [f"{fault}: {found.doubled} episodes in two batches" for found in findings if found.doubled]
    return told


def sums(findings: Sequence[Findings]) -> tuple[int, ...]:
    """How often a fault was tried, and what was lost, completed twice, doubled and otherwise broken in all."""
    return (
        len(findings),
        sum(found.lost for found in findings),
        sum(found.twice for found in findings),
        sum(found.doubled for found in findings),
        sum(len(found.broken) for found in findings),
    )


def markdown(rows: Sequence[Row]) -> str:
    """The table, with a last line of sums."""
    return markdown_table(HEADER, [row.cells() for row in rows], summed=range(1, 6))


def markdown_table(header: Sequence[str], cells: Sequence[Sequence[object]], summed: Sequence[int]) -> str:
    """Lines of a table, and a last one with the sums of these columns."""
    sums = ["**all**", *(sum(int(str(one[k])) for one in cells) if k in summed else "" for k in range(1, len(header)))]
    return "\n".join([_line(header), _line(["---", *["---:"] * (len(header) - 1)]), *map(_line, cells), _line(sums)])


def conditions_markdown(conditions: Sequence[Condition]) -> str:
    rows = [(one.name, one.done, one.seen + "".join(f" **{line}**" for line in one.broken)) for one in conditions]
    return "\n".join([_line(("condition", "what is done", "what was seen")), _line(["---"] * 3), *map(_line, rows)])


def write_between_markers(page: Path, text: str, begins: str = BEGIN, ends: str = END) -> None:
    """Replace what the last run wrote into `page`."""
    before, begin, rest = page.read_text().partition(begins)
    _, end, after = rest.partition(ends)
    assert begin, f"{page} has lost its marker {begins}"
    assert end, f"{page} has lost its marker {ends}"
    page.write_text(f"{before}{begins}\n\n{text}\n\n{ends}{after}")


def _line(cells: Sequence[object]) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"
