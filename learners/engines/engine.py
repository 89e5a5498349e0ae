"""The interface of engines: several samplers over one base model, each loaded under a name that is used once.

`TransformersEngine` runs in this process; `VllmEngine` asks a vLLM server on this machine. Left out: log-probs with gradients, which the
learner computes itself, in its own precision (`learners/trainees/trainee.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from perdure.envs.policy import Chat, Ids, Policy, PolicyError
from perdure.memory.records import Sampler

if TYPE_CHECKING:
    from perdure.learners.model.adapted_model import AdaptedModel
    from perdure.learners.weights.base_models import ModelFiles
    from perdure.learners.weights.weight_sets import Weights


class Engine(Protocol):
    """`files` is the base model, `chat` turns its conversations into tokens, `context_limit` is the longest sequence in tokens."""

    @property
    def files(self) -> ModelFiles: ...

    @property
    def chat(self) -> Chat: ...

    @property
    def context_limit(self) -> int: ...

    @property
    def numerics(self) -> str:
        """How it computes: engine, device, precision, longest sequence, and what was chosen under [chat].

        Log-probs of two engines that differ in it differ a little.
        """
        ...

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

    def logprobs(self, sampler: Sampler, turns: Sequence[tuple[Ids, Ids]]) -> list[tuple[float, ...]]:
        """Log-probs of given answers, each `(prompt_ids, action_ids)`: natural log at temperature 1, one per action token.

        Raises `PolicyError` if the sampler is not loaded, or if a turn with one more token does not fit into the context (vLLM needs it),
        and `RuntimeFailure` if the weights have diverged.
        """
        ...


def require_room(prompt_tokens: int, answer_tokens: int, context_limit: int) -> None:
    """Raise `PolicyError` if prompt or answer are empty, or if the context has no room for both."""
    if not (0 < prompt_tokens <= context_limit - answer_tokens and answer_tokens > 0):
        raise PolicyError(
            f"a prompt of {prompt_tokens} tokens and an answer of {answer_tokens} do not fit into a context of 1 to {context_limit}"
        )


def require_turn_room(turns: Sequence[tuple[Ids, Ids]], context_limit: int) -> None:
    """The same for given answers, with one token to spare."""
    for prompt, action in turns:
        require_room(len(prompt), len(action), context_limit - 1)
