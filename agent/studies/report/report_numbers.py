"""Numbers as they stand in a report: each with its interval and with what it is a mean of."""

from __future__ import annotations

from perdure.agent.metrics.metric import Metric, Unit
from perdure.agent.metrics.seed_intervals import MeanEstimate
from perdure.agent.studies.report.html_parts import Html, join, small, text

COUNTED: tuple[Unit, ...] = ("updates", "tokens", "seconds")


def number(value: float, *, signed: bool = False, digits: int = 2) -> str:
    """'0.62', '+0.05' or '12,300'. What rounds to zero has no minus."""
    shown = f"{value:{'+' if signed else ''},.{digits}f}"
    return shown.lstrip("+-") if float(shown.replace(",", "")) == 0 else shown


def interval(found: MeanEstimate, *, signed: bool = False, digits: int = 2) -> str:
    """'0.55 to 0.69', or '' if there is none."""
    if found.low is None or found.high is None:
        return ""
    return f"{number(found.low, signed=signed, digits=digits)} to {number(found.high, signed=signed, digits=digits)}"


def n_of(found: MeanEstimate) -> str:
    """'n 3' for seeds, '200 items' for one run."""
    return f"{found.n} items" if found.of == "items" else f"n {found.n}"


def estimate_text(found: MeanEstimate | None, *, signed: bool = False, digits: int = 2) -> str:
    """On one line: '0.62 (0.55 to 0.69, n 3)'."""
    if found is None:
        return "not measured"
    inside = ", ".join(part for part in (interval(found, signed=signed, digits=digits), n_of(found)) if part)
    return f"{number(found.value, signed=signed, digits=digits)} ({inside})"


def estimate_html(found: MeanEstimate | None, *, signed: bool = False, digits: int = 2) -> Html:
    """The value, with its interval and n below it."""
    if found is None:
        return text(None)
    below = ", ".join(part for part in (interval(found, signed=signed, digits=digits), n_of(found)) if part)
    return join(text(number(found.value, signed=signed, digits=digits)), small(below))


def digits_of(metric: Metric) -> int:
    """After the point."""
    return 0 if metric.unit in COUNTED else 3


def differs(found: MeanEstimate | None) -> bool:
    """Whether the interval has 0 outside."""
    return found is not None and found.low is not None and found.high is not None and (found.low > 0 or found.high < 0)
