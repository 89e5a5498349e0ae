"""Tokens per second of the engine beside `generate` of transformers: same prompts, same merged weights, in turn in one process.

The peer runs each case in bfloat16 or float32, whichever is faster for it, without top-k and without giving log-probs.
In `equal work` neither side has end tokens, so that each samples every token that it may; `as it runs` keeps them. Left out: serving.
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

from perdure.agent.bench.measure import in_turn, median_ratio, timed
from perdure.envs.environment import Environment
from perdure.envs.guarded import open_episode
from perdure.envs.policy import Chat, Ids, Request
from perdure.envs.rollout import opening
from perdure.envs.seeds import dev_seed
from perdure.learners.engines.transformers_engine import TransformersEngine, stop_ids
from perdure.learners.hardware import faster_dtype
from perdure.learners.weights.base_models import ModelFiles
from perdure.learners.weights.peft_format import base_shapes
from perdure.learners.weights.weight_sets import LoraPair, Weights, merge_into
from perdure.memory.json_value import Document
from perdure.memory.records import StepRef

PROMPTS = 8
SAMPLES = 8
RANK = 16
LONG_PROMPT = 60
"""The least tokens of a prompt without examples: it may hold several questions."""
_FIRST_ID = 100
"""Prompts that share nothing begin with token ids from here on."""
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
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineBench:
    """What was measured, and on what."""

    machine: str
    threads: int
    dtype: str
    peer: str
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
    engine = TransformersEngine(files, device=device, dtype=faster_dtype(device), seed=0)
    engine.choose_threads()
    table = random_adapter(files, RANK, 0)  # so that weights are merged
    engine.load(_STEP, table)
    ends = engine.stop_ids
    bare = [replace(environment, examples=()) for environment in environments]
    cases = {
        "with solved examples": first_prompts(engine.chat, environments, PROMPTS),
        "zero-shot, nothing shared": [
            (_FIRST_ID + n, *prompt) for n, prompt in enumerate(first_prompts(engine.chat, bare, PROMPTS, LONG_PROMPT))
        ],
    }
    say("loading the peer in both precisions")
    peers = [Peer(files, device=device, dtype=dtype, table=table) for dtype in (torch.bfloat16, torch.float32)]
    speeds = []
    for work in ("equal work", "as it runs"):
        engine.stop_ids = ends if work == "as it runs" else frozenset()
        for name, prompts in cases.items():
            speed = _measure(name, work, engine, peers, prompts, max_tokens, repeats)
            say(f"{work}, {name}: {speed.ratio:.2f} times as fast")
            speeds.append(speed)
    same = next(peer for peer in peers if peer.dtype == engine.dtype)
    gaps, peer_gaps = _gaps(engine, peers[1], same, [prompt for prompts in cases.values() for prompt in prompts], max_tokens)
    return EngineBench(
        machine=platform.machine(),
        threads=torch.get_num_threads(),
        dtype=_named(engine.dtype),
        peer=f"transformers {transformers.__version__} generate",
        speeds=speeds,
        logprob_mean_gap=float(gaps.mean()),
        logprob_max_gap=float(gaps.max()),
        peer_logprob_mean_gap=float(peer_gaps.mean()),
    )


def _measure(
    name: str, work: str, engine: TransformersEngine, peers: Sequence[Peer], prompts: Sequence[Ids], max_tokens: int, repeats: int
) -> SamplingSpeed:
    """Run both sides in turn, each first every other time. An uncounted run of each before that also chooses the faster peer."""
    batch = [prompt for prompt in prompts for _ in range(SAMPLES)]
    requests = [Request(prompt_ids=prompt, max_tokens=max_tokens, temperature=1.0) for prompt in batch]
    stops = bool(engine.stop_ids)

    def ours() -> int:
        engine.release_memory()  # or the prompts of the last run would be known
        return sum(len(sample.action_ids) for sample in engine.generate(_STEP, requests))

    def theirs() -> int:
        return sum(map(len, peer.generate(batch, max_tokens, stops)))

    ours()
    peer = min(peers, key=lambda peer: timed(lambda: peer.generate(batch, max_tokens, stops))[1])
    speed = SamplingSpeed(prompts=name, work=work, prompt_tokens=statistics.mean(map(len, prompts)), peer_dtype=_named(peer.dtype))
    for n in range(repeats):
        (our_tokens, our_s), (peer_tokens, peer_s) = in_turn(ours, theirs, n)
        speed.tokens.append((our_tokens, peer_tokens))
        speed.seconds.append((our_s, peer_s))
    return speed


def _gaps(engine: TransformersEngine, plain: Peer, same: Peer, prompts: Sequence[Ids], max_tokens: int) -> tuple[Tensor, Tensor]:
    """How far log-probs of the same tokens are from a plain pass in float32: the engine's, and those of a plain pass in its precision."""
    samples = engine.generate(_STEP, [Request(prompt_ids=prompt, max_tokens=max_tokens, temperature=1.0) for prompt in prompts])
    ours, rounded = [], []
    for prompt, sample in zip(prompts, samples, strict=True):
        exact = plain.logprobs(prompt, sample.action_ids)
        ours.append((torch.tensor(sample.logprobs) - exact).abs())
        rounded.append((same.logprobs(prompt, sample.action_ids) - exact).abs())
    return torch.cat(ours), torch.cat(rounded)


def first_prompts(chat: Chat, environments: Sequence[Environment], n: int, at_least: int = 0) -> list[Ids]:
    """The first prompts of `n` tasks, of the environments in turn."""
    return [_first_prompt(chat, environments[draw % len(environments)], draw, at_least) for draw in range(n)]


def _first_prompt(chat: Chat, environment: Environment, draw: int, at_least: int) -> Ids:
    """The first prompt of a task; of several tasks in one if a single task has fewer than `at_least` tokens."""
    questions: list[str] = []
    while True:
        env = open_episode(environment)
        try:
            questions.append(env.reset(dev_seed(draw, environment.name, len(questions))))
        finally:
            env.close()
        prompt = chat.prompt(opening(environment, "\n".join(questions)))
        if len(prompt) >= at_least:
            return prompt


def _named(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def random_adapter(files: ModelFiles, rank: int, seed: int) -> dict[str, LoraPair]:
    """A small random adapter on every linear layer but the last one."""
    generator = torch.Generator().manual_seed(seed)
    return {
        f"{module}.weight": LoraPair(
            down_RI=torch.randn(rank, features, generator=generator) * 0.01,
            up_OR=torch.randn(out, rank, generator=generator) * 0.01,
            scale=1.0,
        )
        for module, (out, features) in base_shapes(files).items()
    }
