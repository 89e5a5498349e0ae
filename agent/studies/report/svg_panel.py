"""One plot as SVG that stands in the page itself: text stays text, colours follow the page, and hovering tells the values.

matplotlib draws it, from the extra `study`. The same numbers give the same text with the same version of it.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from perdure.agent.studies.report.report_style import stand_in, themed
from perdure.memory.errors import InputError

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

WIDTH_INCHES = 3.75
"""A phone's width, so that a text of nine points is read there as it is."""
HEIGHT_INCHES = 2.6
_TIP = "tip "


def check_plotting() -> None:
    """Raise `InputError` if matplotlib is not installed."""
    if find_spec("matplotlib") is None:
        raise InputError("plots need matplotlib: `pip install 'perdure[study]'` adds it; the tables have all numbers")


def svg_panel(name: str, draw: Callable[[Axes], None], *, height_inches: float = HEIGHT_INCHES) -> str:
    """Draw on one pair of axes. `name` is unique on the page: it keeps the drawing's inner names apart from those of others."""
    import matplotlib
    from matplotlib.figure import Figure

    ink, muted, grid = stand_in("ink"), stand_in("muted"), stand_in("grid")
    settings: dict[Any, Any] = {
        "svg.fonttype": "none",
        "text.parse_math": False,  # a name may have dollar signs
        "svg.hashsalt": name,
        "font.size": 9,
        "axes.titlesize": 9.5,
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": muted,
        "axes.labelcolor": muted,
        "axes.titlecolor": ink,
        "axes.axisbelow": True,
        "axes.grid": True,
        "grid.color": grid,
        "grid.linewidth": 0.6,
        "text.color": ink,
        "xtick.color": muted,
        "ytick.color": muted,
        "figure.facecolor": "none",
        "axes.facecolor": "none",
        "savefig.facecolor": "none",
    }
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(WIDTH_INCHES, height_inches), layout="constrained")
        draw(figure.subplots())
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return _embedded(text.getvalue())


def tell(artist: Artist, values: str) -> None:
    """What is shown when the reader points at it."""
    artist.set_gid(_TIP + values.replace('"', "'"))  # so that matplotlib writes it between double quotes


def _embedded(svg: str) -> str:
    """The `<svg>` element alone, without names of groups, fonts and an own size."""
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="' + _TIP + r'([^"]*)">', r"<g><title>\1</title>", svg)
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg)
    svg = re.sub(r"font-family: [^;\"]*;? ?", "", svg)
    svg = re.sub(r'(<svg [^>]*?)width="[^"]*" height="[^"]*" ', r"\1", svg, count=1)
    return themed(re.sub(r"\s*\n\s*", "\n", svg))
