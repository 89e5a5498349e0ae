"""Seconds and memory of one GRPO update beside TRL's `GRPOTrainer`: the same model, tasks, rewards, LoRA rank and batch.

Each side runs in a process of its own, so that its peak memory is its own; the first update is a warm-up. Both train in float32. TRL runs
with its Dr. GRPO loss, without KL or vLLM, one `generate` for the whole batch, micro-batches of a group, and without recomputing
activations. In `equal work` every answer has its full length and the members of every group differ in reward, so that nothing may be left
out; `as it runs` has answers that end and groups without signal, which Perdure drops before any training pass.

    python -m perdure.agent.bench.updates SPEC RESULT     one side: a `Spec` as JSON in, a `Side` as JSON out
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from perdure.envs.environment import AnyText, Environment, TextEnv
from perdure.envs.registry import load
from perdure.envs.rollout import opening
from perdure.envs.scripted import fixed, play_scripted
from perdure.learners.weights.base_models import ModelFiles
from perdure.memory.errors import RuntimeFailure
from perdure.memory.json_value import Document

Work = Literal["equal work", "as it runs"]
BATCH = {"cpu": (8, 8), "cuda": (32, 16)}
"""Prompts, and samples of each, in one update on a device."""
TIMEOUT_S = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """The work of one side."""

    side: Literal["ours", "trl"]
    work: Work
    model: str
    """Folder of the base model."""
    model_hash: str
    environment: str
    max_tokens: int
    updates: int
    """Beside the warm-up."""
    device: str
    prompts: int
    samples: int
    seeds: list[int]
    """Of the tasks, one for each group; empty for the side that draws them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """The measurements of one side."""

    seconds: list[float]
    """Of each update, sampling included."""
    tokens: list[int]
    """Sampled in each update."""
    prompt_tokens: float
    """Mean length of a prompt."""
    peak_bytes: int
    """Resident memory, or that of the GPU."""
    seeds: list[int]

    @property
    def seconds_per_update(self) -> float:
        return statistics.median(self.seconds)

    def as_json(self) -> Document:
        per_s = sum(self.tokens) / sum(self.seconds)
        return {**asdict(self), "seconds_per_update": self.seconds_per_update, "tokens_per_s": per_s}


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdatePair:
    """Both sides at the same work; `trl` is None if it is not installed."""

    work: Work
    prompts: int
    samples: int
    ours: Side
    trl: Side | None

    @property
    def ratio(self) -> float | None:
        """The peer's seconds per update over ours."""
        return self.trl.seconds_per_update / self.ours.seconds_per_update if self.trl else None

    def as_json(self) -> Document:
        return {
            "work": self.work,
            "prompts": self.prompts,
            "samples": self.samples,
            "ours": self.ours.as_json(),
            "trl": self.trl.as_json() if self.trl else None,
            "ratio": self.ratio,
        }


def has_peer() -> bool:
    """Whether TRL is installed."""
    return all(find_spec(name) is not None for name in ("trl", "datasets"))


def bench_learner(
    files: ModelFiles, environment: str, *, device: str, updates: int, max_tokens: int, say: Callable[[str], None]
) -> list[UpdatePair]:
    """Measure one update of each side. Raises `RuntimeFailure` if a side fails."""
    pairs = []
    works: tuple[Work, ...] = ("equal work", "as it runs")
    for work in works:
        spec = Spec(
            side="ours",
            work=work,
            model=str(files.path),
            model_hash=files.hash,
            environment=environment,
            max_tokens=max_tokens,
            updates=updates,
            device=device,
            prompts=BATCH[device][0],
            samples=BATCH[device][1],
            seeds=[],
        )
        ours = _in_own_process(spec)
        say(f"{work}: ours {ours.seconds_per_update:.1f} s per update")
        trl = _in_own_process(replace(spec, side="trl", seeds=ours.seeds)) if has_peer() else None
        if trl:
            say(f"{work}: TRL {trl.seconds_per_update:.1f} s per update")
        pairs.append(UpdatePair(work=work, prompts=spec.prompts, samples=spec.samples, ours=ours, trl=trl))
    return pairs


def _in_own_process(spec: Spec) -> Side:
    with tempfile.TemporaryDirectory() as scratch:
        given, result = Path(scratch) / "spec.json", Path(scratch) / "result.json"
        given.write_text(json.dumps(asdict(spec)))
        command = [sys.executable, "-P", "-m", "perdure.agent.bench.updates", str(given), str(result)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        if done.returncode != 0 or not result.exists():
            last = (done.stderr.strip().splitlines() or ["no output"])[-1]
            raise RuntimeFailure(f"the benchmark of {spec.side} at {spec.work} ended with {done.returncode}: {last}")
        return Side(**json.loads(result.read_text()))


def run_ours(spec: Spec) -> Side:
    """A learning job of GRPO without replay, in a temporary home."""
    from perdure.agent.stream.registering import register_environments
    from perdure.learners.engines.loaded_versions import LoadedVersions
    from perdure.learners.engines.transformers_engine import TransformersEngine
    from perdure.learners.hardware import faster_dtype
    from perdure.learners.learning_job import JobRun
    from perdure.learners.run_learning import run_learning
    from perdure.memory.contracts.orders import LearnOrder
    from perdure.memory.jobs import add_job, lease_job, steps
    from perdure.memory.leases import BootClock
    from perdure.memory.store import create_store
    from perdure.memory.trajectories.journal import StoreJournal
    from perdure.memory.trajectories.traces import episodes_of_step
    from perdure.memory.versions import add_initial

    files = ModelFiles(name=spec.model, path=Path(spec.model), hash=spec.model_hash)
    environment = _environment(spec)
    updates = spec.updates + 1
    options = {"prompts": spec.prompts, "samples": spec.samples, "replay": 0.0, "refill": 0, "updates": updates}
    with tempfile.TemporaryDirectory() as home, create_store(Path(home)) as store:
        register_environments(store, [environment])
        add_initial(store, files.name, files.hash)
        add_job(store, "bench", [environment.name], LearnOrder(learner="grpo", options=options))
        leased = lease_job(store, "bench", TIMEOUT_S, BootClock())
        assert leased is not None
        job, lease = leased
        engine = TransformersEngine(files, device=spec.device, dtype=faster_dtype(spec.device), seed=0)
        engine.choose_threads()
        if spec.work == "equal work":
            engine.stop_ids = frozenset()
        run = JobRun(store=store, lease=lease, journal=StoreJournal(store, BootClock()))
        try:
            run_learning(run, job, LoadedVersions(store, engine), spec.device, lambda name: environment)
        except RuntimeFailure:  # without a mixed group a job fails, but after its first updates, which took their time
            if len(steps(store, job.id)) < updates:
                raise
        made = steps(store, job.id)
        episodes = [episode for n in range(updates) for episode in episodes_of_step(store, job.id, n, hinted=False)]
    lengths = [len(turn.prompt_ids) for episode in episodes for turn in episode.turns]
    return Side(
        seconds=[after.made - before.made for before, after in pairwise(made)],
        tokens=[step.update.sampled_tokens for step in made[1:]],
        prompt_tokens=statistics.mean(lengths),
        peak_bytes=_peak_bytes(spec.device),
        seeds=list({episode.group: episode.seed for episode in episodes}.values()),
    )


def run_trl(spec: Spec) -> Side:
    """The same by `GRPOTrainer`, on the same tasks in the same order."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    from perdure.learners.option_parsing import parse_options

    environment = _environment(spec)
    options = parse_options("grpo", {})
    tokens: list[int] = []
    lengths: list[int] = []
    ends: list[float] = []

    def rewards(prompts: Any, completions: Any, completion_ids: Any, seed: Any, **_: Any) -> list[float]:
        tokens.append(sum(map(len, completion_ids)))
        texts = [completion[0]["content"] for completion in completions]
        return [play_scripted(environment, task_seed, fixed(text)).total_reward for task_seed, text in zip(seed, texts, strict=True)]

    class Watch(TrainerCallback):
        def on_step_end(self, *arguments: Any, **given: Any) -> None:
            ends.append(time.perf_counter())

    conversations = [
        [{"role": message.role, "content": message.text} for message in opening(environment, _observation(environment, seed))]
        for seed in spec.seeds
    ]
    with tempfile.TemporaryDirectory() as scratch:
        settings = GRPOConfig(
            output_dir=scratch,
            model_init_kwargs={"dtype": "float32"},
            bf16=False,
            use_cpu=spec.device == "cpu",
            loss_type="dr_grpo",
            scale_rewards="none",
            beta=0.0,
            num_generations=spec.samples,
            per_device_train_batch_size=spec.samples,
            gradient_accumulation_steps=spec.prompts,
            gradient_checkpointing=False,
            max_completion_length=spec.max_tokens,
            generation_kwargs={"min_new_tokens": spec.max_tokens} if spec.work == "equal work" else None,
            temperature=options.common.temperature,
            learning_rate=options.common.lr,
            max_grad_norm=options.common.max_grad_norm,
            max_steps=spec.updates + 1,
            shuffle_dataset=False,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            seed=0,
        )
        trainer = GRPOTrainer(
            model=spec.model,
            reward_funcs=rewards,
            args=settings,
            train_dataset=Dataset.from_dict({"prompt": conversations, "seed": spec.seeds}),
            peft_config=LoraConfig(
                r=options.tuning.rank, lora_alpha=options.tuning.alpha, target_modules="all-linear", task_type="CAUSAL_LM"
            ),
            callbacks=[Watch()],
        )
        for conversation in conversations:
            lengths.append(len(trainer.processing_class.apply_chat_template(conversation, add_generation_prompt=True)["input_ids"]))
        trainer.train()
    seconds = [after - before for before, after in pairwise(ends)]
    return Side(
        seconds=seconds,
        tokens=tokens[1:],
        prompt_tokens=statistics.mean(lengths),
        peak_bytes=_peak_bytes(spec.device),
        seeds=list(spec.seeds),
    )


class _Hashed(TextEnv):
    """The tasks of another environment; the reward is a hash of the answer, so that the members of a group differ."""

    def __init__(self, inner: TextEnv) -> None:
        self._inner = inner
        self.observation_space = self.action_space = AnyText()

    def reset(self, *, seed: int | None = None, options: Document | None = None) -> tuple[str, Document]:
        return self._inner.reset(seed=seed, options=options)

    def step(self, action: str) -> tuple[str, float, bool, bool, Document]:
        reward = int.from_bytes(sha256(action.encode("utf-8", "surrogatepass")).digest()[:4], "big") / 2**32
        return "", reward, True, False, {}

    def close(self) -> None:
        self._inner.close()


def _environment(spec: Spec) -> Environment:
    """The environment with answers of up to `max_tokens`, in one turn; for equal work with rewards that always differ."""
    environment = replace(load(spec.environment), max_tokens=spec.max_tokens, turn_limit=1)
    return environment if spec.work == "as it runs" else replace(environment, make=lambda: _Hashed(environment.make()))


def _observation(environment: Environment, seed: int) -> str:
    return play_scripted(environment, seed, fixed("")).exchanges[0][0]


def _peak_bytes(device: str) -> int:
    """Of this process, or of what torch had on the GPU."""
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main(arguments: Sequence[str]) -> None:
    """Run one side."""
    sys.path.append("")  # the working folder, last: as in `agent/cli.py`
    given, result = map(Path, arguments)
    spec = Spec(**json.loads(given.read_text()))
    side = {"ours": run_ours, "trl": run_trl}[spec.side](spec)
    result.write_text(json.dumps(asdict(side)))


if __name__ == "__main__":
    main(sys.argv[1:])
