"""Seconds and memory of one GRPO update beside TRL's `GRPOTrainer`: the same model, precision, tasks, rewards, LoRA rank and batch.

Each side runs in a process of its own, so that its peak memory is its own; the first update is a warm-up. In `equal work` every answer has
its full length and the members of every group differ in reward, so that nothing may be left out; `as it runs` has answers that end and
groups without signal, which Perdure drops before any training pass. A `default job` is Perdure's alone: the default batch on the stream's
environments, half of it replay. No job checks steps on dev seeds or refills its batches, so every update is of one kind.

    python -m perdure.agent.bench.updates SPEC RESULT     one side: a `SideSpec` as JSON in, a `LearnerSide` as JSON out
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

from perdure.agent.bench.bench_tasks import one_turn
from perdure.agent.bench.bound import flop_between, product_speed, size_of, watch_passes
from perdure.agent.bench.learner_sides import (
    BatchSpec,
    Dtype,
    LearnerSide,
    LearnerWork,
    SideSpec,
    UpdatePair,
    at_fastest_products,
    peak_bytes,
)
from perdure.agent.bench.measure import TimeLeft
from perdure.agent.supervision.children import CHILD_ENVIRONMENT
from perdure.envs.environment import Environment
from perdure.envs.registry import load
from perdure.learners.batches import is_mixed
from perdure.learners.hardware import faster_dtype
from perdure.learners.weights.base_models import ModelFiles
from perdure.memory.errors import RuntimeFailure
from perdure.memory.records import Episode
from perdure.memory.store import Store
from perdure.memory.trajectories.episodes import episodes_by_id

BATCH = {"cpu": (8, 8), "cuda": (32, 16)}
"""Prompts, and samples of each, in one update on a device."""
TIMEOUT_S = 3600.0
EXPECTED_S = {"ours": {"equal work": 8, "as it runs": 2, "default job": 10}, "trl": {"equal work": 50, "as it runs": 40}}
"""Of one update in bfloat16, on two cores; only their ratios matter, for the time left. In float32 it is twice that."""
START_S = 15
"""Expected, of one side."""
MADE = "updates made: "
"""Begins the lines that a side prints as its progress."""


def has_peer() -> bool:
    """Whether TRL is installed."""
    return all(find_spec(name) is not None for name in ("trl", "datasets"))


def bench_learner(
    files: ModelFiles, batch: BatchSpec, default_job: BatchSpec, *, device: str, updates: int, say: Callable[[str], None]
) -> list[UpdatePair]:
    """Measure updates of both sides: equal work in bfloat16 and float32, or float32 alone if bfloat16 is slower; the rest in the faster.

    Raises `RuntimeFailure` if a side fails.
    """
    faster: Dtype = "bfloat16" if str(faster_dtype(device)) == "torch.bfloat16" else "float32"
    works: list[tuple[LearnerWork, Dtype]] = [("equal work", "bfloat16")] if faster == "bfloat16" else []
    works += [("equal work", "float32"), ("as it runs", faster), ("default job", faster)]
    specs = [
        SideSpec(
            side="ours",
            work=work,
            dtype=dtype,
            device=device,
            model=str(files.path),
            model_hash=files.hash,
            batch=default_job if work == "default job" else batch,
            updates=updates,
        )
        for work, dtype in works
    ]
    with_peer = has_peer()
    peers = [replace(spec, side="trl") for spec in specs if with_peer and spec.work != "default job"]
    plan = TimeLeft(total=sum(map(_expected_s, [*specs, *peers])))
    pairs = []
    for spec in specs:
        ours = _in_own_process(spec, plan, say)
        is_compared = with_peer and spec.work != "default job"
        trl = _in_own_process(replace(spec, side="trl", seeds=ours.seeds), plan, say) if is_compared else None
        prompts, samples = spec.batch.prompts, spec.batch.samples
        pairs.append(UpdatePair(work=spec.work, dtype=spec.dtype, prompts=prompts, samples=samples, ours=ours, trl=trl))
    return at_fastest_products(pairs)


def _expected_s(spec: SideSpec) -> float:
    return START_S + (spec.updates + 1) * _expected_update_s(spec)


def _expected_update_s(spec: SideSpec) -> float:
    return EXPECTED_S[spec.side][spec.work] * (2 if spec.dtype == "float32" else 1)


def _in_own_process(spec: SideSpec, plan: TimeLeft, say: Callable[[str], None]) -> LearnerSide:
    """Run one side, and say how far it is after each update."""
    side = f"{spec.work}, {spec.dtype}: {'TRL' if spec.side == 'trl' else 'ours'}"
    before = plan.done
    say(f"{side} starts, {plan.left()}")
    with tempfile.TemporaryDirectory() as scratch:
        given, result = Path(scratch) / "spec.json", Path(scratch) / "result.json"
        given.write_text(json.dumps(asdict(spec)))
        command = [sys.executable, "-P", "-m", "perdure.agent.bench.updates", str(given), str(result)]
        last: deque[str] = deque(["no output"], maxlen=1)
        environment = {**CHILD_ENVIRONMENT, **os.environ} if spec.side == "ours" else None  # as a job runs
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", env=environment
        ) as child:
            timer = threading.Timer(TIMEOUT_S, child.kill)
            timer.start()
            try:
                assert child.stdout is not None
                for line in child.stdout:
                    if line.startswith(MADE):
                        made = int(line.removeprefix(MADE))
                        plan.done = before + START_S + made * _expected_update_s(spec)
                        say(f"{side} {made} of {spec.updates + 1} updates, {plan.left()}")
                    elif line.strip():
                        last.append(line.strip())
            except BaseException:
                child.kill()
                raise
            finally:
                timer.cancel()
        if child.returncode != 0 or not result.exists():
            raise RuntimeFailure(f"the benchmark of {spec.side} at {spec.work} ended with {child.returncode}: {last[0]}")
        plan.done = before + _expected_s(spec)
        found = LearnerSide(**json.loads(result.read_text()))
    say(f"{side} {found.seconds_per_update:.1f} s per update, {plan.left()}")
    return found


def run_ours(spec: SideSpec, made: Callable[[int], None]) -> LearnerSide:
    """A learning job of GRPO in a temporary home; calls `made` with the number of updates before and after each."""
    from perdure.agent.stream.registering import register_environments
    from perdure.learners.engines.loaded_versions import LoadedVersions
    from perdure.learners.engines.version_loading import home_dtype, open_transformers_engine
    from perdure.learners.learning_job import JobRun
    from perdure.learners.option_parsing import parse_options
    from perdure.learners.run_learning import run_learning
    from perdure.memory.contracts.orders import LearnOrder
    from perdure.memory.jobs import add_job, lease_job, steps
    from perdure.memory.leases import BootClock
    from perdure.memory.processes import precision_for
    from perdure.memory.store import create_store
    from perdure.memory.trajectories.journal import StoreJournal
    from perdure.memory.versions import add_initial

    files = ModelFiles(name=spec.model, path=Path(spec.model), hash=spec.model_hash)
    environments = {environment.name: environment for environment in _environments(spec)}
    target, updates, batch = next(iter(environments)), spec.updates + 1, spec.batch
    options = {"prompts": batch.prompts, "samples": batch.samples, "refill": 0, "check_every": 0, "updates": updates, "dtype": spec.dtype}
    with tempfile.TemporaryDirectory() as home, create_store(Path(home)) as store:
        register_environments(store, list(environments.values()))
        add_initial(store, files.name, files.hash)
        precision_for(store, spec.device, lambda: spec.dtype)  # of the engine too
        add_job(store, "bench", [target], LearnOrder(learner="grpo", options=options))
        leased = lease_job(store, "bench", TIMEOUT_S, BootClock())
        assert leased is not None
        job, lease = leased
        speed = product_speed(home_dtype(store, spec.device), spec.device)
        engine = open_transformers_engine(store, files, device=spec.device, seed=0)
        passes = watch_passes(engine.model)
        if spec.work == "equal work":
            engine.stop_ids = frozenset()
        known = 0

        def each_round() -> None:
            nonlocal known
            if (now := len(steps(store, job.id))) > known:
                known = now
                made(now)

        run = JobRun(store=store, lease=lease, journal=StoreJournal(store, BootClock()), each_round=each_round)
        try:
            run_learning(run, job, LoadedVersions(store, engine), spec.device, environments.__getitem__)
        except RuntimeFailure:  # without a mixed group a job fails, but after its first updates, which took their time
            if len(steps(store, job.id)) < updates:
                raise
        rows = steps(store, job.id)
        episodes = [_played(store, n) for n in range(updates)]
    speed = max(speed, product_speed(engine.dtype, spec.device))
    size = size_of(engine.model, parse_options("grpo", options).tuning.rank)
    bound_s = [
        (flop_between(passes, size, before.made, after.made) + size.forward_flop(0, 0, K) + size.gradient_flop(0, 0, K)) / speed
        for (before, after), K in zip(pairwise(rows), map(_predicting_rows, episodes[1:]), strict=True)
    ]
    everything = [episode for played in episodes for episode in played]
    return LearnerSide(
        seconds=[after.made - before.made for before, after in pairwise(rows)],
        tokens=[step.update.sampled_tokens for step in rows[1:]],
        prompt_tokens=statistics.mean(len(turn.prompt_ids) for episode in everything for turn in episode.turns),
        peak_bytes=peak_bytes(spec.device),
        seeds=list({episode.group: episode.seed for episode in everything if episode.purpose == "learn"}.values()),
        sampling_s=[step.update.sampling_s for step in rows[1:]],
        episodes=[len(played) for played in episodes[1:]],
        bound_s=bound_s,
        product_flop_s=speed,
    )


def _played(store: Store, n: int) -> list[Episode]:
    """What the only job of a store played with the weights of its n-th step, replay included."""
    sql = "SELECT id FROM episode WHERE step_n = ? AND state = 'completed' ORDER BY id"
    return episodes_by_id(store, [row["id"] for row in store.rows(sql, (n,))])


def _environments(spec: SideSpec) -> list[Environment]:
    """The target, then what is replayed."""
    target = load(spec.batch.environment)
    if spec.work != "default job":
        target = one_turn(target, spec.batch.max_tokens, is_hashed=spec.work == "equal work")
    return [target, *map(load, spec.batch.old)]


def _predicting_rows(episodes: Sequence[Episode]) -> int:
    """Rows that predict a learned token: distinct tokens before one, of replayed episodes and of groups whose scores differ."""
    groups: dict[str, list[Episode]] = {}
    for episode in episodes:
        groups.setdefault(episode.group, []).append(episode)
    learned = [episode for group in groups.values() if is_mixed(group) or group[0].purpose == "replay" for episode in group]
    turns = [turn for episode in learned for turn in episode.turns]
    return len({turn.prompt_ids + turn.action_ids[:n] for turn in turns for n in range(len(turn.action_ids))})


def main(arguments: Sequence[str]) -> None:
    """Run one side."""
    from perdure.agent.bench.trl_updates import run_trl

    sys.path.append("")  # the working folder, last: as in `agent/cli.py`
    given, result = map(Path, arguments)
    read = json.loads(given.read_text())
    spec = SideSpec(**{**read, "batch": BatchSpec(**read["batch"])})
    side = (run_ours if spec.side == "ours" else run_trl)(spec, lambda made: print(f"{MADE}{made}", flush=True))
    result.write_text(json.dumps(asdict(side)))


if __name__ == "__main__":
    main(sys.argv[1:])
