"""Open engines and read versions; the files of a version are checked against the hash in the database."""

from __future__ import annotations

from collections.abc import Callable

import torch
from safetensors import SafetensorError

from perdure.learners.chat.chat_settings import ChatSettings
from perdure.learners.engines.transformers_engine import PLAIN_CHAT, TransformersEngine
from perdure.learners.hardware import faster_dtype, set_up_process
from perdure.learners.weights.adapters import load_version
from perdure.learners.weights.base_models import ModelFiles
from perdure.learners.weights.weight_sets import Weights
from perdure.memory.errors import InputError
from perdure.memory.processes import precision_for
from perdure.memory.records import Version
from perdure.memory.store import Store


def open_transformers_engine(
    store: Store, files: ModelFiles, *, device: str, seed: int, chat: ChatSettings = PLAIN_CHAT
) -> TransformersEngine:
    """Load this model, in the precision that was faster when the home first used the device; sets this process up for it (`hardware.py`).

    Raises as `open_engine_in` does.
    """
    return open_engine_in(files, device=device, dtype_of=lambda: home_dtype(store, device), seed=seed, chat=chat)


def open_engine_in(
    files: ModelFiles, *, device: str, dtype_of: Callable[[], torch.dtype], seed: int, chat: ChatSettings = PLAIN_CHAT
) -> TransformersEngine:
    """Load this model in the precision that `dtype_of` says, once the device is known to be there; sets this process up for it.

    Raises `InputError` if there is no such device, or if the files do not load.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("device = 'cuda', but torch finds no GPU: set device = 'cpu', or run `perdure doctor`")
    try:
        dtype = dtype_of()
        set_up_process(dtype, device)
        engine = TransformersEngine(files, device=device, dtype=dtype, seed=seed, chat=chat)
    except InputError:
        raise
    except (OSError, ValueError, ImportError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"the model in {files.path} cannot be loaded ({reason}): repair its files, or set another model") from error
    except (AttributeError, TypeError, LookupError, NotImplementedError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise InputError(f"Perdure cannot compute the model in {files.path} ({reason}): set another model") from error
    engine.choose_threads()
    return engine


def home_dtype(store: Store, device: str) -> torch.dtype:
    """The precision that was faster when the home first used the device."""
    name = precision_for(store, device, lambda: str(faster_dtype(device)).removeprefix("torch."))
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def named_dtype(name: str | None, device: str) -> torch.dtype:
    """The precision of this name; None: the one that is faster on the device."""
    dtype: torch.dtype = faster_dtype(device) if name is None else getattr(torch, name)
    return dtype


def version_weights(store: Store, files: ModelFiles, version: Version) -> Weights:
    """A version's weights, checked against its manifest; empty for the base model."""
    return {} if version.path is None else load_version(store.home, version.path, version.hash, files)
