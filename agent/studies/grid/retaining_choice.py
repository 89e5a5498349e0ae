"""What a study of the kind `retaining-by-doing` decides from its dev scores: the matched gain, the rates, what each run delivers. Pure.

Cells are found by their names, which say all in which they differ. An arm that learns from another's traces has no part in the matched
gain: what it learns from is a pilot of that arm at the rate that the matched gain gave it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from perdure.agent.studies.cells import Finished, done
from perdure.agent.studies.grid.grid_arms import Arm, GridRun, arms
from perdure.agent.studies.grid.grid_file import GridFile
from perdure.agent.studies.grid.matched_gain import Chosen, DevCheck, Pilots, chosen_checkpoint, chosen_rate, matched_gain
from perdure.agent.studies.grid.pilots import base_means, base_name, curve_of, pilots_of, run_name
from perdure.agent.studies.grid.table_rows import SAMPLED_DEV

ArmOnStream = tuple[str, str]
"""Their names."""
BEST = 1.0
"""No arm gains more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decisions:
    """What the pilots came to, by arm and stream."""

    gains: Mapping[str, float]
    """The matched gain by stream; a stream on which no arm learned has none."""
    rates: Mapping[ArmOnStream, float | None]
    """None: that of its options. An arm whose pilots failed, came to nothing or have not ended is missing."""
    pilots: Mapping[ArmOnStream, Pilots]
    """Of the arms whose pilots have all ended well."""

    def source_rate(self, arm: Arm, stream: str) -> float | None:
        """The rate of the arm whose traces this one learns from; None if it learns from none, or that has no rate."""
        return self.rates.get((arm.traces_of, stream))

    def has_source(self, arm: Arm, stream: str) -> bool:
        """Whether an arm learns from no traces, or from those of an arm that has a rate."""
        return not arm.traces_of or (arm.traces_of, stream) in self.rates


def decisions(file: GridFile, finished: Finished) -> Decisions:
    """The matched gains and the rates, once all pilots of arms that learn from no traces have ended."""
    if file.pilots is None:
        rates = {(arm.name, stream): None for stream in file.grid.streams for arm in arms(file, stream)}
        return Decisions(gains={}, rates=rates, pilots={})
    found = Decisions(gains={}, rates={}, pilots={})
    for learns_from_traces in (False, True):
        found = _decided(file, finished, found, learns_from_traces)
    return found


def _decided(file: GridFile, finished: Finished, before: Decisions, learns_from_traces: bool) -> Decisions:
    """With the arms that learn from traces, whose sources are decided, or with the others, which give the matched gains."""
    pilots: dict[ArmOnStream, Pilots] = {}
    gains, rates = dict(before.gains), dict(before.rates)
    for stream in file.grid.streams:
        for arm in arms(file, stream):
            if bool(arm.traces_of) == learns_from_traces and before.has_source(arm, stream):
                ended = pilots_of(file, finished, arm, stream, before.source_rate(arm, stream))
                pilots |= {} if ended is None else {(arm.name, stream): ended}
        here = {name: of_arm for (name, where), of_arm in pilots.items() if where == stream}
        gain = gains.get(stream) if learns_from_traces else matched_gain(here, file.match.least)
        gains |= {} if gain is None else {stream: gain}
        for name, of_arm in here.items():
            rate = chosen_rate(of_arm, BEST if gain is None else gain, file.match.tolerance)
            rates |= {} if rate is None else {(name, stream): rate}
    return Decisions(gains=gains, rates=rates, pilots={**before.pilots, **pilots})


def name_of_run(decided: Decisions, run: GridRun) -> str:
    """The cell of a run. Raises `KeyError` if the arm has no rate."""
    rate = decided.rates[run.arm.name, run.stream]
    return run_name("run", run.arm.name, run.order, rate, run.seed, decided.source_rate(run.arm, run.stream))


def name_of_test(run: str, updates: Sequence[int]) -> str:
    """The cell that scores these updates of a run, of which the first is delivered."""
    return f"test of {run}, update{'s' if len(updates) > 1 else ''} {' and '.join(map(str, updates))}"


def tested_updates(file: GridFile, chosen: Chosen, updates: Collection[int]) -> list[int]:
    """Which of a run's checkpoints are scored on test tasks: what it delivers, and the last one if the file asks for it."""
    last = max(updates)
    return list(dict.fromkeys([chosen.checkpoint.update, *([last] if file.measure.last else [])]))


def delivered(file: GridFile, decided: Decisions, run: GridRun, finished: Finished) -> Chosen | None:
    """The checkpoint that a run delivers: that of the matched gain, else the last one. None if it has not ended, or came to nothing."""
    curve = run_curve(decided, run, finished)
    if not curve:
        return None
    gain = decided.gains.get(run.stream)
    if gain is None:
        return Chosen(checkpoint=curve[-1], matched=file.pilots is None)
    return chosen_checkpoint(curve, gain, file.match.tolerance)


def run_curve(decided: Decisions, run: GridRun, finished: Finished) -> list[DevCheck]:
    """The checkpoints of a run."""
    if (run.arm.name, run.stream) not in decided.rates:
        return []
    ended = done(finished).get(name_of_run(decided, run))
    return [] if ended is None else curve_of(ended, base_means(finished.get(base_name(run.seed)), SAMPLED_DEV), targets_of(run))


def targets_of(run: GridRun) -> tuple[str, ...]:
    """What a run learns, all in one stage."""
    return tuple(run.stages[0])
