"""Tokens per second of the engine beside `generate` of transformers: same prompts, same adapter, in turn in one process.

The peer runs each case in bfloat16 or float32, whichever is faster in it, without top-k and without giving log-probs.
In `equal work` neither side has end tokens, so that each samples every token that it may; `as it runs` keeps them. Each case says which
share of the machine's bound it reached (`bound.py`). Left out: serving.
"""

from __future__ import annotations

import platform
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from perdure.agent.bench.bench_tasks import LONG_PROMPT, first_prompts, random_adapter
from perdure.agent.bench.bound import ModelPass, product_speed, size_of, watch_passes
from perdure.agent.bench.measure import CaseProgress, TimeLeft, in_turn, median_ratio, timed
from perdure.envs.environment import Environment
from perdure.envs.policy import Ids, Request
from perdure.learners.engines.transformers_engine import TransformersEngine, stop_ids
from perdure.learners.hardware import faster_dtype, set_up_process
from perdure.learners.weights.base_models import ModelFiles
from perdure.learners.weights.weight_sets import Weights, merge_into
from perdure.memory.json_value import Document
from perdure.memory.records import StepRef

PROMPTS = 8
SAMPLES = 8
RANK = 16
_FIRST_ID = 100
"""Prompts that share nothing begin with token ids from here on."""
_FEW_TOKENS = 5
_STEP = StepRef(1, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingSpeed:
    """One case, run several times by each side in turn."""

    prompts: str
    work: str
    prompt_tokens: float
    """Mean length of a prompt."""
    peer_dtype: str
    tokens: list[tuple[int, int]] = field(default_factory=list)
    """Sampled tokens of each run, ours and the peer's."""
    seconds: list[tuple[float, float]] = field(default_factory=list)
    bound_s: list[float] = field(default_factory=list)
    """What our matrix products of each run would take at the speed of a large product."""

    @property
    def share_of_bound(self) -> float:
        """The bound over our seconds, the median over the runs."""
        return median_ratio((bound, ours) for bound, (ours, _) in zip(self.bound_s, self.seconds, strict=True))

    @property
    def rates(self) -> list[tuple[float, float]]:
        """Tokens per second of each run."""
        return [(n[0] / s[0], n[1] / s[1]) for n, s in zip(self.tokens, self.seconds, strict=True)]

    @property
    def ratio(self) -> float:
        """Our speed over the peer's, the median over the runs."""
        return median_ratio(self.rates)

    def as_json(self) -> Document:
        ours, peer = zip(*self.rates, strict=True)
        return {
            **asdict(self),
            "ours_tokens_per_s": ours,
            "peer_tokens_per_s": peer,
            "ratios": [a / b for a, b in self.rates],
            "ratio": self.ratio,
            "share_of_bound": self.share_of_bound,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineBench:
    """What was measured, and on what."""

    machine: str
    threads: int
    dtype: str
    peer: str
    product_flop_s: float
    """Floating-point operations per second of a large product in the engine's precision."""
    speeds: list[SamplingSpeed]
    logprob_mean_gap: float
    """Between the log-probs that the engine gave its tokens and those of one plain pass of transformers in float32: mean and largest."""
    logprob_max_gap: float
    peer_logprob_mean_gap: float
    """The same for a plain pass of transformers in the engine's own precision, which shows the effect of rounding alone."""

    def as_json(self) -> Document:
        return {**asdict(self), "speeds": [speed.as_json() for speed in self.speeds]}


class Peer:
    """`generate` on a model with the adapter merged, one left-padded batch."""

    def __init__(self, files: ModelFiles, *, device: str, dtype: torch.dtype, table: Weights) -> None:
        self.model: Any = AutoModelForCausalLM.from_pretrained(files.path, dtype=dtype, use_safetensors=True, attn_implementation="sdpa")
        self.model.requires_grad_(False).eval().to(device)
        self.dtype = dtype
        self._device = device
        self._ends = stop_ids(self.model.generation_config.eos_token_id, AutoTokenizer.from_pretrained(files.path).eos_token_id)
        merge_into(self.model, table)

    @torch.inference_mode()
    def generate(self, prompts: Sequence[Ids], max_tokens: int, stops: bool) -> list[Ids]:
        """Sample a continuation of each prompt at temperature 1, up to and with its end token if `stops`."""
        longest = max(map(len, prompts))
        pad = min(self._ends)
        ids = torch.tensor([[pad] * (longest - len(prompt)) + list(prompt) for prompt in prompts], device=self._device)
        mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=self._device)
        self.model.generation_config.eos_token_id = sorted(self._ends) if stops else None
        out = self.model.generate(
            input_ids=ids,
            attention_mask=mask,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            max_new_tokens=max_tokens,
            pad_token_id=pad,
        )
        return [self._cut(row, stops) for row in out[:, longest:].tolist()]

    @torch.inference_mode()
    def logprobs(self, prompt: Ids, action: Ids) -> Tensor:
        """Log-probs of an action by one plain pass over this sequence alone."""
        ids = torch.tensor([[*prompt, *action]], device=self._device)
        logits_TV = self.model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].float()
        logp_T: Tensor = logits_TV.log_softmax(-1).gather(1, ids[0, len(prompt) :, None])[:, 0].cpu()
        return logp_T

    def _cut(self, row: list[int], stops: bool) -> Ids:
        end = next((n for n, token in enumerate(row) if stops and token in self._ends), len(row) - 1)
        return tuple(row[: end + 1])


def bench_engine(
    files: ModelFiles, environments: Sequence[Environment], *, device: str, repeats: int, max_tokens: int, say: Callable[[str], None]
) -> EngineBench:
    """Measure both sides on `PROMPTS` first prompts of the environments, as they are and without their solved examples."""
    dtype = faster_dtype(device)
    set_up_process(dtype, device)  # as Perdure's own processes run, for both sides
    flop_s = product_speed(dtype, device)
    engine = TransformersEngine(files, device=device, dtype=dtype, seed=0)
    engine.choose_threads()
    table = random_adapter(files, RANK, 0)
    engine.load(_STEP, table)
    passes = watch_passes(engine.model)
    ends = engine.stop_ids
    bare = [replace(environment, examples=()) for environment in environments]
    cases = {
        "with solved examples": first_prompts(engine.chat, environments, PROMPTS),
        "zero-shot, nothing shared": [
            (_FIRST_ID + n, *prompt) for n, prompt in enumerate(first_prompts(engine.chat, bare, PROMPTS, LONG_PROMPT))
        ],
    }
    say("loading the peer in both precisions")
    peers = [Peer(files, device=device, dtype=peer_dtype, table=table) for peer_dtype in (torch.bfloat16, torch.float32)]
    plan = TimeLeft(total=2 * len(cases) * (repeats + 1))
    speeds = []
    for work in ("equal work", "as it runs"):
        engine.stop_ids = ends if work == "as it runs" else frozenset()
        for name, prompts in cases.items():
            ours = _Ours(engine, passes, prompts, max_tokens)
            progress = CaseProgress(f"{work}, {name}", repeats, plan, say)
            speed = _measure(name, work, ours, peers, max_tokens, progress)
            speed.bound_s.extend(flop / flop_s for flop in ours.flop[1:])
            speeds.append(speed)
            say(f"{work}, {name}: {speed.ratio:.2f} times as fast, {plan.left()}")
    same = next(peer for peer in peers if peer.dtype == engine.dtype)
    gaps, peer_gaps = _gaps(engine, peers[1], same, [prompt for prompts in cases.values() for prompt in prompts], max_tokens)
    return EngineBench(
        machine=platform.machine(),
        threads=torch.get_num_threads(),
        dtype=_named(engine.dtype),
        peer=f"transformers {transformers.__version__} generate",
        product_flop_s=flop_s,
        speeds=speeds,
        logprob_mean_gap=float(gaps.mean()),
        logprob_max_gap=float(gaps.max()),
        peer_logprob_mean_gap=float(peer_gaps.mean()),
    )


class _Ours:
    """The engine's side of a case: a run samples all requests; `flop` has the operations of its products, for each run."""

    def __init__(self, engine: TransformersEngine, passes: list[ModelPass], prompts: Sequence[Ids], max_tokens: int) -> None:
        self.batch = [prompt for prompt in prompts for _ in range(SAMPLES)]
        self.stops = bool(engine.stop_ids)
        self.flop: list[int] = []
        self._engine, self._passes, self._size = engine, passes, size_of(engine.model, RANK)
        self._ends = len(set(prompts))
        self._requests = [Request(prompt_ids=prompt, max_tokens=max_tokens, temperature=1.0) for prompt in self.batch]

    def run(self) -> int:
        """Sample all requests; returns the number of tokens."""
        self._engine.release_memory()  # or the prompts of the last run would be known
        self._passes.clear()
        sampled = sum(len(sample.action_ids) for sample in self._engine.generate(_STEP, self._requests))
        self.flop.append(sum(one.flop(self._size) for one in self._passes) + self._size.forward_flop(0, 0, self._ends))
        return sampled


def _measure(name: str, work: str, ours: _Ours, peers: Sequence[Peer], max_tokens: int, progress: CaseProgress) -> SamplingSpeed:
    """Run both sides in turn, each first every other time. An uncounted run of ours, and a few tokens that choose the peer, come before."""

    def theirs() -> int:
        return sum(map(len, peer.generate(ours.batch, max_tokens, ours.stops)))

    ours.run()
    peer = min(peers, key=lambda peer: timed(lambda: peer.generate(ours.batch, _FEW_TOKENS, ours.stops))[1])
    progress.made(1)
    prompt_tokens = statistics.mean(map(len, ours.batch))
    speed = SamplingSpeed(prompts=name, work=work, prompt_tokens=prompt_tokens, peer_dtype=_named(peer.dtype))
    for n in range(progress.repeats):
        (our_tokens, our_s), (peer_tokens, peer_s) = in_turn(ours.run, theirs, n)
        speed.tokens.append((our_tokens, peer_tokens))
        speed.seconds.append((our_s, peer_s))
        progress.made(n + 2)
    return speed


def _gaps(engine: TransformersEngine, plain: Peer, same: Peer, prompts: Sequence[Ids], max_tokens: int) -> tuple[Tensor, Tensor]:
    """How far log-probs of the same tokens are from a plain pass in float32: the engine's, and those of a plain pass in its precision."""
    samples = engine.generate(_STEP, [Request(prompt_ids=prompt, max_tokens=max_tokens, temperature=1.0) for prompt in prompts])
    torch.set_float32_matmul_precision("highest")
    ours, rounded = [], []
    for prompt, sample in zip(prompts, samples, strict=True):
        exact = plain.logprobs(prompt, sample.action_ids)
        ours.append((torch.tensor(sample.logprobs) - exact).abs())
        rounded.append((same.logprobs(prompt, sample.action_ids) - exact).abs())
    set_up_process(engine.dtype, engine.device.type)
    return torch.cat(ours), torch.cat(rounded)


def _named(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
