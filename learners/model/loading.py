"""Load a model as it is stored: every weight from its files, nothing made up, no code that comes with it."""

from __future__ import annotations

from typing import Any, cast

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging as transformers_logging
from transformers.utils.quantization_config import Mxfp4Config

from perdure.learners.weights.base_models import ModelFiles, four_bits
from perdure.learners.weights.weight_files import weight_files
from perdure.memory.errors import InputError

_NAMED = 3
"""Names in a message."""


def load_net(files: ModelFiles, *, device: str, dtype: torch.dtype, quantized: bool) -> Any:
    """The transformers model, in the precision of its files, on the CPU; or in 4 bits on `device`. Nothing in it is trained.

    Raises `InputError` if its files lack weights, which transformers would fill with random ones, or have weights of other shapes.
    """
    transformers_logging.disable_progress_bar()
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # what is missing is told below, in one line
    try:
        net, report = cast(Any, AutoModelForCausalLM).from_pretrained(
            files.path,
            dtype=dtype if quantized else "auto",
            use_safetensors=True,
            trust_remote_code=False,
            quantization_config=four_bits() if quantized else _unpacked(files),
            device_map={"": device} if quantized else None,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused below
        )
    except (OSError, ValueError, ImportError, KeyError, AttributeError, TypeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"the model in {files.path} cannot be loaded ({reason}): repair its files, or set another model") from error
    finally:
        transformers_logging.set_verbosity(before)
    where = ", ".join(file.name for file in weight_files(files.path)[:_NAMED])
    if report["missing_keys"]:
        raise InputError(
            f"{files.path} lacks weights that a {net.config.model_type} model needs: {_some(report['missing_keys'])}, in none of its files "
            f"({where}): fetch the model again, or set another one"
        )
    if report["mismatched_keys"]:
        names = [key if isinstance(key, str) else key[0] for key in report["mismatched_keys"]]
        raise InputError(f"{files.path} has weights of another shape than its config.json says: {_some(names)}; fetch the model again")
    _disable_dropout(net.requires_grad_(False))
    return net


def _unpacked(files: ModelFiles) -> Mxfp4Config | None:
    """Makes transformers unpack experts in MXFP4, as those of gpt-oss are published: kernels for the packed ones have no gradients."""
    stored = AutoConfig.from_pretrained(files.path, trust_remote_code=False)
    method = (getattr(stored, "quantization_config", None) or {}).get("quant_method")
    return Mxfp4Config(dequantize=True) if method == "mxfp4" else None


def _some(names: Any) -> str:
    listed = sorted(map(str, names))
    more = f" and {len(listed) - _NAMED} more" if len(listed) > _NAMED else ""
    return ", ".join(listed[:_NAMED]) + more


def _disable_dropout(model: nn.Module) -> None:
    """Dropout would make the log-probs differ from those of the policy that sampled."""
    model.eval()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0  # type: ignore[assignment]
