from __future__ import annotations

import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from perdure.envs.guarded import EnvironmentFault, GuardedEnv
from perdure.envs.registry import load_here as load
from perdure.envs.scripted import fixed, play_scripted
from perdure.memory.errors import InputError

pytestmark = pytest.mark.processes

SERVERS = """
import sys
from random import Random

import uvicorn
from openenv.core.env_server.http_server import create_fastapi_app
from openenv.core.env_server.interfaces import Environment
from openenv.core.env_server.types import Action, Observation, State


class Say(Action):
    message: str


class Heard(Observation):
    text: str = ""
    tries: int = 0


class Guess(Environment):
    SUPPORTS_CONCURRENT_SESSIONS = True

    def reset(self, seed=None, episode_id=None):
        self.number, self.tries = Random(seed).randrange(100), 0
        return Heard(text=f"which number comes after {self.number}?")

    def step(self, action, timeout_s=None):
        if action.message == "crash":
            raise RuntimeError("no such move")
        self.tries += 1
        right = action.message == str(self.number + 1)
        return Heard(text="right" if right else "again", tries=self.tries, done=right or self.tries == 3, reward=float(right))

    @property
    def state(self):
        return State()


class Press(Action):
    button: int


class Seen(Observation):
    lamps: list[bool] = []
    word: str = ""
    hint: str = ""


class Lamps(Environment):
    def reset(self):
        return Seen(lamps=[True, False], word="on", hint="press 1")

    def step(self, action):
        return Seen(lamps=[True, True], word="done", done=True, reward=action.button == 1)

    @property
    def state(self):
        return State()


class Both(Action):
    left: str = ""
    right: str = ""


port, name = int(sys.argv[1]), sys.argv[2]
kinds = {"guess": (Guess, Say, Heard, 8), "lamps": (Lamps, Press, Seen, 1), "both": (Lamps, Both, Seen, 1)}
env, action, observation, sessions = kinds[name]
uvicorn.run(create_fastapi_app(env, action, observation, max_concurrent_envs=sessions), host="127.0.0.1", port=port, log_level="warning")
"""


def serve(folder: Path, name: str) -> Iterator[str]:
    """A real server on loopback, on a port that was free a moment ago."""
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = folder / "servers.py"
    script.write_text(SERVERS)
    url = f"http://127.0.0.1:{port}"
    server = subprocess.Popen([sys.executable, str(script), str(port), name])
    try:
        until = time.monotonic() + 60
        while True:
            try:
                with urllib.request.urlopen(f"{url}/health", timeout=1):
                    break
            except OSError:
                assert server.poll() is None, "the server ended"
                assert time.monotonic() < until, "the server does not answer"
                time.sleep(0.1)
        yield url
    finally:
        server.terminate()
        server.wait(20)


@pytest.fixture(scope="module")
def guess(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    yield from serve(tmp_path_factory.mktemp("guess"), "guess")


@pytest.fixture(scope="module")
def lamps(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    yield from serve(tmp_path_factory.mktemp("lamps"), "lamps")


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    yield from serve(tmp_path_factory.mktemp("both"), "both")


def test_an_episode_is_played_over_the_wire(guess: str) -> None:
    environment = load(f"openenv:{guess}")
    assert environment.name == f"openenv:{guess}"
    env = GuardedEnv(environment)
    number = int(env.reset(7).removeprefix("which number comes after ").removesuffix("?"))
    wrong = env.step("none")
    assert (wrong.observation, wrong.reward, wrong.ended) == ("again", 0.0, False)
    right = env.step(str(number + 1))
    assert (right.observation, right.reward, right.terminated, right.invalid) == ("right", 1.0, True, None)
    env.close()


def test_seeds_arrive(guess: str) -> None:
    environment = load(f"openenv:{guess}")
    first = [play_scripted(environment, seed, fixed("x")) for seed in range(5)]
    assert first == [play_scripted(environment, seed, fixed("x")) for seed in range(5)]
    assert len({played.exchanges for played in first}) > 2


def test_episodes_that_are_played_at_once_do_not_meet(guess: str) -> None:
    environment = load(f"openenv:{guess}")
    envs = [GuardedEnv(environment) for _ in range(4)]
    numbers = [int(env.reset(seed).removeprefix("which number comes after ").removesuffix("?")) for seed, env in enumerate(envs)]
    assert [env.step(str(number + 1)).reward for env, number in zip(envs, numbers, strict=True)] == [1.0] * 4
    for env in envs:
        env.close()


def test_a_step_that_fails_on_the_server_is_a_fault_of_the_environment(guess: str) -> None:
    env = GuardedEnv(load(f"openenv:{guess}"))
    env.reset(1)
    with pytest.raises(EnvironmentFault, match="failed at step: no such move"):
        env.step("crash")
    env.close()


def test_a_server_without_a_free_session_is_a_fault_of_the_environment(lamps: str) -> None:
    environment = load(f"openenv:{lamps}")
    one, two = GuardedEnv(environment), GuardedEnv(environment)
    one.reset(1)
    with pytest.raises(EnvironmentFault, match="capacity"):
        two.reset(1)
    one.close()
    two.close()


def test_fields_are_shown_by_name_and_actions_have_their_type(lamps: str) -> None:
    env = GuardedEnv(load(f"openenv:{lamps}"))
    assert env.reset(1) == "lamps: [true, false]\nword: on\nhint: press 1"
    outcome = env.step(" 1.")
    assert (outcome.reward, outcome.ended) == (1.0, True)
    env.close()
    env = GuardedEnv(load(f"openenv:{lamps}?observation=word"))
    assert env.reset(1) == "on"
    refused = env.step("the first one")
    assert (refused.reward, refused.terminated, refused.success) == (0.0, True, False)
    assert refused.invalid is not None
    assert "button" in refused.invalid
    env.close()


def test_where_an_action_has_several_fields_one_must_be_named(both: str, lamps: str) -> None:
    with pytest.raises(InputError, match="its action has several fields: set action=NAME, one of left, right"):
        load(f"openenv:{both}")
    assert load(f"openenv:{both}?action=left").turn_limit == 20
    with pytest.raises(InputError, match="its observation has no field 'words'"):
        load(f"openenv:{lamps}?observation=words")


def test_what_does_not_answer_is_said_in_one_line() -> None:
    with pytest.raises(InputError, match=r"does not answer as a server of OpenEnv: .* Is it running\?"):
        load("openenv:http://127.0.0.1:9")
    with pytest.raises(InputError, match="is not a server: write openenv:http://HOST:PORT"):
        load("openenv:echo")
