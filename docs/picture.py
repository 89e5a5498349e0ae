"""Draws docs/picture.svg, the picture of the README, from the numbers in docs/picture.json: `python docs/picture.py`.

To remake it, run the commands that docs/picture.json lists, put the `environments` of the three probes under `scores`, and run this file.
A bar is the score of a version, its line the 95 % interval, both as `perdure probe` prints them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypedDict
from xml.sax.saxutils import escape


class Probe(TypedDict):
    """The result of `perdure probe` for one environment."""

    score: float
    low: float
    high: float
    episodes: int


class Update(TypedDict):
    """A learning job and its gate; `fell` names the environments in which the gate showed a loss."""

    title: str
    what: str
    trained: str
    before: str
    after: str
    verdict: str
    reason: str
    fell: list[str]


class Numbers(TypedDict):
    """docs/picture.json: the probes of each version by environment, and the words of the picture."""

    commands: list[str]
    made: str
    title: str
    alt: str
    caption: list[str]
    updates: list[Update]
    scores: dict[str, dict[str, Probe]]


HERE = Path(__file__).parent
WIDTH, LABELS, PANEL, GAP = 920, 142, 312, 68
TOP, ROW, BAR = 104, 46, 13

STYLE = """
text { font-family: ui-sans-serif, system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', Arial, sans-serif; font-size: 13px; fill: #1f2328 }
.card { fill: #ffffff; stroke: #d1d9e0 }
.grid { stroke: #e4e8ec }
.axis { stroke: #9aa4ae }
.soft { fill: #59636e; font-size: 12px }
.head { font-size: 15px; font-weight: 600 }
.before { fill: #b6bfc9 }
.after { fill: #2f7bd9 }
.fell { fill: #cf2f3a }
.lost { fill: #b3202b; font-weight: 600 }
.won { fill: #1d63b8; font-weight: 600 }
.band { fill: #fdeaea }
.whisker { stroke: #1f2328; stroke-opacity: .55 }
.yes { fill: #1a7f37 }
.no { fill: #cf2f3a }
.badge { fill: #ffffff; font-weight: 600 }
.inside { fill: #ffffff; font-size: 11px; font-weight: 600 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .card { fill: #0d1117; stroke: #30363d }
  .grid { stroke: #21262d }
  .axis { stroke: #6e7681 }
  .soft { fill: #9198a1 }
  .before { fill: #59626d }
  .after { fill: #4a94f0 }
  .fell { fill: #ef5a62 }
  .lost { fill: #ff7b83 }
  .won { fill: #79b8ff }
  .band { fill: #2b1618 }
  .whisker { stroke: #ffffff; stroke-opacity: .6 }
  .yes { fill: #238636 }
  .no { fill: #c93440 }
  .badge, .inside { fill: #ffffff }
}
"""


def short(environment: str) -> tuple[str, str]:
    """The name without its source and version, and what of its options a reader needs."""
    name, _, options = environment.partition("?")
    shots = dict(option.split("=") for option in options.split("&")).get("shots")
    return name.split(":")[1].removesuffix("-v0"), f"{shots} examples" if shots else name.split(":")[0]


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text x="{x:g}" y="{y:g}" class="{kind}" text-anchor="{anchor}">{escape(words)}</text>'


def bar(x: float, y: float, probe: Probe, kind: str, label: str, remark: str = "") -> list[str]:
    low, high = x + PANEL * probe["low"], x + PANEL * probe["high"]
    middle = y + BAR / 2
    return [
        f'<rect x="{x:g}" y="{y:g}" width="{PANEL * probe["score"]:.1f}" height="{BAR}" rx="2" class="{kind}"/>',
        f'<path d="M{low:.1f} {middle:g}H{high:.1f}" class="whisker"/>',
        text(high + 6, middle + 4, f"{100 * probe['score']:.0f}{remark}", label),
    ]


def panel(x: float, update: Update, scores: dict[str, dict[str, Probe]]) -> list[str]:
    parts = [text(x, 62, update["title"], "head"), text(x, 80, update["what"], "soft")]
    bottom = TOP + ROW * len(scores[update["before"]])
    promoted = update["verdict"] == "promote"
    words = f"✓ promoted: {update['after']} serves" if promoted else f"✗ rejected: {update['before']} stays"
    wide = 7.9 * len(words) + 20
    parts += [
        f'<rect x="{x + PANEL - wide:g}" y="45" width="{wide:g}" height="24" rx="12" class="{"yes" if promoted else "no"}"/>',
        text(x + PANEL - wide / 2, 61.5, words, "badge", "middle"),
    ]
    rows = list(scores[update["before"]].items())
    for n, (environment, _) in enumerate(rows):
        if environment in update["fell"]:
            parts.append(f'<rect x="{x - 10:g}" y="{TOP + ROW * n + 3:g}" width="{PANEL + 52:g}" height="{ROW - 6}" rx="5" class="band"/>')
    for share in (0, 25, 50, 75, 100):
        at = x + PANEL * share / 100
        parts.append(f'<path d="M{at:g} {TOP}V{bottom}" class="{"axis" if share == 0 else "grid"}"/>')
        parts.append(text(at, bottom + 17, f"{share} %" if share == 100 else str(share), "soft", "middle"))
    for n, (environment, before) in enumerate(rows):
        y = TOP + ROW * n + (ROW - 2 * BAR - 2) / 2
        after = scores[update["after"]][environment]
        fell, trained = environment in update["fell"], environment == update["trained"]
        parts += bar(x, y, before, "before", "soft")
        parts += bar(
            x, y + BAR + 2, after, "fell" if fell else "after", "lost" if fell else "won" if trained else "", ": fell" if fell else ""
        )
        if trained:
            parts.append(text(x + 7, y + BAR + 2 + BAR - 3, "trained", "inside"))
    return parts


def draw(numbers: Numbers) -> str:
    scores = numbers["scores"]
    first = numbers["updates"][0]
    rows = list(scores[first["before"]])
    bottom = TOP + ROW * len(rows)
    height = bottom + 62 + 16 * len(numbers["caption"])
    left = 24 + LABELS
    parts = [f'<rect x=".5" y=".5" width="{WIDTH - 1}" height="{height - 1}" rx="8" class="card"/>']
    parts.append(text(24, 28, numbers["title"], "head"))
    for n, environment in enumerate(rows):
        name, detail = short(environment)
        parts.append(text(left - 14, TOP + ROW * n + ROW / 2 - 1, name, "", "end"))
        parts.append(text(left - 14, TOP + ROW * n + ROW / 2 + 14, detail, "soft", "end"))
    for n, update in enumerate(numbers["updates"]):
        parts += panel(left + n * (PANEL + GAP), update, scores)
    y = bottom + 46
    for at, kind, words in (
        (left, "before", "before the update"),
        (left + 150, "after", "after"),
        (left + 225, "fell", "after; the gate showed a loss"),
    ):
        parts.append(f'<rect x="{at}" y="{y - 10}" width="14" height="{BAR - 2}" rx="2" class="{kind}"/>')
        parts.append(text(at + 20, y, words, "soft"))
    for n, line in enumerate(numbers["caption"]):
        parts.append(text(24, y + 20 + 16 * n, line, "soft"))
    body = "\n".join(parts)
    label = escape(numbers["alt"], {'"': "&quot;"})
    size = f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{label}">'
    return f"{head}\n<style>{STYLE}</style>\n{body}\n</svg>\n"


if __name__ == "__main__":
    (HERE / "picture.svg").write_text(draw(json.loads((HERE / "picture.json").read_text())))
