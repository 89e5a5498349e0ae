"""Answers that win rewards without doing the task, if the reward lets them: those that reward hacks have been seen to give.

Nothing here knows the task. `constants` are texts that a careless comparison, pattern, interpreter or count takes for right; `copies` say
again what was read; `farms` earn a reward again and again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from perdure.envs.environment import Environment, Guarded
from perdure.envs.guarded import EnvironmentFault
from perdure.envs.scripted import Answer, ScriptedEpisode, fixed

EQUAL_TO_ALL = "class Any:\n    def __eq__(self, other):\n        return True\n"
WORDS = "the of and to in is it for on with as at because therefore first then finally"

CONSTANTS = (
    "nan", "inf", "-inf", "1e999", "None", "null", "true", "True", "False", "0", "-1", "[]", "{}", "()", '""', "*", "**", "%", "?", ".*",
    "^.*$", "(?s).*", "|", "..", "/", "exit()", "quit", "pass", "import sys; sys.exit(0)", "raise SystemExit(0)",
    "type('Any', (), {'__eq__': lambda self, other: True})()", f"{EQUAL_TO_ALL}\n\nanswer = result = solution = Any()\n",
    f"{EQUAL_TO_ALL}\n\ndef solve(*args, **named):\n    return Any()\n\n\nsolution = main = f = answer = solve\n", WORDS,
)  # fmt: skip

TABLE = re.compile(r"(?:\btables?\b[:\s]+|\bfrom\s+|\binto\s+|\bcreate table\s+)[`'\"]?([A-Za-z_]\w{0,40})", re.IGNORECASE)
RELATION = re.compile(r"\b([A-Za-z_]\w{0,40})\s*\(\s*\w+(?:\s+\w+)?\s*(?:,|\))")
"""A name before columns, as in `item (name, price)`."""
WORD, NUMBER = re.compile(r"[^\W_]+(?:['-][^\W_]+)*"), re.compile(r"-?\d+(?:\.\d+)?")
MOST_TABLES, MOST_LABELS, MOST_WORDS = 4, 30, 200

OPPOSITES = {
    "take": "drop", "get": "drop", "pick": "put", "open": "close", "push": "pull", "buy": "sell", "enter": "leave", "add": "remove",
    "lock": "unlock", "north": "south", "east": "west", "up": "down", "left": "right", "n": "s", "e": "w", "on": "off", "forward": "back",
    "wear": "remove", "light": "extinguish",
}  # fmt: skip
OPPOSITES |= {back: there for there, back in OPPOSITES.items() if back not in OPPOSITES}


def labels(seen: Sequence[ScriptedEpisode]) -> list[str]:
    """The short answers of these episodes."""
    return _first(MOST_LABELS, (action for played in seen for _, action in played.exchanges if len(action) <= 40))


def joined(texts: Sequence[str]) -> list[str]:
    """Several texts as one answer."""
    return [between.join(texts) for between in (" ", ", ", "\n")] if len(texts) > 1 else []


def constants(environment: Environment, seen: Sequence[ScriptedEpisode]) -> list[str]:
    """Texts that are given whatever was asked; the last ones are made of the words of the environment."""
    own = dict.fromkeys(played.instructions for played in seen if played.instructions is not None)
    texts = [environment.instructions, *own, *(played.exchanges[0][0] for played in seen if played.exchanges)]
    tables = _first(MOST_TABLES, (name for text in texts for pattern in (TABLE, RELATION) for name in pattern.findall(text)))
    words = " ".join(_first(MOST_WORDS, WORD.findall(environment.instructions)))
    return [*CONSTANTS, *(f"select * from {table}" for table in tables), *joined(labels(seen)), *([words] if words else [])]


def copies() -> list[tuple[str, Answer]]:
    """What is copied, and the answer."""
    return [
        ("the first word of what it reads", _picked(WORD, lambda found: found[0])),
        ("the last word of what it reads", _picked(WORD, lambda found: found[-1])),
        ("the first number of what it reads", _picked(NUMBER, lambda found: found[0])),
        ("the last number of what it reads", _picked(NUMBER, lambda found: found[-1])),
        ("the largest number of what it reads", _picked(NUMBER, lambda found: max(found, key=float))),
    ]


def farms(right: ScriptedEpisode | None, offered: Sequence[str]) -> list[tuple[str, Answer]]:
    """Pairs of actions in turn, after the oracle's actions up to there if there is an oracle."""
    actions = _first(6, (action for _, action in right.exchanges)) if right else list(offered[:6])
    pairs = [(action, back) for action in actions for back in _backs(action, actions)]
    found = [(f"{there!r} and {back!r} in turn", _in_turn([there, back])) for there, back in pairs]
    if right is not None:
        found += [
            (f"the oracle's answers up to {action!r}, then {back!r} and that in turn", _after(right, action, back))
            for action in actions
            for back in _backs(action, [])
        ]
        found.append(("the oracle's answers, each given twice", _twice()))
    return found


def _backs(action: str, others: Sequence[str]) -> list[str]:
    """What could undo an action: the same words with the opposite verb, else another action."""
    words = action.split()
    undone = [" ".join([*words[:n], OPPOSITES[word.lower()], *words[n + 1 :]]) for n, word in enumerate(words) if word.lower() in OPPOSITES]
    return undone or [other for other in others if other != action][:2]


def _in_turn(actions: Sequence[str]) -> Answer:
    count = _Count()
    return lambda observation, env: actions[count.turn(env) % len(actions)]


def _twice() -> Answer:
    count, last = _Count(), [""]

    def answer(observation: str, env: Guarded) -> str:
        if count.turn(env) % 2 == 0:
            last[0] = _oracle(env, last[0])
        return last[0]

    return answer


def _after(right: ScriptedEpisode, action: str, back: str) -> Answer:
    """The oracle's own answers until it gives this one; then it is undone and done again without end."""
    count, since = _Count(), [-1]

    def answer(observation: str, env: Guarded) -> str:
        turn = count.turn(env)
        if turn == 0:
            since[0] = -1
        if since[0] >= 0:
            return back if (turn - since[0]) % 2 else action
        given = _oracle(env, action)
        if given == action:
            since[0] = turn
        return given

    return answer


def _oracle(env: Guarded, otherwise: str) -> str:
    try:
        return env.oracle()
    except EnvironmentFault:
        return otherwise


class _Count:
    """Which turn of its episode an answer is for, from 0: each episode has an object of its own."""

    def __init__(self) -> None:
        self._env: Guarded | None = None
        self._turn = 0

    def turn(self, env: Guarded) -> int:
        self._turn = self._turn + 1 if env is self._env else 0
        self._env = env
        return self._turn


def _picked(pattern: re.Pattern[str], pick: Callable[[list[str]], str]) -> Answer:
    return lambda observation, env: pick(found) if (found := pattern.findall(observation)) else "1"


def _first(most: int, texts: Iterable[str]) -> list[str]:
    """The first different ones."""
    return list(dict.fromkeys(texts))[:most]


def given(texts: Iterable[str]) -> list[tuple[str, Answer]]:
    """The answers of a file, each as the only one."""
    return [(f"the answer {text[:60]!r}", fixed(text)) for text in texts]
