"""Attention of growing rows, compared with one masked softmax over everything without sharing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from perdure.learners.engines.tree_attention import TreeMemory

H, Q, D = 2, 3, 4


def read_plainly(query_GD: Tensor, keys_HND: Tensor, values_HND: Tensor, scaling: float) -> Tensor:
    """The attention output of one row: each of G = H * Q query heads reads from its key head."""
    keys, values = keys_HND.repeat_interleave(Q, 0), values_HND.repeat_interleave(Q, 0)
    weights_GN = (torch.einsum("gd,gnd->gn", query_GD, keys) * scaling).softmax(-1)
    return torch.einsum("gn,gnd->gd", weights_GN, values)


@pytest.mark.parametrize("steps", [1, 3, 70])  # 70 needs more than one allocation
def test_every_row_reads_its_part_of_the_tree_and_its_own_tokens(steps: int) -> None:
    torch.manual_seed(steps)
    visible_RS = torch.tensor([[1, 1, 0, 0, 0], [1, 0, 1, 0, 0], [1, 0, 0, 1, 1], [1, 0, 1, 0, 0]], dtype=torch.bool)
    shared = torch.randn(2, 1, H, 5, D)
    memory = TreeMemory()
    memory.prefill(7, shared[0], shared[1])
    memory.branch(visible_RS)
    rows = [0, 1, 2, 3]
    own: dict[int, list[Tensor]] = {row: [] for row in rows}
    for step in range(steps):
        if step == 1:
            rows = [0, 3]  # the others have ended, and with them three of the five shared keys
            memory.keep(torch.tensor(rows))
            assert memory.shared_keys == 3
        memory.steps += 1
        query, new = torch.randn(H * Q, len(rows), D), torch.randn(2, H, len(rows), D)
        read = memory.attend(7, query, new[0], new[1], 0.5)
        for place, row in enumerate(rows):
            own[row].append(new[:, :, place])
            seen = torch.cat([shared[:, 0, :, visible_RS[row]], torch.stack(own[row], dim=2)], dim=2)
            torch.testing.assert_close(read[place], read_plainly(query[:, place], seen[0], seen[1], 0.5), atol=1e-5, rtol=0)


def test_shared_keys_stay_while_most_are_needed() -> None:
    memory = TreeMemory()
    memory.prefill(0, torch.randn(1, H, 6, D), torch.randn(1, H, 6, D))
    visible = torch.ones(3, 6, dtype=torch.bool)
    visible[0, 4:], visible[1, 3:] = False, False
    memory.branch(visible)
    memory.keep(torch.tensor([0, 2]))
    assert memory.shared_keys == 6
    memory.keep(torch.tensor([0]))
    assert memory.shared_keys == 4


def test_products_are_in_fp32_whatever_the_model_is_in() -> None:
    memory = TreeMemory()
    shared = torch.randn(2, 1, H, 6, D).bfloat16()
    memory.prefill(0, shared[0], shared[1])
    memory.branch(torch.ones(1, 6, dtype=torch.bool))
    memory.steps = 1
    query, new = torch.randn(H * Q, 1, D).bfloat16(), torch.randn(2, H, 1, D).bfloat16()
    seen = torch.cat([shared[:, 0], new], dim=2).float()
    read = memory.attend(0, query, new[0], new[1], 1.0)
    torch.testing.assert_close(read[0], read_plainly(query[:, 0].float(), seen[0], seen[1], 1.0), atol=1e-5, rtol=0)
