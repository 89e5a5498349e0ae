"""The engine that a configuration names, with its model. Torch is loaded only when an engine is opened."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from perdure.agent.home import cache_dir
from perdure.agent.processes.kept_chat import keep_chat
from perdure.memory.processes import home_began, record_event

if TYPE_CHECKING:
    from perdure.agent.config import Config
    from perdure.learners.chat.chat_settings import ChatSettings
    from perdure.learners.engines.engine import Engine
    from perdure.learners.engines.transformers_engine import TransformersEngine
    from perdure.learners.engines.vllm_engine import VllmEngine
    from perdure.learners.engines.vllm_replicas import ServerLimits
    from perdure.memory.store import Store


def open_engine(store: Store, config: Config, *, seed: int, say: Callable[[str], None]) -> Engine:
    """Open the engine; `say` gets a line for each slow step. vLLM's servers must have been started for the home, or be starting.

    Raises `InputError` if the configuration cannot work here, `RuntimeFailure` if the model cannot be fetched, and `Unavailable` if no
    server answers in time.
    """
    chat = chat_settings(config, home_began(store))
    engine = _opened(store, config, chat, seed, say)
    from perdure.learners.chat.template_check import differences

    keep_chat(store.home, engine.files.path, chat, differences(engine.chat))
    return engine


def _opened(store: Store, config: Config, chat: ChatSettings, seed: int, say: Callable[[str], None]) -> TransformersEngine | VllmEngine:
    if config.engine == "vllm":
        from perdure.learners.engines.vllm_engine import VllmEngine
        from perdure.learners.engines.vllm_replicas import Replicas
        from perdure.learners.weights.base_models import resolve_model

        # The process of the server fetches the model if it is not there yet.
        say("waiting for the vLLM server")
        Replicas(store.home, server_limits(config), say).close()
        files = resolve_model(config.model, cache_dir(), say, store.home)
        return VllmEngine(files, store.home, server_limits(config), lambda line: record_event(store, "vllm", "engine", line), chat)
    from perdure.learners.weights.base_models import resolve_model

    files = resolve_model(config.model, cache_dir(), say, store.home)
    say(f"loading {files.name}")  # with torch, which takes seconds: a model that is not there is told at once
    from perdure.learners.engines.version_loading import open_transformers_engine

    return open_transformers_engine(store, files, device=config.device, seed=seed, chat=chat)


def chat_settings(config: Config, began_s: float) -> ChatSettings:
    """The settings under [chat], with the Unix time at which the home began: a template that prints the date then never changes."""
    from perdure.learners.chat.chat_settings import ChatSettings

    return ChatSettings(**config.chat.model_dump(), date=datetime.fromtimestamp(began_s, UTC))


def server_limits(config: Config) -> ServerLimits:
    """The server's settings that the engine needs."""
    from perdure.learners.engines.vllm_replicas import ServerLimits

    vllm = config.vllm
    return ServerLimits(
        max_rank=vllm.max_rank,
        dtype=vllm.dtype,
        start_s=vllm.start_timeout_s,
        answer_s=vllm.answer_timeout_s,
        sleeps=vllm.sleep,
        replicas=len(config.servers),
    )
