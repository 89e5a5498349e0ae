"""The configuration: one TOML file, typed, every default and its description here, unknown keys refused.

Search order: the file named with --config, `perdure.toml` in the working folder, the defaults. `load_config` also tells of every setting
where it came from. The template that `perdure init` writes is made from these classes, so that it cannot drift from them.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from perdure.agent.stages import EXAMPLE, StageEnvironment, StageSettings, compact, environment_name
from perdure.learners.options import LEARNERS, LearnOptions, parse_options
from perdure.memory.errors import InputError

if TYPE_CHECKING:
    from perdure.envs.environment import Environment
    from perdure.envs.sandbox import Sandbox

FILE_NAME = "perdure.toml"
DEFAULT = "default"
OPTIONS = "learn.options"
STAGES = "stream.stages"
ONLY_STAGE = "all"
"""What the stage is called that there is where none is configured."""

DEFAULT_ENVIRONMENTS: tuple[str, ...] = (
    "perdure:first-word?shots=2",
    "perdure:last-word?shots=3&words=5",
    "perdure:swap-words?shots=5",
    "perdure:json-field?shots=3",
    "perdure:door-code?shots=3",
    "textarena:GuessTheNumber-v0?max_number=10&max_tokens=4&max_turns=5",
    "reasoning_gym:chain_sum?max_digits=1&max_terms=2&shots=3",
    "reasoning_gym:family_relationships?max_family_size=4&min_family_size=3&shots=3",
)
"""Chosen by what the default model scores (docs/environments.md): each between 5 and 90 %, several with one input and different answers."""
EXTRA = "reasoning_gym"
"""The source whose package is an extra; without it the stream goes without its environments."""


def default_environments() -> tuple[str, ...]:
    """Those whose package is installed. It is looked for, not imported."""
    installed = find_spec(EXTRA) is not None
    return tuple(name for name in DEFAULT_ENVIRONMENTS if installed or not name.startswith(f"{EXTRA}:"))


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Play(_Section):
    """How live tasks are played."""

    width: int = Field(default=64, ge=1, le=4096, description="episodes played at once")
    temperature: float = Field(default=1.0, gt=0, le=10, description="sampling temperature of live episodes (the gate plays greedily)")
    members: int = Field(default=8, ge=1, le=256, description="episodes of each live task; they are compared with each other")


class Stream(_Section):
    """Where live tasks come from: environments that take turns for ever, or stages."""

    environments: tuple[str, ...] = Field(
        default_factory=default_environments,
        strict=False,
        description="what is played and learned; `perdure env list` shows what there is",
    )
    tasks_per_round: int = Field(default=4, ge=1, le=4096, description="tasks of each environment that are queued at a time")
    stages: tuple[StageSettings, ...] = Field(
        default=(), strict=False, description="in place of environments: stretches with a mix and an end each; see docs/stream.md"
    )

    @field_validator("environments")
    @classmethod
    def _named_once(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if names.count(environment_name(name)) > 1:
                raise ValueError(f"{name!r} is named {names.count(name)} times; once is enough")
        return names

    @model_validator(mode="before")
    @classmethod
    def _one_or_the_other(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("stages"):
            if "environments" in given:
                raise ValueError(
                    "environments and stages exclude each other: name the environments in the stages, and delete the other list"
                )
            return {**given, "environments": []}
        return given

    @model_validator(mode="after")
    def _comes_to_every_stage(self) -> Stream:
        if not self.environments and not self.stages:
            raise ValueError("environments = [] leaves nothing to play: name some, or write stages")
        names = [stage.name for stage in self.stages]
        for stage in self.stages[:-1]:
            if stage.endless:
                raise ValueError(f"stage {stage.name!r} never ends, so that no stage comes after it: say how many tasks it has")
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"{names.count(name)} stages are named {name!r}: tasks are counted by that name, so give each its own")
        return self

    @property
    def plan(self) -> tuple[StageSettings, ...]:
        """The stages; where none are configured, the one that the environments are."""
        tables = tuple(StageEnvironment(name=name) for name in self.environments)
        return self.stages or (StageSettings(name=ONLY_STAGE, environments=tables),)

    @property
    def names(self) -> tuple[str, ...]:
        """The environments of all stages."""
        return tuple(dict.fromkeys(one.full_name for stage in self.plan for one in stage.environments))


class Learn(_Section):
    """When and how a candidate is made."""

    learner: str = Field(default="grpo", description="grpo or iterative-sft")
    every_episodes: int = Field(default=336, ge=0, description="learn after this many new episodes; 0 for never")
    max_cycles: int = Field(default=3, ge=1, description="verdicts without a promotion after which `perdure run --until-promoted` gives up")
    options: dict[str, Any] = Field(default_factory=dict, description="options of the learner; `perdure learn --help` explains them")

    @field_validator("learner")
    @classmethod
    def _known(cls, name: str) -> str:
        check_learner(name)
        return name

    @field_validator("options")
    @classmethod
    def _checked(cls, options: dict[str, Any]) -> dict[str, Any]:
        parse_options(options)
        return options


class Gate(_Section):
    """How much a candidate must show before it serves."""

    profile: Literal["economy", "standard", "strict"] = Field(
        default="economy", description="economy, standard or strict: smaller losses are caught, with more episodes"
    )
    alpha: float = Field(default=0.05, gt=0, lt=0.5, description="the highest probability of promoting a candidate that should not be")
    critical: tuple[str, ...] = Field(default=(), strict=False, description="environments of the stream that are held to a tighter margin")


class Schedule(_Section):
    """Learning at set times, beside `learn.every_episodes`."""

    cron: str = Field(default="", description="five crontab fields, such as '0 3 * * *' for every night at three; empty for never")
    every_minutes: int = Field(default=0, ge=0, description="learn this often; 0 for never")

    @property
    def by_the_clock(self) -> bool:
        """Whether learning comes by the clock at all."""
        return bool(self.cron or self.every_minutes)

    @field_validator("cron")
    @classmethod
    def _crontab(cls, cron: str) -> str:
        if cron:
            from apscheduler.triggers.cron import CronTrigger

            try:
                CronTrigger.from_crontab(cron)
            except ValueError as error:
                raise ValueError(f"{error}; write five crontab fields, such as '0 3 * * *'") from error
        return cron


class SandboxSettings(_Section):
    """Environments run in processes of their own unless they are trusted, with these limits."""

    trusted: tuple[str, ...] = Field(
        default=("perdure:",),
        strict=False,
        description="sources ('perdure:') and names without options ('py:prices:Prices') that run inside Perdure's own processes",
    )
    memory_mib: int = Field(default=2048, ge=64, description="MiB of address space of each process")
    cpu_s: int = Field(default=300, ge=1, description="seconds of processor time of one episode")
    network: bool = Field(default=False, description="whether environments may reach the network, this machine's own included")
    variables: tuple[str, ...] = Field(default=(), strict=False, description="environment variables that are passed on to them")
    python: dict[str, str] = Field(default_factory=dict, description="another interpreter for a source: { gem = '.venv-gem/bin/python' }")

    @field_validator("trusted")
    @classmethod
    def _named(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if ":" not in name or "?" in name:
                raise ValueError(f"{name!r} is neither a source, such as 'textarena:', nor a name without options, such as 'gym:Taxi-v4'")
        return names


class Supervise(_Section):
    """What is done about processes that die or hang."""

    tries: int = Field(default=5, ge=1, description="deaths in a row after which the actor is given up, and failed jobs for learning")
    hang_s: int = Field(
        default=1800, ge=1, description="seconds without progress after which a process is ended; loading the model must fit in"
    )


class Disk(_Section):
    """How much room is left to others."""

    budget_gib: float = Field(
        default=0.0, ge=0, description="GiB for the home, 0 for no limit; learning stops at 90 % of it, play at all of it"
    )
    floor_gib: float = Field(
        default=1.0, ge=0, description="GiB that stay free on its disk; learning stops below twice that, play below it"
    )


class Config(_Section):
    """Everything that can be set."""

    model: str = Field(
        default="smollm2-135m", min_length=1, description="the base model: smollm2-135m, a folder with safetensors, or a hub id"
    )
    seed: int = Field(default=0, ge=0, lt=2**63, description="decides which tasks come; the same seed gives the same stream")
    device: Literal["cpu", "cuda"] = Field(default="cpu", description="cpu or cuda")
    play: Play = Play()
    stream: Stream = Stream()
    learn: Learn = Learn()
    gate: Gate = Gate()
    schedule: Schedule = Schedule()
    sandbox: SandboxSettings = SandboxSettings()
    supervise: Supervise = Supervise()
    disk: Disk = Disk()

    def environment(self, name: str) -> Environment:
        """Load an environment where the configuration wants it to run. Raises as `envs/registry.py:load` does."""
        from perdure.envs.registry import load

        return load(name, self.allowed())

    def allowed(self) -> Sandbox:
        """What environments may do."""
        from perdure.envs.sandbox import Sandbox

        return Sandbox(**self.sandbox.model_dump())

    @model_validator(mode="after")
    def _critical_is_played(self) -> Config:
        for name in self.gate.critical:
            if name not in self.stream.names:
                raise ValueError(f"gate.critical names {name!r}, which [stream] does not; write it there in the same words")
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedConfig:
    """A configuration and where each setting came from."""

    config: Config
    origins: Mapping[str, str]
    """For each dotted key: 'default', or the file that sets it."""
    path: Path | None
    """The file, None where the defaults stand alone. Processes that are started are given it by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One line of `perdure config show`."""

    key: str
    value: Any
    origin: str
    description: str

    def as_json(self) -> dict[str, Any]:
        return {"key": self.key, "value": self.value, "origin": self.origin, "description": self.description}

    def __str__(self) -> str:
        """The value on one line."""
        if isinstance(self.value, list):
            return (" | " if self.key == STAGES else ", ").join(compact(one) if self.key == STAGES else one for one in self.value)
        return str(self.value)


def load_config(path: Path | None = None) -> LoadedConfig:
    """Read the file at `path`, else `perdure.toml` in the working folder, else the defaults.

    Raises `InputError` that names the file, the key and what to do.
    """
    if path is None:
        path = Path(FILE_NAME)
        if not path.exists():
            return LoadedConfig(config=Config(), origins=_origins({}, ""), path=None)
    path = path.resolve()
    try:
        given = tomllib.loads(path.read_bytes().decode("utf-8"))
    except FileNotFoundError:
        raise InputError(f"no configuration {path}: `perdure init` writes one, or name it with --config") from None
    except OSError as error:
        raise InputError(f"cannot read the configuration {path}: {error.strerror}; name another with --config") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text (byte {error.start}): save it as UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path} is not TOML: {error}; `perdure init` in an empty folder writes one to compare with") from error
    try:
        config = Config.model_validate(given)
    except ValidationError as error:
        raise InputError(_explain(path, error)) from error
    return LoadedConfig(config=config, origins=_origins(given, path.name), path=path)


def check_learner(name: str) -> None:
    """Raise `InputError` for a learner that there is not."""
    if name not in LEARNERS:
        near = get_close_matches(name, LEARNERS, n=1)
        raise InputError(f"no learner {name!r}: there are {', '.join(LEARNERS)}" + (f"; did you mean {near[0]}?" if near else ""))


def settings(loaded: LoadedConfig) -> list[Setting]:
    """Every setting, those of the learner's options included, in the order of the classes."""
    options = parse_options(loaded.config.learn.options)
    values = {key: getattr(section, name) for key, name, section in _fields(loaded.config)}
    values |= {f"{OPTIONS}.{name}": getattr(options, name) for name in LearnOptions.model_fields}
    values[STAGES] = [stage.as_json() for stage in loaded.config.stream.stages]
    return [
        Setting(
            key=key,
            value=list(values[key]) if isinstance(values[key], tuple) else values[key],
            origin=loaded.origins[key],
            description=description,
        )
        for key, description in _descriptions()
    ]


def template() -> str:
    """A commented configuration with every setting at its default; it runs as it is."""
    lines = [
        "# Perdure's configuration. Every line that sets something shows the default: change what you like, delete what you do not need.",
        "# `perdure config show` tells what is in force and where it came from; `perdure run` starts.",
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


def _fields(config: Config) -> Iterator[tuple[str, str, _Section]]:
    """Dotted key, name and section of every setting; the learner's options are one of them."""
    for name in Config.model_fields:
        value = getattr(config, name)
        if isinstance(value, _Section):
            yield from ((f"{name}.{inner}", inner, value) for inner in type(value).model_fields)
        else:
            yield name, name, config


def _descriptions() -> list[tuple[str, str]]:
    """Every dotted key with its description; the learner's options follow the rest of [learn]."""
    found = []
    for key, name, section in _fields(Config()):
        if name == "options":
            found += [(f"{key}.{option}", field.description or "") for option, field in LearnOptions.model_fields.items()]
        else:
            found.append((key, type(section).model_fields[name].description or ""))
    return found


def _origins(given: Mapping[str, Any], file: str) -> dict[str, str]:
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
    if first["type"] == "missing":
        return f"{path}: {key} is missing{meaning}"
    return f"{path}: {key} = {_shown(first['input'])}: {message[0].lower()}{message[1:]}{meaning}"


def _descriptions_of_stages() -> dict[str, str]:
    """What may stand in a stage, and in an environment of one."""
    fields = {f"{STAGES}.{name}": field for name, field in StageSettings.model_fields.items()}
    fields |= {f"{STAGES}.environments.{name}": field for name, field in StageEnvironment.model_fields.items()}
    return {key: field.description or "" for key, field in fields.items()}


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _toml(value: Any) -> str:
    """A value as TOML. Strings, numbers, booleans and lists of strings are written as JSON writes them."""
    if isinstance(value, list) and value:
        return "[\n" + "".join(f"    {json.dumps(item, ensure_ascii=False)},\n" for item in value) + "]"
    return json.dumps(value, ensure_ascii=False)
