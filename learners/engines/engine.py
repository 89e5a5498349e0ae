"""What samples, as learners, gate and daemon see it: several samplers over one base model, each loaded under a name used once.

`TransformersEngine` holds them in this process; `VllmEngine` asks a vLLM server on this machine. Log-probs under a sampler that is not
playing are no business of an engine: the learner computes those itself (`learners/trainee.py`), in its own precision.
"""

from __future__ import annotations

from typing import Protocol

from perdure.envs.policy import Chat, Policy, PolicyError, Request
from perdure.learners.weights.base_models import ModelFiles
from perdure.learners.weights.weight_sets import Weights
from perdure.memory.records import Sampler


class Engine(Protocol):
    """Samplers side by side. `files` is the base model, `chat` its conversations, `context_limit` the longest sequence in tokens."""

    @property
    def files(self) -> ModelFiles: ...

    @property
    def chat(self) -> Chat: ...

    @property
    def context_limit(self) -> int: ...

    def load(self, sampler: Sampler, weights: Weights) -> None:
        """Make a sampler answer that was not loaded before; empty weights are the base model's. Raises `InputError` for weights that it
        cannot serve, `ValueError` for a sampler that is loaded."""
        ...

    def unload(self, sampler: Sampler) -> None:
        """Forget a loaded sampler."""
        ...

    def release_memory(self) -> None:
        """Give memory of the device to whoever learns, where it can, until the next answer is wanted."""
        ...

    def __contains__(self, sampler: Sampler) -> bool: ...

    def policy(self, sampler: Sampler) -> Policy:
        """Whoever answers as this sampler. Raises `PolicyError` where it is not loaded."""
        ...


def require_room(request: Request, context_limit: int) -> None:
    """Raise `PolicyError` for a prompt that is empty, or leaves less room in the context than it asks for."""
    tokens = len(request.prompt_ids)
    if not 0 < tokens <= context_limit - request.max_tokens:
        raise PolicyError(f"a prompt of {tokens} tokens and {request.max_tokens} more do not fit into a context of 1 to {context_limit}")
