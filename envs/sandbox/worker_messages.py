"""The documents that this process and a worker exchange: questions with a number, and answers with the number of their question.

An environment can write to its worker's socket, so that every answer is checked as if the environment itself had written it. A document
that does not fit raises `WireDocumentError`; a step whose values are wrong raises `EnvironmentFault`, as in this process.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from perdure.envs.environment import StepOutcome
from perdure.envs.guarded import checked_instructions, checked_outcome, checked_seat, checked_text
from perdure.envs.sandbox.wire import WireDocumentError, field, list_field, text_field
from perdure.memory.json_value import JsonObject


@dataclass(frozen=True, slots=True, kw_only=True)
class ResetQuestion:
    """Begin the episode of this seed."""

    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StepQuestion:
    """Make a step."""

    action: str


@dataclass(frozen=True, slots=True)
class OracleQuestion:
    """Return the right action."""


@dataclass(frozen=True, slots=True)
class CloseQuestion:
    """Close the environment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleQuestion:
    """Return the findings of one rule of the check."""

    rule: str
    answers: tuple[str, ...] = ()
    """Those that the rule for given answers is to try."""


@dataclass(frozen=True, slots=True)
class DigestQuestion:
    """Return the hash of a few episodes."""


@dataclass(frozen=True, slots=True)
class LongestQuestion:
    """Return the texts of the longest of a few episodes."""


Question = ResetQuestion | StepQuestion | OracleQuestion | CloseQuestion | RuleQuestion | DigestQuestion | LongestQuestion


def write_question(n: int, question: Question) -> JsonObject:
    match question:
        case StepQuestion(action=action):
            return {"n": n, "step": action}
        case ResetQuestion(seed=seed):
            return {"n": n, "reset": seed}
        case OracleQuestion():
            return {"n": n, "oracle": True}
        case CloseQuestion():
            return {"n": n, "close": True}
        case RuleQuestion(rule=rule, answers=answers):
            return {"n": n, "rule": rule, "answers": list(answers)}
        case DigestQuestion():
            return {"n": n, "digest": True}
        case LongestQuestion():
            return {"n": n, "longest": True}


def read_question(document: JsonObject) -> tuple[int, Question]:
    """The number of a question, and the question."""
    match document:
        case {"n": int(n), "step": str(action)}:
            return n, StepQuestion(action=action)
        case {"n": int(n), "reset": int(seed)}:
            return n, ResetQuestion(seed=seed)
        case {"n": int(n), "oracle": _}:
            return n, OracleQuestion()
        case {"n": int(n), "close": _}:
            return n, CloseQuestion()
        case {"n": int(n), "rule": str(rule), "answers": [*answers]}:
            return n, RuleQuestion(rule=rule, answers=tuple(str(answer) for answer in answers))
        case {"n": int(n), "digest": _}:
            return n, DigestQuestion()
        case {"n": int(n), "longest": _}:
            return n, LongestQuestion()
    raise WireDocumentError("it is not a question")


def write_first(observation: str, seat: int, instructions: str | None) -> JsonObject:
    return {"observation": observation, "seat": seat, "instructions": instructions}


def read_first(document: JsonObject) -> tuple[str, int, str | None]:
    """The first observation, whose turn it is, and the system message of the task if it has one of its own."""
    observation, seat = checked_text("reset", field(document, "observation")), checked_seat(field(document, "seat"))
    return observation, seat, checked_instructions(field(document, "instructions"))


def write_outcome(outcome: StepOutcome) -> JsonObject:
    return {
        "outcome": {
            "observation": outcome.observation,
            "reward": outcome.reward,
            "terminated": outcome.terminated,
            "truncated": outcome.truncated,
            "success": outcome.success,
            "invalid": outcome.invalid,
            "seat": outcome.seat,
            "rewards": list(outcome.rewards),
        }
    }


def read_outcome(document: JsonObject) -> StepOutcome:
    outcome = field(document, "outcome")
    if not isinstance(outcome, dict):
        raise WireDocumentError("its answer has no outcome")
    try:
        return checked_outcome(
            observation=field(outcome, "observation"),
            reward=field(outcome, "reward"),
            terminated=field(outcome, "terminated"),
            truncated=field(outcome, "truncated"),
            success=field(outcome, "success"),
            invalid=field(outcome, "invalid"),
            seat=field(outcome, "seat"),
            rewards=field(outcome, "rewards"),
        )
    except ArithmeticError as error:  # a number too large for a float
        raise WireDocumentError("its answer has an outcome that cannot be read") from error


def write_action(action: str) -> JsonObject:
    return {"action": action}


def read_action(document: JsonObject) -> str:
    return checked_text("oracle", field(document, "action"))


def write_digest(digest: str, told: Sequence[str]) -> JsonObject:
    return {"digest": digest, "told": list(told)}


def read_digest(document: JsonObject) -> tuple[str, list[str]]:
    """The hash of a few episodes, and the beginnings of their texts."""
    return text_field(document, "digest"), [str(text) for text in list_field(document, "told")]


def write_texts(texts: Sequence[str]) -> JsonObject:
    return {"longest": list(texts)}


def read_texts(document: JsonObject) -> list[str]:
    return [str(text) for text in list_field(document, "longest")]


def write_fault(reason: str) -> JsonObject:
    return {"fault": reason}


def read_fault(document: JsonObject) -> str | None:
    """Why the environment failed; None if it did not."""
    return str(document["fault"]) if "fault" in document else None
