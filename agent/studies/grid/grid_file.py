"""The file of a learner study: its sections with their defaults, read and checked. Unknown keys are errors that name the nearest one.

An *arm* is a learner with a helper: the options of the file, then those of the learner, then those of the helper, later ones first. A
*stream* is a list of stages, each with one or more environments to learn. What a kind of study does with them is in its own module
(`retaining_study.py`, `stream_study.py`).
"""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from perdure.agent.config import Config, LearnerName, LearnerOptions
from perdure.agent.config_section import Section
from perdure.agent.toml_file import read_toml
from perdure.memory.errors import InputError
from perdure.memory.json_value import Document

Kind = Literal["retaining-by-doing", "long-stream"]
FILES = Path(__file__).resolve().parents[1] / "files"
SMALL = "-small"
PLAIN = "plain"
"""The helper that adds nothing; it need not be described."""
NAME = r"^[a-z0-9][a-z0-9._-]*$"


class AboutSection(Section):
    """What the study is."""

    name: str = Field(pattern=NAME, max_length=64, description="of the study, and of its folder")
    kind: Kind = Field(description="retaining-by-doing or long-stream: what is done with the grid")
    about: str = Field(default="", description="one line, for listings")
    hours: float | None = Field(default=None, gt=0, description="how long it is estimated to take")
    machine: str = Field(default="", description="on what machine that is")
    memory_gib: float = Field(
        default=4.0, gt=0, description="of a cell at its peak, which says how many run at once; with tuning=full twice as much"
    )


class GridSection(Section):
    """What is crossed: every learner with every helper, on every stream, in every order, with every seed."""

    learners: tuple[str, ...] = Field(min_length=1, strict=False, description="names under [learners], or of learners")
    helpers: tuple[str, ...] = Field(default=(PLAIN,), min_length=1, strict=False, description="names under [helpers]; plain adds nothing")
    streams: tuple[str, ...] = Field(min_length=1, strict=False, description="names under [streams]")
    orders: int = Field(default=1, ge=1, description="of the stages: as written, reversed, then drawn")
    crossed: bool = Field(default=True, description="whether every seed has every order; else the n-th seed has the n-th, in turn")
    seeds: tuple[int, ...] = Field(min_length=1, strict=False, description="of tasks and answers; each is a run of its own")


class ArmLearner(Section):
    """A learner with options of its own."""

    learner: LearnerName = Field(description="grpo, reinforce, iterative-sft, self-sft, trace-sft, sft or sdft")
    options: LearnerOptions = Field(default_factory=dict, description="in place of those of the file")
    rates: tuple[float, ...] = Field(default=(), strict=False, description="in place of pilots.rates")
    streams: tuple[str, ...] = Field(default=(), strict=False, description="only on these; empty for all")
    helpers: tuple[str, ...] = Field(default=(), strict=False, description="only with these; empty for all")
    traces_of: str = Field(default="", description="trace-sft: learns from the episodes of this learner's run")


class ArmHelper(Section):
    """What is done for old skills."""

    options: LearnerOptions = Field(default_factory=dict, description="in place of those of the learner")
    arm: str = Field(default="", description="name of the arm; empty for 'LEARNER + HELPER'")
    gate: bool = Field(default=False, description="long-stream: whether a gate decides what serves")
    at_once: bool = Field(default=False, description="long-stream: all stages in one job, with as many updates in all")
    from_base: bool = Field(default=False, description="long-stream: each stage begins from the base model")
    live: int | None = Field(
        default=None, ge=1, description="long-stream: in place of measure.live; from=live needs updates x prompts for all updates"
    )


class StagedStream(Section):
    """What is learned, stage by stage."""

    stages: tuple[str | list[str], ...] = Field(min_length=1, strict=False, description="an environment, or a list of them, each")

    @property
    def targets(self) -> tuple[tuple[str, ...], ...]:
        """The environments of each stage."""
        return tuple((stage,) if isinstance(stage, str) else tuple(stage) for stage in self.stages)


class MeasureSection(Section):
    """What is measured, and how often."""

    environments: tuple[str, ...] = Field(
        default=(),
        strict=False,
        description="that are no target; the homes of retaining-by-doing know them, so that an arm may replay them",
    )
    unseen: tuple[str, ...] = Field(default=(), strict=False, description="that are no target, and that no home knows")
    dev_target: int = Field(default=128, ge=1, description="dev tasks of each target at a checkpoint")
    dev_others: int = Field(default=64, ge=1, description="dev tasks of each other environment at a checkpoint of a pilot")
    test: int = Field(default=128, ge=1, description="test tasks of each environment")
    checkpoints: tuple[int, ...] = Field(default=(), strict=False, description="updates of a stage after which it is measured")
    curves: bool = Field(default=False, description="whether runs have dev scores of the other environments at checkpoints, as pilots do")
    last: bool = Field(default=False, description="retaining-by-doing: whether the last update is tested too")
    keep_weights: bool = Field(
        default=False, description="retaining-by-doing: whether the homes of runs stay after their tests, some 20 MB a checkpoint"
    )
    panel: Literal["off", "choice", "all"] = Field(
        default="choice", description="the capability panel: off, choice for what needs no sampling, or all for its greedy answers too"
    )
    live: int = Field(default=2, ge=0, description="tasks of each environment that are played live before its job")

    @field_validator("checkpoints")
    @classmethod
    def _rising(cls, updates: tuple[int, ...]) -> tuple[int, ...]:
        if list(updates) != sorted(set(updates)) or any(update < 1 for update in updates):
            raise ValueError(f"{list(updates)} are not rising numbers of updates")
        return updates


class PilotSection(Section):
    """How each arm gets its learning rate."""

    rates: tuple[float, ...] = Field(min_length=1, strict=False, description="learning rates that each arm tries")
    seeds: tuple[int, ...] = Field(min_length=1, strict=False, description="of the pilots; none of the grid's")


class MatchSection(Section):
    """How runs are compared at one gain."""

    tolerance: float = Field(
        default=0.04, ge=0, lt=1, description="how far above or below the matched gain a dev gain may be: a third of match.least at most"
    )
    least: float = Field(default=0.12, ge=0, lt=1, description="an arm whose pilots gain less is not comparable, and does not count")

    @model_validator(mode="after")
    def _tells_a_gain_from_none(self) -> MatchSection:
        if self.tolerance > self.least / 3 + 1e-9:
            raise ValueError(
                f"tolerance = {self.tolerance:g} is more than a third of least = {self.least:g}: what hardly gained would count as matched"
            )
        return self


class ClaimSection(Section):
    """A comparison of two arms that was stated before, tested in the order in which they stand."""

    first: str = Field(description="an arm")
    second: str = Field(description="an arm; the claim is about first - second")
    of: str = Field(default="drop", description="drop or panel_drop; long-stream: a metric")
    more_than: float | None = Field(default=None, description="the claim is that the difference is more than this")
    less_than: float | None = Field(default=None, description="the claim is that it is less than this")
    effect: float = Field(default=0.05, gt=0, description="the smallest difference worth showing, for the number of seeds needed")

    @model_validator(mode="after")
    def _one_side(self) -> ClaimSection:
        if (self.more_than is None) == (self.less_than is None):
            raise ValueError("give more_than or less_than, one of them")
        return self


class GridFile(Section):
    """A whole file."""

    study: AboutSection
    grid: GridSection
    home: Document = Field(default_factory=dict, description="settings of every home, as in perdure.toml")
    options: LearnerOptions = Field(default_factory=dict, description="options of all learners")
    learners: dict[str, ArmLearner] = Field(default_factory=dict)
    helpers: dict[str, ArmHelper] = Field(default_factory=dict)
    streams: dict[str, StagedStream]
    measure: MeasureSection = MeasureSection()
    pilots: PilotSection | None = None
    match: MatchSection = MatchSection()
    claims: tuple[ClaimSection, ...] = Field(default=(), strict=False)

    @field_validator("home")
    @classmethod
    def _as_configured(cls, home: Document) -> Document:
        for key in ("seed", "stream", "learn", "schedule"):
            if key in home:
                raise ValueError(f"home.{key} is decided by the study: leave it out")
        try:
            Config.model_validate(home)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg'].lower()}; see docs/settings.md") from error
        return home

    @model_validator(mode="after")
    def _names_are_known(self) -> GridFile:
        for what, named, known in (
            ("learner", self.grid.learners, (*self.learners, *_own_learners())),
            ("helper", self.grid.helpers, (*self.helpers, PLAIN)),
            ("stream", self.grid.streams, tuple(self.streams)),
        ):
            for name in named:
                _require(name, known, f"grid.{what}s names {name!r}, which [{what}s] does not have")
        for name, learner in self.learners.items():
            for stream in learner.streams:
                _require(stream, tuple(self.streams), f"learners.{name}.streams names {stream!r}, which [streams] does not have")
            for helper in learner.helpers:
                _require(helper, (*self.helpers, PLAIN), f"learners.{name}.helpers names {helper!r}, which [helpers] does not have")
            if learner.traces_of and name in self.grid.learners:
                _require(learner.traces_of, self.grid.learners, f"learners.{name}.traces_of: the grid has no learner {learner.traces_of!r}")
        return self

    @model_validator(mode="after")
    def _seeds_differ(self) -> GridFile:
        both = set(self.grid.seeds) & set(self.pilots.seeds if self.pilots else ())
        if both:
            raise ValueError(f"pilots.seeds has {min(both)}, which grid.seeds has too: pilots need seeds of their own")
        return self


def read_grid_file(path: Path) -> GridFile:
    """Read a study's file. Raises `InputError` that names the file, the key and what to do."""
    given = read_toml(path, "file", missing="name a study that comes with Perdure (`perdure study list`), or a TOML file")
    try:
        return GridFile.model_validate(given)
    except ValidationError as error:
        raise InputError(f"{path}: {_explain(error)}") from error


def built_in(name: str, *, small: bool) -> Path:
    """The file of a study that comes with Perdure."""
    return FILES / f"{name}{SMALL if small else ''}.toml"


def built_in_names() -> list[str]:
    """The studies that come as files, without their small forms."""
    return sorted(path.stem for path in FILES.glob("*.toml") if not path.stem.endswith(SMALL))


def _own_learners() -> tuple[str, ...]:
    from perdure.learners.options import OWN

    return tuple(OWN)


def _require(name: str, known: tuple[str, ...], complaint: str) -> None:
    if name not in known:
        near = get_close_matches(name, known, n=1)
        raise ValueError(f"{complaint}; " + (f"did you mean {near[0]}?" if near else f"there are {', '.join(known) or 'none'}"))


def _explain(error: ValidationError) -> str:
    """The first thing that is wrong, in one line: an unknown key before the one that is missing for it."""
    found = error.errors(include_url=False)
    first = next((one for one in found if one["type"] == "extra_forbidden"), found[0])
    location = [str(part) for part in first["loc"]]
    key = ".".join(location)
    if first["type"] == "extra_forbidden":
        known = _keys_at(location[:-1])
        near = get_close_matches(location[-1], known, n=1)
        return f"no key is named {key!r}; " + (f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}")
    if first["type"] == "missing":
        return f"{key} is missing"
    if isinstance(first.get("ctx", {}).get("error"), ValueError):
        message = first["msg"].removeprefix("Value error, ")
        return f"{key}: {message}" if key else message
    return f"{key} = {first['input']!r}: {first['msg'].lower()}"


def _keys_at(location: list[str]) -> list[str]:
    """The keys that a section may have."""
    model: Any = GridFile
    for part in location:
        field = model.model_fields.get(part) if _is_model(model) else None
        if field is None:
            continue  # a name that the file chose, or the number of an item
        inner = [field.annotation, *get_args(field.annotation)]
        model = next((kind for kind in inner if _is_model(kind)), model)
    return list(model.model_fields)


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)
