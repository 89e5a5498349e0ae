"""What the summary of a study says of comparing at matched gain: the gain, who reached it, and the pilots that led to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from perdure.agent.metrics.formulas.gain_and_drop import Tradeoff
from perdure.memory.json_value import Document


@dataclass(frozen=True, slots=True, kw_only=True)
class StatedGain:
    """Of one stream."""

    gain: float | None
    """None if the study does not compare at a gain."""
    reached: Mapping[str, tuple[int, int]]
    """By arm: how many of its runs reached it. Empty if the study's runs do not deliver what they have there."""
    left_out: Mapping[str, str]
    """Arms that are not comparable, and why."""
    pilots: Mapping[str, Sequence[Tradeoff]]
    """By arm: gain and drop of its pilots on dev tasks at the chosen rate, from the base on."""


def stated_gain(summary: Document, stream: str) -> StatedGain:
    """Read it off a summary. What it lacks, or has in another form, is empty."""
    gains = summary.get("matched_gain")
    gain = gains.get(stream) if isinstance(gains, dict) else None
    reached: dict[str, tuple[int, int]] = {}
    for run in _of_stream(summary, "runs", stream):
        if "reached" in run:
            there, of = reached.get(run["arm"], (0, 0))
            reached[run["arm"]] = (there + bool(run["reached"]), of + 1)
    rates = {one["arm"]: one.get("rate") for one in _of_stream(summary, "rates", stream)}
    pilots: dict[str, list[Tradeoff]] = {}
    for one in _of_stream(summary, "pilots", stream):
        if one.get("drop") is not None and one.get("rate") == rates.get(one["arm"]):
            pilots.setdefault(one["arm"], [Tradeoff(0.0, 0.0)]).append(Tradeoff(one["gain"], one["drop"]))
    return StatedGain(
        gain=gain,
        reached=reached,
        left_out={one["arm"]: str(one.get("why", "")) for one in _of_stream(summary, "not_comparable", stream)},
        pilots=pilots,
    )


def _of_stream(summary: Document, key: str, stream: str) -> list[Document]:
    rows = summary.get(key)
    named = [row for row in rows if isinstance(row, dict) and "arm" in row] if isinstance(rows, list) else []
    return [row for row in named if row.get("stream") == stream]
