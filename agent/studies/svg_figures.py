"""Figures as SVG. Text stays text: no font is embedded.

The same numbers give the same bytes with the same version of matplotlib, so that a plot in a repository changes only with its numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perdure.memory.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN = "#0072b2", "#d55e00", "#009e73"
"""Told apart by people who are colour-blind (Okabe & Ito 2008)."""


@contextmanager
def svg_figures() -> Iterator[None]:
    """The settings under which figures are made and written. Raises `InputError` if matplotlib is not installed."""
    try:
        import matplotlib
    except ImportError as error:
        raise InputError("plots need matplotlib: `pip install 'perdure[study]'` adds it, and the study then draws what it has") from error
    matplotlib.use("svg")
    settings: dict[Any, Any] = {
        "svg.fonttype": "none",
        "text.parse_math": False,  # a name may have dollar signs
        "svg.hashsalt": "perdure",
        "font.size": 8,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    with matplotlib.rc_context(settings):
        yield


def add_legend(figure: Figure, colours: Mapping[str, str]) -> None:
    """A line for each label, above the axes."""
    from matplotlib.lines import Line2D

    lines = [Line2D([], [], color=colour, label=label) for label, colour in colours.items()]
    figure.legend(handles=lines, loc="outside upper center", ncols=len(lines), frameon=False)


def write_svg(figure: Figure, path: Path) -> Path:
    """Write a figure, and give its path."""
    figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
    return path
