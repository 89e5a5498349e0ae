"""The parts of a page: texts, tables, figures and sections as HTML. What comes from a study is escaped by `text`, and by nothing else."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from html import escape
from typing import NewType

from perdure.agent.show.terminal import visible

Html = NewType("Html", str)
"""Text that is HTML already."""

NOTHING = Html("")


def text(value: object) -> Html:
    """A text or whole number as HTML; None is a dash."""
    return Html("–" if value is None else escape(visible(str(value))))


def join(*parts: Html) -> Html:
    """One after the other."""
    return Html("".join(parts))


def small(value: str) -> Html:
    """A line below a number: its interval, its n."""
    return Html(f"<small>{text(value)}</small>")


def paragraph(value: str, kind: str = "") -> Html:
    """A paragraph; `kind` is a class of the style sheet."""
    return Html(f"<p{_kind(kind)}>{text(value)}</p>")


def marked(value: str, kind: str) -> Html:
    """A word that stands out: `bad` or `good`."""
    return Html(f'<span class="{kind}">{text(value)}</span>')


def table(columns: Sequence[str], rows: Sequence[Sequence[Html]], *, caption: str = "", numbers: Collection[str] = ()) -> Html:
    """A table whose first column names the rows; columns in `numbers` are right-aligned."""
    head, right = _head(columns, numbers)
    return _table([_row(row, right) for row in rows], head, caption)


def bar_table(columns: Sequence[str], rows: Sequence[Sequence[Html]], *, caption: str, numbers: Collection[str]) -> Html:
    """A table whose last column has a `bar` in each row."""
    head, right = _head(columns, numbers)
    return _table([f'{_row(row[:-1], right[:-1])}<td class="bar">{row[-1]}' for row in rows], head, caption, "bars")


def heat_table(corner: str, columns: Sequence[Html], rows: Sequence[tuple[Html, Sequence[Html]]], *, caption: str) -> Html:
    """A table of `heat_cell`s."""
    head = f'<th scope="col">{text(corner)}' + "".join(f'<th scope="col">{column}' for column in columns)
    return _table([f'<tr><th scope="row">{name}' + "".join(cells) for name, cells in rows], head, caption, "heat")


def heat_cell(shown: Html, strength: float, *, is_loss: bool = False, is_target: bool = False) -> Html:
    """A cell whose background is as strong as `strength`, from 0 to 1; a loss has another colour, a target a frame."""
    opacity = 0.6 * min(1.0, max(0.0, strength))  # text stays readable on the strongest
    return Html(f'<td{_kind("target" if is_target else "")}><i{_kind("down" if is_loss else "")} style="--o:{opacity:.2f}"></i>{shown}')


def bar(share: float, colour: str, low: float | None = None, high: float | None = None) -> Html:
    """A bar of this share of its column, from 0 to 1, with its interval as a line; `colour` is a name of the style sheet."""

    def percent(value: float) -> str:
        return f"{100 * min(1.0, max(0.0, value)):.1f}%"

    line = ""
    if low is not None and high is not None:
        left, right = (min(1.0, max(0.0, value)) for value in (low, high))
        line = f'<u style="left:{percent(left)};width:{percent(right - left)}"></u>'
    return Html(f'<span aria-hidden="true"><b style="width:{percent(share)};background:var(--{colour})"></b>{line}</span>')


def _head(columns: Sequence[str], numbers: Collection[str]) -> tuple[str, list[bool]]:
    right = [column in numbers for column in columns]
    cells = (f'<th scope="col"{_kind("n" if to_right else "")}>{text(column)}' for column, to_right in zip(columns, right, strict=True))
    return "".join(cells), right


def _row(cells: Sequence[Html], right: Sequence[bool]) -> str:
    first, *others = (f"{_kind('n' if to_right else '')}>{cell}" for cell, to_right in zip(cells, right, strict=True))
    return f'<tr><th scope="row"{first}' + "".join(f"<td{cell}" for cell in others)


def _table(rows: Sequence[str], head: str, caption: str, kind: str = "") -> Html:
    title = f"<caption>{text(caption)}</caption>" if caption else ""
    body = "\n".join(rows)
    inside = f"{title}<thead><tr>{head}</thead>\n<tbody>{body}</tbody>"
    label = escape(visible(caption)) or "table"
    return Html(f'<div class="scroll" role="region" tabindex="0" aria-label="{label}"><table{_kind(kind)}>{inside}</table></div>\n')


def figure(plot: Html, *, says: str, caption: str = "", numbers: Html = NOTHING) -> Html:
    """A plot with what it shows in words, for those who do not see it, and its numbers."""
    below = f"<figcaption>{text(caption)}</figcaption>" if caption else ""
    return Html(f'<figure><div class="plot" role="img" aria-label="{escape(visible(says))}">{plot}</div>{below}{numbers}</figure>\n')


def details(summary: str, inside: Html) -> Html:
    """Folded until it is opened."""
    return Html(f"<details><summary>{text(summary)}</summary>{inside}</details>\n")


def plots(figures: Sequence[Html]) -> Html:
    """Beside each other, as many as fit."""
    return Html(f'<div class="plots">{"".join(figures)}</div>\n')


def beside(plot: Html, numbers: Html) -> Html:
    """A plot and its table, side by side if there is room."""
    return Html(f'<div class="pair">{plot}<div>{numbers}</div></div>\n')


def section(anchor: str, title: str, *parts: Html) -> Html:
    """A section that the contents link to."""
    return Html(f'<section id="{anchor}"><h2>{text(title)}</h2>\n{"".join(parts)}</section>\n')


def heading(title: str) -> Html:
    """Inside a section."""
    return Html(f"<h3>{text(title)}</h3>\n")


def _kind(name: str) -> str:
    return f' class="{name}"' if name else ""
