"""A worker as this process sees it: questions with numbers, and answers to them in turn.

The environment can write on the worker's socket too, so that an answer with any other number counts as not from the worker.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

from perdure.envs.sandbox.wire import Wire, WireDocumentError, WireError
from perdure.envs.sandbox.worker_messages import Question, write_question
from perdure.memory.json_value import JsonObject

END_S = 5.0
"""How long a process may take to end, or its host to answer."""


@dataclass(slots=True, kw_only=True, eq=False)
class Worker:
    """A process that plays one episode at a time."""

    pid: int
    """Its number in its host's namespace for processes."""
    wire: Wire
    playing: bool = True
    spent: bool = False
    """Whether something went wrong in it, so that no other episode may be played in it."""
    asked: int = 0
    answered: int = 0
    asked_s: float = 0.0

    def ask(self, question: Question) -> None:
        """Send a question; `answer` waits for its answer. Raises `WireClosed`."""
        self.asked += 1
        self.asked_s = time.monotonic()
        self.wire.send(write_question(self.asked, question))

    def answer(self, limit_s: float) -> JsonObject:
        """The answer to the last question; those to earlier ones are dropped. Raises as `Wire.receive` does.

        The time counts from the question on, so that many workers that hang together cost one limit and not one each.
        """
        answer: JsonObject = {}
        timeout_s = max(0.0, self.asked_s + limit_s - time.monotonic())
        while self.answered < self.asked:
            answer = self._next(timeout_s)
        return answer

    def state(self, limit_s: float) -> Literal["free", "busy", "dead"]:
        """Whether it has answered everything; dead is also a worker that has not answered for `limit_s`."""
        try:
            while self.answered < self.asked and self.wire.has_news():
                self._next(END_S)
            if self.answered == self.asked:
                return "dead" if self.wire.has_news() else "free"
        except WireError:
            return "dead"
        return "dead" if time.monotonic() - self.asked_s > limit_s else "busy"

    def _next(self, timeout_s: float) -> JsonObject:
        answer = self.wire.receive(timeout_s)
        if answer.get("n") != self.answered + 1:
            raise WireDocumentError("its process answered a question that nobody asked")
        self.answered += 1
        return answer
