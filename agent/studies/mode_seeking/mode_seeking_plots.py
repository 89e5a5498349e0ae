"""The figures of the study as SVG: the drop by slow factor, and the drop against the gain while a learner is fitted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from perdure.agent.studies.mode_seeking.mixture import GAIN_READ
from perdure.agent.studies.mode_seeking.mode_seeking_arms import (
    FORWARD,
    REVERSE,
    SLOW_FACTORS,
    SLOW_FORWARD,
    UNI_FORWARD,
    UNI_REVERSE,
    bi_modal_name,
    exact_name,
    published_name,
)
from perdure.agent.studies.svg_figures import BLUE, GREEN, ORANGE, add_legend, svg_figures, write_svg
from perdure.memory.json_value import Document

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PURPLE, SKY = "#cc79a7", "#56b4e9"
LINES: Mapping[str, tuple[Callable[[float], str], str]] = {
    "forward .15": (lambda factor: bi_modal_name(FORWARD, factor), ORANGE),
    "forward .01": (lambda factor: bi_modal_name(SLOW_FORWARD, factor), PURPLE),
    "reverse .01": (lambda factor: bi_modal_name(REVERSE, factor), BLUE),
    "reverse, baseline": (lambda factor: bi_modal_name(REVERSE, factor, baseline=True), SKY),
    "forward .15, replay .5": (lambda factor: bi_modal_name(FORWARD, factor, 0.5), GREEN),
}
"""Lines over slow factors, each with the names of its arms and its colour."""
CURVES = {
    "one mode, as published": {
        "forward": (published_name("uni-modal", UNI_FORWARD), ORANGE),
        "reverse": (published_name("uni-modal", UNI_REVERSE), BLUE),
    },
    "two modes, as published": {
        "forward": (published_name("bi-modal", FORWARD), ORANGE),
        "reverse": (published_name("bi-modal", REVERSE), BLUE),
    },
    "two modes, one exact rate": {
        "forward": (exact_name("forward", "the new mode"), ORANGE),
        "reverse": (exact_name("reverse", "the new mode"), BLUE),
        "forward to both modes (replay)": (exact_name("forward", "both modes"), GREEN),
        "reverse to both modes": (exact_name("reverse", "both modes"), PURPLE),
    },
}
"""Panels, each with its arms and their colours."""


def plot_mode_seeking(document: Document, folder: Path) -> list[Path]:
    """Write the figures and give their paths. Raises `InputError` if matplotlib is not installed."""
    arms = {arm["arm"]: arm for arm in document["arms"]}
    with svg_figures():
        return [
            write_svg(_drop_by_slow_factor(arms), folder / "mode-seeking-rates.svg"),
            write_svg(_drop_against_gain(arms), folder / "mode-seeking-curves.svg"),
        ]


def _drop_by_slow_factor(arms: dict[str, Document]) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.4, 3.4), layout="constrained")
    axis = figure.subplots()
    for name, colour in LINES.values():
        drops = [(factor, arms[name(factor)]["at_gain"]["drop"]) for factor in SLOW_FACTORS if name(factor) in arms]
        drops = [(factor, drop) for factor, drop in drops if drop is not None]
        factors = [factor for factor, _ in drops]
        axis.plot(factors, [drop["mean"] for _, drop in drops], color=colour, linewidth=1.2, marker=".", markersize=5)
        axis.vlines(factors, [drop["low"] for _, drop in drops], [drop["high"] for _, drop in drops], color=colour, linewidth=1)
    axis.set_xscale("log")
    axis.set_xticks(SLOW_FACTORS, [f"{factor:g}" for factor in SLOW_FACTORS])
    axis.minorticks_off()
    axis.set_xlabel("slow factor: the rate of old component and weight, over that of the new component")
    axis.set_ylabel("drop at gain .9")
    add_legend(figure, {label: colour for label, (_, colour) in LINES.items()})
    return figure


def _drop_against_gain(arms: dict[str, Document]) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 3.0), layout="constrained")
    axes = figure.subplots(1, len(CURVES), sharex=True, sharey=True)
    for axis, (title, curves) in zip(axes, CURVES.items(), strict=True):
        axis.set_title(title)
        for name, colour in curves.values():
            if name in arms:
                _curve(axis, arms[name], colour)
    figure.supxlabel("gain: overlap with the new mode, above that at the start")
    figure.supylabel("drop of the overlap with the old mode")
    add_legend(figure, {label: colour for curves in CURVES.values() for label, (_, colour) in curves.items()})
    return figure


def _curve(axis: Axes, arm: Document, colour: str) -> None:
    gains, drops = arm["curve"]["gain"], arm["curve"]["drop"]
    axis.plot(gains, drops, color=colour, linewidth=1.2)
    first = next((n for n, gain in enumerate(gains) if gain >= GAIN_READ), None)
    if first is not None:
        axis.plot(gains[first], drops[first], color=colour, marker="o", markersize=4, linestyle="none")
