"""The seam between playing and models: tokens in, tokens out.

No model is known here. The rollout loop (`envs/rollout.py`) asks a `Chat` to turn texts into token ids and a `Policy` to continue
them; sampled tokens are kept as they are and never tokenised again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from perdure.memory.json_value import JsonObject
from perdure.memory.records import Sampler

Ids = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Continue one prompt."""

    prompt_ids: Ids
    max_tokens: int
    temperature: float
    """0 is greedy decoding; otherwise the softmax temperature, without top-p or top-k."""
    seed: int | None = None
    """In [0, 2**31): the answer is drawn from this seed, whatever else is in the batch. None: from the engine's own chance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One continuation, with its sampler."""

    action_ids: Ids
    """The sampled tokens, with the end-of-turn token if the policy sampled it."""
    logprobs: tuple[float, ...]
    """Natural log, one per action token, at the temperature it was sampled with (greedy: at temperature 1)."""
    finish: Literal["stop", "length"]
    sampler: Sampler


class Policy(Protocol):
    """The policy: one batch of requests in, one batch of samples out, in the same order.

    Raises `PolicyError` if it cannot answer: the episodes of that batch are then aborted, never scored.
    """

    def generate(self, requests: Sequence[Request]) -> list[Sample]: ...


class PolicyError(RuntimeError):
    """The policy could not answer; the environment is not at fault."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """One call of a tool, as a model asked for it."""

    name: str
    arguments: JsonObject
    """An object, never text."""
    id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of a conversation as text. Text from an environment stays text: template tokens inside it are not special."""

    role: Literal["system", "user", "assistant", "tool"]
    text: str
    thought: str | None = None
    """Of an assistant: its reasoning, apart from the text."""
    calls: tuple[ToolCall, ...] = ()
    """Of an assistant."""
    call_id: str | None = None
    """Of a tool: which call it answers."""
    name: str | None = None
    """Of a tool: its name."""


class Chat(Protocol):
    """How conversations become token ids for one model."""

    @property
    def separate(self) -> bool:
        """Whether turns are separate sequences: each prompt is made anew by `prompt`, as a template that drops earlier thoughts gives it.
        If not, `follow` continues the last one."""
        ...

    def prompt(self, messages: Sequence[Message], tools: Sequence[JsonObject] = ()) -> Ids:
        """The ids of a conversation up to the assistant's answer. Raises `InputError` if the template does not accept it."""
        ...

    def follow(self, prompt_ids: Ids, action_ids: Ids, observation: str) -> Ids:
        """The prompt of the next turn: it starts with `prompt_ids + action_ids`, token for token; then comes the observation."""
        ...

    def text(self, action_ids: Ids) -> str:
        """The text of an answer, without its thoughts and its end-of-turn token."""
        ...

    def answer(self, text: str) -> Ids:
        """The ids of a written answer, with its end-of-turn token: what a policy would have to sample to give it."""
        ...

    def exchange(self, messages: Sequence[Message], tools: Sequence[JsonObject] = ()) -> tuple[Ids, Ids]:
        """Prompt and answer of a conversation whose last message is the assistant's: the ids of all before it, up to the answer, and the
        ids of the answer as the template writes it (thought, text, calls), with its end-of-turn token. Raises `InputError`."""
        ...
