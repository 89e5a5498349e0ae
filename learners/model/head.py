"""The head of a language model: from hidden states to logits and log-probs of tokens, with float32 products.

Logits in bfloat16 are off by up to .06, which is more than many updates change. Left out: a vocabulary that is split between devices.

Axes: K rows that predict a token, C features, V tokens of the vocabulary, A action tokens, each of which is predicted by one of the rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from perdure.learners.losses import kl_divergence

CHUNK = 512
"""Rows whose logits exist at the same time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """logits = cap * tanh(scale * (hidden W' + bias) / cap); most models have no bias, a scale of 1, and no cap."""

    weight_VC: Tensor
    bias_V: Tensor | None = None
    scale: float = 1.0
    cap: float | None = None

    def detached(self) -> Head:
        """The same with the weights of now, without gradients by them."""
        bias_V = None if self.bias_V is None else self.bias_V.detach()
        return replace(self, weight_VC=self.weight_VC.detach(), bias_V=bias_V)

    def logits(self, hidden_KC: Tensor) -> Tensor:
        """Logits `(K, V)` in float32, with gradients by the hidden states, and by the weights if they are trained."""
        logits_KV = hidden_KC.float() @ self.weight_VC.float().t()
        if self.bias_V is not None:
            logits_KV = logits_KV + self.bias_V
        if self.scale != 1:
            logits_KV = logits_KV * self.scale
        return logits_KV if self.cap is None else self.cap * torch.tanh(logits_KV / self.cap)

    def logprobs(self, hidden_KC: Tensor, row_A: Tensor, token_A: Tensor, temperature: float) -> Tensor:
        """Log-probs of tokens, each predicted by the row at the same place of `row_A`."""
        if self.weight_VC.requires_grad or self.cap is not None or self.bias_V is not None:
            return (self.logits(hidden_KC) / temperature).log_softmax(-1)[row_A, token_A]
        logp_A: Tensor = _TokenLogprobs.apply(hidden_KC, self.weight_VC, row_A, token_A, self.scale / temperature)  # type: ignore[no-untyped-call]
        return logp_A

    def divergence(self, hidden_KC: Tensor, other_KC: Tensor, temperature: float) -> Tensor:
        """KL(first || second) over the whole vocabulary at each row, `(K,)`; with gradients by the hidden states that have them.

        Logits of a chunk are computed again for the gradient.
        """
        parts = [
            checkpoint(self._divergence, hidden_KC[rows], other_KC[rows], temperature, use_reentrant=False)
            for rows in _chunks(len(hidden_KC))
        ]
        return torch.cat(parts) if parts else hidden_KC.new_zeros(0)

    def _divergence(self, hidden_KC: Tensor, other_KC: Tensor, temperature: float) -> Tensor:
        logp_KV, other_KV = ((self.logits(one) / temperature).log_softmax(-1) for one in (hidden_KC, other_KC))
        return kl_divergence(logp_KV, other_KV)


def head_of(net: Any) -> Head:
    """The head, with what the families do to their logits."""
    module, config = net.get_output_embeddings(), net.config.get_text_config(decoder=True)
    scale = getattr(config, "logit_scale", None) or 1 / (getattr(config, "logits_scaling", None) or 1)
    return Head(
        weight_VC=module.weight,
        bias_V=getattr(module, "bias", None),
        scale=float(scale),
        cap=getattr(config, "final_logit_softcapping", None),
    )


class _TokenLogprobs(torch.autograd.Function):
    """log softmax of `scale * hidden W'` at some tokens. exp(logits - top) of a single chunk is stored for the gradient."""

    @staticmethod
    def forward(ctx: Any, hidden_KC: Tensor, weight_VC: Tensor, row_A: Tensor, token_A: Tensor, scale: float) -> Tensor:
        logp_A = hidden_KC.new_empty(len(row_A), dtype=torch.float32)
        total_K = hidden_KC.new_empty(len(hidden_KC), dtype=torch.float32)
        ctx.stored = None
        for rows in _chunks(len(hidden_KC)):
            logits_KV = _logits(hidden_KC[rows], weight_VC, scale)
            here_A, row, token = _of_chunk(rows, row_A, token_A)
            logit, top_K = logits_KV[row, token], logits_KV.amax(-1)
            weight_KV = logits_KV.sub_(top_K[:, None]).exp_()
            total_K[rows] = weight_KV.sum(-1)
            logp_A[here_A] = logit - (top_K + total_K[rows].log())[row]
            if ctx.needs_input_grad[0] and len(hidden_KC) <= CHUNK:
                ctx.stored = weight_KV
        ctx.scale = scale
        ctx.save_for_backward(hidden_KC, weight_VC, row_A, token_A, total_K)
        return logp_A

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        hidden_KC, weight_VC, row_A, token_A, total_K = ctx.saved_tensors
        grad_K = torch.zeros_like(total_K).index_add_(0, row_A, grads[0])
        d_hidden_KC = torch.empty_like(hidden_KC, dtype=torch.float32)
        for rows in _chunks(len(hidden_KC)):
            weight_KV = ctx.stored
            if weight_KV is None:
                weight_KV = _logits(hidden_KC[rows], weight_VC, ctx.scale)
                weight_KV = weight_KV.sub_(weight_KV.amax(-1, keepdim=True)).exp_()
            weight_KV.mul_(-(grad_K[rows] / total_K[rows])[:, None])
            here_A, row, token = _of_chunk(rows, row_A, token_A)
            weight_KV.index_put_((row, token), grads[0][here_A], accumulate=True)
            d_hidden_KC[rows] = weight_KV @ weight_VC.float()
        ctx.stored = None
        return (d_hidden_KC * ctx.scale).to(hidden_KC.dtype), None, None, None, None


def _logits(hidden_KC: Tensor, weight_VC: Tensor, scale: float) -> Tensor:
    logits_KV = hidden_KC.float() @ weight_VC.float().t()
    return logits_KV if scale == 1 else logits_KV.mul_(scale)


def _of_chunk(rows: slice, row_A: Tensor, token_A: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The action tokens that these rows predict: their places, their rows within the chunk, and the tokens."""
    here_A = ((row_A >= rows.start) & (row_A < rows.stop)).nonzero()[:, 0]
    return here_A, row_A[here_A] - rows.start, token_A[here_A]


def _chunks(rows: int) -> Iterator[slice]:
    for start in range(0, rows, CHUNK):
        yield slice(start, min(start + CHUNK, rows))
