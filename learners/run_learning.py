"""One learning job, from its start version to the candidate. The gate follows it (`gate/gating.py`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch

from perdure.envs.environment import Environment
from perdure.learners.checkpoint import Checkpoint, Progress, read_checkpoint
from perdure.learners.engines.engine import Engine
from perdure.learners.engines.loaded_versions import LoadedVersions
from perdure.learners.engines.version_loading import home_dtype, version_weights
from perdure.learners.hardware import set_up_process
from perdure.learners.learning_job import JobEnvironments, JobRun, LearningJob
from perdure.learners.loops.learner_table import LEARNERS, Learner
from perdure.learners.option_parsing import parse_options
from perdure.learners.options import ENVIRONMENT, LearnOptions
from perdure.learners.ranks.leading import open_first
from perdure.learners.ranks.opening import Opening
from perdure.learners.ranks.ranks import ALONE, Ranks
from perdure.learners.retention.interpolation import interpolate
from perdure.learners.retention.retention_terms import retention_terms
from perdure.learners.reward_source import MODEL, Rewarder, from_environment, rewarder
from perdure.learners.sampling.batch_environments import groups_of_targets
from perdure.learners.sampling.live_batches import choose_live
from perdure.learners.selection.checking import choose_step
from perdure.learners.selection.kept_step import write_choice
from perdure.learners.selection.panel_hold import PanelHold, hold_panel
from perdure.learners.trainees.trained_weights import Reference
from perdure.learners.weights.adapters import write_version, write_weights
from perdure.learners.weights.base_models import ModelFiles
from perdure.learners.weights.weight_sets import Weights
from perdure.memory import faults
from perdure.memory.contracts.orders import Job, LearnOrder
from perdure.memory.environments import environments_in_use, require_in_use
from perdure.memory.errors import Diverged, InputError, RuntimeFailure, UnknownError
from perdure.memory.evidence.item_scores import ItemMeasure, ItemScore, keep_panel_scores
from perdure.memory.jobs import steps
from perdure.memory.processes import record_event
from perdure.memory.records import Version
from perdure.memory.store import Store
from perdure.memory.trajectories.episodes import latest_episode_id
from perdure.memory.versions import add_candidate, get_version, reserve_name, serving


def run_learning(
    run: JobRun,
    queued: Job,
    versions: LoadedVersions,
    device: str,
    load: Callable[[str], Environment],
    hold: PanelHold | None = None,
    ranks: Ranks = ALONE,
) -> Version:
    """Carry out the order of a learning job and add the candidate; `load` gives environments by name. With `hold`, the candidate holds the
    capability panel if it can. Of several `ranks` this is the first.

    If an earlier attempt was interrupted, it resumes after its last update. Raises `UnknownError` if the learner or version does not exist,
    `InputError` if options do not fit, `RuntimeFailure` if there is nothing to learn from, and `Interrupted` if the job is stopped.
    """
    store, engine, order = run.store, versions.engine, _order(queued)
    learner = LEARNERS.get(order.learner)
    if learner is None:
        raise UnknownError(f"no learner {order.learner!r}: there are {', '.join(sorted(LEARNERS))}")
    targets = [load(name) for name in queued.targets]
    for environment in targets:
        require_in_use(store, environment.name)
    options = parse_options(order.learner, order.options)
    old = [row.name for row in environments_in_use(store) if row.name not in queued.targets]
    checkpoint = _last_checkpoint(store, queued)
    progress = _begun(store, queued, order, options, old) if checkpoint is None else checkpoint.progress
    start = version_weights(store, engine.files, get_version(store, progress.start))
    opening = Opening(
        model=engine.files.name,
        hash=engine.files.hash,
        learner=order.learner,
        options=options,
        dtype=_dtype(run.store, engine, options, device),
        with_teacher=learner.needs_teacher,
        start=start,
        references=_references(store, engine.files, get_version(store, progress.serving)),
    )
    trainee = open_first(ranks, opening, engine.files, device, engine.shared_model)
    job = LearningJob(
        run=run,
        options=options,
        engine=engine,
        trainee=trainee,
        environments=JobEnvironments(
            targets=targets,
            old=[load(name) for name in old],
            opponents=versions.opponents(serving(store).name),
        ),
        rewarder=_rewarder(store, options, learner),
        progress=progress,
    )
    job = replace(job, retention=retention_terms(job))
    if checkpoint is not None:
        trainee.resume(checkpoint.state)
        job.tally.updates = [step.update for step in steps(store, job.id) if step.n <= progress.step]
    engine.load(job.sampler, trainee.weights())
    failure: Diverged | None = None
    try:
        learner.run(job)
    except Diverged as error:
        failure = error
    finally:
        if job.sampler in engine:  # it is not if loading it failed
            engine.unload(job.sampler)
    chosen = choose_step(job, failure)
    weights = _learned(job, start)
    scores: Mapping[ItemMeasure, ItemScore] = {}
    if hold is not None and options.retention.hold_panel:
        held = hold_panel(job, hold, chosen, weights, partial(_from_serving, job, weights))
        chosen, weights, scores = held.chosen, held.weights, held.scores
    write_choice(store.home, job.id, chosen)
    candidate = _add_candidate(job, queued, weights)
    if scores:
        keep_panel_scores(store, run.lease, candidate.name, scores.items())
    return candidate


def _order(queued: Job) -> LearnOrder:
    """The order of a learning job. Raises `InputError` if it is of another kind, or has no target."""
    if not isinstance(queued.order, LearnOrder):
        raise InputError(f"job {queued.id} is no learning job")
    if not queued.targets:
        raise InputError("a learning job needs a target: give --target ENV")
    return queued.order


def _begun(store: Store, queued: Job, order: LearnOrder, options: LearnOptions, old: Sequence[str]) -> Progress:
    """A job before its first update. Raises `RuntimeFailure` if it is to learn from live play alone and there is none of its targets."""
    now_serving = serving(store).name
    start = now_serving if order.start is None else get_version(store, order.start).name
    groups = groups_of_targets(options, options.common.prompts, with_old=bool(old))
    live = choose_live(store, queued.id, start, options, targets=queued.targets, old=old, target_groups=groups)
    newest = latest_episode_id(store) or 0
    return Progress(start=start, serving=now_serving, updates=live.updates, newest=newest, chosen=live.episodes)


def _rewarder(store: Store, options: LearnOptions, learner: Learner) -> Rewarder:
    """The rewarder of played episodes, which have no stored rewards."""
    source = options.common.rewards
    found = rewarder(store, source, played_before=learner.uses_stored_rewards)
    return found if source == ENVIRONMENT or source.startswith(MODEL) else from_environment(store)


def _learned(job: LearningJob, start: Weights) -> Weights:
    """The trainee's weights, interpolated with the start if the options say so."""
    trainee, share = job.trainee, job.options.retention.interpolate
    return interpolate(trainee.trained.in_full(start), trainee.weights(), share) if share < 1 else trainee.weights()


def _from_serving(job: LearningJob, learned: Weights, share: float) -> Weights:
    """The weights at this share of the way from the serving version to what was learned."""
    served = version_weights(job.run.store, job.engine.files, get_version(job.run.store, job.progress.serving))
    return interpolate(job.trainee.trained.in_full(served), learned, share)


def _add_candidate(job: LearningJob, queued: Job, weights: Weights) -> Version:
    """Write weights as a version."""
    store = job.run.store
    name = reserve_name(store)
    files = job.engine.files
    path, hash_ = write_version(store.home, name, files, lambda folder: write_weights(folder, weights, files))
    faults.point("between-file-and-row")
    return add_candidate(store, job.run.lease, name, parent=job.progress.start, hash=hash_, path=path, targets=queued.targets, job=job.id)


def _dtype(store: Store, engine: Engine, options: LearnOptions, device: str) -> torch.dtype:
    """The precision of the products in learning; sets this process up for it, unless an engine did. The fastest one is the engine's."""
    if options.tuning.tuning == "full" or options.tuning.dtype == "float32":
        dtype = torch.float32
    elif options.tuning.dtype == "bfloat16":
        dtype = torch.bfloat16
    else:
        dtype = home_dtype(store, device) if engine.shared_model is None else engine.shared_model.dtype
    if engine.shared_model is None or engine.shared_model.dtype != dtype:
        set_up_process(dtype, device)
    return dtype


def _last_checkpoint(store: Store, job: Job) -> Checkpoint | None:
    """The checkpoint of an earlier attempt; None if there is none, or if it is damaged, which is recorded."""
    try:
        return read_checkpoint(store.home, job.id)
    except RuntimeFailure as error:
        record_event(store, "damaged", f"job {job.id}", f"{error}: the job starts over")
        return None


def _references(store: Store, files: ModelFiles, served: Version) -> dict[Reference, Weights]:
    """The weights that the learner is compared with, in addition to the base model."""
    return {} if served.path is None else {"serving": version_weights(store, files, served)}
