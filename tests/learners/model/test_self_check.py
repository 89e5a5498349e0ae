"""Each start compares what is computed here with what the model itself computes: kinds that differ become rows, or are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.learners.conftest import branches, plain_logprobs, plain_model
from tests.tiny_models import sharpen, tiny_of

from perdure.learners.model.adapted_model import AdaptedModel
from perdure.learners.model.row_decoding import RowDecoding
from perdure.learners.model.tree import build_tree
from perdure.learners.weights.base_models import ModelFiles
from perdure.memory.errors import InputError

NEMOTRON = {"head_dim": 8, "layers_block_type": ["mamba", "attention"], "mamba_num_heads": 4, "mamba_head_dim": 16, "n_groups": 1}


def opened(folder: Path) -> AdaptedModel:
    return AdaptedModel(ModelFiles(name="tiny", path=sharpen(folder, 3, 0.4), hash=""), device="cpu", dtype=torch.float32)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("diffllama", {}),  # attends twice in a layer
        ("stablelm", {}),  # its own attention
        ("phimoe", {"num_local_experts": 4, "sliding_window": 16}),  # does not tell its window to attention
        ("qwen3_next", {"num_hidden_layers": 4, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "head_dim": 8}),
        ("lfm2", {"layer_types": ["conv", "full_attention"]}),
        (
            "nemotron_h",
            {"head_dim": 8, "layers_block_type": ["mamba", "attention"], "mamba_num_heads": 4, "mamba_head_dim": 16, "n_groups": 1},
        ),
    ],
)
def test_a_kind_that_is_no_tree_is_computed_by_rows(tmp_path: Path, kind: str, settings: dict[str, object]) -> None:
    model = opened(tiny_of(tmp_path / "model", kind, **settings))
    assert model.by_rows
    plain, sequences = plain_model(model.files), branches(300)
    tree, decoding = build_tree(sequences), RowDecoding(model)
    with torch.no_grad():
        logits_NV = model.head.logits(model.hidden(tree))
        for path, sequence in zip(tree.paths, sequences, strict=True):
            torch.testing.assert_close(
                logits_NV[path].log_softmax(-1), plain(input_ids=torch.tensor([sequence])).logits[0].log_softmax(-1), atol=1e-4, rtol=0
            )
        decoding.start([tuple(sequence) for sequence in sequences])
        logp_RV = model.head.logits(decoding.step([9] * len(sequences))).log_softmax(-1)
        for row_V, sequence in zip(logp_RV, sequences, strict=True):
            torch.testing.assert_close(row_V[8], plain_logprobs(plain, [*sequence, 9], [8], 1.0)[0], atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("bert", {"is_decoder": True}),  # its head has a layer of its own
        ("electra", {"is_decoder": True}),
        ("bart", {"d_model": 32, "decoder_layers": 2, "encoder_layers": 2, "decoder_ffn_dim": 64}),  # its cache is of two parts
    ],
)
def test_a_kind_that_is_neither_is_refused_in_one_line(tmp_path: Path, kind: str, settings: dict[str, object]) -> None:
    with pytest.raises(InputError) as caught:
        opened(tiny_of(tmp_path / "model", kind, **settings))
    assert kind in str(caught.value)
    assert "\n" not in str(caught.value)
