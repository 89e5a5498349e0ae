"""Layers written as a PEFT adapter are the same when PEFT reads them, for all ranks and scales."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from tests.learners.conftest import plain_model

from perdure.learners.weights.base_models import ModelFiles
from perdure.learners.weights.peft_format import check_foreign, write_lora
from perdure.learners.weights.weight_sets import LoraPair, merge, merge_into
from perdure.memory.errors import InputError

Layers = dict[str, LoraPair]


def layers(files: ModelFiles, names: tuple[str, ...], ranks: tuple[int, ...], scales: tuple[float, ...]) -> Layers:
    generator = torch.Generator().manual_seed(0)
    found: Layers = {}
    for name, parameter in plain_model(files).named_parameters():
        if parameter.ndim == 2 and any(part in name for part in names):
            rank, scale = ranks[len(found) % len(ranks)], scales[len(found) % len(scales)]
            out, features = parameter.shape
            down, up = torch.randn(rank, features, generator=generator), torch.randn(out, rank, generator=generator)
            found[name] = LoraPair(down_RI=down, up_OR=up, scale=scale)
    return found


@pytest.mark.parametrize(
    ("names", "ranks", "scales"),
    [
        (("proj",), (4,), (2.0,)),
        (("proj",), (4,), (0.3,)),
        (("proj",), (2, 5), (2.0, 0.7)),
        (("layers.1.mlp.up_proj", "q_proj"), (3,), (1.5,)),
    ],
    ids=["plain", "a scale that is no whole alpha", "ranks and scales differ", "some layers only"],
)
def test_what_is_written_is_what_is_read(
    files: ModelFiles, tmp_path: Path, names: tuple[str, ...], ranks: tuple[int, ...], scales: tuple[float, ...]
) -> None:
    written = layers(files, names, ranks, scales)
    write_lora(tmp_path, written, files)
    read = check_foreign(tmp_path, files)
    assert read.keys() == written.keys()
    for name, pair in written.items():
        assert (read[name].scale == pair.scale) or len(scales) > 1 or abs(read[name].scale - pair.scale) < 1e-12
        base = torch.zeros(len(pair.up_OR), pair.down_RI.shape[1])
        torch.testing.assert_close(merge(base, read[name]), merge(base, pair), atol=1e-5, rtol=1e-5)
    ours, theirs = plain_model(files), PeftModel.from_pretrained(plain_model(files), str(tmp_path))
    merge_into(ours, written)
    ids = torch.tensor([[3, 5, 7, 11, 13]])
    with torch.no_grad():
        torch.testing.assert_close(theirs(input_ids=ids).logits, ours(input_ids=ids).logits, atol=2e-3, rtol=1e-3)


def test_values_that_are_not_finite_are_refused(files: ModelFiles, tmp_path: Path) -> None:
    wrong = layers(files, ("layers.0.mlp.up_proj",), (2,), (1.0,))
    next(iter(wrong.values())).up_OR[0, 0] = float("nan")
    with pytest.raises(InputError, match=r"the adapter of model\.layers\.0\.mlp\.up_proj has values that are not finite"):
        write_lora(tmp_path, wrong, files)
    assert list(tmp_path.iterdir()) == []
