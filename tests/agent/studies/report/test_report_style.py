"""What is drawn can be seen in light and dark, and keeps no trace of how it was made."""

from __future__ import annotations

import re

import pytest

from perdure.agent.studies.report.report_style import PAGE, SERIES, arm_look, stand_in, style_sheet, themed
from perdure.agent.studies.report.svg_panel import svg_panel, tell


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2.2)."""
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [channel / 12.92 if channel <= 0.04045 else ((channel + 0.055) / 1.055) ** 2.4 for channel in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def mixed(front: str, back: str, opacity: float) -> str:
    parts = [round(opacity * int(front[at : at + 2], 16) + (1 - opacity) * int(back[at : at + 2], 16)) for at in (1, 3, 5)]
    return "#" + "".join(f"{part:02x}" for part in parts)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_colours_stand_out(scheme: int) -> None:
    surface, ink = PAGE["surface"][scheme], PAGE["ink"][scheme]
    for name in ("ink", "muted", "link", "bad", "good"):
        assert contrast(PAGE[name][scheme], surface) >= 4.5, name
    for pair in SERIES:
        assert contrast(pair[scheme], surface) >= 3, pair
    for pair in SERIES[:2]:
        assert contrast(ink, mixed(pair[scheme], surface, 0.6)) >= 4.5, "text on the strongest cell of the matrix"


def test_arms_differ_in_colour_and_marker_and_repeat_neither_together() -> None:
    looks = [arm_look(number) for number in range(3 * len(SERIES))]
    assert len({(look.colour, look.marker, look.dash) for look in looks}) == len(looks)
    assert len({look.colour for look in looks[: len(SERIES)]}) == len({look.marker for look in looks[: len(SERIES)]}) == len(SERIES)


def test_stand_ins_become_variables_that_the_style_sheet_has() -> None:
    sheet = style_sheet()
    for name in (*PAGE, *(f"s{n}" for n in range(len(SERIES)))):
        assert themed(stand_in(name)) == f"var(--{name})"
        assert sheet.count(f"--{name}:") == 2
    assert themed("#123456") == "#123456"
    assert sheet.count("{") == sheet.count("}")


def test_a_panel_is_one_element_without_fonts_names_or_stand_ins() -> None:
    pytest.importorskip("matplotlib")
    from matplotlib.axes import Axes

    def draw(axis: Axes) -> None:
        (line,) = axis.plot([0, 1], [0, 1], color=arm_look(0).colour)
        tell(line, 'a < "b"')

    svg = svg_panel("one", draw)
    assert svg.startswith("<svg")
    assert svg.endswith("</svg>")
    assert "<title>a &lt; 'b'</title>" in svg
    assert "var(--s0)" in svg
    assert not re.search(r"#0[12]00", svg)
    assert not re.search(r'font-family|<metadata|<g id=|<svg[^>]* width="', svg)
    assert svg == svg_panel("one", draw)
    assert set(re.findall(r' id="(\w+)"', svg)).isdisjoint(re.findall(r' id="(\w+)"', svg_panel("two", draw)))


def test_dollar_signs_in_names_are_no_formulas() -> None:
    pytest.importorskip("matplotlib")
    from matplotlib.axes import Axes

    def draw(axis: Axes) -> None:
        axis.set_title("cost $a_1$ of $b")
        axis.set_xlabel("$\\frac$")

    svg = svg_panel("one", draw)
    assert "cost $a_1$ of $b" in svg
    assert "$\\frac$" in svg
