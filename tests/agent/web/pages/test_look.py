"""The stylesheet and the files of others: every pair of colours can be read in both schemes, and what is vendored is unchanged."""

from __future__ import annotations

import re
from hashlib import sha256
from pathlib import Path

import pytest

import perdure.agent.web

STATIC = Path(perdure.agent.web.__file__).parent / "static"
SHEET = (STATIC / "perdure.css").read_text()
AA = 4.5
PAIRS = [
    *[(ink, ground) for ink in ("ink", "soft", "accent", "good", "warn", "bad") for ground in ("ground", "raised")],
    *[(look, f"{look}-ground") for look in ("good", "warn", "bad")],
    ("on-accent", "accent"),
    *[(f"on-{kind}-{step}", f"{kind}-{step}") for kind in ("heat", "change") for step in range(7)],
]
"""What is written, and what it is written on."""
DRAWN = [(curve, "ground") for curve in ("accent", "second", "third", "fourth", "soft")]


def colours(scheme: str) -> dict[str, str]:
    light, _, dark = SHEET.partition("@media (prefers-color-scheme: dark)")
    found = dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6});", light))
    return found if scheme == "light" else found | dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6});", dark.partition("\n}\n")[0]))


def contrast(one: str, other: str) -> float:
    """As WCAG 2.2 defines it."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_contrast_is_that_of_the_standard() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_that_is_written_can_be_read(scheme: str) -> None:
    known = colours(scheme)
    assert {
        pair: round(contrast(known[pair[0]], known[pair[1]]), 2) for pair in PAIRS if contrast(known[pair[0]], known[pair[1]]) < AA
    } == {}
    assert [pair for pair in DRAWN if contrast(known[pair[0]], known[pair[1]]) < 3] == [], "curves need 3 : 1"


def test_colours_stand_only_at_the_top_of_the_sheet() -> None:
    rules = SHEET.partition("/* The page */")[2]
    assert re.findall(r"#[0-9a-f]{3,6}\b", rules) == []


def test_nothing_is_fetched_from_elsewhere() -> None:
    for file in (*STATIC.glob("*.css"), *STATIC.glob("*.js"), *(STATIC / "vendor").glob("*.css")):
        assert not re.search(r"@import|url\(|https?://", file.read_text()), file.name


def test_files_of_others_are_those_that_their_table_names() -> None:
    table = (STATIC / "vendor" / "README.md").read_text()
    named = dict(re.findall(r"^\| `([^`]+)` .* `([0-9a-f]{64})` \|$", table, re.MULTILINE))
    files = {file.name for file in (STATIC / "vendor").iterdir()}
    assert files - named.keys() == {"README.md", "htmx.LICENSE", "uPlot.LICENSE"}
    for name, digest in named.items():
        assert sha256((STATIC / "vendor" / name).read_bytes()).hexdigest() == digest, name
