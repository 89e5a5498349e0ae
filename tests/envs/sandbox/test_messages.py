"""What one side writes the other reads as it was; any other document is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from perdure.envs.environment import Guarded, StepOutcome
from perdure.envs.guarded import EnvironmentFault
from perdure.envs.registry import load_here
from perdure.envs.sandbox import host_messages, worker_messages
from perdure.envs.sandbox.description import read_description, write_description
from perdure.envs.sandbox.host_messages import EndOrder, Forked, ForkRefused, LoadFailure, StartOrder
from perdure.envs.sandbox.wire import WireDocumentError
from perdure.envs.sandbox.worker_messages import (
    CloseQuestion,
    DigestQuestion,
    LongestQuestion,
    OracleQuestion,
    Question,
    ResetQuestion,
    RuleQuestion,
    StepQuestion,
)
from perdure.memory.json_value import JsonObject


def not_opened() -> Guarded:
    raise AssertionError("no episode is opened here")


def sent(document: JsonObject) -> JsonObject:
    received: JsonObject = json.loads(json.dumps(document))
    return received


@pytest.mark.parametrize(
    "question",
    [
        ResetQuestion(seed=7),
        StepQuestion(action="oracle"),
        OracleQuestion(),
        CloseQuestion(),
        RuleQuestion(rule="runs"),
        DigestQuestion(),
        LongestQuestion(),
    ],
)
def test_a_question_arrives_with_its_number(question: Question) -> None:
    assert worker_messages.read_question(sent(worker_messages.write_question(3, question))) == (3, question)


@pytest.mark.parametrize("document", [{}, {"n": 1}, {"step": "x"}, {"n": "1", "step": "x"}, {"n": 1, "step": 2}, {"n": 1, "reset": "7"}])
def test_what_is_not_a_question_is_refused(document: JsonObject) -> None:
    with pytest.raises(WireDocumentError):
        worker_messages.read_question(document)


def test_an_outcome_arrives_as_it_was_and_is_checked_again() -> None:
    outcome = StepOutcome(
        observation="\ud800 é",
        reward=0.25,
        terminated=True,
        truncated=False,
        success=None,
        invalid="no move",
        seat=1,
        rewards=(0.5, -0.5),
    )
    document = sent(worker_messages.write_outcome(outcome))
    assert worker_messages.read_outcome(document) == replace(outcome, observation="\ufffd é")
    inner = document["outcome"]
    assert isinstance(inner, dict)
    with pytest.raises(EnvironmentFault, match="finite"):
        worker_messages.read_outcome({"outcome": {**inner, "reward": float("nan")}})
    for name in inner:
        with pytest.raises(WireDocumentError, match=f"{name} is missing"):
            worker_messages.read_outcome({"outcome": {key: value for key, value in inner.items() if key != name}})


def test_orders_and_answers_of_a_host_arrive_as_they_were() -> None:
    order = StartOrder(name="py:a:B", parent=3, path=("/a", "/b"), memory_mib=4, cpu_s=5, network=True, unconfined=True)
    assert host_messages.read_start(host_messages.write_start(order)) == order
    end = EndOrder(worker=9, patience_s=0.5)
    assert host_messages.read_end(sent(host_messages.write_end(end))) == end
    for answer in (Forked(pid=9), ForkRefused(reason="too many")):
        assert host_messages.read_fork_answer(sent(host_messages.write_fork_answer(answer))) == answer
    for failure in (LoadFailure(unknown=True, reason="a"), LoadFailure(unknown=False, reason="b")):
        assert host_messages.read_failure(sent(host_messages.write_failure(failure))) == failure


@pytest.mark.parametrize(
    ("read", "document"),
    [
        (host_messages.read_fork_answer, {"pid": -1}),
        (host_messages.read_fork_answer, {"pid": 2**40}),
        (host_messages.read_fork_answer, {"pid": "9"}),
        (host_messages.read_status, {"status": None}),
        (host_messages.read_end, {"end": 9}),
        (worker_messages.read_texts, {"longest": "x"}),
        (worker_messages.read_digest, {"digest": 3}),
    ],
)
def test_a_field_of_another_type_is_refused(read: Callable[[JsonObject], object], document: JsonObject) -> None:
    with pytest.raises(WireDocumentError):
        read(document)


def test_a_description_has_all_of_an_environment_but_its_code() -> None:
    environment = load_here("perdure:door-code?shots=2&reward_high=2&step_timeout_s=4")
    document = sent(write_description(environment))
    described = read_description(document, environment.make, not_opened)
    assert write_description(described) == write_description(environment)
    assert (described.name, described.examples) == (environment.name, environment.examples)
    for name in document:
        with pytest.raises(WireDocumentError, match=name):
            read_description({key: value for key, value in document.items() if key != name}, environment.make, not_opened)
