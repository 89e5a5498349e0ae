"""The kind `long-stream`: stages whose environments leave the stream, arm by arm, in several orders.

All runs of a seed have the same test tasks. The base model is scored once a seed. Rates are those of the options: there are no pilots. What
learns all stages at once, or each from the base model, has no order: it has one run a seed, and the others of that seed are measured
against it. An arm of the second kind is another model in each stage, so its accuracy over all stages is that of no model, and is not shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import fmean

from perdure.agent.metrics.arm_summary import compare_arms, metrics_by_arm
from perdure.agent.metrics.measured_run import MeasuredRun, measured_runs
from perdure.agent.metrics.observation import read_table
from perdure.agent.studies.cells import Cell, Finished, Study, done
from perdure.agent.studies.grid.cell_plan import folder_of, learn_s, learner_cell, score_s
from perdure.agent.studies.grid.claims import RunKey, judge_claims
from perdure.agent.studies.grid.grid_arms import GridRun, environments, home_document, runs
from perdure.agent.studies.grid.grid_file import GridFile
from perdure.agent.studies.grid.learner_cells import measure_base
from perdure.agent.studies.grid.stream_cells import live_through_stages
from perdure.memory.json_value import Document

COMPARED = ("acc", "bwt", "forgetting_first")
"""Metrics in which every arm is compared with the first one."""


def stream_study(file: GridFile) -> Study:
    """The study of a file of this kind."""

    def cells(finished: Finished) -> Sequence[Cell]:
        return [*(_base(file, seed) for seed in file.grid.seeds), *(_run(file, run) for run in stream_runs(file))]

    return Study(name=file.study.name, cells=cells)


def stream_runs(file: GridFile) -> Iterator[GridRun]:
    """The runs of a study: of arms without an order one for each seed and stream, in the first order that the seed has."""
    begun: set[tuple[str, str, int]] = set()
    for run in runs(file):
        key = (run.arm.name, run.stream, run.seed)
        if key not in begun or not (run.arm.helper.at_once or run.arm.helper.from_base):
            yield run
        begun.add(key)


def run_of_stream(run: GridRun) -> str:
    """The name of a run's cell."""
    return f"run: {run.arm.name} on {run.order}, seed {run.seed}"


def stream_summary(file: GridFile, finished: Finished) -> Document:
    """Every metric of every arm that is one model over seeds, its updates, and each arm against the first."""
    measured = measured_runs(read_table(row for result in done(finished).values() for row in result.rows))
    by_arm = metrics_by_arm(measured)
    names = list(dict.fromkeys(run.arm.name for run in runs(file) if not run.arm.helper.from_base))
    first, *others = [name for name in names if name in by_arm] or [""]
    differences = [
        {"first": name, "second": first, "metric": metric, "p": found.p, **found.estimate.as_json()}
        for name in others
        for metric in COMPARED
        if metric in by_arm[name] and metric in by_arm[first]
        if (found := compare_arms(by_arm[name][metric], by_arm[first][metric])) is not None
    ]
    values: dict[str, dict[str, dict[RunKey, float]]] = {
        claim.of: {arm: dict(by_arm[arm][claim.of].by_run) for arm in by_arm if claim.of in by_arm[arm]} for claim in file.claims
    }
    return {
        "study": file.study.name,
        "kind": file.study.kind,
        "about": file.study.about,
        "arms": {name: {metric: of.as_json() for metric, of in by_arm[name].items()} for name in names if name in by_arm},
        "updates": {name: _updates(measured, name) for name in names if name in by_arm},
        "differences": differences,
        "claims": [claim.as_json() for claim in judge_claims(file.claims, values, {})],
        "failures": [{"cell": result.name, "error": result.error} for result in finished.values() if result.error is not None],
        "made_by": sorted({result.made_by for result in finished.values()}),
    }


def _updates(measured: Sequence[MeasuredRun], arm: str) -> Document:
    """How many updates a run of this arm made, over all its stages: the mean, the fewest and the most."""
    made = [sum(fact.updates for fact in run.facts) for run in measured if run.name.arm == arm]
    return {"mean": fmean(made), "least": min(made), "most": max(made)}


def _base(file: GridFile, seed: int) -> Cell:
    test = dict.fromkeys(environments(file), file.measure.test)
    parameters: Document = {
        "folder": f"base-{seed}",
        "settings": home_document(file, seed),
        "seed": seed,
        "known": [],
        "live": 0,
        "dev": {},
        "test": test,
        "panel": file.measure.panel,
    }
    seconds = score_s(sum(test.values()), file.measure.panel)
    return learner_cell(file, f"base, seed {seed}", parameters, measure_base, seconds)


def _run(file: GridFile, run: GridRun) -> Cell:
    helper, name = run.arm.helper, run_of_stream(run)
    live = file.measure.live if helper.live is None else helper.live
    stages = [list(stage) for stage in run.stages]
    options = {"check_every": 0, **run.arm.options, "seed": run.training_seed}
    if helper.at_once:
        options["updates"] = int(options.get("updates", 12)) * len(stages)
        stages = [[environment for stage in stages for environment in stage]]
    test = dict.fromkeys(environments(file), file.measure.test)
    parameters: Document = {
        "folder": folder_of(name),
        "settings": home_document(file, run.training_seed),
        "seed": run.seed,
        "training_seed": run.training_seed,
        "arm": run.arm.name,
        "order": run.order,
        "stages": stages,
        "learner": run.arm.learner,
        "options": options,
        "gate": helper.gate,
        "profile": file.home.get("gate", {}).get("profile"),
        "from_base": helper.from_base,
        "live": live,
        "checkpoints": list(file.measure.checkpoints),
        "test": test,
        "panel": file.measure.panel,
    }
    answers = sum(test.values()) + 8 * live + len(file.measure.checkpoints) * file.measure.test
    gate_s = 60.0 if helper.gate else 0.0
    seconds = len(stages) * (learn_s(options) + score_s(answers) + gate_s) + score_s(0, file.measure.panel)
    return learner_cell(file, name, parameters, live_through_stages, seconds, options)
