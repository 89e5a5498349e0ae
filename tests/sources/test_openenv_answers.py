"""Answers of an OpenEnv server that the protocol does not allow, or only just. The server is a real one, with chosen answers."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from websockets.http11 import Request, Response
from websockets.sync.server import ServerConnection, serve

from perdure.envs.guarded import EnvironmentFault, GuardedEnv
from perdure.envs.registry import load_here as load
from perdure.memory.json_value import JsonObject

TEXT = {"type": "string"}
SCHEMA = json.dumps({"action": {"properties": {"message": TEXT}}, "observation": {"properties": {"text": TEXT}}})
SEEN: JsonObject = {"observation": {"text": "a room"}}


@contextmanager
def answering(reset: JsonObject, step: JsonObject) -> Iterator[str]:
    """The URL of a server that gives these answers."""

    def schema(connection: ServerConnection, request: Request) -> Response | None:
        return connection.respond(200, SCHEMA) if request.path == "/schema" else None

    def answer(connection: ServerConnection) -> None:
        for message in connection:
            asked = json.loads(message)["type"]
            connection.send(json.dumps({"type": "observation", "data": reset if asked == "reset" else step}))

    with serve(answer, "127.0.0.1", 0, process_request=schema) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.socket.getsockname()[1]}"
        finally:
            server.shutdown()
            thread.join(20)


@contextmanager
def episode(reset: JsonObject, step: JsonObject) -> Iterator[GuardedEnv]:
    with answering(reset, step) as url:
        env = GuardedEnv(load(f"openenv:{url}"))
        try:
            yield env
        finally:
            env.close()


@pytest.mark.parametrize(
    ("step", "missing"),
    [
        ({**SEEN, "reward": 1.0}, "done"),
        ({**SEEN, "done": True}, "reward"),
        (SEEN, "done and reward"),
        ({"done": True, "reward": 1.0}, "observation"),
    ],
)
def test_a_step_without_its_result_is_a_fault_of_the_environment(step: JsonObject, missing: str) -> None:
    with episode(SEEN, step) as env:
        env.reset(1)
        with pytest.raises(EnvironmentFault, match=rf"answered step without {missing} \(turn 1, answer 'go'\)$"):
            env.step("go")


def test_a_reset_needs_only_an_observation_and_a_reward_may_be_null() -> None:
    with episode(SEEN, {**SEEN, "done": False, "reward": None}) as env:
        assert env.reset(1) == "a room"
        outcome = env.step("go")
        assert (outcome.observation, outcome.reward, outcome.ended) == ("a room", 0.0, False)


def test_a_reset_without_an_observation_is_a_fault_of_the_environment() -> None:
    with (
        episode({"done": False, "reward": 0.0}, SEEN) as env,
        pytest.raises(EnvironmentFault, match=r"answered reset without observation$"),
    ):
        env.reset(1)
