"""Solved examples to put before a task: without them a small model seldom hits the form of an answer, and nothing can be learned.

They are played by the environment's own oracle on fixed train seeds, the last ones of the range, which no stream reaches; or they come
from a file, one on each line:

    {"observation": "2 + 2", "action": "4"}
    [{"observation": "Guess.", "action": "5"}, {"observation": "Higher.", "action": "7"}]

Every task of an environment gets the same ones, so that all its prompts share a prefix. A shot of a game with several turns is one whole
episode; only its first observation goes through the template, as in play.
"""

from __future__ import annotations

import json
import re
from hashlib import sha256
from pathlib import Path
from typing import Any

from perdure.envs.environment import Environment, Exchange
from perdure.envs.guarded import EnvironmentFault
from perdure.envs.scripted import ScriptedEpisode, by_oracle, has_oracle, play_scripted
from perdure.envs.seeds import SPLITS
from perdure.memory.errors import InputError

TRIES_PER_SHOT = 20
SIGNED = re.compile(r"(.+):([0-9a-f]{12})")
"""The path of a file of examples, with the first 12 digits of the SHA-256 of what it holds."""
KEYS = {"observation", "action"}


def examples(environment: Environment, shots: int, file: str) -> tuple[Exchange, ...]:
    """The exchanges of `shots` examples, from a file where one is named, else by the oracle. Raises `InputError` where they are too few."""
    if not shots and not file:
        return ()
    episodes = _written(environment, shots, file) if file else _solved(environment, shots)
    return tuple(
        (environment.asked(observation) if n == 0 else observation, action)
        for episode in episodes
        for n, (observation, action) in enumerate(episode)
    )


def read_examples(name: str, file: Path) -> list[tuple[Exchange, ...]]:
    """All solved episodes of a file, one on each line. Raises `InputError` naming the line that is wrong; `name` is the environment."""
    try:
        lines = _bytes(name, str(file)).decode().split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is no UTF-8 text: {error}") from error
    return [_episode(f"{file}, line {n}", line) for n, line in enumerate(lines, 1) if line.strip()]


def signed(name: str, file: str) -> str:
    """The path of a file of examples with the hash of what it holds: other examples are another environment.

    Raises `InputError` where it cannot be read, or holds something else than the hash that was given with it says.
    """
    match = SIGNED.fullmatch(file)
    path = match[1] if match else file
    digest = sha256(_bytes(name, path)).hexdigest()[:12]
    if match and match[2] != digest:
        raise InputError(
            f"{name}: {path} has changed, it is {path}:{digest} now. Put the old one back; other examples are another environment, named "
            f"examples={path}"
        )
    return f"{path}:{digest}"


def _written(environment: Environment, shots: int, file: str) -> list[tuple[Exchange, ...]]:
    """The first examples of a file."""
    match = SIGNED.fullmatch(file)
    path = match[1] if match else file
    episodes = read_examples(environment.name, Path(path))
    if not 0 < shots <= len(episodes):
        raise InputError(f"{environment.name}: {path} has {len(episodes)} examples, and shots={shots} of them are asked for")
    return episodes[:shots]


def _bytes(name: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{name}: the examples in {path} cannot be read: {error.strerror}") from error


def _episode(where: str, line: str) -> tuple[Exchange, ...]:
    wanted = 'it must be {"observation": "...", "action": "..."}, or a list of these for an episode of several turns'
    try:
        said: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is no JSON ({error}): {wanted}") from error
    turns: list[Any] = said if isinstance(said, list) else [said]
    if not turns:
        raise InputError(f"{where} is empty: {wanted}")
    for turn in turns:
        if not isinstance(turn, dict) or turn.keys() != KEYS or not all(isinstance(text, str) for text in turn.values()):
            raise InputError(f"{where} has {json.dumps(turn, ensure_ascii=False)[:80]}: {wanted}")
    return tuple((turn["observation"], turn["action"]) for turn in turns)


def _solved(environment: Environment, shots: int) -> list[tuple[Exchange, ...]]:
    """Solved tasks, as far as possible with different answers."""
    if not has_oracle(environment):
        raise InputError(
            f"{environment.name} has no oracle(), so shots=N cannot make examples: name a file with examples=PATH, or leave it out"
        )
    chosen: dict[tuple[str, ...], ScriptedEpisode] = {}
    spare: list[ScriptedEpisode] = []
    for seed in reversed(SPLITS["train"][-TRIES_PER_SHOT * shots :]):
        played = _solve(environment, seed)
        actions = tuple(action for _, action in played.exchanges)
        if actions not in chosen:
            chosen[actions] = played
        elif played != chosen[actions] and played not in spare:
            spare.append(played)
        if len(chosen) == shots:
            break
    found = [*chosen.values(), *spare][:shots]
    if len(found) < shots:
        raise InputError(f"{environment.name}: found only {len(found)} different tasks for its shots: ask for fewer")
    return [played.exchanges for played in found]


def _solve(environment: Environment, seed: int) -> ScriptedEpisode:
    try:
        played = play_scripted(environment, seed, by_oracle)
    except EnvironmentFault as fault:
        raise InputError(f"{environment.name} fails while its shots are made: {fault}") from fault
    if not played.success:
        raise InputError(
            f"{environment.name}: its oracle does not solve seed {seed}, so shots=N cannot make examples: leave the option out"
        )
    return played
