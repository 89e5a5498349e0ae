"""What may stand under `[stream]` and `[[stream.stages]]`, and which combinations are refused. What a stage draws is `task_drawing.py`."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from pydantic import Field, field_validator, model_validator

from perdure.agent.config_section import Section
from perdure.memory.json_value import Document
from perdure.memory.records import StageOrder

ONLY_STAGE = "all"
"""The name of the stage that the environments make if no stages are configured."""

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
"""The source whose package is an extra; its environments are left out if it is not installed."""


EXAMPLE = """\
[[stream.stages]]
name = "words"
environments = ["perdure:copy-word?shots=3", {name = "perdure:swap-words", options = {shots = 5}, weight = 2.0}]
tasks = 500

[[stream.stages]]
name = "for-ever"
environments = ["perdure:first-word?shots=2", "perdure:door-code?shots=3"]
order = "shuffled"
curriculum = true
"""
"""Stands in the template, commented out."""

WAYS = "'interleaved', 'shuffled', 'sequential' or 'permuted'"


def default_environments() -> tuple[str, ...]:
    """Those of `DEFAULT_ENVIRONMENTS` whose package is installed; it is not imported."""
    installed = find_spec(EXTRA) is not None
    return tuple(name for name in DEFAULT_ENVIRONMENTS if installed or not name.startswith(f"{EXTRA}:"))


class StageEnvironment(Section):
    """An environment of a stage. One that is given by its name alone has the defaults."""

    name: str = Field(description="the environment; options may follow as in ENV?key=value")
    options: Document = Field(default_factory=dict, description="options of the environment, besides those in its name")
    weight: float = Field(default=1.0, gt=0, le=1e6, description="how often it is drawn, relative to the others")
    tasks: int = Field(default=0, ge=0, description="the most tasks of it in this stage; 0 for no limit")

    @field_validator("name")
    @classmethod
    def _is_one(cls, name: str) -> str:
        return environment_name(name)

    @field_validator("options")
    @classmethod
    def _are_plain(cls, options: Document) -> Document:
        for key, value in options.items():
            if not isinstance(value, (bool, int, float, str)):
                raise ValueError(f"option {key} = {value!r} is not a number, text, true or false")
        return options

    @property
    def full_name(self) -> str:
        """The name with the options in it."""
        if not self.options:
            return self.name
        from perdure.envs.environment_names import with_options  # loads the environments, which most commands do not need

        return with_options(self.name, self.options)


class StageSection(Section):
    """A stretch of the stream with one mix of environments."""

    name: str = Field(min_length=1, max_length=60, description="tasks are counted by it: a stage with a new name starts from the beginning")
    environments: tuple[StageEnvironment, ...] = Field(
        strict=False, min_length=1, description="names, or tables with name, options, weight and tasks"
    )
    tasks: int = Field(default=0, ge=0, description="the stage ends after this many; 0 to end when its environments have had theirs")
    order: StageOrder = Field(default="interleaved", description=f"how environments follow each other: {WAYS}")
    members: int = Field(default=0, ge=0, le=256, description="episodes of each task; 0 for play.members")
    curriculum: bool = Field(default=False, description="draw environments more often if they are neither always won nor always lost")

    @field_validator("environments", mode="before")
    @classmethod
    def _as_tables(cls, given: Any) -> Any:
        return [{"name": item} if isinstance(item, str) else item for item in given] if isinstance(given, (list, tuple)) else given

    @model_validator(mode="after")
    def _makes_sense(self) -> StageSection:
        names = [environment.full_name for environment in self.environments]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"stage {self.name!r} names {name!r} {names.count(name)} times; give it once, with a weight")
        if self.curriculum and self.order != "shuffled":
            raise ValueError(f"stage {self.name!r}: a curriculum draws at random; it needs order = 'shuffled'")
        if self.order in ("sequential", "permuted"):
            self._follow_each_other()
        budgets = [environment.tasks for environment in self.environments]
        if all(budgets) and self.tasks > sum(budgets):
            raise ValueError(f"stage {self.name!r} should have {self.tasks} tasks, but its environments have only {sum(budgets)}")
        return self

    @property
    def endless(self) -> bool:
        """Whether it never ends, so that no stage can follow it."""
        return not self.tasks and not all(environment.tasks for environment in self.environments)

    def as_json(self) -> Document:
        """What `config show` prints: every environment by its full name."""
        environments = [{"name": its.full_name, "weight": its.weight, "tasks": its.tasks} for its in self.environments]
        return self.model_dump() | {"environments": environments}

    def _follow_each_other(self) -> None:
        last = len(self.environments) - 1 if self.order == "sequential" else len(self.environments)
        for place, environment in enumerate(self.environments):
            if environment.weight != 1.0:
                raise ValueError(
                    f"stage {self.name!r}: weights mean nothing with order = {self.order!r}; give {environment.name!r} tasks instead"
                )
            if not environment.tasks and place < last:
                raise ValueError(
                    f"stage {self.name!r}: with order = {self.order!r}, {environment.name!r} never ends; "
                    f"give it a number of tasks, as in {{name = {environment.name!r}, tasks = 50}}"
                )


class StreamSection(Section):
    """Where live tasks come from: environments in turn without end, or stages."""

    environments: tuple[str, ...] = Field(
        default_factory=default_environments,
        strict=False,
        description="the environments that are played and learned; `perdure env list` shows all",
    )
    tasks_per_round: int = Field(default=4, ge=1, le=4096, description="tasks of each environment that are queued at a time")
    stages: tuple[StageSection, ...] = Field(
        default=(), strict=False, description="in place of environments: stages that follow each other; see docs/stream.md"
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
    def _comes_to_every_stage(self) -> StreamSection:
        if not self.environments and not self.stages:
            raise ValueError("environments = [] leaves nothing to play: name some, or write stages")
        names = [stage.name for stage in self.stages]
        for stage in self.stages[:-1]:
            if stage.endless:
                raise ValueError(f"stage {stage.name!r} never ends, so the next stage never begins: give it a number of tasks")
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"{names.count(name)} stages are named {name!r}: tasks are counted by that name, so give each its own")
        return self

    @property
    def plan(self) -> tuple[StageSection, ...]:
        """The stages; if none are configured, one with all environments."""
        tables = tuple(StageEnvironment(name=name) for name in self.environments)
        return self.stages or (StageSection(name=ONLY_STAGE, environments=tables),)

    @property
    def names(self) -> tuple[str, ...]:
        """The environments of all stages."""
        return tuple(dict.fromkeys(environment.full_name for stage in self.plan for environment in stage.environments))


def environment_name(name: str) -> str:
    """The name, if it has the form of one. Raises `ValueError`."""
    source, _, rest = name.partition(":")
    if not source or not rest:
        raise ValueError(f"{name!r} is no environment: write SOURCE:ID, such as 'perdure:largest-number'")
    return name


def compact(stage: StageSection) -> str:
    """A stage on one line, for `config show`."""
    much = f"{stage.tasks} tasks, " if stage.tasks else ""
    order = f"{stage.order}, curriculum" if stage.curriculum else stage.order
    members = f", {stage.members} members" if stage.members else ""
    return f"{stage.name} ({much}{order}{members}): " + " + ".join(map(_compact, stage.environments))


def _compact(environment: StageEnvironment) -> str:
    limits = [f"weight {environment.weight:g}"] if environment.weight != 1 else []
    limits += [f"{environment.tasks} tasks"] if environment.tasks else []
    return f"{environment.full_name} ({', '.join(limits)})" if limits else environment.full_name
