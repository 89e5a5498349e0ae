"""An episode in another process. `host.py` starts and ends the processes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from perdure.envs.environment import Guarded, StepOutcome
from perdure.envs.guarded import EnvironmentFault, SeatTurn
from perdure.envs.sandbox.host import GRACE_S, Host
from perdure.envs.sandbox.wire import WireClosed, WireDocumentError, WireTimeout
from perdure.envs.sandbox.worker_handle import Worker
from perdure.envs.sandbox.worker_messages import (
    CloseQuestion,
    OracleQuestion,
    Question,
    ResetQuestion,
    StepQuestion,
    read_action,
    read_fault,
    read_first,
    read_outcome,
)
from perdure.memory.json_value import JsonObject

T = TypeVar("T")
DYING_S = 0.2
"""How long a process that closed its socket may take to end by itself, so that the reason can be reported."""


class RemoteEnv(Guarded):
    """One episode of an environment in another process."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._limit_s = host.limit_s
        self._worker: Worker | None = None
        self._turn = SeatTurn()
        self._fault = ""
        """Why the last question could not be sent."""

    @property
    def seat(self) -> int:
        return self._turn.seat

    def begin(self, seed: int) -> None:
        self.close()
        self._fault = ""
        try:
            self._worker = self._host.take_worker()
        except EnvironmentFault as fault:
            self._fault = str(fault)
            return
        self._ask(ResetQuestion(seed=seed))

    def first(self) -> str:
        observation, seat = self._answer("reset", read_first, calls=2)
        self._turn.begin(seat)
        return observation

    def send(self, action: str) -> None:
        self._ask(StepQuestion(action=action))

    def receive(self) -> StepOutcome:
        return self._answer("step", self._moved)

    def oracle(self) -> str:
        self._ask(OracleQuestion())
        return self._answer("oracle", read_action)

    def close(self) -> None:
        worker, self._worker = self._worker, None
        if worker is None:
            return
        if worker.spent:  # processes that it has started may still run
            self._host.end(worker)
        else:
            worker.playing = False
            with suppress(WireClosed):  # found when its worker is used again
                worker.ask(CloseQuestion())

    def _ask(self, question: Question) -> None:
        if self._worker is None:
            self._fault = self._fault or "it was asked before reset"
            return
        try:
            self._worker.ask(question)
        except WireClosed:
            self._fault = self._end(DYING_S)

    def _moved(self, answer: JsonObject) -> StepOutcome:
        outcome = read_outcome(answer)
        self._turn.move(outcome)
        return outcome

    def _answer(self, what: str, read: Callable[[JsonObject], T], calls: int = 1) -> T:
        """The answer to the last question, as `read` parses it; `calls` is how many calls of the environment it takes."""
        worker = self._worker
        if self._fault or worker is None:
            raise EnvironmentFault(self._fault or f"{what} was called before reset")
        limit_s = calls * self._limit_s
        try:
            answer = worker.answer(limit_s + GRACE_S)
            if (fault := read_fault(answer)) is not None:
                raise EnvironmentFault(fault)
            return read(answer)
        except EnvironmentFault:
            worker.spent = True
            raise
        except WireTimeout:
            self._end()
            raise EnvironmentFault(f"{what} took longer than {limit_s:g} s, and its process had to be killed") from None
        except WireClosed:
            raise EnvironmentFault(f"in {what} {self._end(DYING_S)}") from None
        except WireDocumentError:
            self._end()
            raise EnvironmentFault(f"the answer to {what} was not a valid one, and its process was killed") from None

    def _end(self, patience_s: float = 0.0) -> str:
        """End the process of this episode; returns how it ended."""
        worker, self._worker = self._worker, None
        return "" if worker is None else self._host.end(worker, patience_s)
