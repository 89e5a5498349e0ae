"""Small real stand-ins for the seams: a policy that follows a script, a chat over bytes, a journal in a list."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from perdure.envs.policy import Ids, Message, PolicyError, Request, Sample
from perdure.learners.engines.engine import require_turn_room
from perdure.learners.weights.base_models import ModelFiles
from perdure.memory.records import Ending, EpisodePlan, Sampler, Turn

END = 256
ROLES = {"system": 257, "user": 258, "assistant": 259, "tool": 260}


class ByteChat:
    """Text as its UTF-8 bytes, one token each; roles and the end of a message are tokens of their own."""

    separate: bool = False

    def prompt(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> Ids:
        said = [id_ for message in messages for id_ in (ROLES[message.role], *message.text.encode(), END)]
        return (*said, ROLES["assistant"])

    def follow(self, prompt_ids: Ids, action_ids: Ids, observation: str) -> Ids:
        closing = () if action_ids[-1:] == (END,) else (END,)
        return prompt_ids + action_ids + closing + self.prompt([Message(role="user", text=observation)])

    def text(self, action_ids: Ids) -> str:
        return bytes(id_ for id_ in action_ids if id_ < END).decode(errors="replace")

    def answer(self, text: str) -> Ids:
        return (*text.encode(), END)

    def exchange(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> tuple[Ids, Ids]:
        return self.prompt(messages[:-1], tools), self.answer(messages[-1].text)

    def messages(self, prompt_ids: Ids) -> list[Message]:
        """The conversation that a prompt holds, without the empty answer at its end."""
        names = {id_: role for role, id_ in ROLES.items()}
        said: list[Message] = []
        start = 0
        for i, id_ in enumerate(prompt_ids):
            if id_ in names:
                start = i
            elif id_ == END:
                role = names[prompt_ids[start]]
                assert role in ROLES
                said.append(Message(role=role, text=self.text(prompt_ids[start:i])))  # type: ignore[arg-type]
        return said


@dataclass
class ScriptedPolicy:
    """Answers each prompt by a function of what was last said to it; answers longer than allowed are cut."""

    answer: Callable[[str], str]
    sampler: Sampler
    batches: list[list[Request]] = field(default_factory=list)
    """Every batch that was asked for."""

    def generate(self, requests: Sequence[Request]) -> list[Sample]:
        self.batches.append(list(requests))
        return [self._sample(request) for request in requests]

    def _sample(self, request: Request) -> Sample:
        last = ByteChat().messages(request.prompt_ids)[-1].text
        whole = (*self.answer(last).encode(), END)
        ids = whole[: request.max_tokens]
        return Sample(action_ids=ids, logprobs=(-0.5,) * len(ids), finish="stop" if ids == whole else "length", sampler=self.sampler)


@dataclass
class ScriptedEngine:
    """`Engine` without a model: each sampler says which weights it has, and then what it was asked."""

    files: ModelFiles = field(default_factory=lambda: ModelFiles(name="scripted", path=Path("scripted"), hash="0" * 64))
    chat: ByteChat = field(default_factory=ByteChat)
    context_limit: int = 256
    loaded: dict[Sampler, str] = field(default_factory=dict)
    rests: int = 0
    numerics: str = "scripted"

    def load(self, sampler: Sampler, weights: Mapping[str, Any]) -> None:
        if sampler in self.loaded:
            raise ValueError(f"{sampler} is loaded already")
        self.loaded[sampler] = f"{sum(float(pair.up_OR.sum()) for pair in weights.values()):.3f}" if weights else "base"

    def unload(self, sampler: Sampler) -> None:
        del self.loaded[sampler]

    def release_memory(self) -> None:
        self.rests += 1

    def __contains__(self, sampler: Sampler) -> bool:
        return sampler in self.loaded

    def policy(self, sampler: Sampler) -> ScriptedSampler:
        self.require(sampler)
        return ScriptedSampler(self, sampler)

    def logprobs(self, sampler: Sampler, turns: Sequence[tuple[Ids, Ids]]) -> list[tuple[float, ...]]:
        self.require(sampler)
        require_turn_room(turns, self.context_limit)
        return [(self.liking(sampler, prompt, action),) + (0.0,) * (len(action) - 1) for prompt, action in turns]

    def liking(self, sampler: Sampler, prompt: Ids, action: Ids) -> float:
        """The log-prob of a whole given answer."""
        return -0.5 * len(action)

    def require(self, sampler: Sampler) -> str:
        if sampler not in self.loaded:
            raise PolicyError(f"{sampler} is not loaded")
        return self.loaded[sampler]


@dataclass(frozen=True)
class ScriptedSampler:
    """`Policy` over a sampler of a `ScriptedEngine`."""

    engine: ScriptedEngine
    sampler: Sampler

    def generate(self, requests: Sequence[Request]) -> list[Sample]:
        weights = self.engine.require(self.sampler)
        for request in requests:
            if not request.prompt_ids or len(request.prompt_ids) + request.max_tokens > self.engine.context_limit:
                raise PolicyError("a prompt exceeds the context")
        return ScriptedPolicy(lambda said: f"{weights} {said}", self.sampler).generate(requests)


@dataclass
class ListJournal:
    """Keeps what it is told, and the order of the calls. Episode ids count from 1."""

    plans: dict[int, EpisodePlan] = field(default_factory=dict)
    played: dict[tuple[int, int], Turn] = field(default_factory=dict)
    endings: dict[int, Ending] = field(default_factory=dict)
    calls: list[tuple[str, int]] = field(default_factory=list)
    """Name and number of rows of every call."""

    def start(self, plans: Sequence[EpisodePlan]) -> list[int]:
        self.calls.append(("start", len(plans)))
        ids = list(range(len(self.plans) + 1, len(self.plans) + 1 + len(plans)))
        self.plans.update(zip(ids, plans, strict=True))
        return ids

    def turns(self, entries: Sequence[tuple[int, int, Turn]]) -> None:
        self.calls.append(("turns", len(entries)))
        for episode, n, turn in entries:
            assert episode in self.plans, f"episode {episode} was not started"
            assert episode not in self.endings, f"episode {episode} has ended"
            assert n == sum(key[0] == episode for key in self.played), f"turn {n} of episode {episode} is out of order"
            self.played[episode, n] = turn

    def finish(self, endings: Sequence[Ending]) -> None:
        self.calls.append(("finish", len(endings)))
        for ending in endings:
            assert ending.episode not in self.endings, f"episode {ending.episode} ended twice"
            self.endings[ending.episode] = ending
