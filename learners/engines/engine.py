"""The interface of engines: several samplers over one base model, each loaded under a name that is used once.

`TransformersEngine` runs in this process; `VllmEngine` asks a vLLM server on this machine. Left out: log-probs of given tokens; the
learner computes them itself, in its own precision (`learners/trainee.py`).
"""

from __future__ import annotations

from typing import Protocol

from perdure.envs.policy import Chat, Policy, PolicyError, Request
from perdure.learners.model.adapted_model import AdaptedModel
from perdure.learners.weights.base_models import ModelFiles
from perdure.learners.weights.weight_sets import Weights
from perdure.memory.records import Sampler


class Engine(Protocol):
    """`files` is the base model, `chat` turns its conversations into tokens, `context_limit` is the longest sequence in tokens."""

    @property
    def files(self) -> ModelFiles: ...

    @property
    def chat(self) -> Chat: ...

    @property
    def context_limit(self) -> int: ...

    @property
    def shared_model(self) -> AdaptedModel | None:
        """The model in this process, if there is one; a learner may use it too."""
        ...

    def load(self, sampler: Sampler, weights: Weights) -> None:
        """Load a sampler; empty weights are the base model's. Raises `InputError` for weights that the engine cannot serve, `ValueError` if
        the sampler is already loaded."""
        ...

    def unload(self, sampler: Sampler) -> None:
        """Unload a sampler."""
        ...

    def release_memory(self) -> None:
        """Free memory of the device for learning, if the engine can; the next request takes it back."""
        ...

    def __contains__(self, sampler: Sampler) -> bool: ...

    def policy(self, sampler: Sampler) -> Policy:
        """The policy of this sampler. Raises `PolicyError` if it is not loaded."""
        ...


def require_room(request: Request, context_limit: int) -> None:
    """Raise `PolicyError` if the prompt is empty, or if the context has no room for the answer."""
    tokens = len(request.prompt_ids)
    if not 0 < tokens <= context_limit - request.max_tokens:
        raise PolicyError(
            f"a prompt of {tokens} tokens and an answer of {request.max_tokens} do not fit into a context of 1 to {context_limit}"
        )
