"""Whether a model computes here what it computes by itself: a few tokens, a branch, and some steps of decoding.

Families differ in more than their configurations tell. A tree is used only if this finds nothing, and rows otherwise; if these are off as
well, the model is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from perdure.envs.policy import Ids
from perdure.learners.losses import kl_divergence
from perdure.learners.model.row_cache import require_known_layers
from perdure.learners.model.row_decoding import RowDecoding
from perdure.learners.model.tree import build_tree
from perdure.learners.model.tree_decoding import TreeDecoding
from perdure.learners.weights.base_models import ModelFiles
from perdure.memory.errors import InputError

if TYPE_CHECKING:
    from perdure.learners.model.adapted_model import AdaptedModel

MOST_KL = 0.3
"""Between the model as it was stored and in the precision of its use, in nats. bfloat16 alone costs at most a tenth of it."""
MOST_ROUNDING = {torch.float32: (1e-5, 1e-3), torch.bfloat16: (0.03, 0.3)}
"""At a token, in nats, as a tree and by rows: what is no tree can still be rows, and what is neither is refused."""


def checked_sequences(vocabulary: int) -> tuple[Ids, Ids]:
    """Two sequences that begin alike, of tokens from the whole vocabulary.

    The first tokens are often control tokens, on which bfloat16 is far off.
    """
    whole = tuple((300 + 997 * n) % vocabulary for n in range(16))
    return whole, (*whole[:6], *whole[10:14])


def require_same(stored_TV: Tensor, wanted_TV: Tensor, files: ModelFiles, kind: str) -> None:
    """Raise `InputError` if logits are not finite, or if layers that carry adapters have changed them."""
    if not bool(stored_TV.isfinite().all()):
        raise InputError(f"the weights in {files.path} give values that are not finite: fetch the model again, or set another")
    kl = float(kl_divergence(stored_TV.log_softmax(-1), wanted_TV.log_softmax(-1)).mean())
    if not kl < MOST_KL:
        raise _refusal(kind, f"its linear layers do more than a product, {kl:.2g} nats a token")


@torch.no_grad()
def require_no_gap(model: AdaptedModel, wanted: Sequence[Tensor]) -> None:
    """Raise `InputError` if predictions in the checked sequences differ from these logits, at once or in decoding."""
    sequences = checked_sequences(model.vocabulary)
    logps = [logits_TV.log_softmax(-1) for logits_TV in wanted]
    tree = build_tree(sequences)
    found_NV = model.head.logits(model.hidden(tree)).log_softmax(-1)
    kls = [kl_divergence(logp_TV, found_NV[path]).max() for path, logp_TV in zip(tree.paths, logps, strict=True)]
    if model.by_rows:
        require_known_layers(model.new_cache())
    decoding = RowDecoding(model) if model.by_rows else TreeDecoding(model)
    known = [12, 7]
    hidden_RC = decoding.start([sequence[:length] for sequence, length in zip(sequences, known, strict=True)])
    for _ in range(3):
        found_RV = model.head.logits(hidden_RC).log_softmax(-1)
        kls += [kl_divergence(logp_TV[length - 1], row_V) for row_V, logp_TV, length in zip(found_RV, logps, known, strict=True)]
        hidden_RC = decoding.step([sequence[length] for sequence, length in zip(sequences, known, strict=True)])
        known = [length + 1 for length in known]
    decoding.finish()
    largest = max(float(kl.nan_to_num(torch.inf)) for kl in kls)
    if not largest < MOST_ROUNDING[model.dtype][model.by_rows]:
        raise _refusal(model.config.model_type, f"they differ by {largest:.2g} nats at a token")


@contextmanager
def refusing(kind: str) -> Iterator[None]:
    """Errors of a model that does not compute become refusals; those of a machine that cannot stay what they are."""
    try:
        yield
    except InputError:
        raise
    except (RuntimeError, ValueError, TypeError, AttributeError, LookupError, AssertionError, NotImplementedError) as error:
        if isinstance(error, torch.OutOfMemoryError) or "CUDA" in str(error) or "DefaultCPUAllocator" in str(error):
            raise
        raise _refusal(kind, " ".join(f"{type(error).__name__}: {error}".split())[:200]) from error


def _refusal(kind: str, reason: str) -> InputError:
    return InputError(f"a {kind} model computes its answers in a way that Perdure does not support ({reason}): choose another model")
