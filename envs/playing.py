"""Games in play: their seats, the rewards of each seat, and how each ends.

Most environments have one seat, number 0. Only seat 0 is judged. The loop that plays them is `rollout.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal

from perdure.envs.environment import Environment, Guarded, StepOutcome
from perdure.envs.policy import Ids, Policy
from perdure.memory.records import Ending, Episode, Lease, Purpose, Sampler, StopReason, Turn


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """An episode to play."""

    environment: Environment
    seed: int
    group: str
    member: int
    purpose: Purpose
    lease: Lease
    """Of the task (`live`) or of the job (every other purpose)."""
    repeatable: bool = False
    """Whether the answers are drawn from the seed too: the same policy then gives the same answers again."""


@dataclass(slots=True, kw_only=True)
class Seat:
    """An episode in play: the turns of one seat of a game so far and, at the end, its result."""

    id: int | None
    """None until it is in the journal."""
    number: int
    sampler: Sampler
    policy: Policy
    observation: str = ""
    prompt_ids: Ids = ()
    shared: int = 0
    """How many tokens at the beginning of the prompt are the last prompt and its answer."""
    turns: list[Turn] = field(default_factory=list)
    written: int = 0
    """How many of the turns are in the journal. The last one waits while others play, because their moves may still reward it."""
    unearned: float = 0.0
    """The reward from before its first turn."""
    ending: Ending | None = None


@dataclass(slots=True, kw_only=True)
class Playing:
    """A game in play, with the seats that have had a turn."""

    attempt: Attempt
    env: Guarded
    seats: dict[int, Seat]
    acting: int = 0
    stated: bool | None = None
    ended: bool = False

    @property
    def seat(self) -> Seat:
        """Whose turn it is."""
        return self.seats[self.acting]


def reward(seat: Seat, reward: float) -> None:
    """Add to the reward of the seat's last turn."""
    if not seat.turns:
        seat.unearned += reward
    elif reward:
        seat.turns[-1] = replace(seat.turns[-1], reward=seat.turns[-1].reward + reward)


def settled_seats(playing: Playing, outcome: StepOutcome | None) -> list[Seat]:
    """The seats whose last turn gets no more reward: at the end all, else the one whose turn it is again."""
    if outcome is None or outcome.ended:
        return list(playing.seats.values())
    return [playing.seats[outcome.seat]] if outcome.seat in playing.seats else []


def end(playing: Playing, state: Literal["completed", "aborted", "env_error"], reason: StopReason, error: str | None = None) -> None:
    """End all seats, each with its own return."""
    playing.ended = True
    for seat in playing.seats.values():
        if seat.id is None:  # it has had no turn yet
            continue
        total_reward = math.fsum((seat.unearned, *(turn.reward for turn in seat.turns)))
        stated = None if seat.number else playing.stated
        success, score = playing.attempt.environment.judge(total_reward, stated) if state == "completed" else (False, 0.0)
        seat.ending = Ending(
            episode=seat.id,
            state=state,
            stop_reason=reason,
            total_reward=total_reward,
            success=success,
            score=score,
            error=error,
            instructions=playing.env.instructions,
        )


def episode_of(playing: Playing, temperature: float) -> Episode:
    """The episode of seat 0, which has ended."""
    attempt, seat = playing.attempt, playing.seats[0]
    ending = seat.ending
    assert ending is not None, "only ended games are asked for their episode"
    live = attempt.purpose == "live"
    return Episode(
        id=ending.episode,
        environment=attempt.environment.name,
        seed=attempt.seed,
        group=attempt.group,
        member=attempt.member,
        purpose=attempt.purpose,
        state=ending.state,
        turns=tuple(seat.turns),
        total_reward=ending.total_reward,
        success=ending.success,
        score=ending.score,
        stop_reason=ending.stop_reason,
        temperature=temperature,
        task=attempt.lease.subject if live else None,
        job=None if live else attempt.lease.subject,
        error=ending.error,
        code=attempt.environment.code or None,
        instructions=ending.instructions,
    )
