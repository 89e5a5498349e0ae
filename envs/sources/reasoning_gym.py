"""Datasets of Reasoning Gym: one question, one answer.

What reasoning-gym 0.1.25 does (each point was seen by running it), and how it is handled here:
- Item i of seed s is item i-1 of seed s+1, so that neighbouring seeds share their questions: here all items form one sequence, and each
  task's seed has a block of `BLOCK` of them. The splits of seeds are thereby ranges of items.
- Small datasets ask the same question in many items: a question is split by its text too, as in the built-in environments, and items of a
  block are skipped until one belongs to the seed's split.
- Some datasets draw from the global generators: every call runs on the task's own states, and the caller's are restored.
- Scorers raise on nonsense (prime_factorization: `ValueError` for `hello`): the answer is then wrong, and `info["scorer_error"]` says why.
- The default scorer pays a right answer inside other words by its share of the text (`The answer is 6.` .06), others pay .05 for
  any answer in the right form: `success` is whether the score reached 1.
- Some datasets have no answer, only a scorer: they have no oracle.
"""

from __future__ import annotations

import dataclasses
import json
from ast import literal_eval
from functools import cache, lru_cache
from types import ModuleType
from typing import Any

import gymnasium

from perdure.envs.answers import bare
from perdure.envs.environment import AnyText, Info, ResetResult, StepResult, TextEnv
from perdure.envs.environment_names import Options
from perdure.envs.guarded import describe_error
from perdure.envs.seeds import SPLITS, split_by_content, split_of
from perdure.envs.sources.factory import EnvironmentFactory, plain_default
from perdure.envs.sources.packages import imported, unknown
from perdure.envs.sources.random_state import Generators
from perdure.memory.errors import InputError

BLOCK = 128
"""Items per task. No question of a split with 10 % of them is among these in one of 700,000 tasks."""
REFUSED = {
    "composite": "name its datasets one by one, as environments of their own",
    "game_of_life_halting": "its scorer pays 1 for any text",
    "pool_matrix": "it seeds NumPy with the number of the item, which must stay below 2**32, so that its items cannot be split",
}
NO_ANSWER = {"boxnet", "graph_color", "propositional_logic", "rubiks_cube", "rush_hour"}
OURS = ("seed", "size")
"""Fields of every dataset that are set here."""
SAMPLES = 4
LEAST_TOKENS, SPARE_TOKENS, MOST_TOKENS = 16, 8, 512


def find(id_: str) -> EnvironmentFactory:
    """The dataset of a name.

    Raises `UnknownError` if Reasoning Gym does not have it, and `InputError` with the reason if it is not offered.
    """
    datasets = _library().factory.DATASETS
    if id_ not in datasets:
        raise unknown("dataset of Reasoning Gym", id_, datasets)
    if id_ in REFUSED:
        raise InputError(f"reasoning_gym:{id_} is not offered: {REFUSED[id_]}")
    defaults = {field.name: _default(field) for field in dataclasses.fields(datasets[id_][1]) if field.name not in OURS}
    kind = DatasetQuestion if id_ in NO_ANSWER else AnsweredQuestion

    def make(**options: Any) -> TextEnv:
        return kind(id_, {name: _as_declared(id_, name, value, defaults[name]) for name, value in options.items()})

    return EnvironmentFactory(make=make, options={name: plain_default(value) for name, value in defaults.items()})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DatasetItem:
    """One item of a dataset."""

    question: str
    answer: str
    entry: Any
    """The item as the dataset gave it; its scorer reads it."""


class DatasetQuestion(gymnasium.Env[str, str]):
    """One question of a dataset; the answer ends the episode."""

    observation_space = action_space = AnyText()
    instructions = "Reply with only the final answer, without any other words."
    turn_limit = 1

    def __init__(self, id_: str, options: Options) -> None:
        self._id, self._options = id_, repr(options)
        self._generators = Generators()
        self._dataset: Any = None
        self._item: DatasetItem | None = None
        self.max_tokens = _max_tokens(id_, self._options)

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> ResetResult:
        super().reset(seed=seed)
        number = int(self.np_random.integers(len(SPLITS["train"]))) if seed is None else seed
        self._generators.seed(number)
        self._dataset, self._item = _draw(self._id, self._options, number)
        return self._item.question, {}

    def step(self, action: str) -> StepResult:
        if self._item is None:
            raise RuntimeError("this episode has ended: call reset() before the next step")
        item, self._item = self._item, None
        scores: list[float] = []
        info: Info = {}
        for text in dict.fromkeys((action.strip(), bare(action))):
            try:
                with self._generators:
                    scores.append(float(self._dataset.score_answer(text, item.entry)))
            except Exception as error:  # noqa: BLE001 - a scorer that raises means a wrong answer
                info["scorer_error"] = describe_error(error)
        reward = max(scores, default=0.0)
        return "", reward, True, False, {**info, "success": reward >= 1}


class AnsweredQuestion(DatasetQuestion):
    """One question of a dataset with answers."""

    def oracle(self) -> str:
        if self._item is None:
            raise RuntimeError("oracle() was called before reset or after the end")
        return self._item.answer


@lru_cache(maxsize=32)
def _draw(id_: str, options: str, seed: int) -> tuple[Any, DatasetItem]:
    """The dataset and the item of a task's seed. Cached, because the same task is attempted several times, and some datasets take a tenth
    of a second to make."""
    split = split_of(seed)
    generators = Generators()
    generators.seed(seed)
    with generators:
        dataset = _library().create_dataset(id_, seed=seed * BLOCK, size=BLOCK, **literal_eval(options))
        for index in range(BLOCK):
            entry = dataset[index]
            if split_by_content(entry["question"]) == split:
                return dataset, DatasetItem(question=str(entry["question"]), answer=str(entry["answer"]), entry=entry)
    raise InputError(f"reasoning_gym:{id_} has no {split} question with these options: choose options with more different questions")


@cache
def _max_tokens(id_: str, options: str) -> int:
    """Tokens for an answer: the number of characters of the longest of a few answers, and some more."""
    first = SPLITS["train"][-1] * BLOCK
    generators = Generators()
    with generators:
        dataset = _library().create_dataset(id_, seed=first, size=SAMPLES, **literal_eval(options))
        answers = [dataset[index]["answer"] for index in range(SAMPLES)]
    if id_ in NO_ANSWER:
        return MOST_TOKENS
    return max(LEAST_TOKENS, min(MOST_TOKENS, max(map(len, map(str, answers))) + SPARE_TOKENS))


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    return None if field.default_factory is dataclasses.MISSING else field.default_factory()


def _as_declared(id_: str, name: str, value: Any, default: Any) -> Any:
    """The value of an option in the type that its dataset declares, if that is a list, a tuple or a dictionary."""
    wanted = list if isinstance(default, tuple) else type(default)
    if default is not None and not isinstance(default, bool | int | float | str) and not isinstance(value, wanted):
        raise InputError(
            f"reasoning_gym:{id_}: option {name}={value!r} is not of type {wanted.__name__}, as in {name}={json.dumps(default)}"
        )
    return tuple(value) if isinstance(default, tuple) else value


def _library() -> ModuleType:
    return imported("reasoning_gym")
