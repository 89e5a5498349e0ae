"""The kind `retaining-by-doing`: what it costs elsewhere to learn something, arm by arm, at one gain.

Pilots on seeds of their own come first: each arm tries each rate. They give the matched gain of each stream, and the rate of each arm
(`matched_gain.py`). Then each run learns, and its dev scores choose the checkpoint that it delivers, which is scored on test tasks and on
the panel. All runs of a seed have the same tasks and begin from copies of one home. Left out: several stages (`stream_study.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from perdure.agent.studies.cells import Cell, Finished, Study, done
from perdure.agent.studies.grid.cell_plan import folder_of, learn_s, learner_cell, score_s
from perdure.agent.studies.grid.grid_arms import GridRun, arms, environments, home_document, runs, target_environments, training_seed
from perdure.agent.studies.grid.grid_file import GridFile
from perdure.agent.studies.grid.learner_cells import make_run, measure_base, score_version
from perdure.agent.studies.grid.retaining_choice import (
    Decisions,
    base_name,
    decisions,
    delivered,
    name_of_test,
    rate_of_best_gain,
    run_name,
    targets_of,
)
from perdure.agent.studies.grid.table_rows import CHECKPOINT
from perdure.memory.json_value import Document


def retaining_study(file: GridFile) -> Study:
    """The study of a file of this kind."""

    def cells(finished: Finished) -> Sequence[Cell]:
        return list(_cells(file, finished))

    return Study(name=file.study.name, cells=cells)


def _cells(file: GridFile, finished: Finished) -> Iterator[Cell]:
    bases = [_base(file, seed, is_pilot=True) for seed in (file.pilots.seeds if file.pilots else ())]
    bases += [_base(file, seed, is_pilot=False) for seed in file.grid.seeds]
    yield from bases
    if any(base.name not in finished for base in bases):
        return
    pilots = _pilots(file, finished)
    yield from pilots
    if any(pilot.name not in finished for pilot in pilots):
        return
    decided = decisions(file, finished)
    planned = [run for run in runs(file) if (run.arm.name, run.stream) in decided.rates and base_name(run.seed) in done(finished)]
    cells = {(run.arm.name, run.order, run.seed): _run(file, run, decided) for run in planned}
    for run in planned:
        source = cells.get((run.arm.traces_of, run.order, run.seed))
        if not run.arm.traces_of or (source is not None and source.name in done(finished)):
            yield cells[run.arm.name, run.order, run.seed]
    for run in planned:
        yield from _tests(file, run, decided, cells[run.arm.name, run.order, run.seed], finished)


def _base(file: GridFile, seed: int, *, is_pilot: bool) -> Cell:
    measured, targets = environments(file), target_environments(file)
    others = [name for name in measured if name not in targets] if is_pilot or file.measure.curves else []
    dev = {**dict.fromkeys(targets, file.measure.dev_target), **dict.fromkeys(others, file.measure.dev_others)}
    test = {} if is_pilot else dict.fromkeys(measured, file.measure.test)
    parameters: Document = {
        "folder": f"base-{seed}",
        "settings": home_document(file, seed),
        "seed": seed,
        "known": [name for name in measured if name not in file.measure.unseen],
        "live": file.measure.live,
        "dev": dev,
        "test": test,
        "panel": "off" if is_pilot else file.measure.panel,
    }
    seconds = score_s(sum(dev.values()) + sum(test.values()) + 8 * file.measure.live * len(measured), parameters["panel"])
    return learner_cell(file, base_name(seed), parameters, measure_base, seconds)


def _pilots(file: GridFile, finished: Finished) -> list[Cell]:
    """The pilots that are known so far. One that learns from another arm's traces takes the run of its best rate, once that is known."""
    if file.pilots is None:
        return []
    found, seeds = [], [seed for seed in file.pilots.seeds if base_name(seed) in done(finished)]
    for stream in file.grid.streams:
        stages = file.streams[stream].targets
        sources = {arm.traces_of for arm in arms(file, stream)}
        for arm in arms(file, stream):
            source_rate = rate_of_best_gain(file, finished, stream, arm.traces_of) if arm.traces_of else None
            if arm.traces_of and source_rate is None:
                continue
            for rate in arm.rates or file.pilots.rates:
                for seed in seeds:
                    run = GridRun(arm=arm, stream=stream, order=stream, stages=stages, seed=seed, training_seed=training_seed(seed, 0))
                    source = run_name("pilot", arm.traces_of, stream, source_rate, seed) if arm.traces_of else None
                    found.append(_learning(file, run, rate, "pilot", source, keeps_home=arm.name in sources))
    return found


def _run(file: GridFile, run: GridRun, decided: Decisions) -> Cell:
    rate = decided.rates[run.arm.name, run.stream]
    source = None
    if run.arm.traces_of:
        source = run_name("run", run.arm.traces_of, run.order, decided.rates.get((run.arm.traces_of, run.stream)), run.seed)
    return _learning(file, run, rate, "run", source, keeps_home=True)


def _learning(file: GridFile, run: GridRun, rate: float | None, kind: str, source: str | None, *, keeps_home: bool) -> Cell:
    """A cell that learns the targets of a stream."""
    name, learned, measured = run_name(kind, run.arm.name, run.order, rate, run.seed), targets_of(run), environments(file)
    is_pilot = kind == "pilot"
    others = [one for one in measured if one not in learned] if is_pilot or file.measure.curves else []
    targets = target_environments(file)
    dev = dict.fromkeys(learned, file.measure.dev_target)
    dev |= {one: file.measure.dev_target if one in targets else file.measure.dev_others for one in others}
    options = {"check_every": 0, **run.arm.options, "seed": run.training_seed, **({} if rate is None else {"lr": rate})}
    parameters: Document = {
        "folder": folder_of(name),
        "begins_from": f"base-{run.seed}" if source is None else folder_of(source),
        "settings": home_document(file, run.training_seed),
        "seed": run.seed,
        "training_seed": run.training_seed,
        "arm": run.arm.name,
        "order": run.order,
        "learner": run.arm.learner,
        "options": options,
        "traces_of": run.arm.traces_of,
        "targets": list(learned),
        "checkpoints": list(file.measure.checkpoints),
        "dev": dev,
        "is_pilot": is_pilot,
        "keeps_home": keeps_home,
    }
    at = max(1, len(file.measure.checkpoints))
    return learner_cell(file, name, parameters, make_run, learn_s(options) + at * score_s(sum(dev.values())))


def _tests(file: GridFile, run: GridRun, decided: Decisions, cell: Cell, finished: Finished) -> Iterator[Cell]:
    """The test of what a run delivers, and of its last update if the file asks for it."""
    chosen = delivered(file, decided, run, finished)
    if chosen is None:
        return
    rows = {row["update"]: row for row in done(finished)[cell.name].rows if row["kind"] == CHECKPOINT}
    last = max(rows)
    for update in [chosen.checkpoint.update, *([last] if file.measure.last and last != chosen.checkpoint.update else [])]:
        is_delivered = update == chosen.checkpoint.update
        test = dict.fromkeys(environments(file), file.measure.test)
        parameters: Document = {
            "folder": cell.parameters["folder"],
            "settings": cell.parameters["settings"],
            "seed": run.seed,
            "training_seed": run.training_seed,
            "arm": run.arm.name,
            "order": run.order,
            "targets": list(targets_of(run)),
            "checkpoint": {key: value for key, value in rows[update].items() if key not in ("kind", "means")},
            "delivered": is_delivered,
            "test": test,
            "panel": file.measure.panel,
        }
        seconds = score_s(sum(test.values()), file.measure.panel)
        yield learner_cell(file, name_of_test(cell.name, update, delivered=is_delivered), parameters, score_version, seconds)
