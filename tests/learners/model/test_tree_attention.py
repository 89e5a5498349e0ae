"""Attention by blocks of a growing tree, and of growing rows, compared with one softmax for each token over its own sequence."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from perdure.learners.model.tree_attention import TreeMemory

H, Q, D = 2, 3, 4
CPU = torch.device("cpu")
SHOTS = tuple(range(20))
PROMPTS = [(*SHOTS, 30), (*SHOTS, 30, 31), (*SHOTS, 40, 41), (50, 51, 52), (*SHOTS, 30), (*SHOTS[:9], 60)]


class Sequences:
    """Random queries, keys and values for tokens by what precedes them, as a model would compute them."""

    def __init__(self, seed: int = 0) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._drawn: dict[tuple[int, ...], tuple[Tensor, Tensor, Tensor]] = {}

    def token(self, prefix: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
        if prefix not in self._drawn:
            query, both = torch.randn(H * Q, D, generator=self._generator), torch.randn(2, H, D, generator=self._generator)
            self._drawn[prefix] = query, both[0], both[1]
        return self._drawn[prefix]

    def attend(self, memory: TreeMemory, prefixes: list[tuple[int, ...]]) -> Tensor:
        """One pass over the last tokens of these prefixes."""
        query, key, value = (torch.stack(parts, 1) for parts in zip(*map(self.token, prefixes), strict=True))
        return memory.attend(7, query, key, value, 0.5)

    def plainly(self, prefix: tuple[int, ...]) -> Tensor:
        """The attention output of the last token: each of G = H * Q query heads reads from its key head."""
        tokens = [self.token(prefix[: n + 1]) for n in range(len(prefix))]
        keys, values = (torch.stack([token[part] for token in tokens], 1).repeat_interleave(Q, 0) for part in (1, 2))
        weights = (torch.einsum("gd,gnd->gn", tokens[-1][0], keys) * 0.5).softmax(-1)
        return torch.einsum("gn,gnd->gd", weights, values)

    def check(self, memory: TreeMemory, prefixes: list[tuple[int, ...]]) -> None:
        for read, prefix in zip(self.attend(memory, prefixes), prefixes, strict=True):
            torch.testing.assert_close(read, self.plainly(prefix), atol=1e-5, rtol=0)

    def check_prompts(self, memory: TreeMemory, prompts: list[tuple[int, ...]]) -> list[int]:
        """Compute prompts; returns their last nodes."""
        before = len(memory.tree)
        ends, computed = memory.begin(prompts)
        prefixes: dict[int, tuple[int, ...]] = {}
        for prompt, end in zip(prompts, ends, strict=True):
            node = -1
            for n, token in enumerate(prompt):
                node = memory.tree.add(node, token)
                prefixes[node] = prompt[: n + 1]
            assert node == end
        assert set(computed) == set(range(before, len(memory.tree))) | set(ends)
        self.check(memory, [prefixes[node] for node in computed])
        return ends


@pytest.mark.parametrize("most_scores", [1, 2**24])  # 1: each block is a part of its own
@pytest.mark.parametrize("width", [1, 3, 128])
def test_every_token_of_a_tree_reads_its_ancestors(width: int, most_scores: int) -> None:
    sequences, memory = Sequences(), TreeMemory(CPU, torch.float32, width=width, most_scores=most_scores)
    sequences.check_prompts(memory, PROMPTS)
    sequences.check_prompts(memory, [(*prompt, 70, 71) for prompt in PROMPTS] + [PROMPTS[0]])


@pytest.mark.parametrize("steps", [1, 3, 70])  # 70 needs more than one allocation
def test_every_row_reads_its_part_of_the_tree_and_its_own_tokens(steps: int) -> None:
    sequences, memory = Sequences(steps), TreeMemory(CPU, torch.float32)
    memory.branch(sequences.check_prompts(memory, PROMPTS))
    assert memory.shared_keys >= 29
    rows = list(PROMPTS)
    for step in range(steps):
        if step == 1:
            memory.keep([0, 2, 3, 4, 5])  # too few have ended for a new order
            rows = [rows[n] for n in (0, 2, 3, 4, 5)]
        if step == 2:
            before = memory.shared_keys
            memory.keep([1, 3])
            rows = [rows[1], rows[3]]
            assert memory.shared_keys < before
        rows = [(*row, 100 + (step + n) % 3) for n, row in enumerate(rows)]
        memory.advance([row[-1] for row in rows])
        sequences.check(memory, rows)
    memory.finish()
    assert memory.shared_keys == 0


def test_the_tokens_of_rows_join_the_tree() -> None:
    sequences, memory = Sequences(), TreeMemory(CPU, torch.float32)
    memory.branch(sequences.check_prompts(memory, PROMPTS))
    rows = list(PROMPTS)
    answers: list[tuple[int, ...]] = []
    for step, going in enumerate([[0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 5], [1, 3], [1]]):
        if step:
            memory.keep(going)
            answers += [row for n, row in enumerate(rows) if n not in going]
            rows = [rows[n] for n in going]
        rows = [(*row, 100 + n % 2) for n, row in enumerate(rows)]
        memory.advance([row[-1] for row in rows])
        sequences.check(memory, rows)
    memory.finish()
    answers += rows
    assert len(answers) == len(PROMPTS)
    for answer in answers:
        assert memory.tree.find(answer)[1] == len(answer)
    size = len(memory.tree)
    later = [(*answer, 200, 201 + n) for n, answer in enumerate(answers)]
    sequences.check_prompts(memory, later)
    assert len(memory.tree) - size == len(set(answers)) + len(answers)


def test_scores_are_in_fp32_whatever_the_model_is_in() -> None:
    sequences, memory = Sequences(), TreeMemory(CPU, torch.bfloat16)
    for prefix in [PROMPTS[1][: n + 1] for n in range(len(PROMPTS[1]))] + [(*PROMPTS[1], 5)]:
        query, key, value = sequences.token(prefix)
        sequences._drawn[prefix] = query.bfloat16().float(), key.bfloat16().float(), value.bfloat16().float()

    def attend(prefixes: list[tuple[int, ...]]) -> Tensor:
        query, key, value = (torch.stack(parts, 1).bfloat16() for parts in zip(*map(sequences.token, prefixes), strict=True))
        return memory.attend(7, query, key, value, 0.5)

    ends, computed = memory.begin([PROMPTS[1]])
    read = attend([PROMPTS[1][: n + 1] for n in range(len(computed))])
    torch.testing.assert_close(read[-1], sequences.plainly(PROMPTS[1]), atol=1e-5, rtol=0)
    memory.branch(ends)
    memory.advance([5])
    torch.testing.assert_close(attend([(*PROMPTS[1], 5)])[0], sequences.plainly((*PROMPTS[1], 5)), atol=1e-5, rtol=0)
