"""How a report looks: its style sheet for light and dark, and the colours and markers of arms.

A plot is drawn once, in stand-ins for colours, which `themed` turns into the variables of the style sheet, so that it follows the reader's
scheme. Colours keep at least 3:1 to the page in both schemes, text 4.5:1 (WCAG 2.2, 1.4.3 and 1.4.11); arms differ in marker and dash too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

PAGE: Mapping[str, tuple[str, str]] = {
    "surface": ("#ffffff", "#17191e"),
    "ink": ("#15181e", "#eceef2"),
    "muted": ("#565d6b", "#a5adba"),
    "grid": ("#dde1e8", "#343a45"),
    "wash": ("#f3f5f8", "#20242b"),
    "link": ("#0b5cad", "#7db8f5"),
    "bad": ("#b3261e", "#f28b82"),
    "good": ("#1b6e3c", "#6fcf97"),
}
"""By name, in light and dark."""
SERIES: tuple[tuple[str, str], ...] = (
    ("#0072b2", "#4aa8e0"),
    ("#c65200", "#f0853f"),
    ("#008a66", "#2fc49b"),
    ("#a94f88", "#dd9cc4"),
    ("#996c00", "#e6b03d"),
    ("#a3163c", "#ff97ac"),
    ("#5b5f97", "#a9adeb"),
    ("#6b6b6b", "#b9b9b9"),
)
"""After Okabe & Ito (2008), who chose them for people who are colour-blind; darkened and lightened to be seen on each page."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = ("-", "--", "-.", ":")
_STAND_INS = {name: f"#0100{n:02x}" for n, name in enumerate(PAGE)}
_STAND_INS |= {f"s{n}": f"#0200{n:02x}" for n in range(len(SERIES))}


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmLook:
    """How an arm is drawn, the same on the whole page."""

    colour: str
    """A stand-in."""
    marker: str
    dash: str


def stand_in(name: str) -> str:
    """The colour to draw with for a name of `PAGE`, or s0, s1, ... for those of `SERIES`."""
    return _STAND_INS[name]


def arm_look(number: int) -> ArmLook:
    """Of the arm with this number, from 0. Colours come again after eight arms, with another marker and dash."""
    again = number // len(SERIES)
    return ArmLook(
        colour=stand_in(f"s{number % len(SERIES)}"),
        marker=MARKERS[(number + again) % len(MARKERS)],
        dash=DASHES[again % len(DASHES)],
    )


def themed(svg: str) -> str:
    """A drawing with its stand-ins as variables of the style sheet."""
    names = {colour: name for name, colour in _STAND_INS.items()}
    return re.sub(r"#0[12]00[0-9a-f]{2}", lambda found: f"var(--{names[found[0]]})" if found[0] in names else found[0], svg)


def style_sheet() -> str:
    """The whole CSS of a page."""
    light, dark = (
        "".join(f"--{name}:{colours[scheme]};" for name, colours in [*PAGE.items(), *((f"s{n}", pair) for n, pair in enumerate(SERIES))])
        for scheme in (0, 1)
    )
    return f":root{{color-scheme:light dark;{light}}}@media(prefers-color-scheme:dark){{:root{{{dark}}}}}" + " ".join(_RULES.split())


_RULES = """
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--surface);color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main,header,nav,footer{max-width:76rem;margin:0 auto;padding:0 1rem}
header{padding-top:2rem}
h1{font-size:1.7rem;line-height:1.2;margin:0 0 .5rem}
h2{font-size:1.25rem;margin:3rem 0 .5rem;padding-top:.75rem;border-top:1px solid var(--grid)}
h3{font-size:1rem;margin:1.75rem 0 .25rem}
p{margin:.4rem 0;max-width:46rem}
a{color:var(--link)}
.muted,small,figcaption,caption{color:var(--muted)}
nav ul{display:flex;flex-wrap:wrap;gap:.25rem 1rem;list-style:none;padding:0;margin:.75rem 0}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.15rem 1rem;margin:.75rem 0}
dt{color:var(--muted)} dd{margin:0;overflow-wrap:anywhere}
.scroll{overflow-x:auto;margin:.5rem 0 1rem}
table{border-collapse:collapse;font-size:.875rem;font-variant-numeric:tabular-nums}
caption{text-align:left;padding:.25rem 0;font-size:.875rem}
th,td{padding:.3rem 1.1rem .3rem 0;text-align:left;vertical-align:top;border-bottom:1px solid var(--grid)}
thead th{color:var(--muted);font-weight:600;vertical-align:bottom}
tbody th{font-weight:500;min-width:5.5rem}
tbody th,thead th:first-child{position:sticky;left:0;background:var(--surface);z-index:1}
td.n,th.n{text-align:right;white-space:nowrap}
td small,th small{display:block;font-size:.75rem;line-height:1.25;font-weight:400}
table.heat{border-collapse:separate;border-spacing:2px}
table.heat td{position:relative;min-width:4.2rem;padding:.3rem .4rem;text-align:center;border:0;border-radius:3px;isolation:isolate}
table.heat td i{position:absolute;inset:0;z-index:-1;border-radius:3px;background:var(--s0);opacity:var(--o)}
table.heat td i.down{background:var(--s1)}
table.heat td.target{outline:2px solid var(--ink);outline-offset:-2px}
table.heat td small{color:inherit}
table.heat th{border:0;padding:.3rem .4rem}
table.heat thead th{text-align:center}
.bars tbody th{white-space:nowrap;max-width:none}
.bars td.bar{min-width:12rem;width:100%;padding-right:0}
.bar span{display:block;position:relative;height:.8rem;margin:.1rem 0}
.bar b{position:absolute;top:.1rem;bottom:.1rem;left:0;border-radius:0 3px 3px 0}
.bar u{position:absolute;top:50%;height:0;border-top:2px solid var(--ink)}
.bar u::before,.bar u::after{content:"";position:absolute;top:-.3rem;height:.45rem;border-left:2px solid var(--ink)}
.bar u::before{left:0} .bar u::after{right:0}
.bad{color:var(--bad)} .good{color:var(--good)} .bad,.good{font-weight:600}
.key{margin-right:.35rem}
.plots{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(22rem,100%),1fr));gap:1rem 1.5rem}
.legend{display:flex;flex-wrap:wrap;gap:.2rem 1.1rem;margin:.5rem 0;padding:0;list-style:none;font-size:.875rem}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(24rem,100%),1fr));gap:0 2rem;align-items:start}
figure{margin:.75rem 0 1rem}
figcaption{font-size:.875rem;max-width:46rem}
.plot svg{display:block;width:100%;height:auto;max-width:34rem}
.drawn{background:#fff;border-radius:4px;padding:.25rem;max-width:100%}
details{margin:.25rem 0} summary{cursor:pointer;color:var(--link);font-size:.875rem}
footer{margin-top:3rem;padding-bottom:3rem;font-size:.875rem}
code{font-size:.9em}
@media(max-width:40rem){tbody th{max-width:9rem} dl{grid-template-columns:1fr} dd{margin-bottom:.4rem}}
@media print{h2{break-after:avoid} figure{break-inside:avoid}}
"""
