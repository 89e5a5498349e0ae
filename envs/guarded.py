"""One episode of one environment, behind a guard: what it returns is checked, and every failure is an `EnvironmentFault`.

The guard enforces the time limit (in the main thread of a process; in any other a call that hangs cannot be interrupted), sends what an
environment prints to stderr, and refuses a step after the end. It knows nothing of policies.
"""

from __future__ import annotations

import logging
import math
import sys
import sysconfig
import time
import traceback
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import TypeVar, cast

import numpy as np

from perdure.envs.environment import Environment, Guarded, StepOutcome, TextEnv
from perdure.envs.time_limit import OverTime, time_limit
from perdure.memory.errors import PerdureError
from perdure.memory.json_value import storable

T = TypeVar("T")
log = logging.getLogger("perdure.envs")

MOST_CHARACTERS = 1_000_000
"""Of one observation. No model here reads a hundredth of that."""

MOST_REWARD = 1e12
"""Of one reward and of a stated range: sums and squares of larger ones overflow, or lose all others beside them."""

MOST_WORDS = 2000
"""Characters of a fault's message, which may quote the environment."""

LATE_S = 0.5
"""What a call of a trusted environment may take at least, if its time ran out while another episode of the environment hung."""

_hung_at: dict[str, float] = {}
"""When a call of each environment in this process last took too long, on the monotonic clock."""

MOST_ERROR, MOST_SHOWN = 1500, 80
"""Characters of an error's own message; of one answer or line of code beside it."""

OURS = (__file__, str(Path(__file__).with_name("time_limit.py")))
"""Files that are no place in an environment."""

NO_ORACLE = "it has no oracle()"
"""How the fault of an environment without `oracle()` begins."""


class EnvironmentFault(Exception):
    """The environment failed, or returned something unusable. The policy is not at fault."""

    def __init__(self, message: str) -> None:
        super().__init__(storable(message if len(message) <= MOST_WORDS else f"{message[:MOST_WORDS]}..."))


@dataclass(slots=True)
class SeatTurn:
    """Whose turn it is in an episode."""

    seat: int = 0
    highest: int = 0

    def begin(self, seat: int) -> None:
        self.seat = self.highest = seat

    def move(self, outcome: StepOutcome) -> None:
        """Take over whose turn it is now. Raises `EnvironmentFault` if the game has ended without a reward for each seat."""
        if outcome.ended and self.highest and len(outcome.rewards) <= self.highest:
            raise EnvironmentFault(f"info['rewards'] at the end has {len(outcome.rewards)} rewards, but seat {self.highest} has played")
        self.seat = outcome.seat
        self.highest = max(self.highest, outcome.seat)


def open_episode(environment: Environment) -> Guarded:
    """A new episode of an environment, in this process or in the environment's own."""
    return GuardedEnv(environment, second_alarm=True) if environment.open_remote is None else environment.open_remote()


class GuardedEnv(Guarded):
    """An episode in this process. It has a second alarm if nothing outside of this process would end a call that hangs."""

    def __init__(self, environment: Environment, *, second_alarm: bool = False) -> None:
        self._environment = environment
        self._second_alarm = second_alarm
        self._env: TextEnv | None = None
        self._turn = SeatTurn()
        self._ended = True
        self._seed = 0
        self._action = ""
        self._steps = 0
        self._asked_s = 0.0
        self._instructions: str | None = None

    @property
    def seat(self) -> int:
        return self._turn.seat

    @property
    def instructions(self) -> str | None:
        return self._instructions

    def begin(self, seed: int) -> None:
        self._seed, self._asked_s = seed, time.monotonic()

    def first(self) -> str:
        seed = self._seed
        self._env = self._call("being made", self._environment.make)
        env = self._env
        answer = self._call("reset", lambda: env.reset(seed=seed))
        if not (isinstance(answer, tuple) and len(answer) == 2):
            older = ": write `return observation, {}`, since the older form of Gym is not taken" if isinstance(answer, str) else ""
            raise EnvironmentFault(f"reset returned {type(answer).__name__}, not (observation, info){older}")
        self._ended, self._steps = False, 0
        info = answer[1] if isinstance(answer[1], dict) else {}
        self._turn.begin(checked_seat(info.get("seat", 0)))
        own = checked_instructions(info.get("instructions"))
        self._instructions = None if own == self._environment.instructions else own
        return checked_text("reset", answer[0])

    def send(self, action: str) -> None:
        self._action, self._asked_s = action, time.monotonic()

    def receive(self) -> StepOutcome:
        env, action = self._env, self._action
        if env is None or self._ended:
            raise EnvironmentFault("step was called before reset or after the end of the episode")
        self._steps += 1
        answer = self._call("step", lambda: env.step(action))
        if not (isinstance(answer, tuple) and len(answer) == 5 and isinstance(answer[4], dict)):
            wanted = "(observation, reward, terminated, truncated, info)"
            raise EnvironmentFault(f"step returned {_kinds(answer)}, not {wanted}{_older(answer)}")
        observation, reward, terminated, truncated, info = answer
        try:
            outcome = checked_outcome(
                observation=observation,
                reward=reward,
                terminated=terminated,
                truncated=truncated,
                success=info.get("success"),
                invalid=info.get("invalid_action"),
                seat=info.get("seat", 0),
                rewards=info.get("rewards", ()),
            )
        except (TypeError, ValueError, ArithmeticError) as error:  # such as the truth value of an array
            raise EnvironmentFault(f"step returned a value that cannot be read: {describe_error(error)}") from error
        self._turn.move(outcome)
        self._ended = outcome.ended
        return outcome

    def oracle(self) -> str:
        oracle = None if self._env is None else _oracle_of(self._env)
        if oracle is None:
            raise EnvironmentFault(f"{NO_ORACLE}, or oracle was called before reset")
        return checked_text("oracle", self._call("oracle", oracle))

    def close(self) -> None:
        env, self._env = self._env, None
        if env is not None:
            try:
                self._call("close", env.close)
            except EnvironmentFault as fault:
                log.warning("%s: %s", self._environment.name, fault)

    def _call(self, what: str, function: Callable[[], T]) -> T:
        timeout_s = self._timeout_s()
        try:
            with redirect_stdout(sys.stderr), time_limit(timeout_s, second=self._second_alarm):
                return function()
        except OverTime as late:
            _hung_at[self._environment.name] = time.monotonic()
            raise EnvironmentFault(f"{what} took longer than {timeout_s:g} s{self._asked(what)}{place_of(late)}") from None
        except KeyboardInterrupt:  # of this process; a worker makes a fault of it
            raise
        except BaseException as error:  # such as CancelledError, which is no Exception
            place = "" if isinstance(error, PerdureError) else place_of(error)  # what our own sources raise says what is wrong
            raise EnvironmentFault(f"{what} raised {describe_error(error)}{self._asked(what)}{place}") from error

    def _timeout_s(self) -> float:
        """How long a call may take. If another episode of this environment has hung since this one was asked, the time counts from then on,
        so that many that hang together cost about one limit, as they do in processes of their own."""
        limit_s = self._environment.step_timeout_s
        if _hung_at.get(self._environment.name, -math.inf) < self._asked_s:
            return limit_s
        return min(limit_s, max(LATE_S, self._asked_s + limit_s - time.monotonic()))

    def _asked(self, what: str) -> str:
        """Which answer a step was given, in which turn."""
        return f" (turn {self._steps}, answer {shortened(self._action)})" if what == "step" else ""


def describe_error(error: BaseException) -> str:
    """The type and message of an error of foreign code; the type alone if its own `__str__` fails."""
    try:
        message = f"{type(error).__name__}: {error}".removesuffix(": ")
    except Exception:  # noqa: BLE001 - a foreign __str__
        return type(error).__name__
    return storable(message if len(message) <= MOST_ERROR else f"{message[:MOST_ERROR]}...")


def place_of(error: BaseException) -> str:
    """Where foreign code raised: the last line of the traceback outside of installed packages, else the last of all; or nothing."""
    try:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename not in OURS]
    except Exception:  # noqa: BLE001 - a source that cannot be read
        return ""
    installed = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "purelib", "platlib"))
    own = [frame for frame in frames if not frame.filename.startswith((*installed, "<"))] or frames
    if not own:
        return ""
    last = own[-1]
    line = f": {last.line[:MOST_SHOWN]}" if last.line else ""
    return f" at {Path(last.filename).name}:{last.lineno} in {last.name}{line}"


def shortened(text: str) -> str:
    """The text in quotes, cut to what a line can show."""
    return ascii(text) if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]!a}... of {len(text)} characters"


def _kinds(answer: object) -> str:
    return f"({', '.join(type(each).__name__ for each in answer)})" if isinstance(answer, tuple) else type(answer).__name__


def _older(answer: object) -> str:
    """What to write, if a step returned the four values of older versions of Gym."""
    is_older = isinstance(answer, tuple) and len(answer) == 4 and isinstance(answer[3], dict)
    return ": write `return observation, reward, done, False, info`, since the older form of Gym is not taken" if is_older else ""


def _oracle_of(env: TextEnv) -> Callable[[], str] | None:
    """The environment's `oracle`; None if it has none."""
    return cast("Callable[[], str] | None", getattr(env.unwrapped, "oracle", None))


def checked_outcome(
    *,
    observation: object,
    reward: object,
    terminated: object,
    truncated: object,
    success: object,
    invalid: object,
    seat: object,
    rewards: object,
) -> StepOutcome:
    """The result of a step, checked. Raises `EnvironmentFault`."""
    if not isinstance(success, (bool, np.bool_, type(None))):
        raise EnvironmentFault(f"info['success'] is {success!r} of type {type(success).__name__}, not a bool")
    return StepOutcome(
        observation=checked_text("step", observation),
        reward=_finite(reward),
        terminated=bool(terminated),
        truncated=bool(truncated),
        success=None if success is None else bool(success),
        invalid=_invalid(invalid),
        seat=checked_seat(seat),
        rewards=_rewards(rewards),
    )


def checked_text(what: str, text: object) -> str:
    """The text, if it is one and not too long. Raises `EnvironmentFault`."""
    if not isinstance(text, str):
        raise EnvironmentFault(f"{what} returned text of type {type(text).__name__}, not str")
    if len(text) > MOST_CHARACTERS:
        raise EnvironmentFault(f"{what} returned {len(text)} characters; at most {MOST_CHARACTERS} are read")
    return storable(str(text))


def checked_instructions(stated: object) -> str | None:
    """The system message of a task, as stated in `info["instructions"]`. Raises `EnvironmentFault`."""
    if stated is None:
        return None
    if not isinstance(stated, str):
        raise EnvironmentFault(f"info['instructions'] is of type {type(stated).__name__}, not str")
    return checked_text("reset", stated)


def _invalid(stated: object) -> str | None:
    if isinstance(stated, str):
        return storable(stated[:MOST_WORDS]) or None
    return "not an action" if isinstance(stated, (bool, np.bool_)) and stated else None


def checked_seat(seat: object) -> int:
    """Whose turn it is, as stated in `info["seat"]`. Raises `EnvironmentFault`."""
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
    if abs(value) > MOST_REWARD:
        raise EnvironmentFault(f"the reward is {value:g}; at most {MOST_REWARD:g} is taken, above or below 0")
    return value
