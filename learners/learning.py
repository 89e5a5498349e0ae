"""One learning job, from the version it starts at to the candidate it leaves. The gate comes after it (`gate/gating.py`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from safetensors import SafetensorError

from perdure.envs.environment import Environment
from perdure.envs.policy import Policy
from perdure.envs.rollout import Opponents
from perdure.learners.adapters import load_adapter, write_adapter
from perdure.learners.engines.engine import Engine
from perdure.learners.engines.transformers_engine import TransformersEngine, faster_dtype
from perdure.learners.engines.weights import LoraPair
from perdure.learners.grpo import grpo
from perdure.learners.iterative_sft import iterative_sft
from perdure.learners.models import ModelFiles
from perdure.learners.options import LEARNERS, parse_options
from perdure.learners.trainee import Trainee
from perdure.learners.workbench import Workbench
from perdure.memory import faults
from perdure.memory.environments import list_environments, require
from perdure.memory.errors import InputError, RuntimeFailure, UnknownError
from perdure.memory.journal import StoreJournal
from perdure.memory.leases import Clock
from perdure.memory.processes import kept_precision
from perdure.memory.records import Job, Lease, Version, VersionRef
from perdure.memory.store import Store
from perdure.memory.versions import add_candidate, get_version, serving, take_name

_LEARNERS: Mapping[str, Callable[[Workbench], None]] = {"grpo": grpo, "iterative-sft": iterative_sft}
assert set(_LEARNERS) == set(LEARNERS)


def open_engine(store: Store, files: ModelFiles, *, device: str, seed: int) -> TransformersEngine:
    """An engine with this model, in the precision that was faster when the home first used the device.

    Raises `InputError` where there is no such device, or the files do not load.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("device = 'cuda', but torch finds no GPU: set device = 'cpu', or see what `perdure doctor` says")
    try:
        name = kept_precision(store, device, lambda: str(faster_dtype(device)).removeprefix("torch."))
        return TransformersEngine(files, device=device, dtype=getattr(torch, name), seed=seed)
    except InputError:
        raise
    except (OSError, ValueError, ImportError, SafetensorError) as error:
        told = " ".join(str(error).split())[:300]
        raise InputError(f"the model in {files.path} cannot be loaded ({told}): mend its files, or set another model") from error


def version_table(store: Store, engine: Engine, version: Version) -> dict[str, LoraPair]:
    """A version's adapter, checked against its manifest; empty for the base model."""
    if version.path is None:
        return {}
    return load_adapter(store.home, version.path, version.hash, engine.files)


def ensure_loaded(store: Store, engine: Engine, name: str) -> VersionRef:
    """Load a version into the engine unless it is there."""
    ref = VersionRef(name)
    if ref not in engine:
        engine.load(ref, version_table(store, engine, get_version(store, name)))
    return ref


def against(store: Store, engine: Engine, serving: str) -> Opponents:
    """Versions as opponents: `serving` is the one that serves now, whichever serves later."""

    def opponent(name: str) -> tuple[VersionRef, Policy]:
        ref = ensure_loaded(store, engine, serving if name == "serving" else name)
        return ref, engine.policy(ref)

    return opponent


def run_learning(
    *,
    store: Store,
    clock: Clock,
    lease: Lease,
    job: Job,
    engine: Engine,
    device: str,
    load: Callable[[str], Environment],
    width: int,
    stop: Callable[[], bool],
) -> tuple[Version, dict[str, Any]]:
    """Learn as the job says and add the candidate; returns it with the diagnostics of the last update. `load` gives environments by name.

    Raises `UnknownError` for a learner or version that does not exist, `InputError` for options that do not fit, `RuntimeFailure`
    where there is nothing to learn from, and `Interrupted` where `stop()` became true.
    """
    learner = _LEARNERS.get(job.learner or "")
    if learner is None:
        raise UnknownError(f"no learner {job.learner!r}: there are {', '.join(sorted(_LEARNERS))}")
    if not job.targets:
        raise InputError("a learning job needs a target: give --target ENV")
    targets = [load(name) for name in job.targets]
    for environment in targets:
        require(store, environment.name)
    options = parse_options(job.options.get("learn", {}))
    parent = get_version(store, job.options["start"]) if job.options.get("start") else serving(store)
    version_table(store, engine, parent)  # what is read below is what the database says
    torch.manual_seed(options.seed)
    trainee = Trainee(
        engine.files,
        device=device,
        rank=options.rank,
        alpha=options.alpha,
        start=None if parent.path is None else store.home / parent.path,
    )
    known = [row.name for row in list_environments(store)]
    bench = Workbench(
        store=store,
        lease=lease,
        journal=StoreJournal(store, clock),
        engine=engine,
        trainee=trainee,
        options=options,
        targets=targets,
        old=[load(name) for name in known if name not in job.targets],
        serving=ensure_loaded(store, engine, serving(store).name),
        width=width,
        stop=stop,
        opponents=against(store, engine, serving(store).name),
    )
    bench.start()
    learner(bench)
    engine.unload(bench.sampler)
    for parameter in trainee.parameters:
        if not bool(torch.isfinite(parameter).all()):
            raise RuntimeFailure(f"the adapter of job {job.id} has values that are not finite: learn with a smaller lr than {options.lr}")
    name = take_name(store)
    path, hash_ = write_adapter(store.home, name, engine.files, trainee.save)
    faults.point("between-file-and-row")
    version = add_candidate(store, lease, name, parent=parent.name, hash=hash_, path=path, targets=job.targets, job=job.id)
    return version, bench.last
