"""What the study comes to: each arm over its seeds, what differs from the numbers that are listed, and which claims hold. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from statistics import fmean
from typing import Literal

from perdure.agent.studies.cells import Finished
from perdure.agent.studies.mode_seeking.mode_seeking_arms import (
    FORWARD,
    REPLAY_SHARES,
    REVERSE,
    SLOW_FACTORS,
    SLOW_FORWARD,
    UNI_FORWARD,
    UNI_REVERSE,
    ListedNumbers,
    ModeSeekingArm,
    Part,
    bi_modal_name,
    exact_name,
    farther_name,
    mode_seeking_arms,
    published_name,
)
from perdure.agent.studies.mode_seeking.mode_seeking_study import NAME
from perdure.memory.json_value import Document

WITHIN = 0.01
"""Of gains and drops: how far a number may be from the listed one. Arms that differ by less are not told apart."""
WITHIN_UPDATES = 5
WITH_CURVES: tuple[Part, ...] = ("as published", "one exact rate")
"""The parts whose curves, of seed 0, are in the document; the study's file has all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LessForgetting:
    """The claim that one arm's drop is smaller than another's."""

    about: str
    less: str
    more: str
    """Names of arms."""
    at: Literal["gain", "end"] = "gain"
    """Where the drop is read: at gain .9, or after the last update."""
    paper: bool = False
    """Whether the paper makes it."""


def claims() -> Iterator[LessForgetting]:
    """What is asked of the arms, the paper's own claims first."""
    yield LessForgetting(
        about="one mode: forward forgets less than reverse",
        less=published_name("uni-modal", UNI_FORWARD),
        more=published_name("uni-modal", UNI_REVERSE),
        paper=True,
    )
    yield LessForgetting(
        about="two modes: reverse forgets less than forward",
        less=published_name("bi-modal", REVERSE),
        more=published_name("bi-modal", FORWARD),
        paper=True,
    )
    for mean in (4.5, 5.5, 6.5):
        yield LessForgetting(
            about=f"the same with the new mode at {mean:g}, after 200 updates",
            less=farther_name(REVERSE, mean),
            more=farther_name(FORWARD, mean),
            at="end",
        )
    for slow_factor in SLOW_FACTORS:
        for forward in (FORWARD, SLOW_FORWARD):
            yield LessForgetting(
                about=f"the same with slow factor {slow_factor:g}, forward at rate {forward[1]:g}",
                less=bi_modal_name(REVERSE, slow_factor),
                more=bi_modal_name(forward, slow_factor),
            )
    for forward in (FORWARD, SLOW_FORWARD):
        yield LessForgetting(
            about=f"the same after 2000 updates, forward at rate {forward[1]:g}",
            less=bi_modal_name(REVERSE),
            more=bi_modal_name(forward),
            at="end",
        )
    for slow_factor in SLOW_FACTORS:
        yield LessForgetting(
            about=f"reverse, slow factor {slow_factor:g}: a baseline forgets less than none, after 2000 updates",
            less=bi_modal_name(REVERSE, slow_factor, baseline=True),
            more=bi_modal_name(REVERSE, slow_factor),
            at="end",
        )
        yield LessForgetting(
            about=f"reverse with a baseline, slow factor {slow_factor:g}: it forgets less than forward at rate {SLOW_FORWARD[1]:g}",
            less=bi_modal_name(REVERSE, slow_factor, baseline=True),
            more=bi_modal_name(SLOW_FORWARD, slow_factor),
        )
    yield LessForgetting(
        about="one exact rate: reverse to the new mode forgets less than forward to it",
        less=exact_name("reverse", "the new mode"),
        more=exact_name("forward", "the new mode"),
    )
    yield LessForgetting(
        about="one exact rate: forward to both modes (replay) forgets less than forward to the new one",
        less=exact_name("forward", "both modes"),
        more=exact_name("forward", "the new mode"),
    )
    yield LessForgetting(
        about="one exact rate: reverse to both modes forgets less than reverse to the new one, at gain .9",
        less=exact_name("reverse", "both modes"),
        more=exact_name("reverse", "the new mode"),
    )
    for rated in (FORWARD, REVERSE):
        for slow_factor in SLOW_FACTORS:
            for replay in REPLAY_SHARES:
                yield LessForgetting(
                    about=f"{rated[0]}, slow factor {slow_factor:g}: replay {replay:g} forgets less than none",
                    less=bi_modal_name(rated, slow_factor, replay),
                    more=bi_modal_name(rated, slow_factor),
                )


def mode_seeking_document(finished: Finished) -> Document:
    """Arms and claims as JSON; `ok` says whether every listed number is met."""
    rows: dict[str, list[Document]] = {}
    for result in finished.values():
        for row in result.rows:
            rows.setdefault(row["arm"], []).append(row)
    arms = [_arm_document(arm, rows[arm.name]) for arm in mode_seeking_arms() if arm.name in rows]
    return {
        "study": NAME,
        "ok": all(not arm["differs"] for arm in arms),
        "arms": arms,
        "claims": [_claim_document(claim, rows) for claim in claims() if claim.less in rows and claim.more in rows],
        "made_by": sorted({result.made_by for result in finished.values()}),
    }


def _arm_document(arm: ModeSeekingArm, rows: Sequence[Document]) -> Document:
    gained = [row["at_gain"] for row in rows if row["at_gain"] is not None]
    ends = [row["end"] for row in rows]
    return {
        "arm": arm.name,
        "part": arm.part,
        "conditions": asdict(arm.fit),
        "n": len(rows),
        "n_gained": len(gained),
        "start_overlap": rows[0]["start_overlap"],
        "at_gain": {key: _spread([reading[key] for reading in gained]) for key in ("update", "gain", "drop", "old_weight")},
        "end": {key: _spread([reading[key] for reading in ends]) for key in ("gain", "drop", "old_weight")},
        "curve": rows[0]["curve"] if arm.part in WITH_CURVES else None,
        "listed": {key: values for key, values in asdict(arm.listed).items() if values},
        "differs": list(differences(arm.listed, rows)),
    }


def differences(listed: ListedNumbers, rows: Sequence[Document]) -> Iterator[str]:
    """What is farther from the listed numbers than is allowed, a line each. The rows are those of the seeds from 0 on."""
    for field in fields(listed):
        place = "end" if field.name.startswith("end_") else "at_gain"
        within = WITHIN_UPDATES if field.name == "update" else WITHIN
        for row, wanted in zip(rows, getattr(listed, field.name), strict=False):
            found = row[place] and row[place][field.name.removeprefix("end_")]
            if found is None or abs(found - wanted) > within:
                yield f"seed {row['seed']}: {field.name} {'never' if found is None else f'{found:.3g}'}, listed {wanted:g}"


def _claim_document(claim: LessForgetting, rows: Mapping[str, Sequence[Document]]) -> Document:
    """It holds if it does in every seed, and the mean difference is more than what is not told apart."""
    pairs = list(zip(_drops(rows[claim.less], claim.at), _drops(rows[claim.more], claim.at), strict=True))
    saved = [more - less for less, more in pairs if less is not None and more is not None]
    return {
        **asdict(claim),
        "n": len(pairs),
        "n_compared": len(saved),
        "in_seeds": sum(difference > 0 for difference in saved),
        "difference": _spread(saved),
        "holds": len(saved) == len(pairs) and min(saved) > 0 and fmean(saved) > WITHIN,
    }


def _drops(rows: Sequence[Document], at: Literal["gain", "end"]) -> list[float | None]:
    readings = [row["end" if at == "end" else "at_gain"] for row in rows]
    return [None if reading is None else reading["drop"] for reading in readings]


def _spread(values: Sequence[float]) -> Document | None:
    """Mean, lowest and highest seed."""
    return {"mean": fmean(values), "low": min(values), "high": max(values)} if values else None
