"""The in-process engine: exact tokens and their log-probs from a transformers model.

What prompts share is computed once (`tree_decoding.py`, or `row_decoding.py` if the model needs it); then each decoding step adds one token
to every unfinished row. A row that has ended leaves the batch at once, and what was computed is kept for the next prompts to the same
sampler: one that continues a conversation is computed from its new tokens on. Left out: top-p and top-k (learners need the log-probs of the
distribution that was really sampled from), speculative decoding, compilation.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from perdure.envs.policy import Ids, Message, PolicyError, Request, Sample
from perdure.learners.chat.chat_settings import ChatSettings
from perdure.learners.chat.open_chat import load_tokenizer
from perdure.learners.chat.template_chat import TemplateChat
from perdure.learners.chat.template_check import check_chat
from perdure.learners.engines.adapter_effect import require_effect
from perdure.learners.engines.engine import require_room, require_turn_room
from perdure.learners.hardware import faster_threads, threads
from perdure.learners.model.adapted_model import AdaptedModel, Prepared
from perdure.learners.model.decoding import Decoding
from perdure.learners.model.row_decoding import RowDecoding
from perdure.learners.model.tree import pack
from perdure.learners.model.tree_decoding import TreeDecoding
from perdure.learners.trainees.turn_tree import turn_tree
from perdure.learners.weights.base_models import ModelFiles
from perdure.learners.weights.weight_sets import Weights
from perdure.memory.errors import Diverged, InputError
from perdure.memory.records import Sampler, VersionRef

MOST_KEPT = 3
"""Samplers of whom is kept what was computed: a gate asks versions in turn."""
MOST_NODES = 4096
"""Tokens that are kept of a sampler's tree; a larger one is begun anew. A node of a 135M model takes 23 kB in bfloat16."""
_ROWS_MEASURED = 16
_BLOCK = 256
"""Tokens of the vocabulary in one block of `_sample`."""
PLAIN_CHAT = ChatSettings()


@dataclass(slots=True)
class TokenUsage:
    """Tokens and seconds since the engine was opened."""

    prompt_tokens: int = 0
    """Tokens of all prompts, as if nothing were shared."""
    prefilled_tokens: int = 0
    """Tokens that were really computed for the prompts."""
    sampled_tokens: int = 0
    seconds: float = 0.0


class TransformersEngine:
    """A model in this process, with the adapters of several samplers side by side.

    `budget_tokens` bounds the nodes of one prefilled tree, and with it memory. `stop_ids` are the tokens that end an answer.
    """

    def __init__(
        self,
        files: ModelFiles,
        *,
        device: str,
        dtype: torch.dtype,
        seed: int,
        budget_tokens: int = 1536,
        chat: ChatSettings = PLAIN_CHAT,
    ) -> None:
        self.model = AdaptedModel(files, device=device, dtype=dtype)
        self.files, self.device, self.dtype = files, self.model.device, dtype
        self.usage = TokenUsage()
        tokenizer = load_tokenizer(files.path)
        self.context_limit = self.model.context_limit
        self.chat = TemplateChat(tokenizer, stop_ids(self.model.net.generation_config.eos_token_id, tokenizer.eos_token_id), chat)
        check_chat(self.chat, tokenizer)
        self.stop_ids = self.chat.stop_ids
        self._require_vocabulary(tokenizer)
        self._loaded: dict[str, Prepared] = {}
        self._effective: set[frozenset[str]] = set()
        """Layers of adapters that were shown to have an effect."""
        self._generator = torch.Generator(device=self.device).manual_seed(seed)
        self._budget_tokens = budget_tokens
        self._memories: dict[Sampler, Decoding] = {}
        """The last used at the end."""
        self._decoding_threads = torch.get_num_threads()

    def _require_vocabulary(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Raise `InputError` if the tokenizer can give a token that the model does not know.

        Published models have added tokens that they do not know, to which no text is encoded.
        """
        added = tokenizer.get_added_vocab()
        spoken = self.chat.prompt([Message(role="system", text="Answer."), Message(role="user", text="Yes?")])
        last = max(*(token for text, token in tokenizer.get_vocab().items() if text not in added), *self.stop_ids, *spoken)
        if last >= self.model.vocabulary:
            raise InputError(
                f"the tokenizer in {self.files.path} has a token {last}, and its model knows only {self.model.vocabulary} tokens: they "
                "belong to different models"
            )

    def load(self, sampler: Sampler, weights: Weights) -> None:
        """Prepare the weights of a sampler; empty weights are the base model's. Raises `RuntimeFailure` if they have no effect."""
        if sampler in self:
            raise ValueError(f"{sampler} is already loaded")
        self._loaded[str(sampler)] = self.model.prepare(weights)
        layers = frozenset(weights)
        is_new = isinstance(sampler, VersionRef) or layers not in self._effective  # the steps of a job have the same layers
        if is_new and require_effect(self, sampler, weights):
            self._effective.add(layers)

    def unload(self, sampler: Sampler) -> None:
        self._memories.pop(sampler, None)
        del self._loaded[str(sampler)]

    @property
    def numerics(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        return f"transformers, {self.device.type}, {dtype}, {self.context_limit} tokens{self.chat.settings.label}"

    @property
    def shared_model(self) -> AdaptedModel:
        return self.model

    def release_memory(self) -> None:
        """Forget keys and values; the weights stay."""
        self._memories.clear()

    @torch.inference_mode()
    def choose_threads(self) -> None:
        """Measure on how many threads of a CPU decoding is faster, and use these from now on. Takes about a second."""
        if self.device.type != "cpu" or torch.get_num_threads() == 1:
            return
        memory, tokens = self._new_memory(), range(_ROWS_MEASURED)
        memory.start([(token,) for token in tokens])

        def step() -> None:
            self._read(memory.step(tokens))

        self._decoding_threads = faster_threads(step)

    def __contains__(self, sampler: Sampler) -> bool:
        return str(sampler) in self._loaded

    def policy(self, sampler: Sampler) -> EnginePolicy:
        """The `Policy` of a loaded sampler."""
        if sampler not in self:
            raise PolicyError(f"{sampler} is not loaded in this engine")
        return EnginePolicy(self, sampler)

    def generate(self, sampler: Sampler, requests: Sequence[Request]) -> list[Sample]:
        """Continue each prompt. Raises `PolicyError` if one does not fit into the context, `RuntimeFailure` if the weights diverged."""
        started = time.perf_counter()
        for request in requests:
            require_room(len(request.prompt_ids), request.max_tokens, self.context_limit)
        self.model.use(self._loaded[str(sampler)])
        samples: list[Sample | None] = [None] * len(requests)
        memory = self._memories.pop(sampler, None) or self._new_memory()  # put back if all goes well
        for batch in pack([[memory.unknown(request.prompt_ids)] for request in requests], self._budget_tokens):
            if memory.size > MOST_NODES and not self.model.by_rows:
                memory = self._new_memory()
            for index, sample in zip(batch, self._generate_batch(sampler, [requests[i] for i in batch], memory), strict=True):
                samples[index] = sample
        self._memories[sampler] = memory
        if len(self._memories) > MOST_KEPT:
            del self._memories[next(iter(self._memories))]
        self.usage.seconds += time.perf_counter() - started
        return [sample for sample in samples if sample is not None]

    @torch.no_grad()
    def logprobs(self, sampler: Sampler, turns: Sequence[tuple[Ids, Ids]]) -> list[tuple[float, ...]]:
        """Log-probs of given answers (`Engine.logprobs`). Answers to one prompt share it, and only what predicts a token meets the head."""
        if sampler not in self:
            raise PolicyError(f"{sampler} is not loaded in this engine")
        require_turn_room(turns, self.context_limit)
        self.model.use(self._loaded[str(sampler)])
        found: dict[int, tuple[float, ...]] = {}
        for batch in pack([[prompt + action[:-1]] for prompt, action in turns], self._budget_tokens, by_rows=self.model.by_rows):
            tree = turn_tree([turns[i] for i in batch], self.device)
            hidden_KC = self.model.hidden(tree.tree)[tree.node_K]
            logp_A = self.model.head.detached().logprobs(hidden_KC, tree.row_A, tree.token_A, 1.0)
            if not bool(logp_A.isfinite().all()):
                raise self._not_finite(sampler, "log-probs")
            for i, logps in zip(batch, logp_A.split([len(turns[i][1]) for i in batch]), strict=True):
                found[i] = tuple(logps.tolist())
        return [found[i] for i in range(len(turns))]

    @torch.inference_mode()
    def _generate_batch(self, sampler: Sampler, requests: list[Request], memory: Decoding) -> list[Sample]:
        """Axes: R rows that are decoded, V tokens of the vocabulary."""
        prompts = [request.prompt_ids for request in requests]
        place = {prompt: n for n, prompt in enumerate(dict.fromkeys(prompts))}
        first = {prompt: n for n, prompt in reversed(list(enumerate(prompts)))}
        hidden_RC = memory.start(prompts)[[first[prompt] for prompt in place]]
        logits_RV = self._read(hidden_RC)[[place[prompt] for prompt in prompts]]
        self.usage.prompt_tokens += sum(map(len, prompts))
        self.usage.prefilled_tokens += memory.computed
        temperature_R = torch.tensor([request.temperature for request in requests], device=self.device)
        actions: list[list[int]] = [[] for _ in requests]
        logprobs: list[list[float]] = [[] for _ in requests]
        finish: list[Literal["stop", "length"]] = ["length"] * len(requests)
        chances = [None if request.seed is None else Random(request.seed) for request in requests]
        alive = list(range(len(requests)))
        while True:
            token_R, logp_R = self._sample(sampler, logits_RV, temperature_R, [chances[index] for index in alive])
            self.usage.sampled_tokens += len(alive)
            going = []
            for row, (index, token, logp) in enumerate(zip(alive, token_R.tolist(), logp_R.tolist(), strict=True)):
                actions[index].append(token)
                logprobs[index].append(logp)
                if token in self.stop_ids:
                    finish[index] = "stop"
                elif len(actions[index]) < requests[index].max_tokens:
                    going.append(row)
            if not going:
                break
            if len(going) < len(alive):
                rows = torch.tensor(going, device=self.device)
                token_R, temperature_R = token_R[rows], temperature_R[rows]
                alive = [alive[row] for row in going]
                memory.keep(going)
            with threads(self._decoding_threads):
                logits_RV = self._read(memory.step(token_R.tolist()))
        memory.finish()
        return [
            Sample(action_ids=tuple(a), logprobs=tuple(p), finish=f, sampler=sampler)
            for a, p, f in zip(actions, logprobs, finish, strict=True)
        ]

    def _new_memory(self) -> Decoding:
        return RowDecoding(self.model) if self.model.by_rows else TreeDecoding(self.model)

    def _read(self, hidden_RC: Tensor) -> Tensor:
        """Logits."""
        return self.model.head.logits(hidden_RC)

    def _sample(
        self, sampler: Sampler, logits_RV: Tensor, temperature_R: Tensor, chance_R: Sequence[Random | None]
    ) -> tuple[Tensor, Tensor]:
        """Draw a token for each row, and its log-prob; temperature 0 is greedy, with log-probs at temperature 1. A row with a chance of its
        own draws from that.

        First a block of the vocabulary is drawn, then a token of the block: exact, and a tenth of the work of drawing from the whole row.
        Axes: B blocks, W tokens in each.
        """
        greedy_R = temperature_R == 0
        scale_R = torch.where(greedy_R, 1.0, temperature_R)
        rows, vocabulary = logits_RV.shape
        top_R = logits_RV.amax(-1)
        weight_RV = logits_RV.new_zeros(rows, -(-vocabulary // _BLOCK) * _BLOCK)
        torch.sub(logits_RV, top_R[:, None], out=weight_RV[:, :vocabulary]).div_(scale_R[:, None]).exp_()
        weight_RBW = weight_RV.view(rows, -1, _BLOCK)
        weight_RB = weight_RBW.sum(-1)
        total_R = weight_RB.double().sum(-1)
        if not bool(total_R.isfinite().all()):
            raise self._not_finite(sampler, "logits")
        block_R = self._draw(weight_RB, chance_R)
        token_R = block_R * _BLOCK + self._draw(weight_RBW[torch.arange(rows, device=self.device), block_R], chance_R)
        if bool(greedy_R.any()):
            token_R = torch.where(greedy_R, logits_RV.argmax(-1), token_R)
        logit_R = logits_RV.gather(1, token_R[:, None])[:, 0]
        return token_R, (logit_R - top_R) / scale_R - total_R.log().float()

    def _not_finite(self, sampler: Sampler, what: str) -> Diverged:
        cause = "its adapter has diverged; learn with a smaller lr"
        if self._loaded[str(sampler)] is self.model.prepare({}):
            cause = "the base model itself gives them; set another model"
        return Diverged(f"the {what} of {sampler} are not finite: {cause}")

    def _draw(self, weight_RN: Tensor, chance_R: Sequence[Random | None]) -> Tensor:
        """Draw one index for each row, in proportion to the weights."""
        below_RN = weight_RN.double().cumsum(-1)
        share_R1 = torch.rand(len(weight_RN), 1, dtype=torch.double, device=self.device, generator=self._generator)
        if own := [(row, chance.random()) for row, chance in enumerate(chance_R) if chance is not None]:
            rows, shares = zip(*own, strict=True)
            share_R1[list(rows), 0] = torch.tensor(shares, dtype=torch.double, device=self.device)
        return torch.searchsorted(below_RN, share_R1 * below_RN[:, -1:], right=True)[:, 0]


@dataclass(frozen=True, slots=True)
class EnginePolicy:
    """`Policy` over one sampler of an engine."""

    engine: TransformersEngine
    sampler: Sampler

    def generate(self, requests: Sequence[Request]) -> list[Sample]:
        return self.engine.generate(self.sampler, requests)


def stop_ids(*candidates: int | list[int] | None) -> frozenset[int]:
    """All tokens that end an answer; a model may name one or several, in several places."""
    ids: set[int] = set()
    for candidate in candidates:
        if candidate is not None:
            ids |= set(candidate) if isinstance(candidate, list) else {candidate}
    return frozenset(ids)
