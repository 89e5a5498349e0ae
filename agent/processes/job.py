"""The process of one job: `python -m perdure.agent.processes.job --home DIR --job N`.

It leases the job, takes the device, learns, gates the candidate, and promotes it if the verdict says so. An interrupted job goes back to
the queue; any other error is written into the job, which is tried again if the cause says nothing about it. The exit code is 0 if the job
is done or was interrupted, else that of its error (`exit_codes.py`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from perdure.agent.config import Config
from perdure.agent.config_file import load_config
from perdure.agent.processes.child import Stop, child_parser, run_child
from perdure.agent.processes.exit_codes import TRANSIENT, cause_of_error, one_line
from perdure.agent.processes.lease_renewal import holding_device, renewing, wait_for_device
from perdure.agent.processes.names import job_process
from perdure.agent.processes.open_engine import open_engine
from perdure.agent.processes.pulse import Pulse
from perdure.learners.checkpoint import remove_other_checkpoints
from perdure.learners.diagnostics import cost
from perdure.learners.engines.engine import Engine
from perdure.learners.gate.decision import PROFILES
from perdure.learners.gate.gating import GateResult, dev_scores, run_gate
from perdure.learners.gate.probes import EnginePlayer, probe
from perdure.learners.learn_job import run_learning
from perdure.learners.workbench import Interrupted
from perdure.memory import faults
from perdure.memory.environments import anchor_of, list_environments
from perdure.memory.errors import LeaseLost, RuntimeFailure
from perdure.memory.gates import close_gate
from perdure.memory.jobs import fail_job, finish_job, lease_job, release_job, renew_job, retry_job, set_job_state, steps, unfinished_jobs
from perdure.memory.leases import TTL_S, BootClock
from perdure.memory.processes import record_event
from perdure.memory.records import Job, Lease, Purpose, Version
from perdure.memory.replay.journal import StoreJournal
from perdure.memory.store import Store, open_store
from perdure.memory.versions import add_initial, get_version, promote, reject, rolled_back_ancestor, serving, version_of_job

REPLACES_ANCHOR = 200.0
"""An anchor gives way to a version that beats it at alpha = .005 (GATE.md, 'Over time')."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a job has at hand."""

    store: Store
    config: Config
    engine: Engine
    job: Job
    lease: Lease
    pulse: Pulse
    stop: Callable[[], bool]

    def player(self, purpose: Purpose) -> EnginePlayer:
        return EnginePlayer(
            store=self.store,
            engine=self.engine,
            journal=StoreJournal(self.store, BootClock()),
            lease=self.lease,
            load=self.config.environment,
            purpose=purpose,
            width=self.config.play.width,
            stop=self.stop,
            each_round=self.pulse.go_on,
        )


def run_job(home: Path, config: Config, job_id: int, stop: Stop) -> None:
    """Run one queued job until it is done or interrupted. Raises any other error that stopped it, after writing it into the job."""
    clock = BootClock()
    name = job_process(job_id)
    owner = f"{name}:{os.getpid()}"
    with open_store(home) as store:
        leased = lease_job(store, owner, TTL_S, clock, job_id)
        if leased is None:
            raise RuntimeFailure(f"job {job_id} is not waiting: `perdure status` shows which process has it")
        job, lease = leased
        set_job_state(store, lease, "running")
        pulse = Pulse(store, name)
        pulse.say("waiting", "for the device")

        with renewing(home, owner, lambda own: renew_job(own, lease, TTL_S, clock), stop.ask):
            try:
                device = wait_for_device(store, owner, pulse.go_on, stop)
                if device is None:
                    raise Interrupted(f"{owner} was stopped while it waited for the device")
                with holding_device(store, device, stop.ask):
                    pulse.say("working", f"{job.kind} {job.learner or ''}".strip())
                    engine = open_engine(store, config, seed=config.seed + job_id, say=lambda line: pulse.say("working", line))
                    add_initial(store, engine.files.name, engine.files.hash)  # only now: a home keeps its model for good
                    work = Work(store=store, config=config, engine=engine, job=job, lease=lease, pulse=pulse, stop=stop)
                    result, candidate = _KINDS[job.kind](work)
                with store.write():  # the verdict, what becomes of the candidate, and that the job is done are one fact
                    _settle(work, result)
                    finish_job(store, lease, result, candidate)
                remove_other_checkpoints(home, [job.id for job in unfinished_jobs(store)])
                pulse.say("done", None)
            except Interrupted as error:
                with suppress(LeaseLost):  # if that was why it stopped, another process has the job
                    release_job(store, lease)
                record_event(store, "interrupted", name, str(error))
            except LeaseLost as error:
                record_event(store, "lease lost", name, str(error))
                raise
            except Exception as error:  # a job that fails is written down as failed, whatever the error
                end = retry_job if cause_of_error(error) in TRANSIENT else fail_job
                with suppress(LeaseLost):
                    end(store, lease, one_line(error))
                with suppress(OSError):
                    remove_other_checkpoints(home, [job.id for job in unfinished_jobs(store)])
                raise


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
            device=work.config.device,
            load=work.config.environment,
            width=work.config.play.width,
            stop=work.stop,
            each_round=work.pulse.go_on,
        )
    result: dict[str, Any] = {
        "version": candidate.name,
        "verdict": None,
        "reason": "not gated",
        "diagnostics": diagnostics,
        "cost": cost([step.diagnostics for step in steps(work.store, work.job.id)]),
        "gate": None,
    }
    learnt_s = time.perf_counter() - started
    left = rolled_back_ancestor(work.store, candidate.name)
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
        progress=lambda line: work.pulse.say("gating", line),
    )


def _probe(work: Work) -> tuple[dict[str, Any], str | None]:
    name = work.job.options.get("version") or serving(work.store).name
    get_version(work.store, name)
    environments = list(work.job.targets) or [row.name for row in list_environments(work.store)]
    found = probe(work.player("probe"), name, environments, int(work.job.options.get("episodes", 50)), work.config.seed)
    return {"version": name, "decoding": "greedy", "environments": found}, None


_KINDS = {"learn": _learn, "gate": _gate, "probe": _probe}


def main() -> int:
    parser = child_parser("perdure.agent.processes.job", __doc__)
    parser.add_argument("--job", type=int, required=True)
    given = parser.parse_args()
    return run_child(lambda stop: run_job(given.home, load_config(given.config).config, given.job, stop))


if __name__ == "__main__":
    raise SystemExit(main())
