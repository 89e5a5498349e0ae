"""What a gate and a probe ask of a player: the scores of a version's answers on given seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from perdure.memory.errors import RuntimeFailure

Draw = tuple[str, int]
"""An environment and a seed."""
Scores = tuple[float | None, ...]
"""Of the answers to one draw, each in [0, 1]; None if one could not be scored (crash, time-out, nothing playable)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How answers are drawn."""

    temperature: float
    """0 is greedy."""
    samples: int
    """Answers to each draw."""


class Player(Protocol):
    """Plays episodes with a version. It decides how answers are sampled, and how many to each draw."""

    def scores(self, version: str, draws: Sequence[Draw]) -> list[Scores]:
        """One batch: the scores of the answers to each draw. What failed has been played a second time."""
        ...


def play_scores(play: Player, version: str, draws: Sequence[Draw]) -> list[Scores]:
    """The player's scores; raises `RuntimeFailure` unless each draw has answers, and each of them a score in [0, 1] or None."""
    scores = play.scores(version, draws)
    if len(scores) != len(draws):
        raise RuntimeFailure(f"{version} was asked for {len(draws)} scores and gave {len(scores)}: this batch is discarded")
    for (environment, seed), answers in zip(draws, scores, strict=True):
        if not answers:
            raise RuntimeFailure(f"{version} gave no answer in {environment}, seed {seed}: this batch is discarded")
        for score in answers:
            if score is not None and not 0 <= score <= 1:
                raise RuntimeFailure(
                    f"{version} scored {score} in {environment}, seed {seed}: a score must be in [0, 1]; this batch is discarded"
                )
    return scores


def mean_score(answers: Scores) -> float | None:
    """The mean of the answers that were scored; None if there is none."""
    known = [score for score in answers if score is not None]
    return sum(known) / len(known) if known else None
