"""In a tree every token has the same logits as in its own sequence alone."""

from __future__ import annotations

import random

import pytest
import torch
from tests.learners.conftest import branches, plain_model
from transformers import (
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

from perdure.learners.model.tree import build_tree, context_of, pack
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


@pytest.mark.parametrize(
    ("config", "tokens"),
    [
        (LlamaConfig(max_position_embeddings=512), 512),
        (MistralConfig(max_position_embeddings=512, sliding_window=64), 64),
        (MistralConfig(max_position_embeddings=512, sliding_window=None), 512),
        (Gemma3TextConfig(max_position_embeddings=512, sliding_window=64), 64),
        (Qwen2Config(max_position_embeddings=512, sliding_window=64, use_sliding_window=False), 512),
    ],
)
def test_a_tree_reaches_as_far_as_attention_is_plain(config: PretrainedConfig, tokens: int) -> None:
    assert context_of(config) == tokens


@pytest.mark.parametrize(
    ("config", "names"),
    [
        (Gemma2Config(attn_logit_softcapping=50.0), "gemma2 model has capped attention logits"),
        (Qwen3NextConfig(), "qwen3_next model has linear_attention"),
        (Lfm2Config(layer_types=["conv", "full_attention"], num_hidden_layers=2), "lfm2 model has conv"),
        (MambaConfig(), "mamba model has no attention"),
    ],
)
def test_a_model_that_does_more_than_attend_is_refused(config: PretrainedConfig, names: str) -> None:
    with pytest.raises(InputError, match=names):
        context_of(config)
