"""In a tree every token has the same logits as in its own sequence alone."""

from __future__ import annotations

import random

import pytest
import torch
from tests.learners.conftest import branches, plain_model
from transformers import (
    BloomConfig,
    Gemma2Config,
    Gemma3TextConfig,
    Lfm2Config,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    PretrainedConfig,
    Qwen2Config,
    Qwen3NextConfig,
)

from perdure.learners.model.architecture import Architecture, architecture_of
from perdure.learners.model.tree import build_tree, pack
from perdure.learners.weights.base_models import ModelFiles
from perdure.memory.errors import InputError

TOLERANCE = 5e-5
"""For fp32 logits of about 3; a token that attends to one token too many differs by more than a hundred times this."""


def test_merges_what_begins_alike_and_nothing_else() -> None:
    tree = build_tree([[1, 2, 3], [1, 2, 4], [1, 2], [2, 3], []])
    assert tree.ids == [1, 2, 3, 4, 2, 3]
    assert tree.parents == [-1, 0, 1, 1, -1, 4]
    assert tree.depths == [0, 1, 2, 2, 0, 1]
    assert tree.paths == [[0, 1, 2], [0, 1, 3], [0, 1], [4, 5], []]


def test_a_node_sees_itself_and_its_ancestors_only() -> None:
    ids, positions, visible = build_tree([[1, 2, 3], [1, 2, 4], [2]]).inputs(torch.device("cpu"))
    assert ids.tolist() == [[1, 2, 3, 4, 2]]
    assert positions.tolist() == [[0, 1, 2, 2, 0]]
    assert visible[0, 0].int().tolist() == [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 0, 1, 0], [0, 0, 0, 0, 1]]


def test_paths_spell_their_sequences() -> None:
    draw = random.Random(3)
    sequences = [[draw.randrange(3) for _ in range(draw.randrange(9))] for _ in range(60)]
    tree = build_tree(sequences)
    for sequence, path in zip(sequences, tree.paths, strict=True):
        assert [tree.ids[node] for node in path] == sequence
        assert [tree.depths[node] for node in path] == list(range(len(sequence)))
        assert [tree.parents[node] for node in path] == [-1, *path][: len(path)]
    prefixes = {tuple(sequence[:n]) for sequence in sequences for n in range(1, len(sequence) + 1)}
    assert len(tree.ids) == len(prefixes)


def test_logits_of_a_tree_equal_those_of_each_sequence_alone(files: ModelFiles) -> None:
    model = plain_model(files)
    sequences = branches(model.config.vocab_size)
    tree = build_tree(sequences)
    assert len(tree.ids) < sum(map(len, sequences)) / 2
    ids, positions, visible = tree.inputs(torch.device("cpu"))
    with torch.no_grad():
        logits_NV = model(input_ids=ids, position_ids=positions, attention_mask=visible, use_cache=False).logits[0]
        for sequence, path in zip(sequences, tree.paths, strict=True):
            alone_TV = model(input_ids=torch.tensor([sequence]), use_cache=False).logits[0]
            assert float((logits_NV[path] - alone_TV).abs().max()) < TOLERANCE


@pytest.mark.parametrize("wrong", ["mask", "positions"])
def test_the_comparison_would_notice_a_wrong_tree(files: ModelFiles, wrong: str) -> None:
    model = plain_model(files)
    sequences = branches(model.config.vocab_size)
    tree = build_tree(sequences)
    ids, positions, visible = tree.inputs(torch.device("cpu"))
    if wrong == "mask":
        visible = torch.ones_like(visible).tril()
    else:
        positions = torch.arange(ids.shape[1])[None]
    with torch.no_grad():
        logits_NV = model(input_ids=ids, position_ids=positions, attention_mask=visible, use_cache=False).logits[0]
        last = max(range(len(sequences)), key=lambda i: tree.paths[i][-1])
        alone_TV = model(input_ids=torch.tensor([sequences[last]]), use_cache=False).logits[0]
    assert float((logits_NV[tree.paths[last]] - alone_TV).abs().max()) > 100 * TOLERANCE


@pytest.mark.parametrize("budget", [1, 7, 30, 10_000])
def test_packing_keeps_every_sequence_once_and_within_the_budget(budget: int) -> None:
    draw = random.Random(budget)
    items = [[tuple(draw.randrange(2) for _ in range(draw.randrange(1, 14))) for _ in range(draw.randrange(1, 4))] for _ in range(50)]
    batches = pack(items, budget)
    assert sorted(index for batch in batches for index in batch) == list(range(50))
    for batch in batches:
        assert len(batch) == 1 or len(build_tree([sequence for i in batch for sequence in items[i]]).ids) <= budget
    if budget == 10_000:
        assert len(batches) == 1


def test_packing_counts_shared_tokens_once() -> None:
    shared = tuple(range(100))
    items = [[(*shared, 200 + k)] for k in range(20)]
    assert len(pack(items, 120)) == 1
    assert len(pack(items, 119)) == 2
    assert pack([], 10) == []


def test_packing_by_rows_counts_each_row(files: ModelFiles) -> None:
    shared = tuple(range(100))
    items = [[(*shared, 200 + k), (*shared, 200 + k, 5)] for k in range(20)]
    assert len(pack(items, 204, by_rows=True)) == 10
    assert len(pack(items, 203, by_rows=True)) == 20


@pytest.mark.parametrize(
    ("config", "window"),
    [
        (LlamaConfig(max_position_embeddings=512), None),
        (MistralConfig(max_position_embeddings=512, sliding_window=64), 64),
        (MistralConfig(max_position_embeddings=512, sliding_window=None), None),
        (Gemma3TextConfig(max_position_embeddings=512, sliding_window=64), 64),
        (Qwen2Config(max_position_embeddings=512, sliding_window=64, use_sliding_window=False), None),
    ],
)
def test_a_tree_computes_windows(config: PretrainedConfig, window: int | None) -> None:
    assert architecture_of(config) == Architecture(context_limit=512, window=window, rows_because="")


@pytest.mark.parametrize(
    ("config", "parameters", "names"),
    [
        (Gemma2Config(attn_logit_softcapping=50.0), [], "capped attention logits"),
        (Qwen3NextConfig(), [], "linear_attention"),
        (Lfm2Config(layer_types=["conv", "full_attention"], num_hidden_layers=2), [], "conv"),
        (LlamaConfig(), ["layers.0.self_attn.sinks"], "attention sinks"),
    ],
)
def test_a_model_that_does_more_than_attend_is_computed_by_rows(config: PretrainedConfig, parameters: list[str], names: str) -> None:
    assert architecture_of(config, parameters).rows_because == names


def test_positions_that_change_with_the_length_are_used_before_they_change() -> None:
    rope = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0, "original_max_position_embeddings": 128}
    assert architecture_of(LlamaConfig(max_position_embeddings=512, rope_parameters=rope)).context_limit == 128


@pytest.mark.parametrize(
    ("config", "names"),
    [(MambaConfig(), "a mamba model has no attention"), (BloomConfig(), "this bloom model does not say how long a sequence may be")],
)
def test_what_neither_trees_nor_rows_can_compute_is_refused(config: PretrainedConfig, names: str) -> None:
    with pytest.raises(InputError, match=names):
        architecture_of(config)
