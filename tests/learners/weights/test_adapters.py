"""Adapters on disk: what is written is read back, and damaged or forged files are refused."""

from __future__ import annotations

import errno
import json
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.learners.conftest import random_adapter, trainee_of
from torch import Tensor

from perdure.learners.trainees.trainee import Trainee
from perdure.learners.weights.adapters import load_version, write_version, write_weights
from perdure.learners.weights.base_models import ModelFiles
from perdure.learners.weights.peft_format import check_foreign
from perdure.learners.weights.weight_sets import MAX_RANK
from perdure.memory.errors import InputError, PerdureError, RuntimeFailure, Unavailable
from perdure.memory.files import manifest_hash, sha256_of

LAYER = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
OTHER_HALF = LAYER.replace("lora_A", "lora_B")


@pytest.fixture(scope="module")
def trainee(llama: ModelFiles) -> Trainee:
    return random_adapter(trainee_of(llama, rank=4, alpha=6), 1)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home" / "versions").mkdir(parents=True)
    return tmp_path / "home"


@pytest.fixture
def written(home: Path, llama: ModelFiles, trainee: Trainee) -> tuple[str, str]:
    """Path and hash of a version on disk."""
    return write_version(home, "v1", llama, saving(trainee, llama))


@pytest.fixture
def foreign(tmp_path: Path, llama: ModelFiles, trainee: Trainee) -> Path:
    """A valid adapter folder of another program."""
    write_weights(tmp_path / "foreign", trainee.weights(), llama)
    return tmp_path / "foreign"


def saving(trainee: Trainee, base: ModelFiles) -> Callable[[Path], object]:
    return lambda folder: write_weights(folder, trainee.weights(), base)


def one_line(error: PerdureError) -> str:
    text = str(error)
    assert "\n" not in text
    assert len(text) < 500
    return text


def refused(folder: Path, base: ModelFiles) -> str:
    with pytest.raises(InputError) as caught:
        check_foreign(folder, base)
    return one_line(caught.value)


def set_config(folder: Path, **settings: Any) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))


def set_weights(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    weights = load_file(folder / "adapter_model.safetensors")
    change(weights)
    save_file(weights, folder / "adapter_model.safetensors")


def test_what_is_written_is_read_again(home: Path, llama: ModelFiles, trainee: Trainee, written: tuple[str, str]) -> None:
    path, hash_ = written
    assert path == "versions/v1"
    assert {file.name for file in (home / path).iterdir()} == {"adapter_model.safetensors", "adapter_config.json", "manifest.json"}
    manifest = json.loads((home / path / "manifest.json").read_text())
    assert (manifest["version"], manifest["base_model"], manifest["base_hash"]) == ("v1", llama.name, llama.hash)
    assert hash_ == manifest_hash(home / path)
    table, expected = load_version(home, path, hash_, llama), trainee.weights()
    assert table.keys() == expected.keys()
    for name, pair in expected.items():
        assert torch.equal(table[name].down_RI, pair.down_RI)
        assert torch.equal(table[name].up_OR, pair.up_OR)
        assert table[name].scale == pair.scale == 1.5
    assert [entry.name for entry in (home / "versions").iterdir()] == ["v1"]


def test_the_hash_depends_on_the_weights_and_on_the_base(home: Path, llama: ModelFiles, trainee: Trainee, written: tuple[str, str]) -> None:
    def again(name: str, base: ModelFiles, save: Callable[[Path], object]) -> str:
        return write_version(home / name, "v1", base, save)[1]

    assert again("same", llama, saving(trainee, llama)) == written[1]
    assert again("base", ModelFiles(name=llama.name, path=llama.path, hash="0" * 64), saving(trainee, llama)) != written[1]

    def change(folder: Path) -> None:
        write_weights(folder, trainee.weights(), llama)
        set_weights(folder, lambda weights: weights[LAYER].view(-1)[0].add_(1e-3))

    assert again("weights", llama, change) != written[1]


def test_a_name_is_never_written_twice(home: Path, llama: ModelFiles, trainee: Trainee, written: tuple[str, str]) -> None:
    before = {file.name: file.read_bytes() for file in (home / written[0]).iterdir()}
    with pytest.raises(RuntimeFailure, match="never reused"):
        write_version(home, "v1", llama, saving(trainee, llama))
    assert {file.name: file.read_bytes() for file in (home / written[0]).iterdir()} == before


@pytest.mark.parametrize("taken", [False, True], ids=["name not taken", "name taken"])
def test_a_full_disk_leaves_nothing(home: Path, llama: ModelFiles, trainee: Trainee, taken: bool) -> None:
    if taken:
        (home / "versions" / "v1").mkdir(parents=True)

    def save(folder: Path) -> None:
        write_weights(folder, trainee.weights(), llama)
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(Unavailable, match="could not write version v1: No space left on device; nothing was changed"):
        write_version(home, "v1", llama, save)
    assert list((home / "versions").iterdir()) == []


@contextmanager
def small_files() -> Iterator[None]:
    """No file may grow past 8 KiB, so that writing weights fails in the middle, in whatever library writes them.

    A fixture would hold for pytest's own output too, which ends the run where that goes to a file.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_weights_that_do_not_fit_on_the_disk_leave_nothing(home: Path, llama: ModelFiles, trainee: Trainee) -> None:
    with small_files(), pytest.raises(RuntimeFailure, match="could not write version v1") as caught:
        write_version(home, "v1", llama, saving(trainee, llama))
    one_line(caught.value)
    assert list((home / "versions").iterdir()) == []


def test_whatever_stops_the_writing_leaves_nothing(home: Path, llama: ModelFiles) -> None:
    def save(folder: Path) -> None:
        (folder / "adapter_model.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_version(home, "v1", llama, save)
    assert list((home / "versions").iterdir()) == []


def test_what_a_killed_process_left_does_not_disturb(home: Path, llama: ModelFiles, trainee: Trainee) -> None:
    (home / "versions" / ".making-v1-999999").mkdir()
    path, hash_ = write_version(home, "v1", llama, saving(trainee, llama))
    assert load_version(home, path, hash_, llama)


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json", "manifest.json"])
@pytest.mark.parametrize("fault", ["damaged", "cut", "missing"])
def test_a_damaged_version_is_not_loaded(home: Path, llama: ModelFiles, written: tuple[str, str], name: str, fault: str) -> None:
    file = home / written[0] / name
    content = bytearray(file.read_bytes())
    if fault == "damaged":
        content[-10] ^= 1
        file.write_bytes(content)
    elif fault == "cut":
        file.write_bytes(content[:-10])
    else:
        file.unlink()
    with pytest.raises(RuntimeFailure, match="restore it from a backup, or roll back") as caught:
        load_version(home, *written, llama)
    assert "v1" in one_line(caught.value)


def test_a_version_whose_manifest_was_made_to_fit_is_not_loaded(home: Path, llama: ModelFiles, written: tuple[str, str]) -> None:
    """Weights and manifest are both changed: the database still has the hash."""
    folder = home / written[0]
    set_weights(folder, lambda weights: weights[LAYER].zero_())
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["adapter_model.safetensors"]["sha256"] = sha256_of(folder / "adapter_model.safetensors")
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1, sort_keys=True))
    with pytest.raises(RuntimeFailure, match="is not the one in the database"):
        load_version(home, *written, llama)


def test_a_version_of_another_base_model_is_not_loaded(home: Path, llama: ModelFiles, written: tuple[str, str]) -> None:
    other = ModelFiles(name="other", path=llama.path, hash="f" * 64)
    with pytest.raises(RuntimeFailure, match=rf"belongs to base model {llama.name} \({llama.hash[:12]}\), not to other"):
        load_version(home, *written, other)


def test_a_good_foreign_adapter_is_read(foreign: Path, llama: ModelFiles, trainee: Trainee) -> None:
    table = check_foreign(foreign, llama)
    assert table.keys() == trainee.weights().keys()
    set_config(foreign, use_rslora=True)
    assert {pair.scale for pair in check_foreign(foreign, llama).values()} == {3.0}


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"r": 0}, "rank 0"),
        ({"r": MAX_RANK + 1}, f"rank {MAX_RANK + 1}"),
        ({"r": 10**12}, "rank 1000000000000"),
        ({"r": "4"}, "rank '4'"),
        ({"r": None}, "rank None"),
        ({"r": 8}, "at rank 8 needs"),
        ({"lora_alpha": 0}, "lora_alpha 0"),
        ({"lora_alpha": 1e300}, "lora_alpha"),
        ({"lora_alpha": float("nan")}, "lora_alpha nan"),
        ({"lora_alpha": "8"}, "lora_alpha '8'"),
        ({"peft_type": "LOHA"}, "peft_type 'LOHA'"),
        ({"use_dora": True}, "use_dora"),
        ({"rank_pattern": {"q_proj": 2}}, "rank_pattern"),
        ({"alpha_pattern": {"q_proj": 0}}, "alpha_pattern"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"layer_replication": [[0, 1], [0, 1]]}, "layer_replication"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights"),
        ({"init_lora_weights": "olora"}, "init_lora_weights"),
    ],
)
def test_settings_that_do_not_fit_are_named(foreign: Path, llama: ModelFiles, settings: dict[str, Any], names: str) -> None:
    set_config(foreign, **settings)
    text = refused(foreign, llama)
    assert names in text
    assert str(foreign) in text


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[]", "not a LoRA adapter"),
        (b"{}", "not a LoRA adapter"),
        (b"[" * 100_000, "not JSON"),
    ],
)
def test_an_invalid_config_is_refused(foreign: Path, llama: ModelFiles, content: bytes, names: str) -> None:
    (foreign / "adapter_config.json").write_bytes(content)
    assert names in refused(foreign, llama)


def replace(key: str, value: Tensor) -> Callable[[dict[str, Tensor]], object]:
    return lambda weights: weights.update({key: value})


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (replace(LAYER, torch.full((4, 32), torch.nan)), "not finite"),
        (replace(LAYER, torch.full((4, 32), torch.inf)), "not finite"),
        (replace(LAYER, torch.zeros(4, 32, dtype=torch.float8_e4m3fn)), "float8"),
        (replace(LAYER, torch.zeros(4, 32, dtype=torch.int64)), "int64"),
        (replace(LAYER, torch.zeros(4, 33)), "[4, 33]"),
        (replace(LAYER, torch.zeros(5, 32)), "[5, 32]"),
        (replace(LAYER, torch.zeros(4 * 32)), "[128]"),
        (replace(LAYER.replace("layers.0", "layers.7"), torch.zeros(4, 32)), "layers.7"),
        (replace(LAYER.replace("self_attn.q_proj", "input_layernorm"), torch.zeros(4, 32)), "input_layernorm"),
        (replace("base_model.model.lm_head.weight", torch.zeros(3, 3)), "lm_head"),
        (replace("base_model.model.model.embed_tokens.lora_embedding_A", torch.zeros(4, 32)), "lora_embedding_A"),
        (replace("base_model.model.lm_head.lora_A.weight", torch.zeros(4, 32)), "lm_head"),
        (replace(LAYER.replace("lora_A", "lora_magnitude_vector"), torch.zeros(32)), "lora_magnitude_vector"),
        (replace(LAYER.replace(".weight", ".default.weight"), torch.zeros(4, 32)), "twice"),
        (lambda weights: weights.pop(LAYER), "only one half"),
        (lambda weights: weights.pop(OTHER_HALF), "only one half"),
        (lambda weights: weights.clear(), "no weights"),
    ],
)
def test_weights_that_do_not_fit_are_named(
    foreign: Path, llama: ModelFiles, change: Callable[[dict[str, Tensor]], object], names: str
) -> None:
    set_weights(foreign, change)
    text = refused(foreign, llama)
    assert names in text
    assert str(foreign) in text


@pytest.mark.parametrize("size", [0, 4, 100, 5000, -1])
def test_cut_off_weights_are_refused(foreign: Path, llama: ModelFiles, size: int) -> None:
    file = foreign / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:size])
    assert "damaged or not a safetensors file" in refused(foreign, llama)


def test_a_header_that_claims_to_be_huge_is_refused(foreign: Path, llama: ModelFiles) -> None:
    (foreign / "adapter_model.safetensors").write_bytes((2**62).to_bytes(8, "little") + b"{}")
    assert "damaged or not a safetensors file" in refused(foreign, llama)


def test_an_adapter_that_is_too_large_is_refused_unread(foreign: Path, llama: ModelFiles) -> None:
    """A sparse file, which takes no space."""
    file = foreign / "adapter_model.safetensors"
    os.truncate(file, 4 * 2**30)
    assert "damaged or not a safetensors file" in refused(foreign, llama)
    os.truncate(file, 4 * 2**30 + 1)
    text = refused(foreign, llama)
    assert str(file) in text
    assert "has more than 4 GiB: save it as bfloat16" in text


def test_pickles_are_refused_and_not_opened(foreign: Path, llama: ModelFiles, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
            return Path.touch, (tmp_path / "exploded",)

    (foreign / "adapter_model.safetensors").unlink()
    torch.save({LAYER: Bomb()}, foreign / "adapter_model.bin")
    text = refused(foreign, llama)
    assert "adapter_model.bin" in text
    assert "pickle" in text
    torch.save({LAYER: Bomb()}, foreign / "adapter_model.safetensors")  # under a wrong name
    assert "not a safetensors file" in refused(foreign, llama)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json", "other"])
def test_links_are_refused(foreign: Path, llama: ModelFiles, tmp_path: Path, name: str) -> None:
    target = tmp_path / "elsewhere"
    if (foreign / name).exists():
        (foreign / name).rename(target)
    (foreign / name).symlink_to(target)
    text = refused(foreign, llama)
    assert name in text
    assert "link" in text


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
@pytest.mark.parametrize("instead", ["nothing", "folder"])
def test_missing_files_are_named(foreign: Path, llama: ModelFiles, name: str, instead: str) -> None:
    (foreign / name).unlink()
    if instead == "folder":
        (foreign / name).mkdir()
    assert name in refused(foreign, llama)


def test_a_folder_is_asked_for(tmp_path: Path, llama: ModelFiles) -> None:
    assert "is not a folder" in refused(tmp_path / "nowhere", llama)
    (tmp_path / "file").touch()
    assert "is not a folder" in refused(tmp_path / "file", llama)


def test_an_adapter_of_another_architecture_is_refused(tmp_path: Path, llama: ModelFiles, qwen: ModelFiles, trainee: Trainee) -> None:
    """The same shapes, but the adapter has one layer more."""
    write_weights(tmp_path / "adapter", trainee.weights(), llama)
    set_weights(
        tmp_path / "adapter",
        lambda weights: weights.update({key.replace("layers.1", "layers.2"): value.clone() for key, value in list(weights.items())}),
    )
    assert "belongs to another model" in refused(tmp_path / "adapter", qwen)
