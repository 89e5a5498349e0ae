"""How an engine computes prompts and continues them, whatever the model needs for it.

`TreeDecoding` grows a token tree; `RowDecoding` is for models that a tree cannot compute. Each object belongs to one sampler and keeps what
it has computed, so that a prompt which continues a conversation costs its new tokens only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from perdure.envs.policy import Ids


class Decoding(Protocol):
    """Its use: `start`, and `step` for each further token of all rows; `keep` when some have ended, and at last `finish`.

    Axes: R rows that are decoded, C features.
    """

    @property
    def size(self) -> int:
        """Tokens that are kept."""
        ...

    @property
    def computed(self) -> int:
        """Tokens of prompts that the last `start` has really computed."""
        ...

    def unknown(self, prompt: Ids) -> Ids:
        """What must be computed of a prompt, after a number for what it continues; prompts with the same number share that."""
        ...

    def start(self, prompts: Sequence[Ids]) -> Tensor:
        """Begin one row for each prompt; the hidden states `(R, C)` that predict their first tokens."""
        ...

    def step(self, tokens: Sequence[int]) -> Tensor:
        """Continue each row with a token; the hidden states `(R, C)` that predict the next ones."""
        ...

    def keep(self, rows: Sequence[int]) -> None:
        """Continue with these rows only."""
        ...

    def finish(self) -> None:
        """All rows have ended."""
        ...
