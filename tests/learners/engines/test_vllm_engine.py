"""The vLLM engine with faulty servers: real ones, on a port of this machine, that break the protocol.

What a right server answers is tested with vLLM itself, in `test_policy_contract.py`.
"""

from __future__ import annotations

import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.learners.engines.vllm_speaker import Change, Speaker, every

from perdure.envs.policy import PolicyError, Request
from perdure.learners.engines.vllm_client import (
    Client,
    Server,
    base_name,
    read_server,
    restart_file,
    server_file,
    wait_for_server,
    write_server,
)
from perdure.learners.engines.vllm_engine import VllmEngine
from perdure.learners.engines.vllm_replicas import ServerLimits
from perdure.learners.weights.base_models import ModelFiles
from perdure.learners.weights.weight_sets import LoraPair
from perdure.memory.errors import InputError, RuntimeFailure, Unavailable
from perdure.memory.records import StepRef, VersionRef

BASE, STEP = VersionRef("v0"), StepRef(1, 0)
LIMITS = ServerLimits(start_s=2.0, answer_s=0.5)
ASK = [Request(prompt_ids=(5, 6, k), max_tokens=2 + k % 2, temperature=1.0) for k in range(4)]


@pytest.fixture
def speaker(llama: ModelFiles) -> Iterator[Speaker]:
    speaker = Speaker(base_name(llama))
    yield speaker
    speaker.stop()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    return tmp_path


@pytest.fixture
def failures() -> list[str]:
    return []


@pytest.fixture
def engine(speaker: Speaker, home: Path, llama: ModelFiles, failures: list[str]) -> Iterator[VllmEngine]:
    write_server(home, speaker.server)
    engine = VllmEngine(llama, home, LIMITS, failures.append)
    engine.load(BASE, {})
    yield engine
    engine.close()


def weights(value: float = 0.5) -> dict[str, LoraPair]:
    name = "model.layers.0.mlp.up_proj.weight"
    return {name: LoraPair(down_RI=torch.full((4, 32), value), up_OR=torch.full((64, 4), value), scale=2.0)}


def test_a_good_server_is_understood(engine: VllmEngine, speaker: Speaker) -> None:
    samples = engine.policy(BASE).generate(ASK)
    assert [len(sample.action_ids) for sample in samples] == [2, 3, 2, 3]
    assert {(sample.sampler, sample.finish, sample.logprobs[0]) for sample in samples} == {(BASE, "length", -0.5)}
    assert speaker.calls.count("/v1/completions") == 2, "one request for each length"
    before = len(speaker.sockets)
    for _ in range(5):
        engine.policy(BASE).generate(ASK[:1])
    assert len(speaker.sockets) == before, "connections are used again"


WRONG: dict[str, tuple[Change, type[Exception], str]] = {
    "another version": (lambda a: a | {"model": "v7"}, PolicyError, "answered as 'v7', but 'base-"),
    "no log-probs": (every(lambda c: c.update(logprobs=None)), PolicyError, "malformed"),
    "too few log-probs": (every(lambda c: c["logprobs"]["token_logprobs"].pop()), PolicyError, "log-probs"),
    "log-probs that are not numbers": (every(lambda c: c["logprobs"].update(token_logprobs=[None] * 3)), PolicyError, "log-probs"),
    "no tokens": (every(lambda c: c.update(token_ids=[])), PolicyError, "gave 0 tokens"),
    "another prompt": (every(lambda c: c.update(prompt_token_ids=[1])), PolicyError, "another prompt"),
    "too few answers": (lambda a: a | {"choices": a["choices"][:1]}, PolicyError, "malformed"),
    "too many answers": (lambda a: a | {"choices": [*a["choices"], a["choices"][0] | {"index": 9}]}, PolicyError, "answers to"),
    "stopped for no reason": (every(lambda c: c.update(finish_reason="stop")), PolicyError, "gives 'stop' as the reason"),
    "aborted": (every(lambda c: c.update(finish_reason="abort")), PolicyError, "gives 'abort' as the reason"),
    "no JSON": (lambda a: "<html>", PolicyError, "malformed"),
    "a refusal": (lambda a: 400, PolicyError, r"status 400\): no"),
    "the wrong key": (lambda a: 401, PolicyError, "status 401"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_answer_is_refused(engine: VllmEngine, speaker: Speaker, wrong: str) -> None:
    speaker.change, kind, message = WRONG[wrong]
    with pytest.raises(kind, match=message):
        engine.policy(BASE).generate(ASK)


@pytest.mark.parametrize("form", ["NaN", "refused"])
def test_log_probs_that_are_not_finite_are_asked_of_a_fresh_server_and_then_an_error(
    engine: VllmEngine, speaker: Speaker, home: Path, llama: ModelFiles, form: str
) -> None:
    """The NaN in the server's cache may come from another adapter."""
    spoils = every(lambda c: c["logprobs"].update(token_logprobs=[float("nan")] * len(c["token_ids"])))
    speaker.change = spoils if form == "NaN" else lambda answer: "Out of range float values are not JSON compliant: nan"
    if form == "refused":
        speaker.status = 400
    other = Speaker(base_name(llama), key="other")

    def keep() -> None:
        while not restart_file(home).exists():
            time.sleep(0.02)
        write_server(home, Server(url=other.server.url, key="other", pid=2))

    keeper = threading.Thread(target=keep)
    keeper.start()
    assert len(engine.policy(BASE).generate(ASK)) == 4
    assert restart_file(home).read_text() == "1"
    keeper.join()
    other.change, other.status = speaker.change, speaker.status
    restart_file(home).unlink()
    third = Speaker(base_name(llama), key="third")
    third.change, third.status = speaker.change, speaker.status
    keeper = threading.Thread(target=lambda: (time.sleep(0.3), write_server(home, Server(url=third.server.url, key="third", pid=3))))
    keeper.start()
    with pytest.raises(RuntimeFailure, match="has diverged; learn with a smaller lr"):
        engine.policy(BASE).generate(ASK)
    assert restart_file(home).read_text() == "3", "the next caller finds another one"
    keeper.join()
    other.stop()
    third.stop()


def test_a_server_that_hangs_is_unavailable(engine: VllmEngine, speaker: Speaker) -> None:
    speaker.hangs_s = 3.0
    started = time.monotonic()
    with pytest.raises(Unavailable, match=r"it hangs, or the batch is too large: raise vllm\.answer_timeout_s"):
        engine.policy(BASE).generate(ASK)
    assert time.monotonic() - started < 2.5


def test_a_closed_connection_is_tried_again(engine: VllmEngine, speaker: Speaker, failures: list[str]) -> None:
    answers: list[Change] = [lambda answer: None] * 2  # the first is on a connection that was idle, which is no failure
    speaker.change = lambda answer: answers.pop()(answer) if answers else answer
    assert len(engine.policy(BASE).generate(ASK[:1])) == 1
    assert failures == [
        "vLLM failed (no answer to /v1/completions: Remote end closed connection without response); the same server was asked again"
    ]


def test_an_error_of_the_server_is_tried_again_and_then_told(engine: VllmEngine, speaker: Speaker) -> None:
    speaker.change = lambda answer: 500
    with pytest.raises(PolicyError, match=r"status 500\): no"):
        engine.policy(BASE).generate(ASK[:1])
    assert speaker.calls.count("/v1/completions") == 3


def test_a_dead_server_is_waited_for(engine: VllmEngine, speaker: Speaker, home: Path, failures: list[str], llama: ModelFiles) -> None:
    """The new server, at another address, has no adapters yet: the engine loads its adapter there and asks again."""
    engine.load(STEP, weights())
    speaker.stop()
    server_file(home).unlink()
    other = Speaker(base_name(llama), key="other")
    threading.Timer(0.5, lambda: write_server(home, other.server)).start()
    samples = engine.policy(STEP).generate(ASK)
    assert [len(sample.action_ids) for sample in samples] == [2, 3, 2, 3]
    assert other.calls.count("/v1/load_lora_adapter") in (1, 2)
    assert any("a new one was asked again" in line for line in failures)
    assert any("the server has lost job-1-step-0-" in line for line in failures)
    other.stop()


def test_a_server_that_stays_dead_is_unavailable(engine: VllmEngine, speaker: Speaker) -> None:
    speaker.stop()
    started = time.monotonic()
    with pytest.raises(Unavailable, match=r"no vLLM server has answered .* in .* s: see logs/vllm\.log"):
        engine.policy(BASE).generate(ASK)
    assert time.monotonic() - started < 4, "two requests waited in turn"


def test_a_lost_adapter_is_loaded_once_more(engine: VllmEngine, speaker: Speaker, failures: list[str]) -> None:
    engine.load(STEP, weights())
    speaker.adapters.clear()
    assert len(engine.policy(STEP).generate(ASK[:1])) == 1
    assert len(failures) == 1


def test_an_adapter_has_one_name_for_ever_and_its_folder_goes_with_it(engine: VllmEngine, speaker: Speaker, home: Path) -> None:
    names = []
    for _ in range(3):
        engine.load(STEP, weights())
        ((name, path),) = speaker.adapters.items()
        names.append(name)
        assert Path(path).parent == home / "run" / "steps"
        engine.unload(STEP)
        assert not Path(path).exists()
    assert len(set(names)) == 3
    assert speaker.adapters == {}


def test_weights_that_are_not_finite_are_refused_before_they_are_served(engine: VllmEngine, speaker: Speaker, home: Path) -> None:
    with pytest.raises(InputError, match="not finite"):
        engine.load(STEP, weights(float("inf")))
    assert STEP not in engine
    assert list((home / "run" / "steps").iterdir()) == []
    assert "/v1/load_lora_adapter" not in speaker.calls


def test_a_server_of_another_model_is_refused(speaker: Speaker, home: Path, llama: ModelFiles) -> None:
    speaker.base = "base-of-something-else"
    write_server(home, speaker.server)
    with pytest.raises(InputError, match=r"serves base-of-something-else and not base-\w+ .*: restart it"):
        VllmEngine(llama, home, LIMITS)


def test_a_server_that_goes_as_soon_as_it_has_come_is_unavailable(speaker: Speaker, home: Path, llama: ModelFiles) -> None:
    speaker.leaves_after = 1
    write_server(home, speaker.server)
    with pytest.raises(Unavailable, match="stopped as soon as it had started: no answer to /v1/models"):
        VllmEngine(llama, home, LIMITS)


def test_a_server_that_refuses_the_key_is_no_server_of_ours(speaker: Speaker, home: Path) -> None:
    server = speaker.server
    write_server(home, Server(url=server.url, key="wrong", pid=1))
    with pytest.raises(RuntimeFailure, match="refuses the key"):
        wait_for_server(home, 1.0)


def test_a_sleeping_server_is_woken_before_it_is_asked(speaker: Speaker, home: Path, llama: ModelFiles) -> None:
    write_server(home, speaker.server)
    engine = VllmEngine(llama, home, ServerLimits(start_s=2.0, answer_s=0.5, sleeps=True))
    engine.load(BASE, {})
    engine.release_memory()
    assert speaker.asleep
    assert len(engine.policy(BASE).generate(ASK[:1])) == 1
    assert not speaker.asleep
    engine.release_memory()
    engine.load(STEP, weights())
    assert not speaker.asleep, "an adapter cannot be loaded into a server that sleeps"
    engine.close()


def test_only_the_user_can_read_the_file_with_the_servers_address_and_key(home: Path) -> None:
    assert read_server(home) is None
    server = Server(url="http://127.0.0.1:1", key="secret", pid=7)
    write_server(home, server)
    assert stat.S_IMODE(server_file(home).stat().st_mode) == 0o600
    assert read_server(home) == server
    assert "secret" not in repr(server)
    server_file(home).write_text("{")
    assert read_server(home) is None


def test_a_connection_that_the_server_has_closed_meanwhile_is_made_anew(speaker: Speaker) -> None:
    client = Client(speaker.server)
    assert client.get("/v1/models").status == 200
    speaker.cut()
    assert client.get("/v1/models").status == 200
    client.close()
