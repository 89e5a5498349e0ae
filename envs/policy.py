"""The seam between playing and models: tokens in, tokens out.

Nothing here knows a model. The rollout loop (`envs/rollout.py`) asks a `Chat` to turn texts into token ids and a `Policy` to
continue them; what was sampled is kept as it was sampled and never tokenised again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from perdure.memory.records import Sampler

Ids = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Continue one prompt."""

    prompt_ids: Ids
    max_tokens: int
    temperature: float
    """0 is greedy decoding; otherwise the softmax temperature, without top-p or top-k."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One continuation, with the policy that made it."""

    action_ids: Ids
    """The sampled tokens, the end-of-turn token included where the policy chose it."""
    logprobs: tuple[float, ...]
    """Natural log, one per action token, at the temperature it was sampled with (greedy: at temperature 1)."""
    finish: Literal["stop", "length"]
    sampler: Sampler


class Policy(Protocol):
    """Whoever answers. One batch in, one batch out, in the same order.

    Raises `PolicyError` where no answer can be had: the episodes of that batch are then aborted, never scored.
    """

    def generate(self, requests: Sequence[Request]) -> list[Sample]: ...


class PolicyError(RuntimeError):
    """The policy could not answer; this says nothing about the environment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of a conversation as text. Text from an environment stays text: template tokens inside it are not special."""

    role: Literal["system", "user", "assistant"]
    text: str


class Chat(Protocol):
    """How conversations become token ids for one model."""

    def prompt(self, messages: Sequence[Message]) -> Ids:
        """The ids of a conversation up to where the assistant answers."""
        ...

    def follow(self, prompt_ids: Ids, action_ids: Ids, observation: str) -> Ids:
        """The prompt of the next turn: it starts with `prompt_ids + action_ids`, token for token; then comes the observation."""
        ...

    def text(self, action_ids: Ids) -> str:
        """What an answer says, without its end-of-turn token."""
        ...

    def answer(self, text: str) -> Ids:
        """The ids of an answer that somebody wrote, with its end-of-turn token: what a policy would have to sample to say it."""
        ...
