"""The kind `retaining-by-doing`: what it costs elsewhere to learn something, arm by arm, at one gain.

Pilots on seeds of their own come first: each arm tries each rate. They give the matched gain of each stream, and the rate of each arm
(`matched_gain.py`); arms that learn from another's traces come after that arm has its rate. Then each run learns, and its dev scores
choose the checkpoint that it delivers, which is scored on test tasks and on the panel. All runs of a seed have the same tasks and begin
from copies of one home, and seeds follow each other, so that a study that is stopped early has all arms on some seeds. A home is worked on
by one cell at a time: a run is tested, in one cell, once those that copy its home have ended. Left out: several stages (`stream_study.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from perdure.agent.studies.cells import Cell, CellFolders, Finished, Study, done
from perdure.agent.studies.grid.cell_plan import folder_of, learn_s, learner_cell, score_s
from perdure.agent.studies.grid.grid_arms import GridRun, arms, environments, home_document, runs, target_environments, training_seed
from perdure.agent.studies.grid.grid_file import GridFile
from perdure.agent.studies.grid.learner_cells import make_run, measure_base, score_versions
from perdure.agent.studies.grid.pilots import base_name, have_ended, pilot_name, pilot_names, why_failed
from perdure.agent.studies.grid.retaining_choice import (
    Decisions,
    decisions,
    delivered,
    name_of_run,
    name_of_test,
    targets_of,
    tested_updates,
)
from perdure.agent.studies.grid.table_rows import CHECKPOINT
from perdure.memory.json_value import Document


def retaining_study(file: GridFile) -> Study:
    """The study of a file of this kind."""

    def cells(finished: Finished) -> Sequence[Cell]:
        return list(_cells(file, finished))

    def spent(finished: Finished) -> Sequence[str]:
        return [] if file.measure.keep_weights else list(_spent(file, finished))

    return Study(name=file.study.name, cells=cells, spent=spent)


def _cells(file: GridFile, finished: Finished) -> Iterator[Cell]:
    bases = [_base(file, seed, is_pilot=True) for seed in (file.pilots.seeds if file.pilots else ())]
    bases += [_base(file, seed, is_pilot=False) for seed in file.grid.seeds]
    yield from bases
    if any(base.name not in finished for base in bases):
        return
    pilots = list(_pilots(file, finished, None))
    yield from pilots
    if any(pilot.name not in finished for pilot in pilots):
        return
    decided = decisions(file, finished)
    yield from _pilots(file, finished, decided)
    for seed in file.grid.seeds:
        of_seed = list(_of_seed(file, seed, decided, finished)) if base_name(seed) in done(finished) else []
        yield from of_seed
        has_open_runs = any(cell.work is make_run and cell.name not in finished for cell in of_seed)
        if has_open_runs or _awaits_traces(file, finished, decided):
            return  # the tests of a seed are done beside the runs of the next, so that no core is idle


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
    folders = CellFolders(leaves=(parameters["folder"],))
    return learner_cell(file, base_name(seed), parameters, measure_base, seconds, folders=folders)


def _pilots(file: GridFile, finished: Finished, decided: Decisions | None) -> Iterator[Cell]:
    """The pilots of arms that learn from traces if the rates of the others are decided, else those of the others."""
    if file.pilots is None:
        return
    seeds = [seed for seed in file.pilots.seeds if base_name(seed) in done(finished)]
    for stream in file.grid.streams:
        here = arms(file, stream)
        sources = {arm.traces_of for arm in here}
        for arm in here:
            if bool(arm.traces_of) != (decided is not None):
                continue
            if decided is not None and not decided.has_source(arm, stream):
                continue
            source_rate = None if decided is None else decided.source_rate(arm, stream)
            for rate in arm.rates or file.pilots.rates:
                for seed in seeds:
                    run = GridRun(
                        arm=arm,
                        stream=stream,
                        order=stream,
                        stages=file.streams[stream].targets,
                        seed=seed,
                        training_seed=training_seed(seed, 0),
                    )
                    source = None if decided is None else pilot_name(arm.traces_of, stream, source_rate, seed)
                    name = pilot_name(arm.name, stream, rate, seed, source_rate)
                    yield _learning(file, run, rate, name, source, is_pilot=True, keeps_home=arm.name in sources)


def _of_seed(file: GridFile, seed: int, decided: Decisions, finished: Finished) -> Iterator[Cell]:
    """The runs of a seed, those that learn from traces after those that have them, and the test of each."""
    planned = [run for run in runs(file) if run.seed == seed and (run.arm.name, run.stream) in decided.rates]
    for run in planned:
        if not run.arm.traces_of or name_of_run(decided, _on_the_same_tasks(file, run, run.arm.traces_of)) in done(finished):
            yield _run(file, run, decided)
    for run in planned:
        copied = all(name_of_run(decided, copy) in finished for copy in _copies(file, run, decided))
        if copied and name_of_run(decided, run) in done(finished) and not _awaits_traces(file, finished, decided, run.arm.name):
            yield from _test(file, run, decided, _run(file, run, decided), finished)


def _awaits_traces(file: GridFile, finished: Finished, decided: Decisions, source: str | None = None) -> bool:
    """Whether pilots of arms that learn from traces (of this arm) have yet to end."""
    return file.pilots is not None and any(
        not have_ended(file, finished, arm, stream, decided.source_rate(arm, stream))
        for stream in file.grid.streams
        for arm in arms(file, stream)
        if arm.traces_of and decided.has_source(arm, stream) and source in (None, arm.traces_of)
    )


def _run(file: GridFile, run: GridRun, decided: Decisions) -> Cell:
    source = name_of_run(decided, _on_the_same_tasks(file, run, run.arm.traces_of)) if run.arm.traces_of else None
    rate = decided.rates[run.arm.name, run.stream]
    return _learning(file, run, rate, name_of_run(decided, run), source, is_pilot=False, keeps_home=True)


def _learning(file: GridFile, run: GridRun, rate: float | None, name: str, source: str | None, *, is_pilot: bool, keeps_home: bool) -> Cell:
    """A cell that learns the targets of a stream."""
    learned, measured = targets_of(run), environments(file)
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
    folders = CellFolders(needs=(parameters["begins_from"],), leaves=(parameters["folder"],) if keeps_home else ())
    return learner_cell(file, name, parameters, make_run, learn_s(options) + at * score_s(sum(dev.values())), options, folders)


def _test(file: GridFile, run: GridRun, decided: Decisions, cell: Cell, finished: Finished) -> Iterator[Cell]:
    """The test of what a run delivers, and of its last update if the file asks for it: one cell, since both are in one home."""
    chosen = delivered(file, decided, run, finished)
    if chosen is None:
        return
    rows = {row["update"]: row for row in done(finished)[cell.name].rows if row["kind"] == CHECKPOINT}
    updates = tested_updates(file, chosen, rows)
    test = dict.fromkeys(environments(file), file.measure.test)
    parameters: Document = {
        "folder": cell.parameters["folder"],
        "settings": cell.parameters["settings"],
        "seed": run.seed,
        "training_seed": run.training_seed,
        "arm": run.arm.name,
        "order": run.order,
        "targets": list(targets_of(run)),
        "versions": [{key: value for key, value in rows[update].items() if key not in ("kind", "means")} for update in updates],
        "test": test,
        "panel": file.measure.panel,
    }
    seconds = len(updates) * score_s(sum(test.values()), file.measure.panel)
    folders = CellFolders(needs=(parameters["folder"],))
    yield learner_cell(file, name_of_test(cell.name, updates), parameters, score_versions, seconds, folders=folders)


def _spent(file: GridFile, finished: Finished) -> Iterator[str]:
    """The homes of pilots and runs that no cell will open again. While a pilot has failed, all stay: once mended, it may change the matched
    gain, and so which checkpoints are tested."""
    decided, ended = decisions(file, finished), done(finished)
    for stream in file.grid.streams if file.pilots is not None else ():
        here = arms(file, stream)
        if any(why_failed(file, finished, arm, stream, decided.source_rate(arm, stream)) for arm in here):
            return
        if _awaits_traces(file, finished, decided):
            return
        sources = {arm.traces_of for arm in here}
        yield from (folder_of(name) for arm in here if arm.name in sources for name in pilot_names(file, arm, stream))
    for run in runs(file):
        if (run.arm.name, run.stream) in decided.rates and name_of_run(decided, run) in ended:
            name, chosen = name_of_run(decided, run), delivered(file, decided, run, finished)
            rows = {row["update"] for row in ended[name].rows if row["kind"] == CHECKPOINT}
            is_tested = chosen is None or name_of_test(name, tested_updates(file, chosen, rows)) in ended
            if is_tested and all(name_of_run(decided, copy) in ended for copy in _copies(file, run, decided)):
                yield folder_of(name)


def _copies(file: GridFile, run: GridRun, decided: Decisions) -> list[GridRun]:
    """The runs that learn from the traces of this one."""
    here = [arm for arm in arms(file, run.stream) if arm.traces_of == run.arm.name and (arm.name, run.stream) in decided.rates]
    return [replace(run, arm=arm) for arm in here]


def _on_the_same_tasks(file: GridFile, run: GridRun, name: str) -> GridRun:
    """The run of another arm beside this one."""
    return replace(run, arm=next(arm for arm in arms(file, run.stream) if arm.name == name))
