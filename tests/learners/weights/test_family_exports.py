"""A merged export and an exported adapter of each family answer as the version did, in plain transformers and peft."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from tests.families import EACH_FAMILY, family, packed
from tests.learners.conftest import random_adapter, trainee_of
from tests.learners.weights.test_version_export import export, read_logprobs, version_logprobs
from transformers import AutoModelForCausalLM

from perdure.learners.weights.base_models import resolve_model
from perdure.learners.weights.peft_format import check_foreign


@pytest.mark.parametrize("name", EACH_FAMILY)
def test_each_family_goes_out_and_comes_in_again(name: str, tmp_path: Path) -> None:
    folder = family(name, tmp_path / "base", seed=1)
    base = resolve_model(str(folder), folder, print)
    weights = random_adapter(trainee_of(base), 1, 0.1).weights()
    wanted = version_logprobs(base, weights)
    export(tmp_path / "m", base, weights)
    merged = read_logprobs(AutoModelForCausalLM.from_pretrained(tmp_path / "m"))
    torch.testing.assert_close(merged, wanted, atol=1e-4, rtol=1e-4)
    plain = AutoModelForCausalLM.from_pretrained(base.path, dtype=torch.float32)
    assert float((merged - read_logprobs(plain)).abs().max()) > 1e-3
    export(tmp_path / "p", base, weights, "peft")
    by_peft = read_logprobs(PeftModel.from_pretrained(plain, str(tmp_path / "p")))
    torch.testing.assert_close(by_peft, wanted, atol=1e-4, rtol=1e-4)
    assert check_foreign(tmp_path / "p", base).keys() == weights.keys()


def test_experts_in_mxfp4_go_out_unpacked(tmp_path: Path) -> None:
    """What is written is a plain model, that other programs read without a kernel for packed experts."""
    folder = packed(family("gpt-oss", tmp_path / "base"))
    base = resolve_model(str(folder), folder, print)
    weights = random_adapter(trainee_of(base), 1, 0.1).weights()
    export(tmp_path / "m", base, weights)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "m")
    assert model.dtype == torch.float32
    assert "quantization_config" not in (tmp_path / "m" / "config.json").read_text()
    torch.testing.assert_close(read_logprobs(model), version_logprobs(base, weights), atol=1e-4, rtol=1e-4)
