"""Rules of the check that look for rewards without skill: wild answers, copies, and rewards that are earned again and again.

Answers are tried on a few tasks first; what pays there is tried on more, so that many answers take little time.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from perdure.envs.check.sample_episodes import EPISODES, PATIENCE_S, common_answers, first_seeds, in_time, sample_episodes
from perdure.envs.check.wild_answers import constants, copies, farms, given, joined, labels
from perdure.envs.environment import Environment
from perdure.envs.scripted import Answer, by_oracle, fixed, has_oracle, play_scripted

Level = Literal["error", "warning"]
LevelsAndMessages = Iterator[tuple[Level, str]]
SCREENED, SEEN = 4, 6
"""Tasks on which each answer is tried first; tasks whose right answers are known to those that try."""
OFTEN, MOSTLY, PAID = 0.25, 0.75, 0.5 - 1e-9
"""Shares of successes, and of the highest return."""
NEAR = 0.15
"""Shares of successes that are no further apart are the same on so few tasks."""


def resists_wild_answers(environment: Environment) -> LevelsAndMessages:
    """Texts that a careless comparison takes for right do not succeed."""
    seen = sample_episodes(environment, in_time(first_seeds("train", SEEN), PATIENCE_S / 4))
    if any(played.several for played in seen):
        return
    tried = [(f"the answer {text[:60]!r}", fixed(text)) for text in constants(environment, seen)]
    parts = {f"the answer {text[:60]!r}": labels(seen) for text in joined(labels(seen))}
    yield from _tried(environment, tried, "error", parts)


def resists_copying(environment: Environment) -> LevelsAndMessages:
    """Words and numbers copied from the observation, or from the feedback of the last turn, do not succeed. Some tasks are copies."""
    if any(played.several for played in sample_episodes(environment, first_seeds("train", 1))):
        return
    yield from _tried(environment, copies(), "warning")


def resists_farming(environment: Environment) -> LevelsAndMessages:
    """No return is above the oracle's, or its stated range, by doing and undoing."""
    if environment.turn_limit < 3:
        return
    seen = sample_episodes(environment, in_time(first_seeds("dev", SEEN), PATIENCE_S / 4))
    if any(played.several for played in seen):
        return
    oracle = has_oracle(environment)
    for seed in in_time(first_seeds("dev", SCREENED), PATIENCE_S / 2):
        right = play_scripted(environment, seed, by_oracle) if oracle else None
        most = environment.reward_high if right is None else min(right.total_reward, environment.reward_high)
        for what, answer in farms(right, common_answers(seen)):
            played = play_scripted(environment, seed, answer)
            if played.total_reward > most + 1e-9:
                above = "the highest return" if right is None else "the oracle"
                yield "error", f"{what}: a return of {played.total_reward:g}, above {above} with {most:g}, on seed {seed}"
                return


def resists_answers(environment: Environment, texts: Sequence[str]) -> LevelsAndMessages:
    """The answers that were given to the check do not succeed as the only ones."""
    yield from _tried(environment, given(texts), "error")


def _tried(
    environment: Environment, answers: Sequence[tuple[str, Answer]], level: Level, parts: Mapping[str, Sequence[str]] | None = None
) -> LevelsAndMessages:
    """The answer that does best, if it does too well; and how many there was no time for.

    It is a warning if one of its `parts` does as well by itself: then its length is not what succeeds, and `has-a-floor` judges the part.
    """
    until = time.monotonic() + PATIENCE_S
    seeds = first_seeds("dev", EPISODES)
    tried = 0
    worst: tuple[float, float, str] | None = None
    for what, answer in answers:
        tried += 1
        success, paid = _result(environment, seeds[:SCREENED], answer)
        if success > OFTEN or paid >= PAID:
            success, paid = _result(environment, list(in_time(seeds, PATIENCE_S / 8)), answer)
            if (success > (OFTEN if level == "error" else MOSTLY) or paid >= PAID) and (worst is None or (success, paid) > worst[:2]):
                worst = success, paid, what
        if time.monotonic() > until:
            break
    if worst is not None:
        success, paid, what = worst
        if success > (OFTEN if level == "error" else MOSTLY):
            alone = _best(environment, (parts or {}).get(what, ()))
            yield ("warning" if alone >= success - NEAR else level), f"{what} succeeds in {success:.0%} of tasks"
        else:
            yield "warning", f"{what} is paid {paid:.2f} of the highest return, with {success:.0%} successes"
    if tried < len(answers):
        yield "warning", f"it is so slow that only {tried} of {len(answers)} answers were tried"


def _best(environment: Environment, texts: Sequence[str]) -> float:
    """The largest share of successes of one of these answers; 0 without any."""
    played = in_time([fixed(text) for text in texts], PATIENCE_S / 4)
    return max((_result(environment, first_seeds("dev", 2 * SCREENED), answer)[0] for answer in played), default=0.0)


def _result(environment: Environment, seeds: Sequence[int], answer: Answer) -> tuple[float, float]:
    """The share of successes, and the mean share of the highest return."""
    episodes = [play_scripted(environment, seed, answer) for seed in seeds]
    paid = sum(environment.judge(played.total_reward, None)[1] for played in episodes) / len(episodes)
    return sum(played.success for played in episodes) / len(episodes), paid
