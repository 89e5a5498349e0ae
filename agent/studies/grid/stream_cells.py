"""What the cells of a study of several stages do: a whole run, stage after stage, in one home. It continues after its last whole stage.

In each stage the environments of the stage become known, some of their tasks are played live, one job learns them, and the result serves,
or a gate decides. Environments of earlier stages are played no more, but for what the arm itself does with them: that they have left the
stream is the point. At the end of a stage all environments of the study are scored on test tasks, within it those of the stage.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from perdure.agent.config import Config
from perdure.agent.metrics.observation import StageFacts, to_document
from perdure.agent.studies.cells import Desk
from perdure.agent.studies.grid.study_home import TEST, StudyHome, know, open_study_home, play_live, removed_if_it_fails, score_tasks
from perdure.agent.studies.grid.study_jobs import NothingLearned, kept_versions, learn, score_panel, serve
from perdure.agent.studies.grid.table_rows import SAMPLED, RowPlace, drift_rows, panel_rows, task_rows
from perdure.memory.contracts.orders import Job, LearnOrder
from perdure.memory.contracts.results import LearnResult, Update
from perdure.memory.jobs import steps
from perdure.memory.json_value import Document, to_json
from perdure.memory.trajectories.play_records import tokens_of_gates
from perdure.memory.versions import INITIAL, list_versions, serving

_HOME, _ROWS = "home", "rows.jsonl"


class GateCost(NamedTuple):
    """Of one gate."""

    tokens: int
    seconds: float


NO_GATE = GateCost(0, 0.0)


def live_through_stages(parameters: Document, desk: Desk) -> Iterator[Document]:
    """All stages of one run.

    Parameters: folder, settings, seed, training_seed, arm, order, stages (lists of environments), learner, options, gate, profile,
    from_base, live (tasks of each new environment), checkpoints, test (tasks by environment), panel (scored after the last stage).
    """
    folder = desk.folder / parameters["folder"]
    with removed_if_it_fails(folder):
        finished = _read(folder)
        if len(finished) < len(parameters["stages"]):
            config = Config.model_validate(parameters["settings"])
            with open_study_home(folder / _HOME, config, parameters["training_seed"], desk.say) as home:
                for stage in range(len(finished) + 1, len(parameters["stages"]) + 1):
                    desk.say(f"{parameters['arm']}, {parameters['order']}, seed {parameters['seed']}: stage {stage}")
                    finished.append(list(_stage(home, stage, parameters)))
                    _write(folder, finished[-1])
                    _forget_steps(home)
    for rows in finished:
        yield from rows
    shutil.rmtree(folder / _HOME, ignore_errors=True)  # weights of every stage; the rows stay until the cell is kept


def _stage(home: StudyHome, stage: int, parameters: Document) -> Iterator[Document]:
    targets = parameters["stages"][stage - 1]
    know(home, targets)
    for name in targets if parameters["live"] else ():
        play_live(home, name, parameters["live"], f"stage {stage}", parameters["training_seed"])
    order = LearnOrder(
        learner=parameters["learner"],
        options=parameters["options"],
        gate=parameters["gate"],
        profile=parameters["profile"],
        start=INITIAL if parameters["from_base"] else None,
    )
    made: list[Update] = []
    gate = NO_GATE
    version, verdict, note = serving(home.store).name, None, None
    try:
        job = learn(home, f"stage {stage}", targets, order, parameters["checkpoints"])
    except NothingLearned as error:
        note = str(error)
    else:
        made = [step.update for step in steps(home.store, job.id)]
        verdict, note = job.verdict, job.gate.reason if job.gate is not None and job.verdict != "promote" else None
        gate = _cost_of_gate(home, job)
        version = _what_comes_of(home, job, parameters)
        yield from _within(home, job, stage, made, parameters)
    place = RowPlace(arm=parameters["arm"], order=parameters["order"], seed=parameters["seed"], stage=stage)
    yield from task_rows(place, SAMPLED, score_tasks(home, version, parameters["test"], TEST, parameters["seed"]))
    if parameters["panel"] != "off" and stage == len(parameters["stages"]):
        yield from panel_rows(place, score_panel(home, version, parameters["panel"]))
    facts = StageFacts(
        arm=place.arm,
        order=place.order,
        seed=place.seed,
        stage=stage,
        targets=tuple(targets),
        updates=len(made),
        tokens=sum(update.tokens + update.sampled_tokens for update in made) + gate.tokens,
        seconds=sum(update.seconds for update in made) + gate.seconds,
        verdict=verdict,
        note=note,
    )
    yield to_document(facts)


def _cost_of_gate(home: StudyHome, job: Job) -> GateCost:
    """What the gate of a job cost; nothing if it had none."""
    if not isinstance(job.result, LearnResult) or job.result.gate is None:
        return NO_GATE
    return GateCost(tokens=tokens_of_gates(home.store, job.id), seconds=job.result.gate_s)


def _what_comes_of(home: StudyHome, job: Job, parameters: Document) -> str:
    """The version that the stage comes to: the candidate, unless a gate decides; then what serves."""
    assert job.candidate is not None, "a learning job that is done has a candidate"
    if not parameters["gate"] and not parameters["from_base"]:
        serve(home, job.candidate)
    return job.candidate if parameters["from_base"] else serving(home.store).name


def _within(home: StudyHome, job: Job, stage: int, made: list[Update], parameters: Document) -> Iterator[Document]:
    """The stage's own environments at its checkpoints, and KL to the base there."""
    for update, version in sorted(kept_versions(home.store, job).items()):
        place = RowPlace(arm=parameters["arm"], order=parameters["order"], seed=parameters["seed"], stage=stage, update=update)
        yield from drift_rows(place, made[update - 1], job.targets[0])
        if version.name != job.candidate and update < len(made):
            tasks = {name: parameters["test"][name] for name in job.targets}
            yield from task_rows(place, SAMPLED, score_tasks(home, version.name, tasks, TEST, parameters["seed"]))


def _forget_steps(home: StudyHome) -> None:
    """Remove the weights of checkpoints, which are measured; those of the versions that served stay until the run has ended."""
    for version in list_versions(home.store):
        if version.job is None and version.path is not None:
            shutil.rmtree(home.store.home / version.path, ignore_errors=True)


def _read(folder: Path) -> list[list[Document]]:
    """The rows of each whole stage; what a kill left of another one is dropped."""
    path = folder / _ROWS
    if not path.exists():
        return []
    *lines, rest = path.read_text().split("\n")
    if rest:
        path.write_text("".join(f"{line}\n" for line in lines))
    return [json.loads(line) for line in lines]


def _write(folder: Path, rows: list[Document]) -> None:
    with (folder / _ROWS).open("a") as file:
        file.write(to_json(rows) + "\n")
