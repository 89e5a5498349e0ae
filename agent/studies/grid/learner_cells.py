"""What the cells of a study of one stage do: measure the base, make a run with its checkpoints, score one of its versions.

Each works in a folder of its own in the study's, which later cells find by its name. Rows are those of the metrics' table; a checkpoint on
dev tasks is besides a row of its own kind, from which rates and checkpoints are chosen.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from perdure.agent.config import Config
from perdure.agent.metrics.observation import BASE_ARM, StageFacts, to_document
from perdure.agent.studies.cells import Desk
from perdure.agent.studies.grid.study_home import DEV, TEST, StudyHome, know, open_study_home, play_live, removed_if_it_fails, score_tasks
from perdure.agent.studies.grid.study_jobs import NothingLearned, job_of, kept_versions, learn, score_panel
from perdure.agent.studies.grid.table_rows import (
    CHECKPOINT,
    FAILURE,
    SAMPLED,
    SAMPLED_DEV,
    RowPlace,
    drift_rows,
    means,
    panel_rows,
    task_rows,
)
from perdure.memory.contracts.orders import Job, LearnOrder
from perdure.memory.errors import RuntimeFailure
from perdure.memory.jobs import steps
from perdure.memory.json_value import Document
from perdure.memory.versions import INITIAL

FIRST_LIVE = "before the first job"
_HOME = "home"
_COPY = "home.partial"


def measure_base(parameters: Document, desk: Desk) -> Iterator[Document]:
    """Make the home from which all runs of a seed begin, and score the base model: rows of the arm `base`.

    Parameters: folder, settings, seed, known (environments of the home), live (tasks of each), dev and test (tasks by environment), panel.
    """
    seed, place = parameters["seed"], RowPlace(arm=BASE_ARM, order="", seed=parameters["seed"], stage=0)
    with removed_if_it_fails(desk.folder / parameters["folder"]), _home(parameters, desk, seed) as home:
        know(home, parameters["known"])
        for name in parameters["known"] if parameters["live"] else ():
            play_live(home, name, parameters["live"], FIRST_LIVE, seed)
        for measure, tasks, seed_of in ((SAMPLED_DEV, parameters["dev"], DEV), (SAMPLED, parameters["test"], TEST)):
            yield from task_rows(place, measure, score_tasks(home, INITIAL, tasks, seed_of, seed))
        if parameters["panel"] != "off":
            yield from panel_rows(place, score_panel(home, INITIAL, parameters["panel"]))


def make_run(parameters: Document, desk: Desk) -> Iterator[Document]:
    """Learn the targets with one arm, and score the weights at its checkpoints on dev tasks: a row for each checkpoint.

    If there is nothing to learn from, or the weights diverge, a row says so. Parameters: folder, begins_from (the folder of the base, or of
    the run whose traces it learns), settings, seed, training_seed, arm, order, learner, options, traces_of, targets, checkpoints, dev
    (tasks by environment), is_pilot (its home and single scores are not kept), keeps_home.
    """
    _begin_from(desk.folder / parameters["begins_from"], desk.folder / parameters["folder"])
    options = dict(parameters["options"])
    with removed_if_it_fails(desk.folder / parameters["folder"]), _home(parameters, desk, parameters["training_seed"]) as home:
        if parameters["traces_of"]:
            options["traces"] = str(job_of(home.store, parameters["traces_of"]).id)
        order = LearnOrder(learner=parameters["learner"], options=options, gate=False, start=INITIAL)
        try:
            job = learn(home, parameters["arm"], parameters["targets"], order, parameters["checkpoints"])
        except NothingLearned as error:
            yield {"kind": FAILURE, "error": str(error)}
        else:
            yield from _checkpoints(home, job, parameters)
    if not parameters["keeps_home"]:
        shutil.rmtree(desk.folder / parameters["folder"], ignore_errors=True)


def score_versions(parameters: Document, desk: Desk) -> Iterator[Document]:
    """Score versions of a run on test tasks and on the panel: rows of stage 1, and its facts.

    Parameters: folder (of the run), settings, seed, training_seed, arm, order, targets, versions (their checkpoints; the run comes to the
    first of them), test (tasks by environment), panel. Raises `RuntimeFailure` if the weights are gone.
    """
    delivered, *others = parameters["versions"]
    own: Document = {key: parameters[key] for key in ("arm", "order", "seed")}
    if not (desk.folder / parameters["folder"] / _HOME).exists():
        raise RuntimeFailure("the weights of this run were removed after its test: name another folder with --keep to make it anew")
    with _home(parameters, desk, parameters["training_seed"]) as home:
        for checkpoint in (delivered, *others):
            place = RowPlace(**own, stage=1, update=None if checkpoint is delivered else checkpoint["update"])
            yield from task_rows(place, SAMPLED, score_tasks(home, checkpoint["version"], parameters["test"], TEST, parameters["seed"]))
            if parameters["panel"] != "off":
                yield from panel_rows(place, score_panel(home, checkpoint["version"], parameters["panel"]))
    costs: Document = {key: delivered[key] for key in ("tokens", "seconds")}
    yield to_document(StageFacts(**own, stage=1, targets=tuple(parameters["targets"]), updates=delivered["update"], **costs))


def _checkpoints(home: StudyHome, job: Job, parameters: Document) -> Iterator[Document]:
    """A row for each checkpoint, with dev means by environment; of a run that is no pilot also the single scores."""
    made = [step.update for step in steps(home.store, job.id)]
    for update, version in sorted(kept_versions(home.store, job).items()):
        scores = score_tasks(home, version.name, parameters["dev"], DEV, parameters["seed"])
        past = made[:update]
        yield {
            "kind": CHECKPOINT,
            "update": update,
            "version": version.name,
            "means": means(scores),
            "tokens": sum(one.tokens + one.sampled_tokens for one in past),
            "seconds": sum(one.seconds for one in past),
        }
        if not parameters["is_pilot"]:
            place = RowPlace(arm=parameters["arm"], order=parameters["order"], seed=parameters["seed"], stage=1, update=update)
            yield from task_rows(place, SAMPLED_DEV, scores)
            yield from drift_rows(place, past[-1], parameters["targets"][0])


def _home(parameters: Document, desk: Desk, training_seed: int) -> AbstractContextManager[StudyHome]:
    config = Config.model_validate(parameters["settings"])
    return open_study_home(desk.folder / parameters["folder"] / _HOME, config, training_seed, desk.say)


def _begin_from(earlier: Path, folder: Path) -> None:
    """Copy the home of an earlier cell, unless this cell has begun before."""
    if (folder / _HOME).exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shutil.copytree(earlier / _HOME, folder / _COPY)
    (folder / _COPY).rename(folder / _HOME)
