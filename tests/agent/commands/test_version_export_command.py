"""Versions go out and come in again by the command line, with a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tests.agent.conftest import Call
from tests.learners.conftest import random_adapter, trainee_of
from tests.tiny_models import sharpen, tiny_llama

from perdure.learners.weights.adapters import write_version, write_weights
from perdure.learners.weights.base_models import ModelFiles, resolve_model
from perdure.memory import versions
from perdure.memory.store import create_store


@pytest.fixture
def made(tmp_path: Path) -> ModelFiles:
    """A home in the working folder, whose v1 was promoted by hand."""
    folder = sharpen(tiny_llama(tmp_path / "model", context=256), 1)
    base = resolve_model(str(folder), folder, print)
    (tmp_path / "perdure.toml").write_text(f"model = '{folder}'\n")
    weights = random_adapter(trainee_of(base), 1).weights()
    with create_store(tmp_path / ".perdure") as store:
        versions.add_initial(store, base.name, base.hash)
        name = versions.reserve_name(store)
        path, digest = write_version(store.home, name, base, lambda scratch: write_weights(scratch, weights, base))
        versions.add_candidate(store, None, name, parent="v0", hash=digest, path=path, targets=[], job=None)
        versions.promote(store, name, "it reads well")
    return base


def test_a_version_goes_out_and_comes_in_again(perdure: Call, made: ModelFiles, tmp_path: Path) -> None:
    done = perdure("version", "export", "v1", "--form", "peft", "--out", "p")
    assert (done.code, done.err) == (0, "")
    files = ["README.md", "adapter_config.json", "adapter_model.safetensors"]
    assert json.loads(done.out) == {"version": "v1", "form": "peft", "out": "p", "files": files}
    readme = (tmp_path / "p" / "README.md").read_text()
    assert "in place of `v0`: it reads well" in readme
    assert made.hash in readme
    back = json.loads(perdure("version", "import", "p").out)
    assert (back["name"], back["adapts"], back["passed_over"]) == ("v2", "all 14 linear layers", [])
    said = perdure("version", "import", "p", "--table").out
    assert "v3 is a candidate. It changes all 14 linear layers." in said
    changes = [(row["what"], row["subject"], row["arguments"]["folder"]) for row in json.loads(perdure("change", "list", "--json").out)]
    assert changes == [("version import", "v3", "p"), ("version import", "v2", "p")]


def test_a_merged_model_is_written_for_others(perdure: Call, made: ModelFiles, tmp_path: Path) -> None:
    said = perdure("version", "export", "v1", "--form", "merged", "--gguf", "--out", "g", "--table").out
    assert "v1.gguf" in said
    for file in (tmp_path / "g").iterdir():
        assert file.stat().st_mode & 0o777 == (tmp_path / "perdure.toml").stat().st_mode & 0o777
    from transformers import AutoModelForCausalLM

    assert AutoModelForCausalLM.from_pretrained(tmp_path / "g").dtype == torch.float32


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("v7", "--form", "merged", "--out", "x"), "no version 'v7'"),
        (("v0", "--form", "peft", "--out", "x"), "v0 is the base model itself and has no adapter: give --form merged"),
        (("v1", "--form", "peft", "--gguf", "--out", "x"), "--gguf is for whole models"),
        (("v1", "--form", "merged", "--out", "model"), "exists already: name a new folder, or an empty one"),
        (("v1", "--form", "merged"), "Missing option '--out'"),
    ],
)
def test_what_cannot_be_exported_is_said_in_a_line(
    perdure: Call, made: ModelFiles, tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    before = sorted(entry.name for entry in tmp_path.iterdir())
    done = perdure("version", "export", *arguments)
    assert (done.code, done.out) == (2, "")
    assert says in done.err
    assert sorted(entry.name for entry in tmp_path.iterdir()) == before


def test_a_version_of_another_model_is_not_exported(perdure: Call, made: ModelFiles, tmp_path: Path) -> None:
    other = tiny_llama(tmp_path / "other", seed=5)
    (tmp_path / "perdure.toml").write_text(f"model = '{other}'\n")
    done = perdure("version", "export", "v1", "--form", "merged", "--out", "x")
    assert done.code == 2
    assert "name the old model in the config" in done.err
