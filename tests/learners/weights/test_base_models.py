"""Finding base models, and refusing wrong ones before anything is loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from perdure.agent.home import cache_dir
from perdure.learners.weights.base_models import DEFAULT_MODEL, ModelFiles, resolve_model
from perdure.memory.errors import InputError, RuntimeFailure, UnknownError


@pytest.fixture
def copy(llama: ModelFiles, tmp_path: Path) -> Path:
    return Path(shutil.copytree(llama.path, tmp_path / "model"))


def resolve(folder: Path | str) -> ModelFiles:
    return resolve_model(str(folder), Path("/nonexistent-cache"), print)


def test_a_folder_is_its_content_and_not_its_place(copy: Path, llama: ModelFiles) -> None:
    found = resolve(copy)
    assert (found.name, found.path) == (str(copy), copy.resolve())
    assert found.hash == llama.hash
    assert len(found.hash) == 64


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "generation_config.json", "chat_template.jinja"])
def test_the_hash_depends_on_every_file_that_decides_what_it_says(copy: Path, llama: ModelFiles, name: str) -> None:
    content = bytearray((copy / name).read_bytes())
    content[-2] ^= 1
    (copy / name).write_bytes(content)
    assert resolve(copy).hash != llama.hash


@pytest.mark.parametrize("name", ["merges.txt", "vocab.txt", "tokenizer.model"])
def test_the_hash_depends_on_tokenizer_files_that_are_not_json(copy: Path, llama: ModelFiles, name: str) -> None:
    (copy / name).write_bytes(b"a b\n")
    assert resolve(copy).hash != llama.hash


def test_a_readme_changes_nothing(copy: Path, llama: ModelFiles) -> None:
    (copy / "README.md").write_text("A tiny model.")
    assert resolve(copy).hash == llama.hash


def test_a_folder_without_weights_is_refused(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    with pytest.raises(InputError, match="has no weights: expected"):
        resolve(copy)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth"])
def test_pickled_weights_alone_are_refused(copy: Path, name: str) -> None:
    (copy / "model.safetensors").unlink()
    torch.save({}, copy / name)
    with pytest.raises(InputError, match=f"only pickled weights .{name}"):
        resolve(copy)


def test_a_folder_without_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"not a model folder: it has no config\.json"):
        resolve(tmp_path)


@pytest.mark.parametrize("name", ["smollm", "./nowhere/model", "/nowhere/model", "~/nowhere", "a/b/c", ""])
def test_an_unknown_model_name_is_an_error_that_names_the_default_model(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        resolve(name)
    if name:
        assert isinstance(caught.value, UnknownError)
        assert repr(name) in str(caught.value)
        assert DEFAULT_MODEL in str(caught.value)


def made(cache: Path, folder: Path) -> Path:
    """A cache whose default model is this folder."""
    path = cache / "models" / "smollm2-135m-bcc81830d10c"
    shutil.copytree(folder, path)
    sizes = {file.name: file.stat().st_size for file in path.iterdir()}
    (path / "perdure-manifest.json").write_text(json.dumps({"hash": "h" * 64, "size_bytes": sizes}))
    return path


def test_a_cached_default_model_is_used_without_fetching(tmp_path: Path, llama: ModelFiles) -> None:
    path = made(tmp_path, llama.path)
    said: list[str] = []
    assert resolve_model(DEFAULT_MODEL, tmp_path, said.append) == ModelFiles(name=DEFAULT_MODEL, path=path, hash="h" * 64)
    assert said == []


@pytest.mark.parametrize("fault", ["cut", "missing"])
def test_a_damaged_cached_model_is_named(tmp_path: Path, llama: ModelFiles, fault: str) -> None:
    file = made(tmp_path, llama.path) / "model.safetensors"
    if fault == "cut":
        file.write_bytes(file.read_bytes()[:-1])
    else:
        file.unlink()
    with pytest.raises(RuntimeFailure, match=r"damaged \(model.safetensors\): delete that folder"):
        resolve_model(DEFAULT_MODEL, tmp_path, print)


@pytest.mark.model
def test_the_default_model_is_what_its_manifest_says() -> None:
    files = resolve_model(DEFAULT_MODEL, cache_dir(), print)
    assert files.hash == resolve_model(str(files.path), cache_dir(), print).hash
    with safe_open(files.path / "model.safetensors", framework="pt") as weights:
        assert weights.get_slice("model.embed_tokens.weight").get_shape() == [49152, 576]
