"""The process of one job: `python -m perdure.agent.processes.job --home DIR --job N`.

Under torchrun the first rank does this, and the others follow it (`cluster/ranks/job_ranks.py`).

It leases the job, takes the device, learns, gates the candidate, and promotes it if the verdict says so. An interrupted job goes back to
the queue; any other error is written into the job, which is tried again if the error was not its fault (a full disk, a kill, ...). The exit
code is 0 if the job is done or was interrupted, else that of its error (`exit_codes.py`).
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

from perdure.agent.cluster.ranks.job_ranks import follow_torchrun, is_under_torchrun, ranks_of_job, torchrun_number
from perdure.agent.config import Config
from perdure.agent.config_file import load_config
from perdure.agent.processes.child import Stop, child_parser, run_child
from perdure.agent.processes.exit_codes import TRANSIENT, cause_of_error, one_line
from perdure.agent.processes.job_work import Work
from perdure.agent.processes.judging import apply_verdict, judge
from perdure.agent.processes.lease_renewal import holding_device, renewing, wait_for_device
from perdure.agent.processes.open_engine import open_engine
from perdure.agent.processes.panel_work import panel_hold, panel_of_order
from perdure.agent.processes.process_names import job_process
from perdure.agent.processes.pulse import Pulse
from perdure.learners.checkpoint import remove_other_checkpoints
from perdure.learners.diagnostics import cost
from perdure.learners.engines.loaded_versions import LoadedVersions
from perdure.learners.gate.player import Sampling
from perdure.learners.gate.probes import probe
from perdure.learners.learning_job import Interrupted
from perdure.learners.run_learning import run_learning
from perdure.learners.selection.best_step import unchecked
from perdure.learners.selection.kept_step import read_choice
from perdure.memory.contracts.orders import GateOrder, LearnOrder, PanelOrder, ProbeOrder
from perdure.memory.contracts.results import LearnResult, ProbeResult, Result
from perdure.memory.environments import environments_in_use
from perdure.memory.errors import LeaseLost, RuntimeFailure
from perdure.memory.jobs import (
    fail_job,
    finish_job,
    get_job,
    lease_job,
    release_job,
    renew_job,
    retry_job,
    set_job_state,
    steps,
    unfinished_jobs,
)
from perdure.memory.leases import TTL_S, BootClock
from perdure.memory.processes import record_event
from perdure.memory.store import open_store
from perdure.memory.versions import add_initial, get_version, rolled_back_ancestor, serving, version_of_job


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
                    pulse.say("working", f"{job.learner or job.kind} {', '.join(job.targets)}".strip())
                    add_initial(store, engine.files.name, engine.files.hash)  # only now: a home keeps its model for good
                    work = Work(
                        store=store, config=config, versions=LoadedVersions(store, engine), job=job, lease=lease, pulse=pulse, stop=stop
                    )
                    result, candidate = _carry_out(work)
                _write_end(work, result, candidate)
                remove_other_checkpoints(home, [job.id for job in unfinished_jobs(store)])
                pulse.say("done", None)
            except Interrupted as error:
                with suppress(LeaseLost):  # if that was why it stopped, another process has the job
                    release_job(store, lease)
                record_event(store, "interrupted", name, str(error))
            except LeaseLost as error:
                if not get_job(store, job_id).cancelled:  # that is an event already
                    record_event(store, "lease lost", name, str(error))
                raise
            except Exception as error:  # a job that fails is written down as failed, whatever the error
                end = retry_job if cause_of_error(error) in TRANSIENT else fail_job
                with suppress(LeaseLost):
                    end(store, lease, one_line(error))
                with suppress(OSError):
                    remove_other_checkpoints(home, [job.id for job in unfinished_jobs(store)])
                raise


def carry_out(work: Work) -> None:
    """Do what a leased job's order says with an engine that is open, and write what it came to. Raises what stopped it."""
    result, candidate = _carry_out(work)
    _write_end(work, result, candidate)


def _write_end(work: Work, result: Result, candidate: str | None) -> None:
    """The verdict, what becomes of the candidate, and that the job is done are one fact."""
    with work.store.write():
        apply_verdict(work, result)
        finish_job(work.store, work.lease, result, candidate)


def _carry_out(work: Work) -> tuple[Result, str | None]:
    """Do what the job's order says; gives the result and the candidate that it is about."""
    match work.job.order:
        case LearnOrder() as order:
            learned = _learn(work, order)
            return learned, learned.version
        case GateOrder(candidate=name) as order:
            return judge(work, get_version(work.store, name), order), name
        case ProbeOrder() as order:
            return _probe(work, order), None
        case PanelOrder() as order:
            return panel_of_order(work, order), None


def _learn(work: Work, order: LearnOrder) -> LearnResult:
    """Learn, then gate unless the order says otherwise. An attempt that resumes keeps the candidate that the job made before."""
    hold = panel_hold(work) if order.gate and work.config.gate.panel else None  # a file that is wrong is found before the work
    started = time.perf_counter()
    candidate = version_of_job(work.store, work.job.id)
    if candidate is None or candidate.state != "candidate":
        with ranks_of_job(work.store.home, work.config, work.job.id, work.lease.attempt, work.stop, work.pulse) as ranks:
            candidate = run_learning(work.run(), work.job, work.versions, work.config.device, work.load, hold, ranks)
    learn_s = time.perf_counter() - started
    lost = rolled_back_ancestor(work.store, candidate.name)
    gate, reason = None, "not gated"
    in_use = {row.name for row in environments_in_use(work.store)}
    retired = [name for name in work.job.targets if name not in in_use]
    if retired:
        reason = f"not gated: {', '.join(retired)} was retired meanwhile"
    elif lost is not None:
        reason = f"not gated: {lost}, which it was trained from, was rolled back meanwhile"
    elif order.gate:
        gate = judge(work, candidate, order)
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


def _probe(work: Work, order: ProbeOrder) -> ProbeResult:
    version = get_version(work.store, order.version) if order.version else serving(work.store)
    environments = work.job.targets or tuple(row.name for row in environments_in_use(work.store))
    player = work.player("probe", Sampling(temperature=order.temperature, samples=order.samples))
    return probe(player, version.name, environments, order, work.config.seed)


def main() -> int:
    parser = child_parser("perdure.agent.processes.job", __doc__)
    parser.add_argument("--job", type=int, required=True)
    given = parser.parse_args()
    if is_under_torchrun() and torchrun_number():
        return run_child(lambda stop: follow_torchrun(given.home, load_config(given.config).config, stop))
    return run_child(lambda stop: run_job(given.home, load_config(given.config).config, given.job, stop))


if __name__ == "__main__":
    raise SystemExit(main())
