"""The process of one job: `python -m perdure.agent.learner --home DIR --job N`.

It leases the job, takes the device, learns, gates what it learnt, and promotes on a positive verdict. A job that is interrupted goes back
to the queue; whatever else stops it is written into the job. It exits with 0 where the job is done, 1 where it failed or was interrupted.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from perdure.agent.children import parent_pid
from perdure.agent.config import Config, load_config
from perdure.agent.home import cache_dir
from perdure.learners.engine import TransformersEngine
from perdure.learners.gate import PROFILES
from perdure.learners.gating import GateResult, dev_scores, run_gate
from perdure.learners.learning import open_engine, run_learning
from perdure.learners.models import resolve_model
from perdure.learners.probes import EnginePlayer, probe
from perdure.learners.workbench import Interrupted
from perdure.memory import faults
from perdure.memory.environments import anchor_of, list_environments
from perdure.memory.errors import InputError, LeaseLost, PerdureError, RuntimeFailure
from perdure.memory.gates import close_gate
from perdure.memory.jobs import fail_job, finish_job, lease_job, release_job, renew_job, set_job_state, steps
from perdure.memory.journal import StoreJournal
from perdure.memory.leases import BootClock
from perdure.memory.processes import beat, give_device, record_event, renew_device, take_device
from perdure.memory.records import Job, Lease, Purpose, Version
from perdure.memory.store import Store, open_store
from perdure.memory.versions import add_initial, get_version, left_behind, promote, reject, serving, version_of_job

LEASE_S = 90.0
BEAT_S = 10.0
DEVICE_WAIT_S = 3600.0
HANG_S = 1800.0
"""A job asks whether to stop in every round of generation. One that has not asked for so long hangs, and ends itself."""

REPLACES_ANCHOR = 200.0
"""An anchor gives way to a version that beats it at alpha = .005 (GATE.md, 'Over time')."""


class Pulse:
    """Whether the work is asked to stop, and when it last asked: a sign of life that a thread of its own could not give."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._asked_s = time.monotonic()

    def __call__(self) -> bool:
        self._asked_s = time.monotonic()
        return self._stop.is_set()

    @property
    def silent_s(self) -> float:
        return time.monotonic() - self._asked_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a job has at hand."""

    store: Store
    config: Config
    engine: TransformersEngine
    job: Job
    lease: Lease
    stop: Pulse

    def player(self, purpose: Purpose) -> EnginePlayer:
        return EnginePlayer(
            store=self.store,
            engine=self.engine,
            journal=StoreJournal(self.store, BootClock()),
            lease=self.lease,
            purpose=purpose,
            width=self.config.play.width,
            stop=self.stop,
        )


def run_job(home: Path, config: Config, job_id: int, stop: threading.Event) -> int:
    """Run one queued job to its end; returns the exit code."""
    clock = BootClock()
    name = f"learner-{job_id}"
    owner = f"{name}:{os.getpid()}"
    with open_store(home) as store:
        leased = lease_job(store, owner, LEASE_S, clock, job_id)
        if leased is None:
            raise RuntimeFailure(f"job {job_id} is not waiting: `perdure status` shows who has it")
        job, lease = leased
        set_job_state(store, lease, "running")
        beat(store, name, os.getpid(), "waiting", "for the device")
        pulse = Pulse(stop)

        def renew(own: Store) -> None:
            renew_job(own, lease, LEASE_S, clock)
            _end_if_hanging(own, name, pulse)

        with _heartbeat(home, owner, renew, stop.set):
            try:
                with _device(store, owner, pulse, stop.set):
                    beat(store, name, os.getpid(), "working", f"{job.kind} {job.learner or ''}".strip())
                    files = resolve_model(config.model, cache_dir(), lambda line: record_event(store, "model", config.model, line))
                    engine = open_engine(store, files, device=config.device, seed=config.seed + job_id)
                    add_initial(store, files.name, files.hash)  # only now: a home keeps its model for good
                    pulse()
                    work = Work(store=store, config=config, engine=engine, job=job, lease=lease, stop=pulse)
                    result, candidate = _KINDS[job.kind](work)
                with store.write():  # the verdict, what becomes of the candidate, and that the job is done are one fact
                    _settle(work, result)
                    finish_job(store, lease, result, candidate)
                beat(store, name, os.getpid(), "done", None)
            except LeaseLost as error:
                record_event(store, "lease lost", name, str(error))
                return 1
            except Interrupted as error:
                with suppress(LeaseLost):  # where that was why it stopped, the job is somebody else's
                    release_job(store, lease)
                record_event(store, "interrupted", name, str(error))
                return 1
            except Exception as error:  # a job that fails is written down as failed, whatever it was
                with suppress(LeaseLost):
                    fail_job(store, lease, _one_line(error))
                record_event(store, "job failed", name, _one_line(error))
                if not isinstance(error, InputError | RuntimeFailure):
                    raise
                return 1
    return 0


def _learn(work: Work) -> tuple[dict[str, Any], str | None]:
    """Learn, then gate unless told otherwise. A job that is taken up again goes on with the candidate that it made before."""
    started = time.perf_counter()
    made = version_of_job(work.store, work.job.id)
    if made is not None and made.state == "candidate":
        candidate, diagnostics = made, steps(work.store, work.job.id)[-1].diagnostics
    else:
        candidate, diagnostics = run_learning(
            store=work.store,
            clock=BootClock(),
            lease=work.lease,
            job=work.job,
            engine=work.engine,
            width=work.config.play.width,
            stop=work.stop,
        )
    result: dict[str, Any] = {"version": candidate.name, "verdict": None, "reason": "not gated", "diagnostics": diagnostics, "gate": None}
    learnt_s = time.perf_counter() - started
    left = left_behind(work.store, candidate.name)
    if left is not None:
        result["reason"] = f"not gated: {left}, which it was trained from, was rolled back meanwhile"
    elif work.job.options.get("gate", True):
        gated = _gate_candidate(work, candidate, work.job.targets)
        result |= {"verdict": gated.verdict, "reason": gated.reason, "gate": gated.as_json()}
    result["seconds"] = {"learn": round(learnt_s, 1), "gate": round(time.perf_counter() - started - learnt_s, 1)}
    return result, candidate.name


def _settle(work: Work, result: dict[str, Any]) -> None:
    """Write the verdict and, for a learning job, what it means for the candidate: it serves from now on, or never, or stays one."""
    gate = result if work.job.kind == "gate" else result.get("gate")
    if gate is None:
        return
    close_gate(work.store, work.lease, gate["gate"], gate["verdict"], gate["reason"], gate)
    faults.point("between-verdict-and-promotion")
    if work.job.kind != "learn":
        return
    if result["verdict"] == "promote":
        gains = gate["gain"].get("environments", {})
        learned = [name for name, test in gains.items() if test["state"] == "passed"]
        beaten = [
            name for name in learned if gains[name]["wealth"] >= REPLACES_ANCHOR and gains[name]["reference"] == anchor_of(work.store, name)
        ]
        promote(work.store, result["version"], result["reason"], gate=gate["gate"], lease=work.lease, learned=learned, anchors=beaten)
    elif result["verdict"] == "reject":
        reject(work.store, result["version"], work.lease)


def _gate(work: Work) -> tuple[dict[str, Any], str | None]:
    candidate = get_version(work.store, work.job.options["candidate"])
    gated = _gate_candidate(work, candidate, work.job.targets)
    return gated.as_json(), candidate.name


def _gate_candidate(work: Work, candidate: Version, targets: tuple[str, ...]) -> GateResult:
    set_job_state(work.store, work.lease, "gating")
    store, config = work.store, work.config
    profile = work.job.options.get("profile") or config.gate.profile
    now_serving = serving(store)
    anchors = {row.name: anchor_of(store, row.name) or now_serving.name for row in list_environments(store)}
    player = work.player("gate")
    anchor_scores = dev_scores(player, anchors, root_seed=config.seed)
    others = {name: now_serving.name for name in targets if anchors.get(name) != now_serving.name}
    serving_scores = anchor_scores | dev_scores(player, others, root_seed=config.seed)
    return run_gate(
        store,
        work.lease,
        candidate=candidate,
        serving=now_serving,
        anchors=anchors,
        trained=targets,
        critical=[row.name for row in list_environments(store) if row.critical],
        anchor_scores=anchor_scores,
        serving_scores={name: serving_scores[name] for name in targets if name in serving_scores},
        settings=replace(PROFILES[profile], alpha=config.gate.alpha),
        root_seed=config.seed,
        play=player,
        progress=lambda line: beat(store, f"learner-{work.job.id}", os.getpid(), "gating", line),
    )


def _probe(work: Work) -> tuple[dict[str, Any], str | None]:
    name = work.job.options.get("version") or serving(work.store).name
    get_version(work.store, name)
    environments = list(work.job.targets) or [row.name for row in list_environments(work.store)]
    found = probe(work.player("probe"), name, environments, int(work.job.options.get("episodes", 50)), work.config.seed)
    return {"version": name, "decoding": "greedy", "environments": found}, None


_KINDS = {"learn": _learn, "gate": _gate, "probe": _probe}


@contextmanager
def _heartbeat(home: Path, owner: str, renew: Callable[[Store], None], lost: Callable[[], None]) -> Iterator[None]:
    """Renew a lease from a thread of its own while the work goes on; where it is lost, call `lost`."""
    ended = threading.Event()

    def beats() -> None:
        with open_store(home) as store:
            while not ended.wait(BEAT_S):
                try:
                    renew(store)
                except LeaseLost as error:
                    record_event(store, "lease lost", owner, str(error))
                    lost()
                    return
                except PerdureError:  # a full disk, a locked file: the lease is held still, and the next beat tries again
                    continue

    thread = threading.Thread(target=beats, name=f"heartbeat of {owner}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(timeout=BEAT_S)


@contextmanager
def _device(store: Store, owner: str, stop: Pulse, lost: Callable[[], None]) -> Iterator[None]:
    """Wait for the device and hold it. Raises `RuntimeFailure` where it does not come free in time."""
    clock = BootClock()
    deadline = time.monotonic() + DEVICE_WAIT_S
    while (lease := take_device(store, owner, LEASE_S, clock)) is None:
        if stop():
            raise Interrupted(f"{owner} was stopped while it waited for the device")
        if time.monotonic() > deadline:
            raise RuntimeFailure(f"the device did not come free in {DEVICE_WAIT_S:.0f} s: `perdure status` shows who has it")
        time.sleep(0.1)
    held = lease
    try:
        with _heartbeat(store.home, owner, lambda own: renew_device(own, held, LEASE_S, clock), lost):
            yield
    finally:
        give_device(store, held)


def _end_if_hanging(store: Store, name: str, pulse: Pulse) -> None:
    """A hung process cannot end itself in good order; its supervisor fails the job and starts no other until then."""
    if pulse.silent_s > HANG_S:
        record_event(store, "hangs", name, f"no progress for {HANG_S / 60:.0f} minutes: it is ended")
        os.kill(os.getpid(), signal.SIGKILL)


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if isinstance(error, InputError | RuntimeFailure) else f"{type(error).__name__}: {text}"


def _stop_with_parent(stop: threading.Event) -> None:
    """Stop when the process that started this one is gone: nobody would see to the job any more."""
    parent = parent_pid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        stop.set()

    threading.Thread(target=watch, name="parent watch", daemon=True).start()


def main() -> int:
    sys.path.append("")  # the working folder, last: as in `agent/cli.py`
    parser = argparse.ArgumentParser(prog="python -m perdure.agent.learner", description=__doc__)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--job", type=int, required=True)
    parser.add_argument("--config", type=Path, default=None)
    given = parser.parse_args()
    stop = threading.Event()
    _stop_with_parent(stop)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return run_job(given.home, load_config(given.config).config, given.job, stop)


if __name__ == "__main__":
    raise SystemExit(main())
