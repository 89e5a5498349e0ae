"""Whatever an environment says, raises and pays is a checked outcome or a fault, and can be stored either way."""

from __future__ import annotations

import json
import math
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.envs import faulty

from perdure.envs.guarded import MOST_REWARD, EnvironmentFault, GuardedEnv
from perdure.envs.sandbox import worker_messages
from perdure.memory.records import score_of_return

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.complex_numbers() | st.binary() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
any_text = st.text(st.characters(min_codepoint=0, max_codepoint=0x10FFFF))
infos = st.dictionaries(st.sampled_from(["success", "seat", "rewards", "invalid_action"]), anything)
bounded = settings(max_examples=150, deadline=None, derandomize=True, database=None)


class Says(faulty.Counting):
    answer: Any = None
    error: BaseException | None = None

    def step(self, action: str) -> faulty.Stepped:
        if self.error is not None:
            raise self.error
        return self.answer  # type: ignore[no-any-return]


def stepped(answer: Any = None, error: BaseException | None = None, action: str = "x") -> None:
    """One step; its outcome or its fault must be of text that has UTF-8, and survive the way between two processes."""

    class One(Says):
        pass

    One.answer, One.error = answer, error
    env = GuardedEnv(faulty.environment(One))
    env.reset(1)
    said = ""
    try:
        outcome = env.step(action)
    except EnvironmentFault as fault:
        said = str(fault)
    if said:
        assert len(said.encode()) < 10_000
        return
    outcome.observation.encode()
    (outcome.invalid or "").encode()
    assert abs(outcome.reward) <= MOST_REWARD
    assert 0.0 <= score_of_return(math.fsum([outcome.reward] * 1000), -MOST_REWARD, MOST_REWARD) <= 1.0
    assert worker_messages.read_outcome(json.loads(json.dumps(worker_messages.write_outcome(outcome)))) == outcome


@bounded
@given(anything)
def test_any_object_from_a_step(answer: Any) -> None:
    stepped(answer)


@bounded
@given(any_text, st.floats() | anything, anything, anything, infos)
def test_any_values_in_a_step_of_the_right_form(text: str, reward: Any, terminated: Any, truncated: Any, info: dict[str, Any]) -> None:
    stepped((text, reward, terminated, truncated, info))


@bounded
@given(any_text, any_text, st.sampled_from([ValueError, KeyError, OSError, SystemExit, GeneratorExit, BaseException]))
def test_any_error_with_any_words_to_any_answer(words: str, action: str, kind: type[BaseException]) -> None:
    stepped(error=kind(words), action=action)


class Begins(faulty.Counting):
    answer: Any = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        return self.answer  # type: ignore[no-any-return]


@bounded
@given(anything | st.tuples(any_text | anything, st.dictionaries(st.sampled_from(["instructions", "seat"]), any_text | anything)))
def test_any_object_from_a_reset(answer: Any) -> None:
    class One(Begins):
        pass

    One.answer = answer
    env = GuardedEnv(faulty.environment(One))
    said = ""
    try:
        first = env.reset(1), env.seat, env.instructions
    except EnvironmentFault as fault:
        said = str(fault)
    if said:
        assert len(said.encode()) < 10_000
        return
    first[0].encode()
    (first[2] or "").encode()
    assert worker_messages.read_first(json.loads(json.dumps(worker_messages.write_first(*first)))) == first
