"""Nodes are added once, and blocks read what their nodes need."""

from __future__ import annotations

import random

import pytest
import torch

from perdure.learners.model.growing_tree import GrowingTree

CPU = torch.device("cpu")


def path(tree: GrowingTree, sequence: tuple[int, ...]) -> list[int]:
    node, nodes = -1, []
    for token in sequence:
        node = tree.add(node, token)
        nodes.append(node)
    return nodes


def test_a_prompt_adds_what_is_new_and_its_last_token_is_always_computed() -> None:
    tree = GrowingTree()
    assert tree.extend([(1, 2, 3), (1, 2, 4), (1, 2), (1, 2, 3)]) == ([2, 3, 1, 2], [0, 1, 2, 3])
    assert (tree.ids, tree.depths) == ([1, 2, 3, 4], [0, 1, 2, 2])
    assert tree.extend([(1, 2, 3), (1, 2, 4, 5, 6)]) == ([2, 5], [2, 4, 5])
    assert (tree.ids, tree.depths) == ([1, 2, 3, 4, 5, 6], [0, 1, 2, 2, 3, 4])
    assert tree.find((1, 2, 4, 5, 7)) == (4, 4)
    assert tree.find((9,)) == (-1, 0)
    assert [tree.unknown(prompt) for prompt in ((1, 2, 3), (1, 2, 4, 5, 7), (9, 1), (1,))] == [(1, 3), (4, 7), (-1, 9, 1), (-1, 1)]


@pytest.mark.parametrize("least_shared", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("width", [1, 4, 100])
def test_a_node_of_a_block_attends_to_itself_and_its_ancestors_only(width: int, least_shared: float) -> None:
    draw = random.Random(width)
    tree = GrowingTree()
    sequences = [tuple(draw.randrange(3) for _ in range(draw.randrange(1, 9))) for _ in range(60)]
    ends, computed = tree.extend(sequences)
    for nodes in (ends, computed, ends[:1]):
        blocks = tree.blocks(nodes, width, CPU, least_shared)
        rows = blocks.bias_BWU.flatten(0, 1)
        assert blocks.bias_BWU.shape[1] <= width
        paths = {node: path(tree, sequence)[: tree.depths[node] + 1] for sequence in sequences for node in path(tree, sequence)}
        for node, place in zip(nodes, blocks.place_N.tolist(), strict=True):
            keys = blocks.keys_BU[place // blocks.bias_BWU.shape[1]]
            assert sorted(keys[rows[place] == 0].tolist()) == sorted(paths[node])
        assert bool((rows == 0).any(-1).all()), "padding sees something too"


def test_rows_that_share_little_are_in_different_blocks() -> None:
    tree = GrowingTree()
    ends, _ = tree.extend([(1, 2, 3, 4, 5), (1, 2, 3, 4, 6), (1, 7, 8, 9), (1, 7, 8, 10)])
    assert tree.blocks(ends, 8, CPU).keys_BU.shape == (1, 10)
    assert tree.blocks(ends, 8, CPU, 0.5).keys_BU.tolist()[1][:5] == [8, 7, 6, 0, 9]
    assert tree.blocks(ends, 8, CPU, 0.5).place_N.tolist() == [0, 1, 2, 3]
    assert tree.blocks(ends, 3, CPU).place_N.tolist() == [0, 1, 2, 3]
    assert tree.blocks(ends, 3, CPU, 0.5).place_N.tolist() == [0, 1, 2, 3]
    assert tree.blocks([*ends, ends[0]], 3, CPU, 0.5).place_N.tolist() == [0, 1, 2, 3, 4]
