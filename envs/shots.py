"""Solved examples before a task: without them a small model seldom answers in the right form, and nothing can be learned.

The environment's own oracle plays them on fixed train seeds, the last ones of the range, which no stream reaches; or they come from a file,
one on each line:

    {"observation": "2 + 2", "action": "4"}
    [{"observation": "Guess.", "action": "5"}, {"observation": "Higher.", "action": "7"}]

Every task of an environment has the same ones, so that all its prompts share a prefix. A shot of a game with several turns is one whole
episode; the template applies to its first observation only, as in play.
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
HASHED = re.compile(r"(.+):([0-9a-f]{12})")
"""The path of a file of examples, with the first 12 digits of its SHA-256."""
KEYS = {"observation", "action"}


def solved_examples(environment: Environment, shots: int, file: str) -> tuple[Exchange, ...]:
    """The exchanges of `shots` examples: from `file`, or played by the oracle if it is empty. Raises `InputError` if there are too few."""
    if not shots and not file:
        return ()
    episodes = _written(environment, shots, file) if file else _solved(environment, shots)
    return tuple(
        (environment.first_message(observation) if n == 0 else observation, action)
        for episode in episodes
        for n, (observation, action) in enumerate(episode)
    )


def read_examples(name: str, file: Path) -> list[tuple[Exchange, ...]]:
    """All solved episodes of a file, one on each line. Raises `InputError` naming the line that is wrong; `name` is the environment."""
    try:
        lines = _bytes(name, str(file)).decode().split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is not UTF-8 text: {error}") from error
    return [_episode(f"{file}, line {n}", line) for n, line in enumerate(lines, 1) if line.strip()]


def hashed_path(name: str, file: str) -> str:
    """The path of a file of examples with its hash: other examples are another environment.

    Raises `InputError` if it cannot be read, or if it has changed since the hash in `file` was taken.
    """
    match = HASHED.fullmatch(file)
    path = match[1] if match else file
    digest = sha256(_bytes(name, path)).hexdigest()[:12]
    if match and match[2] != digest:
        raise InputError(
            f"{name}: {path} has changed: it is {path}:{digest} now. Restore the old file, or name examples={path}, which is another "
            "environment"
        )
    return f"{path}:{digest}"


def _written(environment: Environment, shots: int, file: str) -> list[tuple[Exchange, ...]]:
    """The first examples of a file."""
    match = HASHED.fullmatch(file)
    path = match[1] if match else file
    episodes = read_examples(environment.name, Path(path))
    if not 0 < shots <= len(episodes):
        raise InputError(f"{environment.name}: {path} has {len(episodes)} examples, but shots={shots}")
    return episodes[:shots]


def _bytes(name: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{name}: the examples in {path} cannot be read: {error.strerror}") from error


def _episode(place: str, line: str) -> tuple[Exchange, ...]:
    wanted = 'it must be {"observation": "...", "action": "..."}, or a list of these for an episode of several turns'
    try:
        document = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{place} is not JSON ({error}): {wanted}") from error
    turns: list[Any] = document if isinstance(document, list) else [document]
    if not turns:
        raise InputError(f"{place} is empty: {wanted}")
    for turn in turns:
        if not isinstance(turn, dict) or turn.keys() != KEYS or not all(isinstance(text, str) for text in turn.values()):
            raise InputError(f"{place} has {json.dumps(turn, ensure_ascii=False)[:80]}: {wanted}")
    return tuple((turn["observation"], turn["action"]) for turn in turns)


def _solved(environment: Environment, shots: int) -> list[tuple[Exchange, ...]]:
    """Solved tasks, if possible with different answers."""
    if not has_oracle(environment):
        raise InputError(
            f"{environment.name} has no oracle(), so shots=N cannot make examples: name a file with examples=PATH, or leave shots out"
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
    solved = [*chosen.values(), *spare][:shots]
    if len(solved) < shots:
        raise InputError(f"{environment.name}: it has only {len(solved)} different tasks for its shots: ask for fewer")
    return [played.exchanges for played in solved]


def _solve(environment: Environment, seed: int) -> ScriptedEpisode:
    try:
        played = play_scripted(environment, seed, by_oracle)
    except EnvironmentFault as fault:
        raise InputError(f"{environment.name} fails while its examples are made: {fault}") from fault
    if not played.success:
        raise InputError(f"{environment.name}: its oracle does not solve seed {seed}, so shots=N cannot make examples: leave shots out")
    return played
