"""Tokens per second through the vLLM engine, beside vLLM's own offline API on the same requests, in turn; and how soon an adapter answers.

Both sides run the same vLLM with the same settings, each in processes of its own, and sample every token that they may. The difference
is what the runtime adds: HTTP on loopback, JSON, and checking each answer. Left out: starting either side.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from perdure.agent.bench import vllm_offline
from perdure.agent.bench.bench_tasks import first_prompts, random_adapter
from perdure.agent.bench.measure import median_ratio, timed
from perdure.envs.environment import Environment
from perdure.envs.policy import Ids, Request
from perdure.learners.engines.vllm_engine import VllmEngine
from perdure.learners.weights.base_models import ModelFiles
from perdure.learners.weights.peft_format import write_lora
from perdure.memory.errors import RuntimeFailure
from perdure.memory.json_value import Document
from perdure.memory.records import Sampler, StepRef, VersionRef

START_S = 1800.0
SAMPLES = 8
SWAPS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmSpeed:
    """One kind of sampler: tokens per second of each run, ours and the offline API's."""

    sampler: str
    rates: list[tuple[float, float]] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """The share of the offline API's speed that the runtime reaches: the median over the runs."""
        return median_ratio(self.rates)


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmBench:
    """What was measured, and on what."""

    vllm: str
    model: str
    requests: int
    max_tokens: int
    prompt_tokens: float
    speeds: list[VllmSpeed]
    swap_s: list[float]
    """From the weights of a new adapter to its first token, each time."""

    def as_json(self) -> Document:
        speeds = [{**asdict(speed), "ratio": speed.ratio} for speed in self.speeds]
        return {**asdict(self), "speeds": speeds, "swap_median_s": statistics.median(self.swap_s)}


class Offline:
    """`vllm.LLM.generate` in a process of its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._read()

    def generate(self, prompts: Sequence[Ids], max_tokens: int, folder: Path | None) -> tuple[int, float]:
        """Tokens and seconds of a batch, with the adapter in a folder or without one."""
        assert self._process.stdin is not None
        asked = {"prompts": prompts, "max_tokens": max_tokens, "lora": "bench" if folder else None, "folder": str(folder)}
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        measured = json.loads(self._read())
        return measured["tokens"], measured["seconds"]

    def _read(self) -> str:
        """The next answer, as JSON."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(vllm_offline.MARK):
                return line.removeprefix(vllm_offline.MARK)
        raise RuntimeFailure(f"vLLM's offline API ended with exit code {self._process.wait()}")


@contextmanager
def offline(python: str, arguments: Document, environ: Mapping[str, str]) -> Iterator[Offline]:
    """The offline API, ready, while the block lasts."""
    command = [python, vllm_offline.__file__, json.dumps(arguments)]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, env=dict(environ), start_new_session=True
    ) as process:
        try:
            yield Offline(process)
        finally:
            os.killpg(process.pid, signal.SIGKILL)  # or its engine outlives it


def bench_vllm(
    engine: VllmEngine,
    peer: Offline,
    environments: Sequence[Environment],
    *,
    vllm: str,
    model: str,
    width: int,
    rank: int,
    repeats: int,
    max_tokens: int,
    say: Callable[[str], None],
) -> VllmBench:
    """Measure both sides in turn on a batch of `width` requests, `SAMPLES` of each prompt. The first run of each is not counted."""
    prompts = first_prompts(engine.chat, environments, max(1, width // SAMPLES))
    batch = [prompt for prompt in prompts for _ in range(SAMPLES)][:width]
    requests = [Request(prompt_ids=prompt, max_tokens=max_tokens, temperature=1.0) for prompt in batch]
    base, step = VersionRef("v0"), StepRef(0, 0)
    engine.load(base, {})
    engine.load(step, random_adapter(engine.files, rank, 0))
    engine.stop_ids = frozenset()
    speeds = []
    with tempfile.TemporaryDirectory(prefix="perdure-bench-") as name:
        folder = Path(name)
        write_lora(folder, random_adapter(engine.files, rank, 0), engine.files)
        cases: list[tuple[str, Sampler, Path | None]] = [("base", base, None), ("adapter", step, folder)]
        for what, sampler, adapter in cases:
            speed = VllmSpeed(sampler=what)
            for n in range(-1, repeats):
                samples, our_s = timed(partial(engine.generate, sampler, requests))
                peer_tokens, peer_s = peer.generate(batch, max_tokens, adapter)
                if n >= 0:
                    speed.rates.append((sum(len(sample.action_ids) for sample in samples) / our_s, peer_tokens / peer_s))
            say(f"{what}: {speed.ratio:.2f} of the offline API's tokens per second")
            speeds.append(speed)
    return VllmBench(
        vllm=vllm,
        model=model,
        requests=len(batch),
        max_tokens=max_tokens,
        prompt_tokens=statistics.mean(map(len, batch)),
        speeds=speeds,
        swap_s=[_swap(engine, prompts[0], rank, n + 1) for n in range(SWAPS)],
    )


def random_1b(folder: Path, talks_as: ModelFiles) -> None:
    """A model of `shape_1b` with random weights (2.1 GB): it answers nonsense at the speed of a trained one."""
    tokenizer = AutoTokenizer.from_pretrained(talks_as.path, trust_remote_code=False)
    disable_progress_bar()
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(shape_1b(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def shape_1b(tokenizer: PreTrainedTokenizerBase) -> LlamaConfig:
    """The layers of Llama 3.2 1B (its config.json) in bfloat16, with the vocabulary of this tokenizer."""
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=16,
        num_attention_heads=32,
        num_key_value_heads=8,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        dtype=torch.bfloat16,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _swap(engine: VllmEngine, prompt: Ids, rank: int, n: int) -> float:
    weights = random_adapter(engine.files, rank, n)
    step = StepRef(0, n)
    started = time.perf_counter()
    engine.load(step, weights)
    engine.generate(step, [Request(prompt_ids=prompt, max_tokens=1, temperature=1.0)])
    seconds = time.perf_counter() - started
    engine.unload(step)
    return seconds
