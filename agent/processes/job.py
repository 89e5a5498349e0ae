"""The process of one job: `python -m perdure.agent.processes.job --home DIR --job N`.

It leases the job, takes the device, learns, gates the candidate, and promotes it if the verdict says so. An interrupted job goes back to
the queue; any other error is written into the job, which is tried again if the error was not its fault (a full disk, a kill, ...). The exit
code is 0 if the job is done or was interrupted, else that of its error (`exit_codes.py`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from perdure.agent.config import Config
from perdure.agent.config_file import load_config
from perdure.agent.processes.child import Stop, child_parser, run_child
from perdure.agent.processes.exit_codes import TRANSIENT, cause_of_error, one_line
from perdure.agent.processes.lease_renewal import holding_device, renewing, wait_for_device
from perdure.agent.processes.open_engine import open_engine
from perdure.agent.processes.process_names import job_process
from perdure.agent.processes.pulse import Pulse
from perdure.learners.checkpoint import remove_other_checkpoints
from perdure.learners.diagnostics import cost
from perdure.learners.engines.loaded_versions import LoadedVersions
from perdure.learners.gate.engine_player import EnginePlayer
from perdure.learners.gate.gating import GateCase, GateWork, dev_scores, run_gate
from perdure.learners.gate.probes import probe
from perdure.learners.gate.promotion import beaten_anchors, improved, need_dev_scores
from perdure.learners.gate.scope import PROFILES
from perdure.learners.learning_job import Interrupted, JobRun
from perdure.learners.run_learning import run_learning
from perdure.learners.selection.best_step import unchecked
from perdure.learners.selection.kept_step import read_choice
from perdure.memory import faults
from perdure.memory.contracts.orders import GateOrder, Job, LearnOrder, ProbeOrder
from perdure.memory.contracts.results import GateResult, LearnResult, ProbeResult, Result
from perdure.memory.environments import anchor_of, list_environments
from perdure.memory.errors import LeaseLost, RuntimeFailure
from perdure.memory.gates import close_gate
from perdure.memory.jobs import fail_job, finish_job, lease_job, release_job, renew_job, retry_job, set_job_state, steps, unfinished_jobs
from perdure.memory.leases import TTL_S, BootClock
from perdure.memory.processes import record_event
from perdure.memory.records import Lease, Purpose, Version
from perdure.memory.store import Store, open_store
from perdure.memory.trajectories.journal import StoreJournal
from perdure.memory.versions import add_initial, get_version, promote, reject, rolled_back_ancestor, serving, version_of_job


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a job has at hand."""

    store: Store
    config: Config
    versions: LoadedVersions
    job: Job
    lease: Lease
    pulse: Pulse
    stop: Callable[[], bool]

    def player(self, purpose: Purpose) -> EnginePlayer:
        return EnginePlayer(
            versions=self.versions,
            journal=StoreJournal(self.store, BootClock()),
            lease=self.lease,
            load=cache(self.config.environment),
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
                    work = Work(
                        store=store, config=config, versions=LoadedVersions(store, engine), job=job, lease=lease, pulse=pulse, stop=stop
                    )
                    result, candidate = _carry_out(work)
                with store.write():  # the verdict, what becomes of the candidate, and that the job is done are one fact
                    _apply_verdict(work, result)
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


def _carry_out(work: Work) -> tuple[Result, str | None]:
    """Do what the job's order says; gives the result and the candidate that it is about."""
    match work.job.order:
        case LearnOrder() as order:
            learned = _learn(work, order)
            return learned, learned.version
        case GateOrder(candidate=name, profile=profile):
            return _gate_candidate(work, get_version(work.store, name), profile), name
        case ProbeOrder() as order:
            return _probe(work, order), None


def _learn(work: Work, order: LearnOrder) -> LearnResult:
    """Learn, then gate unless the order says otherwise. An attempt that resumes keeps the candidate that the job made before."""
    started = time.perf_counter()
    candidate = version_of_job(work.store, work.job.id)
    if candidate is None or candidate.state != "candidate":
        run = JobRun(
            store=work.store,
            lease=work.lease,
            journal=StoreJournal(work.store, BootClock()),
            stop=work.stop,
            each_round=work.pulse.go_on,
        )
        candidate = run_learning(run, work.job, work.versions, work.config.device, work.config.environment)
    learn_s = time.perf_counter() - started
    lost = rolled_back_ancestor(work.store, candidate.name)
    gate, reason = None, "not gated"
    if lost is not None:
        reason = f"not gated: {lost}, which it was trained from, was rolled back meanwhile"
    elif order.gate:
        gate = _gate_candidate(work, candidate, order.profile)
        reason = gate.reason
    updates = [step.update for step in steps(work.store, work.job.id)]
    return LearnResult(
        version=candidate.name,
        verdict=gate.verdict if gate else None,
        reason=reason,
        diagnostics=updates[-1] if updates else None,
        selection=read_choice(work.store.home, work.job.id) or unchecked(len(updates)),
        cost=cost(updates),
        gate=gate,
        learn_s=learn_s,
        gate_s=time.perf_counter() - started - learn_s,
    )


def _gate_candidate(work: Work, candidate: Version, profile: str | None) -> GateResult:
    set_job_state(work.store, work.lease, "gating")
    store, config, targets = work.store, work.config, work.job.targets
    now_serving = serving(store)
    known = list_environments(store)
    anchors = {row.name: anchor_of(store, row.name) or now_serving.name for row in known}
    player = work.player("gate")
    of_anchors, of_serving = need_dev_scores(anchors, targets, now_serving.name)
    anchor_scores = dev_scores(player, of_anchors, root_seed=config.seed)
    serving_scores = anchor_scores | dev_scores(player, of_serving, root_seed=config.seed)
    case = GateCase(
        candidate=candidate,
        serving=now_serving,
        settings=replace(PROFILES[profile or config.gate.profile], alpha=config.gate.alpha),
        anchors=anchors,
        trained=targets,
        critical=tuple(row.name for row in known if row.critical),
        anchor_scores=anchor_scores,
        serving_scores={name: serving_scores[name] for name in targets if name in serving_scores},
    )

    def progress(line: str) -> None:
        work.pulse.say("gating", line)

    return run_gate(case, GateWork(store=store, lease=work.lease, play=player, root_seed=config.seed, progress=progress))


def _probe(work: Work, order: ProbeOrder) -> ProbeResult:
    version = get_version(work.store, order.version) if order.version else serving(work.store)
    environments = work.job.targets or tuple(row.name for row in list_environments(work.store))
    return probe(work.player("probe"), version.name, environments, order.episodes, work.config.seed)


def _apply_verdict(work: Work, result: Result) -> None:
    """Write the verdict and, for a learning job, apply it: promoted, rejected, or still a candidate."""
    gate = result.gate if isinstance(result, LearnResult) else result
    if not isinstance(gate, GateResult):
        return
    close_gate(work.store, work.lease, gate)
    faults.point("between-verdict-and-promotion")
    if not isinstance(result, LearnResult):
        return
    if gate.verdict == "promote":
        improved_environments = improved(gate.evidence)
        anchors = beaten_anchors(gate.evidence, {name: anchor_of(work.store, name) for name in improved_environments})
        promote(work.store, result.version, gate.reason, gate=gate.gate, lease=work.lease, learned=improved_environments, anchors=anchors)
    elif gate.verdict == "reject":
        reject(work.store, result.version, work.lease)


def main() -> int:
    parser = child_parser("perdure.agent.processes.job", __doc__)
    parser.add_argument("--job", type=int, required=True)
    given = parser.parse_args()
    return run_child(lambda stop: run_job(given.home, load_config(given.config).config, given.job, stop))


if __name__ == "__main__":
    raise SystemExit(main())
