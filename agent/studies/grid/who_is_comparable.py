"""Which arms of a study of the kind `retaining-by-doing` have the matched gain, and whether its base is one that can show a gain. Pure."""

from __future__ import annotations

from statistics import fmean

from perdure.agent.studies.cells import Finished, done
from perdure.agent.studies.grid.grid_arms import Arm, arms, environments, runs, target_environments
from perdure.agent.studies.grid.grid_file import GridFile
from perdure.agent.studies.grid.matched_gain import is_matched
from perdure.agent.studies.grid.pilots import base_means, base_name, have_ended, why_failed
from perdure.agent.studies.grid.retaining_choice import Decisions, delivered, name_of_run
from perdure.agent.studies.grid.table_rows import FAILURE, SAMPLED
from perdure.memory.json_value import Document

TARGET_RANGE = (0.05, 0.40)
"""Sampled success of the base on a target: below it there is hardly an answer to learn from, above it little to gain."""
OTHER_RANGE = (0.2, 0.9)
"""On an environment that is no target: outside of it little can be lost, or little be seen of it."""
LEAST_OTHERS = 5
"""Environments in that range."""


def not_comparable(file: GridFile, decided: Decisions, finished: Finished) -> list[Document]:
    """The arms that have not the matched gain of a stream, each with the reason.

    All runs that the file plans count: one that found nothing to learn from, or diverged, gained nothing, and one without a result leaves
    it open what its arm gains. The mean over those that went well would flatter an arm that often goes wrong.
    """
    if file.pilots is None:
        return []
    found = []
    for stream in file.grid.streams:
        for arm in arms(file, stream):
            why = _why_not(file, decided, finished, arm, stream)
            if why is not None:
                found.append({"arm": arm.name, "stream": stream, "why": why})
    return found


def _why_not(file: GridFile, decided: Decisions, finished: Finished, arm: Arm, stream: str) -> str | None:
    gain, source_rate = decided.gains.get(stream), decided.source_rate(arm, stream)
    if not decided.has_source(arm, stream):
        return f"{arm.traces_of}, whose traces it learns from, has no rate"
    failed = why_failed(file, finished, arm, stream, source_rate)
    if failed is not None:
        return f"its pilots failed: {failed}"
    if not have_ended(file, finished, arm, stream, source_rate):
        return "its pilots have not ended"
    if (arm.name, stream) not in decided.rates:
        return "none of its pilots learned anything"
    if gain is None:
        return f"no arm gained {file.match.least:g} in its pilots"
    gains, open_runs, came_to_nothing = [], [], []
    for run in runs(file):
        if (run.arm.name, run.stream) == (arm.name, stream):
            chosen, ended = delivered(file, decided, run, finished), done(finished).get(name_of_run(decided, run))
            if chosen is not None:
                gains.append(chosen.checkpoint.gain)
            elif ended is not None and any(row["kind"] == FAILURE for row in ended.rows):
                gains.append(0.0)
                came_to_nothing.append(run.seed)
            else:
                open_runs.append(run.seed)
    if open_runs:
        return f"{len(open_runs)} of its {len(open_runs) + len(gains)} runs have no result (seed {', '.join(map(str, open_runs))})"
    mean = fmean(gains)
    said = f", counting 0 for {len(came_to_nothing)} of {len(gains)} that came to nothing" if came_to_nothing else ""
    if is_matched(mean, gain, file.match.tolerance) and not came_to_nothing:
        return None
    return f"its runs gained {mean:.2f} on dev tasks{said}, and the matched gain is {gain:.2f}"


def bases_out_of_range(file: GridFile, finished: Finished) -> list[str]:
    """A line for each target, and one for all other environments, of which the base is not between the bounds that such a study needs."""
    scores: dict[str, list[float]] = {}
    for seed in file.grid.seeds:
        for name, mean in base_means(done(finished).get(base_name(seed)), SAMPLED).items():
            scores.setdefault(name, []).append(mean)
    base = {name: fmean(scores[name]) for name in environments(file) if name in scores}
    targets = target_environments(file)
    low, high = TARGET_RANGE
    found = [
        f"the base has {base[name]:.2f} of the target {name}: from {low:.2f} to {high:.2f} there is something to learn from, and to gain"
        for name in targets
        if name in base and not low <= base[name] <= high
    ]
    others = [mean for name, mean in base.items() if name not in targets]
    low, high = OTHER_RANGE
    inside = sum(low <= mean <= high for mean in others)
    if others and inside < LEAST_OTHERS:
        where = f"in {inside} environments that are no target"
        found.append(f"the base is between {low:.2f} and {high:.2f} {where}: with {LEAST_OTHERS} it shows better what is lost")
    return found
