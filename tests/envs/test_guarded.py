from __future__ import annotations

import asyncio
import re
import signal
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
from tests.envs import faulty
from tests.envs.faulty import Counting, environment

from perdure.envs.environment import AnyText
from perdure.envs.guarded import EnvironmentFault, GuardedEnv


def fault_of(kind: type[Counting]) -> str:
    env = GuardedEnv(environment(kind, step_timeout_s=0.2))
    with pytest.raises(EnvironmentFault) as caught:  # noqa: PT012
        env.reset(1)
        env.step("x")
    env.close()
    return str(caught.value)


@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        (faulty.TextReward, "the reward is 'well done' of type str, not a number"),
        (faulty.NanReward, "the reward is nan, not a finite number"),
        (faulty.NoText, "step returned text of type int, not str"),
        (faulty.LooseSuccess, "info['success'] is 'yes' of type str, not a bool"),
        (
            faulty.OldForm,
            "step returned (str, float, bool, dict), not (observation, reward, terminated, truncated, info): "
            "write `return observation, reward, done, False, info`, since the older form of Gym is not taken",
        ),
        (faulty.FailsAtReset, "reset raised KeyError: 'no data'"),
        (faulty.FailsAtStep, "step raised ValueError: cannot read x"),
        (faulty.ExitsAtStep, "step raised SystemExit: 5"),
        (faulty.Mute, "step raised Unspeakable"),
    ],
)
def test_what_an_environment_does_wrong_is_said(kind: type[Counting], fault: str) -> None:
    said = fault_of(kind)
    assert said.partition(" (turn ")[0].partition(" at ")[0] == fault
    if kind is faulty.FailsAtStep:
        assert re.fullmatch(r".* \(turn 1, answer 'x'\) at faulty\.py:\d+ in step: raise ValueError\(.*", said)


def test_what_it_says_or_raises_is_always_text_that_can_be_stored() -> None:
    class Half(Counting):
        def step(self, action: str) -> faulty.Stepped:
            if action == "raise":
                raise ValueError("\udc80 half")
            return "\ud800", 0.0, False, False, {"invalid_action": "\udfff"}

    env = GuardedEnv(faulty.environment(Half))
    env.reset(1)
    outcome = env.step("x")
    assert (outcome.observation, outcome.invalid) == ("\ufffd", "\ufffd")
    with pytest.raises(EnvironmentFault, match="\ufffd half"):
        env.step("raise")


@pytest.mark.parametrize("reward", [1e308, -1e13])
def test_a_reward_whose_sum_could_overflow_is_a_fault(reward: float) -> None:
    class Rich(Counting):
        def step(self, action: str) -> faulty.Stepped:
            return "", reward, False, False, {}

    env = GuardedEnv(faulty.environment(Rich))
    env.reset(1)
    with pytest.raises(EnvironmentFault, match="at most 1e\\+12 is taken"):
        env.step("x")


@pytest.mark.parametrize("error", [asyncio.CancelledError, GeneratorExit, BaseException])
def test_errors_that_are_no_exceptions_are_faults_too(error: type[BaseException]) -> None:
    class Cancels(Counting):
        def step(self, action: str) -> faulty.Stepped:
            raise error("the judge timed out")

    env = GuardedEnv(faulty.environment(Cancels))
    env.reset(1)
    with pytest.raises(EnvironmentFault, match=f"{error.__name__}: the judge timed out"):
        env.step("x")


def test_a_call_that_hangs_is_interrupted_even_if_it_swallows_exceptions() -> None:
    started = time.monotonic()
    before = signal.getsignal(signal.SIGALRM)
    assert fault_of(faulty.Hangs).startswith("step took longer than 0.2 s (turn 1, answer 'x') at faulty.py:")
    assert time.monotonic() - started < 30
    assert signal.getsignal(signal.SIGALRM) == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_it_works_in_another_thread_without_the_time_limit() -> None:
    observations: list[str] = []
    thread = threading.Thread(target=lambda: observations.append(GuardedEnv(environment(Counting)).reset(1)))
    thread.start()
    thread.join()
    assert observations[0].isdigit()


@pytest.mark.parametrize("make", [bool, int, float, np.float32, np.int64, np.bool_])
def test_every_kind_of_number_is_a_reward(make: Callable[[int], float]) -> None:
    env = GuardedEnv(environment(Counting, make=lambda: Counting(reward=make(1))))
    env.reset(1)
    rewards = [env.step(env.oracle()).reward for _ in range(3)]
    assert rewards == [0.0, 0.0, 1.0]
    assert type(rewards[2]) is float


def test_it_is_never_stepped_after_its_end_or_before_its_beginning() -> None:
    env = GuardedEnv(environment(faulty.Changes))
    with pytest.raises(EnvironmentFault, match="before reset"):
        env.step("x")
    env.reset(1)
    assert env.step("x").ended
    with pytest.raises(EnvironmentFault, match="after the end"):
        env.step("x")


def test_what_it_prints_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    env = GuardedEnv(environment(faulty.Prints))
    env.reset(1)
    env.step("x")
    assert capsys.readouterr() == ("", "noise\n")


def test_a_failing_close_is_logged_and_done_once(caplog: pytest.LogCaptureFixture) -> None:
    env = GuardedEnv(environment(faulty.FailsAtClose))
    env.reset(1)
    env.close()
    env.close()
    [record] = caplog.records
    assert record.message.startswith("py:tests.envs.faulty:FailsAtClose: close raised OSError: already gone at faulty.py:")


def test_success_and_score_come_from_what_is_stated_else_from_the_return() -> None:
    scale = environment(Counting, reward_low=-1.0, reward_high=3.0, threshold=2.0)
    assert scale.judge(-1.0, True) == (True, 1.0)
    assert scale.judge(3.0, False) == (False, 0.0)
    assert scale.judge(1.0, None) == (False, 0.5)
    assert scale.judge(2.0, None) == (True, 0.75)
    assert scale.judge(9.0, None) == (True, 1.0)
    assert scale.judge(-9.0, None) == (False, 0.0)


def test_any_text_holds_every_string_and_nothing_else() -> None:
    space = AnyText(10)
    assert all(text in space for text in ("", "a b", "é答🙂", "\n"))
    assert all(thing not in space for thing in (1, None, b"a", "x" * 11))
    assert space.sample() in space


def test_members_in_this_process_that_hang_together_cost_about_one_time_limit() -> None:
    class Hangs(Counting):
        def step(self, action: str) -> faulty.Stepped:
            if action == "hang":
                time.sleep(60)
            if action == "slow":
                time.sleep(0.3)
            return super().step(action)

    hanging = environment(Hangs, name="py:tests:HangsTogether", step_timeout_s=3.0)
    other = environment(Counting, name="py:tests:Another", step_timeout_s=3.0)
    envs = [GuardedEnv(hanging) for _ in range(5)]
    for env in (*envs, beside := GuardedEnv(other)):
        env.reset(1)
    since = time.monotonic()
    for env, action in zip(envs, ("hang", "hang", "slow", "hang", "hang"), strict=True):
        env.send(action)
    beside.send("x")
    faults = 0
    for env in envs:
        try:
            env.receive()
        except EnvironmentFault:
            faults += 1
    assert faults == 4, "one that is slow and does not hang has time to answer"
    assert time.monotonic() - since < 3 * 3.0, "five limits are 15 s"
    assert beside.receive().observation, "the time of other environments is their own"
    asked_later = GuardedEnv(hanging)
    asked_later.reset(1)
    since = time.monotonic()
    with pytest.raises(EnvironmentFault, match="step took longer than 3 s"):
        asked_later.step("hang")
    assert time.monotonic() - since > 2.5, "what is asked later has the whole limit again"
