"""Solved examples to put before a task: without them a small model seldom hits the form of an answer, and nothing can be learned.

They are played by the environment's own oracle on fixed train seeds, the last ones of the range, which no stream reaches. Every task
of an environment gets the same ones, so that all its prompts share a prefix. A shot of a game with several turns is one whole episode.
"""

from __future__ import annotations

from perdure.envs.environment import Environment, Exchange
from perdure.envs.guarded import EnvironmentFault
from perdure.envs.scripted import Played, by_oracle, has_oracle, play_scripted
from perdure.envs.seeds import SPLITS
from perdure.memory.errors import InputError

TRIES_PER_SHOT = 20


def solved_examples(environment: Environment, shots: int) -> tuple[Exchange, ...]:
    """`shots` solved tasks, as far as possible with different answers. Raises `InputError` where no oracle solves that many."""
    if not shots:
        return ()
    if not has_oracle(environment):
        raise InputError(f"{environment.name} has no oracle(), so shots=N cannot make examples: leave the option out")
    chosen: dict[tuple[str, ...], Played] = {}
    spare: list[Played] = []
    for seed in reversed(SPLITS["train"][-TRIES_PER_SHOT * shots :]):
        played = _solve(environment, seed)
        actions = tuple(action for _, action in played.exchanges)
        if actions not in chosen:
            chosen[actions] = played
        elif played != chosen[actions] and played not in spare:
            spare.append(played)
        if len(chosen) == shots:
            break
    examples = [*chosen.values(), *spare][:shots]
    if len(examples) < shots:
        raise InputError(f"{environment.name}: found only {len(examples)} different tasks for its shots: ask for fewer")
    return tuple(exchange for played in examples for exchange in played.exchanges)


def _solve(environment: Environment, seed: int) -> Played:
    try:
        played = play_scripted(environment, seed, by_oracle)
    except EnvironmentFault as fault:
        raise InputError(f"{environment.name} fails while its shots are made: {fault}") from fault
    if not played.success:
        raise InputError(
            f"{environment.name}: its oracle does not solve seed {seed}, so shots=N cannot make examples: leave the option out"
        )
    return played
