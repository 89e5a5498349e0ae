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
from perdure.envs.sandbox.sandbox_hints import with_hint
from perdure.envs.sandbox.sandbox_settings import Allowance, Sandbox
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


def test_one_environment_may_have_other_limits_than_its_source_and_the_rest() -> None:
    only = {"py:": Allowance(memory_mib=4096, variables=("A",)), "py:shop:Shop": Allowance(network=True, cpu_s=9, variables=("B",))}
    sandbox = Sandbox(variables=("C",), only=only)
    shop, other, gym = (sandbox.of(name) for name in ("py:shop:Shop?x=1", "py:shop:Other", "gym:X-v0"))
    assert (shop.memory_mib, shop.network, shop.cpu_s, shop.variables) == (4096, True, 9, ("C", "A", "B"))
    assert (other.memory_mib, other.network, other.cpu_s, other.variables) == (4096, False, 300, ("C", "A"))
    assert (gym.memory_mib, gym.network, gym.variables) == (2048, False, ("C",))


@pytest.mark.parametrize(
    ("reason", "hint"),
    [
        ("being made raised FileNotFoundError: [Errno 2] No such file or directory: 'tickets.csv'", "Path(__file__).parent"),
        ("reset raised OperationalError: no such table: item", "Path(__file__).parent"),
        ("step raised OSError: [Errno 30] Read-only file system: 'log'", "only in its working folder"),
        ("X cannot be made: RuntimeError: set MY_API_KEY", "[sandbox] variables"),
        ("textarena:Wordle-v0 does not work here: LookupError: Resource 'words' not found.", "NLTK_DATA"),
        ("reset raised ConnectionError: Connection refused. Is it running?", "network = true"),
        ("b'Error occurred during initialization of VM\\n'", "sandbox.memory_mib"),
        ("SyntaxError: f-string: unmatched '['", "newer Python"),
    ],
)
def test_an_error_of_the_sandbox_says_what_to_do(reason: str, hint: str) -> None:
    assert hint in with_hint(reason)
    assert with_hint(reason).startswith(reason)
    assert with_hint("step raised IndexError: list index out of range") == "step raised IndexError: list index out of range"
