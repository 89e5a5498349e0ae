"""The parts of one seed of a life study: life, naive life, joint job, and probes of their versions. Each continues if it is cut off.

The naive life makes the same jobs as the life (targets, learners and updates, in the same order), but without replay and without a gate:
each candidate serves as soon as it is made, and is the start of the next. The joint job has all environments as targets, and as many
updates as all jobs of the life together. Neither plays live; both have the seed, the model and all other settings of the life.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from perdure.agent.config_file import load_config
from perdure.agent.home import open_or_create
from perdure.agent.stream.registering import register_environments
from perdure.agent.studies.cells import Desk, silence
from perdure.agent.studies.life.home_history import how_far, read_history, task_scores
from perdure.agent.studies.life.perdure_process import RunPlace, command, read_sittings, run_daemon
from perdure.agent.supervision.run_or_follow import require_done, run_or_follow, submit
from perdure.memory.contracts.orders import LearnOrder
from perdure.memory.contracts.results import LearnResult
from perdure.memory.errors import RuntimeFailure
from perdure.memory.jobs import list_jobs, unfinished_jobs
from perdure.memory.json_value import Document
from perdure.memory.store import FILE_NAME, open_store
from perdure.memory.versions import list_versions, moves, serving

LIFE, NAIVE, JOINT = "life", "naive", "joint"


def live_for_real(parameters: Document, desk: Desk) -> Iterator[Document]:
    """The life: one row, its history."""
    place = _place(parameters, LIFE, desk.folder)

    def say(line: str) -> None:
        desk.say(f"life, seed {parameters['seed']}: {line}")

    run_daemon(place, parameters["hours"] * 3600, say, lambda: how_far(place.home))
    yield read_history(place.home, read_sittings(place))


def live_naively(parameters: Document, desk: Desk) -> Iterator[Document]:
    """The naive life: one row a job, with the version that it made."""
    place = _place(parameters, NAIVE, desk.folder)
    jobs = parameters["jobs"]
    for n, job in enumerate(jobs):
        version = _served_after(place.home, n)
        if version is None:
            desk.say(f"naive life, seed {parameters['seed']}: job {n + 1} of {len(jobs)}")
            made = _unserved(place.home)
            if made is None:
                _learn(place, job["learner"], job["targets"], {**job["options"], "updates": job["updates"], "replay": 0.0})
                made = _unserved(place.home)
            if made is None:
                raise RuntimeFailure(f"job {n + 1} of the naive life made no version: {place.log} tells more")
            command(place, "version", "promote", made, "--reason", "the naive life has no gate")
            version = made
        yield {"version": version, "targets": job["targets"], "updates": job["updates"]}


def learn_jointly(parameters: Document, desk: Desk) -> Iterator[Document]:
    """The joint job: one row, with the version that it made."""
    place = _place(parameters, JOINT, desk.folder)
    made = _unserved(place.home)
    if made is None:
        desk.say(f"joint job, seed {parameters['seed']}: {parameters['updates']} updates on {len(parameters['targets'])} environments")
        _learn(place, parameters["learner"], parameters["targets"], {**parameters["options"], "updates": parameters["updates"]})
        made = _unserved(place.home)
    if made is None:
        raise RuntimeFailure(f"the joint job made no version: {place.log} tells more")
    with open_store(place.home) as store:
        (result,) = [job.result for job in list_jobs(store) if isinstance(job.result, LearnResult)]
        choice = result.selection
        yield {"version": made, "updates": parameters["updates"], "step": choice.step, "ended_early": choice.ended_early}


def probe_version(parameters: Document, desk: Desk) -> Iterator[Document]:
    """Sampled answers of one version to held-out tasks: one row an environment, with a score for each task."""
    place = _place(parameters, parameters["arm"], desk.folder)
    version, tasks = parameters["version"], parameters["tasks"]
    targets = [word for name in parameters["environments"] for word in ("--target", name)]
    command(
        place, "probe", version, *place.configured, "--episodes", str(tasks), "--temperature", "1", "--samples", "1", "--json", *targets
    )
    for name in parameters["environments"]:
        yield {"environment": name, "scores": task_scores(place.home, version, parameters["seed"], name, tasks)}


def _learn(place: RunPlace, learner: str, targets: list[str], options: Document) -> None:
    """Run a learning job without a gate, or what is left of the one that an earlier sitting has begun."""
    loaded = load_config(place.config)
    with open_or_create(place.home) as store:
        begun = unfinished_jobs(store)
        if not begun:
            environments = loaded.config.environments((*loaded.config.stream.names, *targets))
            register_environments(store, list(environments.values()))
    if begun:
        number = begun[0].id
    else:
        order = LearnOrder(learner=learner, options=loaded.config.learner_options(learner, options), gate=False)
        number = submit(place.home, targets, order)
    require_done(run_or_follow(place.home, loaded, number, silence, goes_on_later=True))


def _place(parameters: Document, arm: str, folder: Path) -> RunPlace:
    """The home of an arm, and its configuration: the seed, and what the study sets besides (by default nothing)."""
    own = folder / f"seed-{parameters['seed']}-{parameters['hours']:g}h"
    own.mkdir(exist_ok=True)
    config = own / "perdure.toml"
    config.write_text(f"seed = {parameters['seed']}\n{parameters.get('settings', '')}")
    return RunPlace(home=own / arm, config=config)


def _served_after(home: Path, n: int) -> str | None:
    """The version that began to serve with move n + 1; None if that has not come."""
    if not (home / FILE_NAME).exists():
        return None
    with open_store(home) as store:
        log = moves(store)
        return log[n + 1].to_version if len(log) > n + 1 else None


def _unserved(home: Path) -> str | None:
    """The newest version that a job has made, if it has never served."""
    if not (home / FILE_NAME).exists():
        return None
    with open_store(home) as store:
        made = [version for version in list_versions(store) if version.state == "candidate"]
        return made[0].name if made and made[0].parent == serving(store).name else None


def learning_jobs(history: Document) -> list[Document]:
    """What the naive life repeats: the learning jobs of a life that made a version."""
    return [
        {"learner": job["learner"], "targets": job["targets"], "options": job["options"], "updates": job["updates"]}
        for job in history["jobs"]
        if job["kind"] == "learn" and job["candidate"] is not None and job["updates"]
    ]
