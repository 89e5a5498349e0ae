"""The configuration file: read, listed with the origin of each setting, and written as a template.

Search order: the file named with --config, `perdure.toml` in the working folder, the defaults. The template that `perdure init` writes and
the list that `perdure config show` prints are made from the classes of `config.py`, so that they cannot drift from them.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import SecretStr, ValidationError

from perdure.agent.cluster.cluster_settings import check_address
from perdure.agent.config import Config
from perdure.agent.config_section import Section
from perdure.agent.stream.stream_settings import EXAMPLE, StageEnvironment, StageSection, compact
from perdure.agent.toml_file import read_toml
from perdure.learners.option_parsing import every_option, option_entries
from perdure.memory.errors import InputError
from perdure.memory.json_value import Document

FILE_NAME = "perdure.toml"
DEFAULT = "default"
SECRET = "(set, and not shown)"
OPTIONS = "learn.options"
STAGES = "stream.stages"
CLUSTER_VARIABLE = "PERDURE_CLUSTER"
"""In the environment of the processes of `perdure run --cluster ADDRESS`: replaces `cluster.address` of the file."""
PLAYERS = 2
"""Players of a cluster that was asked for in this way, if the file sets none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedConfig:
    """A configuration and the origin of each setting."""

    config: Config
    origins: Mapping[str, str]
    """For each dotted key: 'default', the file that sets it, or the option of a command."""
    path: Path | None
    """The file, None if all settings are defaults. Child processes get it by name."""

    def with_config(self, config: Config) -> LoadedConfig:
        """The same with other values, as an option of a command gives them."""
        return replace(self, config=config)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One line of `perdure config show`."""

    key: str
    value: Any
    origin: str
    description: str

    def as_json(self) -> Document:
        value = [part.as_json() if isinstance(part, StageSection) else part for part in self.value] if self._is_list else self.value
        return {"key": self.key, "value": value, "origin": self.origin, "description": self.description}

    def __str__(self) -> str:
        """The value on one line."""
        if self.key == STAGES:
            return " | ".join(map(compact, self.value))
        return ", ".join(self.value) if self._is_list else str(self.value)

    @property
    def _is_list(self) -> bool:
        return isinstance(self.value, list)


def load_config(path: Path | None = None) -> LoadedConfig:
    """Read the file at `path`, else `perdure.toml` in the working folder, else the defaults.

    Raises `InputError` that names the file, the key and what to do.
    """
    return _with_cluster(_load(path), os.environ.get(CLUSTER_VARIABLE, ""))


def _load(path: Path | None) -> LoadedConfig:
    if path is None:
        path = Path(FILE_NAME)
        if not path.exists():
            return LoadedConfig(config=Config(), origins=_origins({}, ""), path=None)
    path = path.resolve()
    given = read_toml(path, "configuration", missing="`perdure init` writes one, or name it with --config")
    if path.parent != Path.cwd():
        given = _from_folder(given, path.parent)
    try:
        config = Config.model_validate(given)
    except ValidationError as error:
        raise InputError(_explain(path, error)) from error
    return LoadedConfig(config=config, origins=_origins(given, path.name), path=path)


def _with_cluster(loaded: LoadedConfig, address: str) -> LoadedConfig:
    """The same with another cluster, and with players for it; as it is if that is empty."""
    if not address:
        return loaded
    try:
        check_address(address)
    except ValueError as error:
        raise InputError(f"--cluster: {error}") from error
    cluster = loaded.config.cluster
    changed = cluster.model_copy(update={"address": address, "players": cluster.players or PLAYERS})
    origins = {**loaded.origins, "cluster.address": "--cluster"}
    if not cluster.players:
        origins["cluster.players"] = "--cluster"
    return replace(loaded, config=loaded.config.model_copy(update={"cluster": changed}), origins=origins)


def _from_folder(given: Document, folder: Path) -> Document:
    """The same with paths from the folder of the file, not from the working folder: the model, interpreters, and solved examples."""

    def place(value: Any) -> Any:
        if not isinstance(value, str) or value.startswith(("~", "/")):
            return value
        return str(folder / value) if value.startswith(("./", "../")) or (value and (folder / value).exists()) else value

    found = dict(given)
    if "model" in found:
        found["model"] = place(found["model"])
    for section, inner in (("vllm", "python"), ("sandbox", "python"), ("learn", "options")):
        table = found.get(section)
        if isinstance(table, dict) and inner in table:
            value = table[inner]
            if isinstance(value, dict):
                value = {key: place(each) if inner == "python" or key == "demos" else each for key, each in value.items()}
            found[section] = {**table, inner: place(value)}
    notify = found.get("notify")
    if isinstance(notify, dict) and isinstance(notify.get("command"), list) and notify["command"]:
        program, *arguments = notify["command"]
        found["notify"] = {**notify, "command": [_program(program, folder), *arguments]}
    return found


def _program(program: Any, folder: Path) -> Any:
    """A program that is named by a path from the folder of the file; one without a slash is looked for in PATH."""
    return str(folder / Path(program).expanduser()) if isinstance(program, str) and "/" in program else program


def settings(loaded: LoadedConfig) -> list[Setting]:
    """Every setting, those of the learner's options included, in the order of the classes."""
    values = {key: getattr(section, name) for key, name, section in _fields(loaded.config)}
    values |= {f"{OPTIONS}.{name}": value for name, value in every_option(loaded.config.learn.options).items()}
    return [
        Setting(
            key=key,
            value=_plain(values[key]),
            origin=loaded.origins[key],
            description=description,
        )
        for key, description in _descriptions()
    ]


def _plain(value: Any) -> Any:
    """A value for a listing: a tuple as a list, and of a secret only whether there is one."""
    if isinstance(value, SecretStr):
        return SECRET if value.get_secret_value() else ""
    return list(value) if isinstance(value, tuple) else value


def template() -> str:
    """A commented configuration with every setting at its default; it runs as it is."""
    lines = [
        "# Perdure's configuration. Every setting shows its default: change what you like, delete what you do not need.",
        "# `perdure config show` shows every setting with its origin; `perdure run` starts.",
        "",
    ]
    section = ""
    for setting in settings(LoadedConfig(config=Config(), origins=_origins({}, ""), path=None)):
        head, _, name = setting.key.rpartition(".")
        if head != section:
            lines += ["", f"[{head}]"]
            section = head
        lines.append(f"# {setting.description}")
        if setting.key == STAGES:
            lines += [f"# {line}".rstrip() for line in EXAMPLE.splitlines()]
        else:
            lines.append(("# " if head == OPTIONS else "") + f"{name} = {_toml(setting.value)}")
    return "\n".join(lines) + "\n"


def _fields(config: Config) -> Iterator[tuple[str, str, Section]]:
    """Dotted key, name and section of every setting; the learner's options are one of them."""
    for name in Config.model_fields:
        value = getattr(config, name)
        if isinstance(value, Section):
            yield from ((f"{name}.{inner}", inner, value) for inner in type(value).model_fields)
        else:
            yield name, name, config


def _descriptions() -> list[tuple[str, str]]:
    """Every dotted key with its description; the learner's options follow the rest of [learn]."""
    descriptions = []
    for key, name, section in _fields(Config()):
        if name == "options":
            descriptions += [(f"{key}.{option.name}", option.meaning) for option in option_entries()]
        else:
            descriptions.append((key, type(section).model_fields[name].description or ""))
    return descriptions


def _origins(given: Document, file: str) -> dict[str, str]:
    def is_given(key: str) -> bool:
        at: Any = given
        for part in key.split("."):
            if not isinstance(at, Mapping) or part not in at:
                return False
            at = at[part]
        return True

    return {key: file if is_given(key) else DEFAULT for key, _ in _descriptions()}


def _explain(path: Path, error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    location = first["loc"]
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).removeprefix(".")
    plain = ".".join(str(part) for part in location if not isinstance(part, int))
    settings_, of_stages = dict(_descriptions()), _descriptions_of_stages()
    described = settings_ | of_stages
    if first["type"] == "extra_forbidden":
        head, _, name = plain.rpartition(".")
        here = of_stages if head.startswith(STAGES) else settings_
        before = f"{head}." if head else ""
        beside = [known for known in here if known.startswith(before)]
        near = [before + match for match in get_close_matches(name, [known.removeprefix(before) for known in beside], n=1)]
        near = near or [known for known in described if known.endswith(f".{name}")]
        return f"{path}: no setting is named {key!r}; " + (f"did you mean {near[0]}?" if near else f"there are {', '.join(beside)}")
    message = first["msg"].removeprefix("Value error, ").replace("tuple", "list").replace("Tuple", "List")
    message = re.sub(r"dictionary or instance of \w+", "table", message)
    if isinstance(first.get("ctx", {}).get("error"), ValueError):
        return f"{path}: {key}: {message}" if key else f"{path}: {message}"
    meaning = f" (it says: {described[plain]})" if plain in described else ""
    if any(f"{secret}.".startswith(f"{plain}.") for secret in _secrets()):
        return f"{path}: {key}: {message[0].lower()}{message[1:]}{meaning}"
    if first["type"] == "missing":
        return f"{path}: {key} is missing{meaning}"
    return f"{path}: {key} = {_shown(first['input'])}: {message[0].lower()}{message[1:]}{meaning}"


def _descriptions_of_stages() -> dict[str, str]:
    """The keys of a stage, and of an environment in it."""
    fields = {f"{STAGES}.{name}": field for name, field in StageSection.model_fields.items()}
    fields |= {f"{STAGES}.environments.{name}": field for name, field in StageEnvironment.model_fields.items()}
    return {key: field.description or "" for key, field in fields.items()}


def _secrets() -> set[str]:
    """The settings whose value is never shown."""
    return {key for key, name, section in _fields(Config()) if isinstance(getattr(section, name), SecretStr)}


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _toml(value: Any) -> str:
    """A value as TOML. Strings, numbers, booleans and lists of strings are written as JSON writes them."""
    if isinstance(value, list) and value:
        return "[\n" + "".join(f"    {json.dumps(item, ensure_ascii=False)},\n" for item in value) + "]"
    return json.dumps(value, ensure_ascii=False)
