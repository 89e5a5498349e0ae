"""One episode of one environment, behind a guard: what comes out is checked, and whatever goes wrong is an `EnvironmentFault`.

It holds the time limit (in the main thread of a process; elsewhere a call that hangs cannot be interrupted), sends what an
environment prints to stderr, refuses a step after the end, and knows nothing of policies.
"""

from __future__ import annotations

import logging
import math
import signal
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from numbers import Real
from types import FrameType
from typing import Any, TypeVar, cast

import numpy as np

from perdure.envs.environment import Environment, TextEnv

T = TypeVar("T")
log = logging.getLogger("perdure.envs")

MOST_CHARACTERS = 1_000_000
"""Of one observation. No model here reads a hundredth of that."""

MOST_WORDS = 2000
"""Characters of a fault: its words may be the environment's."""

NO_ORACLE = "it has no oracle()"
"""How the fault begins of one that is asked for the right action and knows none."""


class EnvironmentFault(Exception):
    """The environment failed, or returned what cannot be used. It says nothing about the policy."""

    def __init__(self, message: str) -> None:
        super().__init__(message if len(message) <= MOST_WORDS else f"{message[:MOST_WORDS]}...")


class OverTime(BaseException):
    """A call took too long. Not an `Exception`, so that an environment that catches those does not swallow it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one step led to."""

    observation: str
    reward: float
    terminated: bool
    truncated: bool
    success: bool | None
    """`info["success"]`, where the environment states it."""
    invalid: str | None = None
    """Why the answer was no action: `info["invalid_action"]`, a reason or True."""
    seat: int = 0
    """Of a game for several: whose turn it is now, by `info["seat"]`. Seat 0 is judged: `reward` and `success` are its own."""
    rewards: tuple[float, ...] = ()
    """At the end of a game for several: the return of each seat, by `info["rewards"]`."""

    @property
    def ended(self) -> bool:
        return self.terminated or self.truncated


class Guarded(ABC):
    """A fresh environment for one episode: `reset`, `step` until it has ended, `close`. Only what gives something back raises, and that
    is `EnvironmentFault`.

    `begin` and `send` say what is wanted, `first` and `receive` wait for it: environments in processes of their own work at the same time.
    """

    seat = 0
    """Whose turn it is, of a game for several; 0 where the environment has one seat."""
    _highest_seat = 0

    @abstractmethod
    def begin(self, seed: int) -> None:
        """Ask for the task of this seed."""

    @abstractmethod
    def first(self) -> str:
        """Its first observation."""

    @abstractmethod
    def send(self, action: str) -> None:
        """Act."""

    @abstractmethod
    def receive(self) -> Outcome:
        """What the action led to; the reward is a finite float."""

    @abstractmethod
    def oracle(self) -> str:
        """The right action now, by the environment's own `oracle()`."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the environment. A failure here is logged: what the episode came to stands."""

    def reset(self, seed: int) -> str:
        """Begin, and wait for the first observation."""
        self.begin(seed)
        return self.first()

    def step(self, action: str) -> Outcome:
        """Act, and wait for what it leads to."""
        self.send(action)
        return self.receive()

    def _begun(self, seat: int) -> None:
        """Note who is the first to move."""
        self._highest_seat = self.seat = seat

    def _moved(self, outcome: Outcome) -> None:
        """Note whose turn it is now, or that all have their rewards."""
        if outcome.ended and self._highest_seat and len(outcome.rewards) <= self._highest_seat:
            raise EnvironmentFault(
                f"info['rewards'] at the end has {len(outcome.rewards)} rewards, but seat {self._highest_seat} has played"
            )
        self.seat = outcome.seat
        self._highest_seat = max(self._highest_seat, outcome.seat)


def opened(environment: Environment) -> Guarded:
    """An episode of an environment, yet to begin, wherever it runs."""
    return GuardedEnv(environment) if environment.apart is None else environment.apart()


class GuardedEnv(Guarded):
    """An episode in this process."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._env: TextEnv | None = None
        self._ended = True
        self._seed = 0
        self._action = ""

    def begin(self, seed: int) -> None:
        self._seed = seed

    def first(self) -> str:
        seed = self._seed
        self._env = self._call("being made", self._environment.make)
        env = self._env
        answer = self._call("reset", lambda: env.reset(seed=seed))
        if not (isinstance(answer, tuple) and len(answer) == 2):
            raise EnvironmentFault(f"reset returned {type(answer).__name__}, not (observation, info)")
        self._ended = False
        self._begun(seat_of(answer[1]))
        return text_of("reset", answer[0])

    def send(self, action: str) -> None:
        self._action = action

    def receive(self) -> Outcome:
        env, action = self._env, self._action
        if env is None or self._ended:
            raise EnvironmentFault("step was called before reset or after the end of the episode")
        answer = self._call("step", lambda: env.step(action))
        if not (isinstance(answer, tuple) and len(answer) == 5 and isinstance(answer[4], dict)):
            raise EnvironmentFault(f"step returned {type(answer).__name__}, not (observation, reward, terminated, truncated, info)")
        try:
            outcome = outcome_of(*answer)
        except (TypeError, ValueError, ArithmeticError) as error:  # such as a truth value that an array does not have
            raise EnvironmentFault(f"step returned what cannot be read: {described(error)}") from error
        self._moved(outcome)
        self._ended = outcome.ended
        return outcome

    def oracle(self) -> str:
        oracle = None if self._env is None else oracle_of(self._env)
        if oracle is None:
            raise EnvironmentFault(f"{NO_ORACLE}, or oracle was called before reset")
        return text_of("oracle", self._call("oracle", oracle))

    def close(self) -> None:
        env, self._env = self._env, None
        if env is not None:
            try:
                self._call("close", env.close)
            except EnvironmentFault as fault:
                log.warning("%s: %s", self._environment.name, fault)

    def _call(self, what: str, function: Callable[[], T]) -> T:
        timeout_s = self._environment.step_timeout_s
        try:
            with redirect_stdout(sys.stderr), _alarm(timeout_s):
                return function()
        except OverTime:
            raise EnvironmentFault(f"{what} took longer than {timeout_s:g} s") from None
        except (Exception, SystemExit) as error:
            raise EnvironmentFault(f"{what} raised {described(error)}") from error


def described(error: BaseException) -> str:
    """An error of somebody else's code in words, even where it cannot say them itself."""
    try:
        return f"{type(error).__name__}: {error}".removesuffix(": ")
    except Exception:  # noqa: BLE001 - its own __str__ fails
        return type(error).__name__


def oracle_of(env: TextEnv) -> Callable[[], str] | None:
    """The environment's `oracle`, where it has one."""
    return cast("Callable[[], str] | None", getattr(env.unwrapped, "oracle", None))


@contextmanager
def _alarm(timeout_s: float) -> Iterator[None]:
    """Raises `OverTime` inside the block once it has run too long, and again each second should the block catch that."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(signum: int, frame: FrameType | None) -> None:
        raise OverTime

    before = signal.signal(signal.SIGALRM, ring)
    try:
        signal.setitimer(signal.ITIMER_REAL, timeout_s, 1.0)
        yield
    finally:
        try:
            signal.setitimer(signal.ITIMER_REAL, 0)
        finally:  # it may ring once more just before
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)


def outcome_of(observation: object, reward: object, terminated: object, truncated: object, info: Mapping[str, Any]) -> Outcome:
    """What a step returned, checked. Raises `EnvironmentFault`."""
    success = info.get("success")
    if not isinstance(success, (bool, np.bool_, type(None))):
        raise EnvironmentFault(f"info['success'] is {success!r} of type {type(success).__name__}, not a bool")
    return Outcome(
        observation=text_of("step", observation),
        reward=_finite(reward),
        terminated=bool(terminated),
        truncated=bool(truncated),
        success=None if success is None else bool(success),
        invalid=_invalid(info.get("invalid_action")),
        seat=seat_of(info),
        rewards=_rewards(info.get("rewards", ())),
    )


def text_of(what: str, text: object) -> str:
    """A text that is one, and of a size that can be read. Raises `EnvironmentFault`."""
    if not isinstance(text, str):
        raise EnvironmentFault(f"{what} returned text of type {type(text).__name__}, not str")
    if len(text) > MOST_CHARACTERS:
        raise EnvironmentFault(f"{what} returned {len(text)} characters; at most {MOST_CHARACTERS} are read")
    return str(text)


def _invalid(stated: object) -> str | None:
    if isinstance(stated, str):
        return stated[:MOST_WORDS] or None
    return "not an action" if isinstance(stated, (bool, np.bool_)) and stated else None


def seat_of(info: object) -> int:
    """Whose turn it is, by `info["seat"]`. Raises `EnvironmentFault`."""
    seat = info.get("seat", 0) if isinstance(info, dict) else 0
    if isinstance(seat, bool) or not isinstance(seat, int | np.integer) or seat < 0:
        raise EnvironmentFault(f"info['seat'] is {seat!r}, not a number from 0")
    return int(seat)


def _rewards(rewards: object) -> tuple[float, ...]:
    if not isinstance(rewards, (list, tuple)):
        raise EnvironmentFault(f"info['rewards'] is of type {type(rewards).__name__}, not a list with the return of each seat")
    return tuple(_finite(reward) for reward in rewards)


def _finite(reward: object) -> float:
    if not isinstance(reward, (Real, np.bool_)):
        raise EnvironmentFault(f"the reward is {reward!r} of type {type(reward).__name__}, not a number")
    value = float(reward)
    if not math.isfinite(value):
        raise EnvironmentFault(f"the reward is {value}, not a finite number")
    return value
