"""Interpolation between the weights of two versions.

A LoRA adapter is the product of two matrices. The products are interpolated, not the matrices; the sum, whose rank is at most the sum of
both, is replaced by its best approximation of the second's rank (Eckart and Young 1936), computed on the small factors.
"""

from __future__ import annotations

import torch
from torch import Tensor

from perdure.learners.weights.weight_sets import LoraPair, Weights
from perdure.memory.errors import InputError


def interpolate(first: Weights, second: Weights, share: float) -> dict[str, LoraPair | Tensor]:
    """(1 - share) * first + share * second, by layer; a layer missing in the first counts as zero.

    Both are adapters, or both are tuned in full; raises `InputError` otherwise.
    """
    mixed: dict[str, LoraPair | Tensor] = {}
    for name, after in second.items():
        before = first.get(name)
        if isinstance(after, LoraPair):
            if isinstance(before, Tensor):
                raise InputError("an adapter cannot be interpolated with weights that were tuned in full: set interpolate=1")
            mixed[name] = LoraPair(down_RI=after.down_RI, up_OR=after.up_OR * share, scale=after.scale)
            if before is not None:
                mixed[name] = _sum(before, 1 - share, after, share)
        elif isinstance(before, Tensor):
            mixed[name] = torch.lerp(before.to(after.device, after.dtype), after, share)
        else:
            raise InputError(
                "weights tuned in full can only be interpolated with weights tuned in full: set interpolate=1, or start from such a version"
            )
    return mixed


def _sum(before: LoraPair, weight_before: float, after: LoraPair, weight_after: float) -> LoraPair:
    """The weighted sum of two products, at the rank and scale of the second."""
    device = after.up_OR.device
    up = torch.cat([before.up_OR.to(device) * (weight_before * before.scale), after.up_OR * (weight_after * after.scale)], 1).double()
    down = torch.cat([before.down_RI.to(device), after.down_RI]).double()
    q_up, r_up = torch.linalg.qr(up)
    q_down, r_down = torch.linalg.qr(down.T)
    left, singular, right = torch.linalg.svd(r_up @ r_down.T)
    rank = min(len(after.down_RI), len(singular))  # a layer may be narrower than the rank
    root = singular[:rank].sqrt()
    up_OR, down_RI = torch.zeros_like(after.up_OR), torch.zeros_like(after.down_RI)
    up_OR[:, :rank] = q_up @ left[:, :rank] * root / after.scale
    down_RI[:rank] = (q_down @ right[:rank].T * root).T
    return LoraPair(down_RI=down_RI, up_OR=up_OR, scale=after.scale)
