"""An episode in another process: what is asked of it, and what may be believed of its answers.

A worker answers one question after the other, in lines of JSON. The environment can write on the same socket, so that an answer is checked
here as if it came from the environment itself. `sandbox.py` starts and ends the processes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from perdure.envs.guarded import EnvironmentFault, Guarded, Outcome, outcome_of, seat_of, text_of
from perdure.envs.sandbox.wire import Wire

if TYPE_CHECKING:
    from perdure.envs.sandbox.host import Host

T = TypeVar("T")
GRACE_S = 2.0
"""What a worker gets beyond the environment's own limit, which it keeps itself, before it is killed."""

END_S = 5.0
DYING_S = 0.2
"""What a process that let go of its socket gets to come to its own end, so that the reason can be told."""


@dataclass(slots=True, kw_only=True, eq=False)
class Worker:
    """A process that plays one episode at a time."""

    pid: int
    """As its host counts, which may have a namespace for its processes."""
    wire: Wire
    playing: bool = True
    spent: bool = False
    """Whether something went wrong in it, so that no other episode should be."""
    asked: int = 0
    answered: int = 0
    asked_s: float = 0.0

    def ask(self, question: Mapping[str, Any]) -> None:
        """Send a question; `answer` waits for what it comes to."""
        self.asked += 1
        self.asked_s = time.monotonic()
        self.wire.send({"n": self.asked, **question})

    def answer(self, timeout_s: float) -> dict[str, Any]:
        """The answer to the last question; those to earlier ones are passed over. Raises as `Wire.receive` does."""
        found: dict[str, Any] = {}
        while self.answered < self.asked:
            found = self._next(timeout_s)
        return found

    def state(self, limit_s: float) -> Literal["free", "busy", "dead"]:
        """Whether it has answered everything, so that it can begin at once; dead is also one that has not answered for `limit_s`."""
        try:
            while self.answered < self.asked and self.wire.has_news():
                self._next(END_S)
            if self.answered == self.asked:
                return "dead" if self.wire.has_news() else "free"
        except (OSError, EOFError, ValueError):
            return "dead"
        return "dead" if time.monotonic() - self.asked_s > limit_s else "busy"

    def _next(self, timeout_s: float) -> dict[str, Any]:
        """Each question has one answer, in turn: whatever else comes was not written by the worker itself."""
        found = self.wire.receive(timeout_s)
        if found.get("n") != self.answered + 1:
            raise ValueError("an answer to no question")
        self.answered += 1
        return found


class RemoteEnv(Guarded):
    """One episode of an environment in another process."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._limit_s = host.limit_s
        self._worker: Worker | None = None
        self._fault = ""
        """Why the last question could not even be sent."""

    def begin(self, seed: int) -> None:
        self.close()
        self._fault = ""
        try:
            self._worker = self._host.worker()
        except EnvironmentFault as fault:
            self._fault = str(fault)
            return
        self._ask({"reset": seed})

    def first(self) -> str:
        observation, seat = self._answer("reset", lambda found: (text_of("reset", found["observation"]), seat_of(found)), calls=2)
        self._begun(seat)
        return observation

    def send(self, action: str) -> None:
        self._ask({"step": action})

    def receive(self) -> Outcome:
        return self._answer("step", self._outcome)

    def oracle(self) -> str:
        self._ask({"oracle": True})
        return self._answer("oracle", lambda found: text_of("oracle", found["action"]))

    def close(self) -> None:
        worker, self._worker = self._worker, None
        if worker is None:
            return
        if worker.spent:  # what it has started may be at work
            self._host.end(worker)
        else:
            worker.playing = False
            with suppress(OSError):  # whoever wants it next finds out
                worker.ask({"close": True})

    def _ask(self, question: Mapping[str, Any]) -> None:
        if self._worker is None:
            self._fault = self._fault or "it was asked before reset"
            return
        try:
            self._worker.ask(question)
        except OSError:
            self._fault = self._ended(DYING_S)

    def _outcome(self, answer: Mapping[str, Any]) -> Outcome:
        """What a step led to. It was checked there already, but the environment can write to the socket too."""
        found = answer["outcome"]
        info = {"success": found["success"], "invalid_action": found["invalid"], "seat": found["seat"], "rewards": found["rewards"]}
        outcome = outcome_of(found["observation"], found["reward"], found["terminated"], found["truncated"], info)
        self._moved(outcome)
        return outcome

    def _answer(self, what: str, read: Callable[[Mapping[str, Any]], T], calls: int = 1) -> T:
        """What `read` makes of the answer to the last question; `calls` is how many calls of the environment it takes."""
        worker = self._worker
        if self._fault or worker is None:
            raise EnvironmentFault(self._fault or f"{what} was called before reset")
        limit_s = calls * self._limit_s
        try:
            answer = worker.answer(limit_s + GRACE_S)
            if "fault" in answer:
                raise EnvironmentFault(str(answer["fault"]))
            return read(answer)
        except EnvironmentFault:
            worker.spent = True
            raise
        except TimeoutError:
            self._ended()
            raise EnvironmentFault(f"{what} took longer than {limit_s:g} s, and its process had to be killed") from None
        except (OSError, EOFError):
            raise EnvironmentFault(f"in {what} {self._ended(DYING_S)}") from None
        except (ValueError, LookupError, TypeError, ArithmeticError):
            self._ended()
            raise EnvironmentFault(f"{what} was answered with what is no answer, and its process was killed") from None

    def _ended(self, patience_s: float = 0.0) -> str:
        """End the process of this episode; tells how it ended."""
        worker, self._worker = self._worker, None
        return "" if worker is None else self._host.end(worker, patience_s)
