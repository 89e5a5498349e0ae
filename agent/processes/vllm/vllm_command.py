"""How vLLM is started: the command, the environment variables, and the same settings for its offline API."""

from __future__ import annotations

import json
import os
from typing import Any

from perdure.agent.config import VllmSection
from perdure.agent.processes.vllm.installed_vllm import interpreter
from perdure.learners.engines.vllm_client import base_name
from perdure.learners.weights.base_models import ModelFiles


def command(settings: VllmSection, files: ModelFiles, port: int) -> list[str]:
    """The command of the server. The key is not in it: every user of the machine can read the command of a process."""
    return [
        interpreter(settings),
        *("-m", "vllm.entrypoints.openai.api_server"),
        *("--host", "127.0.0.1"),
        *("--port", str(port)),
        *("--model", str(files.path)),
        *("--served-model-name", base_name(files)),
        *("--dtype", settings.dtype),
        *("--max-model-len", str(context_tokens(settings, files))),
        *("--gpu-memory-utilization", str(settings.memory_share)),
        *(
            "--generation-config",
            "vllm",
        ),  # not the model's own top-p and top-k, which would change the log-probs
        *("--logprobs-mode", "processed_logprobs"),  # after the temperature
        "--enable-lora",
        *("--lora-target-modules", *adapted_modules(files)),
        *("--max-lora-rank", str(settings.max_rank)),
        *("--max-loras", str(settings.adapters)),
        *("--max-cpu-loras", str(settings.adapters_in_memory)),
        "--disable-uvicorn-access-log",
        *(["--tensor-parallel-size", str(settings.tensor_parallel)] if settings.tensor_parallel > 1 else []),
        *(["--enforce-eager"] if settings.eager else []),
        *(["--enable-sleep-mode"] if settings.sleep else []),
    ]


def variables(settings: VllmSection, key: str) -> dict[str, str]:
    """The environment variables of the server."""
    ours = {
        "VLLM_API_KEY": key,
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_USE_FLASHINFER_SAMPLER": "0",  # a package of its own, and only good for top-p and top-k
        "VLLM_HOST_IP": "127.0.0.1",  # of its processes among themselves
        "HF_HUB_OFFLINE": "1",
        "PYTHONSAFEPATH": "1",
    }
    if settings.sleep:
        ours["VLLM_SERVER_DEV_MODE"] = "1"
    return {**os.environ, **ours}


def adapted_modules(files: ModelFiles) -> list[str]:
    """The last parts of the names of all layers that an adapter may change.

    Without them vLLM computes adapters of the head as well, which none of ours has; its build for CPUs then dies as soon as log-probs of
    several given answers are asked for at once (0.32.0).
    """
    from perdure.learners.weights.base_layers import linear_layers

    return sorted({name.rpartition(".")[2] for name in linear_layers(files).shapes})


def context_tokens(settings: VllmSection, files: ModelFiles) -> int:
    """The longest sequence: the smaller of the setting and the model's own limit."""
    own = json.loads((files.path / "config.json").read_text()).get("max_position_embeddings")
    return min(settings.context_tokens, own) if isinstance(own, int) else settings.context_tokens


def offline_arguments(settings: VllmSection, files: ModelFiles) -> dict[str, Any]:
    """The arguments that make `vllm.LLM` the same as the server, for comparisons."""
    return {
        "model": str(files.path),
        "dtype": settings.dtype,
        "max_model_len": context_tokens(settings, files),
        "gpu_memory_utilization": settings.memory_share,
        "generation_config": "vllm",
        "logprobs_mode": "processed_logprobs",
        "enable_lora": True,
        "lora_target_modules": adapted_modules(files),
        "max_lora_rank": settings.max_rank,
        "max_loras": settings.adapters,
        "max_cpu_loras": settings.adapters_in_memory,
        "enforce_eager": settings.eager,
        "tensor_parallel_size": settings.tensor_parallel,
    }
