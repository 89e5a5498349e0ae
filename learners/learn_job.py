"""One learning job, from its start version to the candidate. The gate follows it (`gate/gating.py`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from perdure.envs.environment import Environment
from perdure.envs.rollout import nothing
from perdure.learners.checkpoint import Checkpoint, read_checkpoint
from perdure.learners.engines.engine import Engine
from perdure.learners.engines.loaded_versions import LoadedVersions
from perdure.learners.engines.version_loading import version_weights
from perdure.learners.gradients import ExtraLoss, ProjectGradient
from perdure.learners.loops.grpo import grpo
from perdure.learners.loops.iterative_sft import iterative_sft
from perdure.learners.loops.reinforce import reinforce
from perdure.learners.loops.sdft import sdft
from perdure.learners.loops.self_sft import self_sft
from perdure.learners.loops.sft import sft
from perdure.learners.loops.trace_sft import trace_sft
from perdure.learners.options import ENVIRONMENT, LEARNERS, parse_options
from perdure.learners.retention.episodic_memory import episodic_memory
from perdure.learners.retention.ewc import ewc, fisher
from perdure.learners.retention.gradient_projection import gradient_projection
from perdure.learners.retention.interpolation import interpolate
from perdure.learners.retention.lwf import lwf
from perdure.learners.retention.olora import olora
from perdure.learners.reward_source import MODEL, from_environment, rewarder
from perdure.learners.trainee import Reference, Trainee
from perdure.learners.weights.adapters import write_version, write_weights
from perdure.learners.weights.base_models import ModelFiles
from perdure.learners.weights.weight_sets import Weights
from perdure.learners.workbench import Workbench
from perdure.memory import faults
from perdure.memory.contracts.orders import Job, LearnOrder
from perdure.memory.environments import list_environments, require
from perdure.memory.errors import InputError, RuntimeFailure, UnknownError
from perdure.memory.leases import Clock
from perdure.memory.processes import record_event
from perdure.memory.records import Lease, Version
from perdure.memory.store import Store
from perdure.memory.trajectories.journal import StoreJournal
from perdure.memory.versions import add_candidate, get_version, reserve_name, serving

Learner = Callable[[Workbench, Mapping[str, ExtraLoss], ProjectGradient | None], None]

_LEARNERS: Mapping[str, Learner] = {
    "grpo": grpo,
    "reinforce": reinforce,
    "iterative-sft": iterative_sft,
    "self-sft": self_sft,
    "trace-sft": trace_sft,
    "sft": sft,
    "sdft": sdft,
}
assert set(_LEARNERS) == set(LEARNERS)


def run_learning(
    *,
    store: Store,
    clock: Clock,
    lease: Lease,
    job: Job,
    order: LearnOrder,
    engine: Engine,
    device: str,
    load: Callable[[str], Environment],
    width: int,
    stop: Callable[[], bool],
    each_round: Callable[[], None] = nothing,
) -> Version:
    """Run the job's order and add the candidate; `load` gives environments by name.

    If an earlier attempt was interrupted, it resumes after its last update. Raises `UnknownError` if the learner or version does not exist,
    `InputError` if options do not fit, `RuntimeFailure` if there is nothing to learn from, and `Interrupted` once `stop()` is true.
    """
    learner = _LEARNERS.get(order.learner)
    if learner is None:
        raise UnknownError(f"no learner {order.learner!r}: there are {', '.join(sorted(_LEARNERS))}")
    if not job.targets:
        raise InputError("a learning job needs a target: give --target ENV")
    targets = [load(name) for name in job.targets]
    for environment in targets:
        require(store, environment.name)
    options = parse_options(order.options)
    now_serving = serving(store)
    checkpoint = _last_checkpoint(store, job)
    asked = order.start if checkpoint is None else checkpoint.start
    parent = now_serving if asked is None else get_version(store, asked)
    served = now_serving if checkpoint is None else get_version(store, checkpoint.serving)
    start = version_weights(store, engine.files, parent)
    torch.manual_seed(options.seed)
    trainee = Trainee(
        engine.files,
        device=device,
        options=options,
        start=start,
        references=_references(store, engine.files, served),
        with_teacher=order.learner == "sdft",
    )
    known = [row.name for row in list_environments(store)]
    judges = rewarder(store, options.rewards, played_before=order.learner == "trace-sft")
    workbench = Workbench(
        store=store,
        lease=lease,
        journal=StoreJournal(store, clock),
        engine=engine,
        trainee=trainee,
        options=options,
        targets=targets,
        old=[load(name) for name in known if name not in job.targets],
        width=width,
        stop=stop,
        each_round=each_round,
        parent=parent.name,
        serving=served.name,
        opponents=LoadedVersions(store, engine).opponents(now_serving.name),
        rewarder=judges if options.rewards == ENVIRONMENT or options.rewards.startswith(MODEL) else from_environment(store),
    )
    extra_losses, project_gradient = _retention(workbench)
    workbench.start(checkpoint)
    try:
        learner(workbench, extra_losses, project_gradient)
    finally:
        if workbench.sampler in engine:  # it is not if loading it failed
            engine.unload(workbench.sampler)
    for parameter in trainee.parameters:
        if not bool(torch.isfinite(parameter).all()):
            raise RuntimeFailure(f"the weights of job {job.id} have values that are not finite: learn with a smaller lr than {options.lr}")
    weights: Weights = trainee.weights()
    if options.interpolate < 1:
        weights = interpolate(start if trainee.is_lora else trainee.in_full(start), weights, options.interpolate)
    name = reserve_name(store)
    path, hash_ = write_version(store.home, name, engine.files, lambda folder: write_weights(folder, weights, engine.files))
    faults.point("between-file-and-row")
    return add_candidate(store, lease, name, parent=parent.name, hash=hash_, path=path, targets=job.targets, job=job.id)


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


def _retention(workbench: Workbench) -> tuple[dict[str, ExtraLoss], ProjectGradient | None]:
    """Extra losses and gradient projection for retention. Raises `InputError` if they need old successes and there are none."""
    options, trainee = workbench.options, workbench.trainee
    losses: dict[str, ExtraLoss] = {}
    memories = episodic_memory(workbench) if options.ewc or options.gem != "off" else []
    if options.ewc:
        every = [lesson for memory in memories for lesson in memory]
        losses["ewc"] = ewc(trainee, fisher(trainee, every, options.temperature), options.ewc)
    if options.lwf:
        losses["lwf"] = lwf(options.lwf, options.temperature)
    if options.olora and trainee.below():
        losses["olora"] = olora(trainee, options.olora)
    if options.gem == "off":
        return losses, None
    mean = options.gem == "a-gem"
    return losses, gradient_projection(memories, mean=mean, temperature=options.temperature, budget_tokens=options.budget_tokens)
