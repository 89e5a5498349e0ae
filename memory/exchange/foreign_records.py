"""Trajectories of other pipelines, ready for their rows in the store."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignTurn:
    """One answer and its prompt, ready for its row: ids and log-probs are packed."""

    messages: str | None
    observation: str | None
    prompt_ids: bytes | None
    action: str | None
    action_ids: bytes | None
    logprobs: bytes | None
    reward: float | None
    finish: str | None
    answer: str | None = None
    """The answer as an assistant's message, in JSON; None if it is its text alone."""
    continues: bool = False
    """Whether `messages` are only those since the answer of the turn before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignEpisode:
    """One trajectory of another pipeline."""

    name: str | None
    environment: str
    seed: int | None
    group: str | None
    sampler: str | None
    base_model: str | None
    base_hash: str | None
    total_reward: float | None
    success: bool | None
    state: str
    """As in our exports; 'completed' if the file does not say."""
    purpose: str | None
    turns: tuple[ForeignTurn, ...]
    instructions: str | None = None
    """The system message of its task, if that differs from the environment's."""
    tools: str | None = None
    """The tools that it could call, in JSON."""
