"""What a study of the kind `retaining-by-doing` comes to: rates, runs, arms over seeds, and the claims. Pure.

A drop is that of the paper: the mean over what is no target of base - now, here on the test tasks of the version that a run delivers
(Chen et al. 2025, section 2.1). `panel_drop` is the same over the skills of the panel, by the probability of the right answer.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean

from perdure.agent.metrics.observation import OBSERVATION
from perdure.agent.metrics.seed_intervals import estimate
from perdure.agent.studies.cells import CellResult, Finished, done
from perdure.agent.studies.grid.claims import RunKey, judge_claims
from perdure.agent.studies.grid.grid_arms import GridRun, arms, runs
from perdure.agent.studies.grid.grid_file import GridFile
from perdure.agent.studies.grid.matched_gain import mean_curve
from perdure.agent.studies.grid.pilots import base_means, base_name
from perdure.agent.studies.grid.retaining_choice import (
    Decisions,
    decisions,
    delivered,
    name_of_run,
    name_of_test,
    targets_of,
    tested_updates,
)
from perdure.agent.studies.grid.table_rows import CHECKPOINT, CHOICE, FAILURE, SAMPLED
from perdure.agent.studies.grid.who_is_comparable import bases_out_of_range, not_comparable
from perdure.memory.json_value import Document

NUMBERS = ("gain", "drop", "drop_unseen", "panel_drop", "tokens", "seconds")


def retaining_summary(file: GridFile, finished: Finished) -> Document:
    """The document of what is finished."""
    decided = decisions(file, finished)
    made = [one for run in runs(file) if (one := _run_document(file, decided, run, finished)) is not None]
    left_out = not_comparable(file, decided, finished)
    streams_left_out: dict[str, list[str]] = defaultdict(list)
    for one in left_out:
        streams_left_out[one["arm"]].append(one["stream"])
    values: dict[str, dict[str, dict[RunKey, float]]] = {of: defaultdict(dict) for of in ("drop", "panel_drop")}
    for of, by_arm in values.items():
        for one in made:
            if one.get(of) is not None:
                by_arm[one["arm"]][one["seed"], one["stream"]] = one[of]
    return {
        "study": file.study.name,
        "kind": file.study.kind,
        "about": file.study.about,
        "matched_gain": dict(decided.gains),
        "rates": [{"arm": arm, "stream": stream, "rate": rate} for (arm, stream), rate in decided.rates.items()],
        "pilots": _pilot_documents(decided),
        "runs": made,
        "arms": _arm_documents(file, made, streams_left_out),
        "not_comparable": left_out,
        "warnings": bases_out_of_range(file, finished),
        "claims": [claim.as_json() for claim in judge_claims(file.claims, values, streams_left_out)],
        "failures": _failures(finished),
        "made_by": sorted({result.made_by for result in finished.values()}),
    }


def delivered_means(result: CellResult, measure: str) -> dict[str, float]:
    """The mean score of each subject among a test's rows of one measure and of the version that the run delivers."""
    found: dict[str, list[float]] = {}
    for row in result.rows:
        if row["kind"] == OBSERVATION and row["measure"] == measure and row["update"] is None:
            found.setdefault(row["subject"], []).append(row["score"])
    return {name: fmean(scores) for name, scores in found.items()}


def _run_document(file: GridFile, decided: Decisions, run: GridRun, finished: Finished) -> Document | None:
    """None if what it delivers is not known yet."""
    chosen = delivered(file, decided, run, finished)
    if chosen is None:
        return None
    rate, gain, found = decided.rates[run.arm.name, run.stream], decided.gains.get(run.stream), chosen.checkpoint.gain
    document: Document = {
        "arm": run.arm.name,
        "stream": run.stream,
        "order": run.order,
        "seed": run.seed,
        "rate": rate,
        "update": chosen.checkpoint.update,
        "dev_gain": found,
        "reached": chosen.matched,
        "note": None if chosen.matched or gain is None else f"its dev gain nearest to {gain:.2f} is {found:.2f}",
    }
    name = name_of_run(decided, run)
    rows = [row["update"] for row in done(finished)[name].rows if row["kind"] == CHECKPOINT]
    name = name_of_test(name, tested_updates(file, chosen, rows))
    test, base = done(finished).get(name), done(finished).get(base_name(run.seed))
    if test is None or base is None:
        return document
    targets = targets_of(run)
    before, now = base_means(base, SAMPLED), delivered_means(test, SAMPLED)
    skills, skills_now = base_means(base, CHOICE), delivered_means(test, CHOICE)
    drops = {subject: before[subject] - score for subject, score in now.items() if subject in before}
    unseen = [drops[name] for name in file.measure.unseen if name in drops]
    facts = next((row for row in test.rows if row["kind"] == "facts"), {})
    return {
        **document,
        "gain": _mean([-drops[name] for name in targets]) if all(name in drops for name in targets) else None,
        "drop": _mean([drop for subject, drop in drops.items() if subject not in targets]),
        "drop_unseen": _mean(unseen),
        "panel_drop": _mean([skills[skill] - score for skill, score in skills_now.items() if skill in skills]),
        "drops": {subject: drop for subject, drop in drops.items() if subject not in targets},
        "panel_drops": {skill: skills[skill] - score for skill, score in skills_now.items() if skill in skills},
        "tokens": facts.get("tokens"),
        "seconds": facts.get("seconds"),
    }


def _pilot_documents(decided: Decisions) -> list[Document]:
    return [
        {"arm": arm, "stream": stream, "rate": rate, "update": one.update, "gain": one.gain, "drop": one.drop, "seeds": len(curves)}
        for (arm, stream), of_arm in decided.pilots.items()
        for rate, curves in of_arm.items()
        for one in mean_curve(curves)
    ]


def _arm_documents(file: GridFile, made: Sequence[Document], left_out: Mapping[str, Sequence[str]]) -> list[Document]:
    """Each arm on each stream, over its seeds."""
    found = []
    for stream in file.grid.streams:
        for arm in arms(file, stream):
            own = [one for one in made if (one["arm"], one["stream"]) == (arm.name, stream) and "gain" in one]
            numbers = {number: [one[number] for one in own if one.get(number) is not None] for number in NUMBERS}
            found.append(
                {
                    "arm": arm.name,
                    "stream": stream,
                    "n": len(own),
                    "planned": len([run for run in runs(file) if (run.arm.name, run.stream) == (arm.name, stream)]),
                    "comparable": stream not in left_out.get(arm.name, ()),
                    **{number: estimate(values).as_json() if values else None for number, values in numbers.items()},
                }
            )
    return found


def _failures(finished: Finished) -> list[Document]:
    """Runs that came to nothing, and cells that failed."""
    found = [{"cell": result.name, "error": result.error} for result in finished.values() if result.error is not None]
    for result in done(finished).values():
        found += [{"cell": result.name, "error": row["error"]} for row in result.rows if row["kind"] == FAILURE]
    return found


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None
