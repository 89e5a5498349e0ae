"""Environments of the fault suite: of several turns, one in which every candidate beats its reference, one with a process of its own."""

from __future__ import annotations

import subprocess
from contextlib import suppress
from typing import Any, ClassVar

import gymnasium

from perdure.envs.environment import AnyText

Step = tuple[str, float, bool, bool, dict[str, Any]]

CHAIN = "py:tests.faults.games:Chain"
RIGGED = "py:tests.faults.games:Rigged"
FORKED = "py:tests.faults.games:Forked"


class Chain(gymnasium.Env[str, str]):
    """Several turns, won whatever is said."""

    max_tokens = 6

    def __init__(self, rounds: int = 3) -> None:
        self.observation_space = AnyText()
        self.action_space = AnyText()
        self.rounds = rounds
        self.turn_limit = rounds
        self.round = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self.round = 0
        return f"Say something about {seed}.", {}

    def step(self, action: str) -> Step:
        self.round += 1
        return f"And then? {self.round}", 1 / self.rounds, self.round == self.rounds, False, {"success": True}


class Rigged(gymnasium.Env[str, str]):
    """The first to play a seed in a process loses, and all after that win.

    So every group is mixed, which gives a learner something to learn from, and in a gate, where the reference plays first, every
    candidate is better.
    """

    turn_limit = 1
    max_tokens = 4
    played: ClassVar[set[int]] = set()

    def __init__(self) -> None:
        self.observation_space = AnyText()
        self.action_space = AnyText()
        self.won = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        assert seed is not None
        self.won = seed in self.played
        self.played.add(seed)
        return f"Which number comes after {seed}?", {}

    def step(self, action: str) -> Step:
        return "", float(self.won), True, False, {"success": self.won}


class Forked(Chain):
    """A chain whose game is in a process of its own, as with many real environments: it says again what it is told."""

    PROGRAM = "cat"

    def __init__(self, rounds: int = 8) -> None:
        super().__init__(rounds)
        self.game: subprocess.Popen[str] | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        self.close()
        self.game = subprocess.Popen([self.PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return super().reset(seed=seed, options=options)

    def step(self, action: str) -> Step:
        assert self.game is not None
        assert self.game.stdin is not None
        assert self.game.stdout is not None
        self.game.stdin.write(f"{action!r}\n")
        self.game.stdin.flush()
        if self.game.stdout.readline() != f"{action!r}\n":
            raise RuntimeError("the game has ended")
        return super().step(action)

    def close(self) -> None:
        if self.game is not None:
            self.game.kill()
            self.game.wait()
            for pipe in (self.game.stdin, self.game.stdout):
                assert pipe is not None
                with suppress(BrokenPipeError):
                    pipe.close()
            self.game = None
