"""Faults that were found by using environments of others: time limits of their own, other forms of Gym, many at once, and awaited ones."""

from __future__ import annotations

import os
import signal
import threading
import time

import numpy as np
import pytest
from tests.envs.faulty import Counting, Stepped, environment

from perdure.envs.guarded import EnvironmentFault, open_episode
from perdure.envs.registry import load_here as load
from perdure.envs.scripted import fixed, play_scripted
from perdure.envs.time_limit import SECOND_ALARM, SECOND_SIGNAL
from perdure.memory.errors import InputError


class DisarmsTheTimer(Counting):
    """As a scorer with a time limit of its own does."""

    def step(self, action: str) -> Stepped:
        signal.alarm(5)
        signal.alarm(0)
        time.sleep(60)
        return "", 0.0, True, False, {}


class TakesTheSignal(Counting):
    def step(self, action: str) -> Stepped:
        signal.signal(signal.SIGALRM, lambda *_: None)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            time.sleep(1)
        return "", 0.0, True, False, {}


@pytest.mark.parametrize("kind", [DisarmsTheTimer, TakesTheSignal])
def test_found_a_call_that_uses_the_alarm_itself_is_interrupted_all_the_same(kind: type[Counting]) -> None:
    before = signal.getsignal(signal.SIGALRM)
    env = open_episode(environment(kind, step_timeout_s=0.2))
    env.reset(1)
    started = time.monotonic()
    with pytest.raises(EnvironmentFault, match=r"step took longer than 0.2 s \(turn 1, answer 'x'\) at test_found_in_environments.py:"):
        env.step("x")
    assert time.monotonic() - started < 40
    env.close()
    assert signal.getsignal(signal.SIGALRM) == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_found_a_second_alarm_that_comes_late_is_no_error() -> None:
    assert SECOND_SIGNAL is not None
    env = open_episode(environment(Counting, step_timeout_s=0.2))
    env.reset(1)
    os.kill(os.getpid(), SECOND_SIGNAL)
    time.sleep(0.05)
    assert SECOND_ALARM.deadline_s == float("inf")
    assert [thread.name for thread in threading.enumerate()].count("second alarm") == 1


class AsyncStep:
    """A class whose step must be awaited."""

    def reset(self) -> str:
        return "Say yes."

    async def step(self, action: str) -> tuple[str, float, bool]:
        return "", 1.0, True


class AsyncOracle(Counting):
    async def oracle(self) -> str:  # type: ignore[override]
        return "1"


def many() -> object:
    from gymnasium.vector import SyncVectorEnv

    return SyncVectorEnv([Counting, Counting])


class IntDone:
    def reset(self) -> str:
        return "Say yes."

    def step(self, action: str) -> tuple[str, float, int]:
        return "", 1.0, 1


class NumpyIntDone(IntDone):
    def step(self, action: str) -> tuple[str, float, int, dict[str, object]]:  # type: ignore[override]
        return "", 1.0, np.int64(1), {}  # type: ignore[return-value]


class OldReset(Counting):
    def reset(self, *, seed: int | None = None, options: object = None) -> str:  # type: ignore[override]
        super().reset(seed=seed)
        return "Say yes."


class OldStep(Counting):
    def step(self, action: str) -> tuple[str, float, bool, dict[str, object]]:  # type: ignore[override]
        return "", 1.0, True, {}


HERE = "py:tests.envs.test_found_in_environments"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("AsyncStep", "AsyncStep.step is async: write a plain method, which may call asyncio.run()"),
        ("AsyncOracle", "AsyncOracle.oracle is async"),
        ("many", "SyncVectorEnv is 2 environments at once: make one; play.width decides how many are played"),
    ],
)
def test_found_what_cannot_be_played_one_step_at_a_time_is_refused_with_the_way_out(name: str, says: str) -> None:
    with pytest.raises((InputError, EnvironmentFault)) as caught:
        play_scripted(load(f"{HERE}:{name}"), 1, fixed("yes"))
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("IntDone", "step returned (str, float, int): done must be a bool, so write bool(done)"),
        ("NumpyIntDone", "step returned (str, float, int64, dict): done must be a bool, so write bool(done)"),
        ("OldReset", "reset returned str, not (observation, info): write `return observation, {}`"),
        ("OldStep", "write `return observation, reward, done, False, info`, since the older form of Gym is not taken"),
    ],
)
def test_found_the_older_form_of_gym_is_told_what_to_write(name: str, says: str) -> None:
    env = open_episode(load(f"{HERE}:{name}"))
    with pytest.raises(EnvironmentFault) as caught:  # noqa: PT012
        env.reset(1)
        env.step("yes")
    assert says in str(caught.value)
