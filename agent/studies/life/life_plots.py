"""The curves of a life study as SVG: each environment over time, and the mean over all by updates."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from perdure.agent.show.short_names import short_name
from perdure.agent.studies.svg_figures import BLUE, GREEN, ORANGE, add_legend, svg_figures, write_svg
from perdure.memory.json_value import Document

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LIFE, NAIVE, JOINT = BLUE, ORANGE, GREEN
COLUMNS = 4


def plot_life(document: Document, folder: Path) -> list[Path]:
    """Write the plots of a life study and give their paths. Raises `InputError` if matplotlib is not installed."""
    with svg_figures():
        return [
            write_svg(_by_environment(document), folder / "life-environments.svg"),
            write_svg(_means(document), folder / "life-means.svg"),
        ]


def _by_environment(document: Document) -> Figure:
    from matplotlib.figure import Figure

    names = document["environments"]
    columns = max(1, min(COLUMNS, len(names)))
    rows = max(1, -(-len(names) // columns))
    figure = Figure(figsize=(2.4 * columns, 1.9 * rows + 0.4), layout="constrained")
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for place, name in enumerate(names):
        axis = axes[place // columns][place % columns]
        axis.set_title(short_name(name))
        axis.set_ylim(-0.02, 1.02)
        for life in document["lives"]:
            _curve(axis, [(minute, means[name]) for minute, means in _served(life)], life["minutes"])
        _joint_line(axis, [life["joint"][name] for life in document["lives"] if "joint" in life])
    for place in range(len(names), rows * columns):
        axes[place // columns][place % columns].set_axis_off()
    figure.supxlabel("minutes of the life; each step is a promotion, each line a seed")
    figure.supylabel("score, sampled")
    add_legend(figure, {"the life": LIFE, "joint job, mean over seeds": JOINT})
    return figure


def _means(document: Document) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.4, 3.2), layout="constrained")
    axis = figure.subplots()
    axis.set_ylim(-0.02, 1.02)
    for life in document["lives"]:
        points = [(updates, fmean(means.values())) for updates, means in _served_by_updates(life)]
        _curve(axis, points, life["updates"])
        made, naive = 0, []
        for updates, means in zip([0, *life["naive_updates"]], life["naive_means"].values(), strict=False):
            made += updates
            naive.append((made, fmean(means.values())))
        if len(naive) > 1:
            axis.plot(*zip(*naive, strict=True), color=NAIVE, linewidth=1, marker=".", markersize=4, alpha=0.8)
        if "joint" in life:
            axis.plot([life["updates"]], [fmean(life["joint"].values())], color=JOINT, marker="D", markersize=5, linestyle="none")
    axis.set_xlabel("updates made")
    axis.set_ylabel("mean score over all environments")
    add_legend(figure, {"the life": LIFE, "naive life": NAIVE, "joint job": JOINT})
    return figure


def _curve(axis: Axes, points: Sequence[tuple[float, float]], end: float) -> None:
    """A step at each promotion, up to the end."""
    if points:
        xs, ys = [x for x, _ in points], [y for _, y in points]
        axis.step([*xs, max(end, xs[-1])], [*ys, ys[-1]], where="post", color=LIFE, linewidth=1.2, alpha=0.8)
        axis.plot(xs, ys, color=LIFE, marker=".", markersize=4, linestyle="none")


def _joint_line(axis: Axes, scores: Sequence[float]) -> None:
    if scores:
        axis.axhline(fmean(scores), color=JOINT, linewidth=1, linestyle="--")


def _served(life: Document) -> list[tuple[float, dict[str, float]]]:
    """The minute at which each probed version began to serve, with its means."""
    return [(move["minute"], life["means"][move["version"]]) for move in life["served"] if move["version"] in life["means"]]


def _served_by_updates(life: Document) -> list[tuple[int, dict[str, float]]]:
    """The same by the updates of all jobs until then."""
    learned = [job for job in life["jobs"] if job["kind"] == "learn"]

    def made_until(minute: float) -> int:
        return sum(job["updates"] for job in learned if job["ended"] is not None and job["ended"] <= minute + 0.01)

    return [(made_until(minute), means) for minute, means in _served(life)]
