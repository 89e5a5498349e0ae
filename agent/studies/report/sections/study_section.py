"""The study itself: what it consists of, what failed, who made it, what else it says, and what it has drawn."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from perdure.agent.studies.report.html_parts import NOTHING, Html, details, heading, join, marked, section, table, text
from perdure.agent.studies.report.report_data import ReportData
from perdure.agent.studies.report.report_numbers import number
from perdure.agent.studies.report.sections.findings_section import tested_claims
from perdure.memory.json_value import Document

TOLD_ELSEWHERE = ("claims", "study", "made_by", "ok")
MOST_ROWS = 400
"""Of a list in the study's own summary."""
MEANS = ("mean", "value")
"""What a summary calls the number that `low` and `high` go with."""
MOST_VALUES = 12
"""In one cell of a table."""
MOST_COLUMNS = 10
"""A wider table is folded."""
MOST_DRAWING_BYTES = 2_000_000


def overview(data: ReportData) -> Html:
    """A few lines: how much of what there is."""
    cells = data.study.cells.values()
    failed = [result for result in cells if result.error is not None]
    seeds = sorted({run.name.seed for run in data.runs})
    seconds = sum(result.seconds for result in cells)
    lines: list[tuple[str, Html]] = [
        ("made by", text(", ".join(sorted({result.made_by for result in cells})))),
        ("cells", text(f"{len(cells) - len(failed)} done, {seconds / 3600:.2f} hours in all")),
    ]
    if failed:
        lines.append(("failed", marked(f"{len(failed)}: what they would have shown is missing below", "bad")))
    if not data.study.summary:
        lines.append(("so far", text("it has not come to its end, and has neither claims nor a summary yet")))
    if data.study.summary_is_old:
        lines.append(("claims and summary", marked("older than the newest cell: `perdure study run` writes them again", "bad")))
    if data.runs:
        lines += [
            ("arms", text(", ".join(data.arms))),
            ("runs", text(f"{len(data.runs)} with seeds {_shortened(seeds)}")),
            ("observations", text(f"{len(data.table.observations):,}")),
        ]
    notes = [fact.note for fact in data.table.facts if fact.verdict is None and fact.note]
    if notes:
        lines.append(("notes", text(f"{len(notes)} stages have one; see 'The study'")))
    return Html("<dl>" + "".join(f"<dt>{text(name)}</dt><dd>{value}</dd>" for name, value in lines) + "</dl>\n")


def study_section(data: ReportData) -> Html:
    """Failures and notes first, then the study's own summary and drawings."""
    failures = [[text(name), text(result.error)] for name, result in data.study.cells.items() if result.error is not None]
    notes = [
        [text(fact.arm), text(fact.order or None), text(fact.seed), text(fact.stage), text(fact.note)]
        for fact in data.table.facts
        if fact.verdict is None and fact.note
    ]
    parts = [
        join(heading("Cells that failed"), table(["cell", "error"], failures)) if failures else NOTHING,
        join(heading("Notes of stages"), table(["arm", "order", "seed", "stage", "note"], notes)) if notes else NOTHING,
        *(_drawing(path) for path in sorted(data.study.folder.glob("*.svg"))),
        *_summary(data.study.summary, is_all=not data.runs),
    ]
    return section("study", "The study", *parts) if any(parts) else NOTHING


def _summary(summary: Document, *, is_all: bool) -> Iterator[Html]:
    """The study's own summary as tables: its single values, then each list of rows, folded unless it `is_all` that there is."""
    told = TOLD_ELSEWHERE if tested_claims(summary) else tuple(key for key in TOLD_ELSEWHERE if key != "claims")
    single = {key: value for key, value in summary.items() if key not in told and not isinstance(value, list | dict)}
    if single:
        yield join(heading("Summary"), table(["what", "value"], [[text(key), _value(value)] for key, value in single.items()]))
    for key, value in summary.items():
        if key not in told and isinstance(value, list | dict) and value:
            name, shown = key.replace("_", " "), _nested(value)
            is_narrow = shown.count('<th scope="col"') <= MOST_COLUMNS
            yield join(heading(name.capitalize()), shown) if is_all and is_narrow else details(f"Summary: {name}", shown)


def _nested(value: list[object] | Mapping[str, object]) -> Html:
    if isinstance(value, Mapping):
        if all(isinstance(inner, Mapping) for inner in value.values()):
            return _rows([{"": key, **inner} for key, inner in value.items() if isinstance(inner, Mapping)])
        return table(["what", "value"], [[text(key), _value(inner)] for key, inner in value.items()])
    if all(isinstance(inner, Mapping) for inner in value):
        return _rows([inner for inner in value if isinstance(inner, Mapping)])
    return table(["value"], [[_value(inner)] for inner in value[:MOST_ROWS]])


def _rows(rows: Sequence[Mapping[str, object]]) -> Html:
    flat = [dict(_flattened(row)) for row in rows[:MOST_ROWS]]
    columns = list(dict.fromkeys(key for row in flat for key in row))
    shown = table(columns, [[_value(row.get(column)) for column in columns] for row in flat])
    return shown if len(rows) <= MOST_ROWS else join(shown, text(f"and {len(rows) - MOST_ROWS} more rows"))


def _flattened(row: Mapping[str, object], before: str = "") -> Iterator[tuple[str, object]]:
    """What stands deeper gets a column of its own, but for means with their intervals."""
    for key, value in row.items():
        if isinstance(value, Mapping) and not _is_estimate(value):
            yield from _flattened(value, f"{before}{key} ")
        else:
            yield f"{before}{key}".replace("_", " "), value


def _is_estimate(value: Mapping[str, object]) -> bool:
    return {"low", "high"} < value.keys() and not value.keys().isdisjoint(MEANS)


def _value(value: object) -> Html:
    return text(None if value is None else _plain(value))


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return number(value, digits=3)
    if isinstance(value, Mapping):
        if _is_estimate(value):
            n = f", n {value['n']}" if "n" in value else ""
            mean = next(value[name] for name in MEANS if name in value)
            return f"{_plain(mean)} ({_plain(value['low'])} to {_plain(value['high'])}{n})"
        return "; ".join(f"{key} {_plain(inner)}" for key, inner in value.items())
    if isinstance(value, list):
        return ", ".join(map(_plain, value)) if len(value) <= MOST_VALUES else f"{len(value)} values"
    return str(value)


def _drawing(path: Path) -> Html:
    """A drawing of the study's own, on white, since it does not know of dark pages."""
    content = path.read_bytes()
    if len(content) > MOST_DRAWING_BYTES:
        return NOTHING
    name = text(path.stem.replace("-", " "))
    source = f"data:image/svg+xml;base64,{base64.b64encode(content).decode()}"
    return Html(f'<figure><img class="drawn" alt="{name}" src="{source}"><figcaption>{name}, drawn by the study</figcaption></figure>\n')


def _shortened(seeds: Sequence[int]) -> str:
    if len(seeds) > 3 and list(seeds) == list(range(seeds[0], seeds[-1] + 1)):
        return f"{seeds[0]} to {seeds[-1]}"
    return ", ".join(map(str, seeds))
