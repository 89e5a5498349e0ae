"""The episodes that the rules of the check play: with the oracle's answers, or with a fixed cycle of answers."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from typing import TypeVar

from perdure.envs.chance import choices
from perdure.envs.environment import Environment, Guarded
from perdure.envs.scripted import Answer, ScriptedEpisode, by_oracle, fixed, has_oracle, play_scripted
from perdure.envs.seeds import SPLITS, Split

T = TypeVar("T")
EPISODES = 20
"""Episodes for each kind of answer, on dev seeds."""
PATIENCE_S = 5.0
"""How long a rule plays; then it reports what it has seen."""
MOST_TOLD = 100_000
"""Characters of one episode's transcript that another process is told."""
MOST_CONSTANTS = 8
"""How many answers are tried as the only one."""

SCRIPT = ("1", "yes", "[1]", "up", "2")
OFFERED = re.compile(r"\[([^\[\]\n]{1,20})\]")


def sample_episodes(environment: Environment, seeds: Iterable[int]) -> list[ScriptedEpisode]:
    """Whole episodes of these seeds, as `script` answers."""
    scripted = script(environment)
    return [play_scripted(environment, seed, scripted) for seed in seeds]


def digest(environment: Environment) -> tuple[str, list[str]]:
    """A hash over whole episodes of a few seeds, equal wherever the environment behaves the same; and the beginnings of their texts."""
    told = [transcript(played) for played in sample_episodes(environment, first_seeds("dev", 3))]
    return sha256(json.dumps(told).encode()).hexdigest(), [text[:MOST_TOLD] for text in told]


def transcript(played: ScriptedEpisode) -> str:
    """All that an episode consists of, a turn a line."""
    turns = [
        f"{observation!r} > {action!r} > {reward:g}" for (observation, action), reward in zip(played.exchanges, played.rewards, strict=True)
    ]
    own = [] if played.instructions is None else [f"instructions {played.instructions!r}"]
    return "\n".join((*own, *turns, repr(played.last)))


def difference(one: str, other: str) -> str:
    """Where two transcripts part, for a message; empty if they do not."""
    same = next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    if one == other:
        return ""
    begin = max(0, same - 20, one.rfind("\n", 0, same) + 1)
    return f"turn {one.count(chr(10), 0, same) + 1}: {one[begin : same + 40]!r}, then {other[begin : same + 40]!r}"


def longest_texts(environment: Environment) -> tuple[str, ...]:
    """The texts of the longest conversation of a few episodes, instructions and solved examples included.

    Each answer that its texts offer is also given all the time: some of them play on until the turn limit.
    """
    played = sample_episodes(environment, in_time(first_seeds("dev", EPISODES), PATIENCE_S / 2))
    always = [fixed(text) for text in offered(environment, played[0].exchanges[0][0])[:MOST_CONSTANTS]]
    played += [play_scripted(environment, first_seeds("dev", 1)[0], answer) for answer in in_time(always, PATIENCE_S / 2)]
    most = max(played, key=lambda episode: sum(map(len, (episode.instructions or "", *(seen for seen, _ in episode.exchanges)))))
    texts = [text for exchange in (*environment.examples, *most.exchanges) for text in exchange]
    return (environment.instructions if most.instructions is None else most.instructions, *texts[:-1])


def script(environment: Environment) -> Answer:
    """The oracle if there is one, so that whole episodes are seen; otherwise answers in turn that its texts offer, or a fixed cycle."""
    if has_oracle(environment):
        return by_oracle

    def answer(observation: str, env: Guarded) -> str:
        answers = offered(environment, observation)
        return answers[len(observation) % len(answers)]

    return answer


def offered(environment: Environment, observation: str) -> list[str]:
    """The answers that the instructions and an observation name, the observation's first; a fixed few if they name none."""
    return list(dict.fromkeys((*choices(observation), *choices(environment.instructions)))) or list(SCRIPT)


def common_answers(episodes: Iterable[ScriptedEpisode]) -> list[str]:
    """The most frequent answers, and those that first observations show in square brackets."""
    counts = Counter[str]()
    for played in episodes:
        counts.update({f"[{text}]" for text in OFFERED.findall(played.exchanges[0][0])} | {action for _, action in played.exchanges})
    return [text for text, _ in counts.most_common(MOST_CONSTANTS)]


def in_time(items: Sequence[T], seconds: float = PATIENCE_S) -> Iterator[T]:
    """These items while there is time; the first two in any case."""
    until = time.monotonic() + seconds
    for n, item in enumerate(items):
        if n >= 2 and time.monotonic() > until:
            return
        yield item


def first_seeds(split: Split, count: int) -> Sequence[int]:
    return SPLITS[split][:count]
