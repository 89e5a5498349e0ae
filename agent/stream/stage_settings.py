"""What may stand under `[[stream.stages]]`, and which combinations mean nothing. What a stage draws is `stream.py`."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from perdure.memory.stages import Order

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


class StageEnvironment(BaseModel):
    """An environment of a stage. One that is given by its name alone has the defaults."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: str = Field(description="the environment; options may follow as in ENV?key=value")
    options: dict[str, Any] = Field(default_factory=dict, description="options of the environment, besides those in its name")
    weight: float = Field(default=1.0, gt=0, le=1e6, description="how often it comes, next to the others")
    tasks: int = Field(default=0, ge=0, description="the most tasks of it in this stage; 0 for no limit")

    @field_validator("name")
    @classmethod
    def _is_one(cls, name: str) -> str:
        return environment_name(name)

    @field_validator("options")
    @classmethod
    def _are_plain(cls, options: dict[str, Any]) -> dict[str, Any]:
        for key, value in options.items():
            if not isinstance(value, (bool, int, float, str)):
                raise ValueError(f"option {key} = {value!r} is no number, text, true or false")
        return options

    @property
    def full_name(self) -> str:
        """The name with the options in it."""
        if not self.options:
            return self.name
        from perdure.envs.registry import with_options  # loads the environments, which most commands do not need

        return with_options(self.name, self.options)


class StageSettings(BaseModel):
    """A stretch of the stream with one mix of environments."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: str = Field(min_length=1, max_length=60, description="tasks are counted under it: under another name a stage begins anew")
    environments: tuple[StageEnvironment, ...] = Field(
        strict=False, min_length=1, description="names, or tables with name, options, weight and tasks"
    )
    tasks: int = Field(default=0, ge=0, description="the stage ends after so many; 0 for when its environments have had theirs")
    order: Order = Field(default="interleaved", description=f"how environments follow each other: {WAYS}")
    members: int = Field(default=0, ge=0, le=256, description="episodes of each task; 0 for play.members")
    curriculum: bool = Field(default=False, description="draw the more often what is neither won nor lost always")

    @field_validator("environments", mode="before")
    @classmethod
    def _as_tables(cls, given: Any) -> Any:
        return [{"name": one} if isinstance(one, str) else one for one in given] if isinstance(given, (list, tuple)) else given

    @model_validator(mode="after")
    def _makes_sense(self) -> StageSettings:
        names = [one.full_name for one in self.environments]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"stage {self.name!r} names {name!r} {names.count(name)} times; give it once, with a weight")
        if self.curriculum and self.order != "shuffled":
            raise ValueError(f"stage {self.name!r}: a curriculum decides by chance what comes next; it needs order = 'shuffled'")
        if self.order in ("sequential", "permuted"):
            self._follow_each_other()
        budgets = [one.tasks for one in self.environments]
        if all(budgets) and self.tasks > sum(budgets):
            raise ValueError(f"stage {self.name!r} is to have {self.tasks} tasks, but its environments have {sum(budgets)} in all")
        return self

    @property
    def endless(self) -> bool:
        """Whether no stage can come after it."""
        return not self.tasks and not all(one.tasks for one in self.environments)

    def as_json(self) -> dict[str, Any]:
        """What `config show` prints: every environment by its full name."""
        environments = [{"name": one.full_name, "weight": one.weight, "tasks": one.tasks} for one in self.environments]
        return self.model_dump() | {"environments": environments}

    def _follow_each_other(self) -> None:
        last = len(self.environments) - 1 if self.order == "sequential" else len(self.environments)
        for place, one in enumerate(self.environments):
            if one.weight != 1.0:
                raise ValueError(f"stage {self.name!r}: weights mean nothing where order = {self.order!r}; give {one.name!r} some tasks")
            if not one.tasks and place < last:
                raise ValueError(
                    f"stage {self.name!r}: with order = {self.order!r} nothing comes after {one.name!r}; "
                    f"say how many tasks it has, as in {{name = {one.name!r}, tasks = 50}}"
                )


def environment_name(name: str) -> str:
    """The name as it is, where it has the form of one. Raises `ValueError`."""
    source, _, rest = name.partition(":")
    if not source or not rest:
        raise ValueError(f"{name!r} is no environment: write SOURCE:ID, such as 'perdure:largest-number'")
    return name


def compact(stage: dict[str, Any]) -> str:
    """A stage, as `config show` has it, on one line."""
    much = f"{stage['tasks']} tasks, " if stage["tasks"] else ""
    how = f"{stage['order']}, curriculum" if stage["curriculum"] else stage["order"]
    members = f", {stage['members']} members" if stage["members"] else ""
    return f"{stage['name']} ({much}{how}{members}): " + " + ".join(map(_compact, stage["environments"]))


def _compact(one: dict[str, Any]) -> str:
    limits = [f"weight {one['weight']:g}"] if one["weight"] != 1 else []
    limits += [f"{one['tasks']} tasks"] if one["tasks"] else []
    return f"{one['name']} ({', '.join(limits)})" if limits else str(one["name"])
