"""The loop that plays episodes: many at once, one batch of generation a round, every turn journaled as it was sampled.

What it holds to:
- What was sampled is what is kept: a prompt grows by whole turns, and is never decoded and tokenised again.
- All turns of one batch are one journal call, made after the environments have answered, because a turn carries its reward.
- An environment that fails is data (`env_error`), never a crash and never a score of 0. A policy that fails aborts what it played.
- Each episode has a fresh environment, closed in every case and never stepped after its end (`envs/guarded.py`).

An answer that ran into the token limit goes to the environment like any other; `Turn.finish` says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal, Protocol

from perdure.envs.environment import Environment
from perdure.envs.guarded import EnvironmentFault, GuardedEnv, Outcome
from perdure.envs.policy import Chat, Ids, Message, Policy, PolicyError, Request, Sample
from perdure.memory.errors import InputError, RuntimeFailure
from perdure.memory.records import Ending, Episode, EpisodePlan, Lease, Purpose, Sampler, StopReason, Turn


class Journal(Protocol):
    """Where episodes are written down while they are played. Each call is one transaction."""

    def start(self, plans: Sequence[EpisodePlan]) -> list[int]:
        """Write episodes that are about to be played; returns their ids, in order."""
        ...

    def turns(self, entries: Sequence[tuple[int, int, Turn]]) -> None:
        """Write the turns of one batch: episode id, number of the turn in its episode (from 0), turn."""
        ...

    def finish(self, endings: Sequence[Ending]) -> None:
        """Write how episodes ended."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """An episode to be played."""

    environment: Environment
    seed: int
    group: str
    member: int
    purpose: Purpose
    lease: Lease
    """Of the task (`live`) or of the job (every other purpose)."""


@dataclass(slots=True, kw_only=True)
class _Playing:
    """An episode in play: what has happened so far and, at last, how it ended."""

    id: int
    attempt: Attempt
    env: GuardedEnv
    observation: str = ""
    prompt_ids: Ids = ()
    shared: int = 0
    """How many tokens the prompt begins with that are the last prompt and its answer."""
    turns: list[Turn] = field(default_factory=list)
    stated: bool | None = None
    ending: Ending | None = None


def never() -> bool:
    """Nobody asks to stop."""
    return False


def play(
    attempts: Iterable[Attempt | None],
    policy: Policy,
    chat: Chat,
    sampler: Sampler,
    journal: Journal,
    *,
    temperature: float,
    width: int,
    context_limit: int,
    stop: Callable[[], bool] = never,
    on_finish: Callable[[Episode], None] | None = None,
) -> list[Episode]:
    """Play attempts, up to `width` at once, and return their episodes in the order of the attempts.

    A place that falls free is taken by the next attempt, which is only then drawn; where that is None there is none just now, and the next
    round asks again, as long as anything is in play. With `on_finish` episodes are handed to it as they end, and none is kept: play that
    goes on for days has no room for all. Once `stop()` is true, episodes in play are aborted and none are begun.

    Raises `PolicyError` where the policy cannot answer and `RuntimeFailure` where it answers as another sampler or out of form; the
    episodes in play are aborted first. What the journal raises goes through.
    """
    if width < 1:
        raise InputError(f"width={width}: at least one episode must be played at once")
    waiting = iter(attempts)
    begun: list[_Playing] = []
    alive: list[_Playing] = []

    def settle() -> None:
        """Write down which episodes have ended, and let go of them."""
        ended = [playing for playing in alive if playing.ending is not None]
        if ended:
            journal.finish([playing.ending for playing in ended if playing.ending is not None])
        alive[:] = [playing for playing in alive if playing.ending is None]
        for playing in ended:
            playing.env.close()
            if on_finish is not None:
                on_finish(_episode(playing, temperature))

    def abort(error: str | None) -> None:
        for playing in alive:
            if playing.ending is None:
                _end(playing, "aborted", "interrupted", error)
        settle()

    try:
        while not stop():
            fresh = _begin(_drawn(waiting, width - len(alive)), journal, sampler, temperature)
            if on_finish is None:
                begun += fresh
            alive += fresh
            for playing in fresh:
                _reset(playing, chat, context_limit)
            settle()
            if not alive:
                if fresh:
                    continue
                break
            try:
                samples = _generate(policy, alive, sampler, temperature)
            except (PolicyError, RuntimeFailure) as error:
                abort(str(error))
                raise
            outcomes = [_step(playing, chat, sample) for playing, sample in zip(alive, samples, strict=True)]
            journal.turns([(playing.id, len(playing.turns) - 1, playing.turns[-1]) for playing in alive])
            try:
                for playing, outcome in zip(alive, outcomes, strict=True):
                    if outcome is not None:
                        _go_on(playing, outcome, chat, context_limit)
            except RuntimeFailure as error:
                abort(str(error))
                raise
            settle()
        abort(None)
    finally:
        for playing in alive:
            playing.env.close()
    return [_episode(playing, temperature) for playing in begun]


def opening(environment: Environment, observation: str) -> list[Message]:
    """What a policy is told first: instructions, solved examples, the first observation."""
    messages = [Message(role="system", text=environment.instructions)] if environment.instructions else []
    for asked, answered in environment.examples:
        messages += [Message(role="user", text=asked), Message(role="assistant", text=answered)]
    return [*messages, Message(role="user", text=observation)]


def _drawn(waiting: Iterator[Attempt | None], places: int) -> list[Attempt]:
    """The next attempts, as many as there are places, or as there are just now."""
    drawn = []
    for attempt in islice(waiting, places):
        if attempt is None:
            break
        drawn.append(attempt)
    return drawn


def _begin(attempts: Sequence[Attempt], journal: Journal, sampler: Sampler, temperature: float) -> list[_Playing]:
    if not attempts:
        return []
    plans = [
        EpisodePlan(
            environment=attempt.environment.name,
            seed=attempt.seed,
            group=attempt.group,
            member=attempt.member,
            purpose=attempt.purpose,
            sampler=sampler,
            temperature=temperature,
            lease=attempt.lease,
        )
        for attempt in attempts
    ]
    ids = journal.start(plans)
    return [_Playing(id=id_, attempt=attempt, env=GuardedEnv(attempt.environment)) for id_, attempt in zip(ids, attempts, strict=True)]


def _reset(playing: _Playing, chat: Chat, context_limit: int) -> None:
    environment = playing.attempt.environment
    try:
        playing.observation = playing.env.reset(playing.attempt.seed)
    except EnvironmentFault as fault:
        _end(playing, "env_error", "error", str(fault))
        return
    playing.prompt_ids = chat.prompt(opening(environment, playing.observation))
    if len(playing.prompt_ids) + environment.max_tokens > context_limit:
        error = f"the first prompt has {len(playing.prompt_ids)} tokens; with {environment.max_tokens} to answer they pass {context_limit}"
        _end(playing, "env_error", "context_limit", error)


def _generate(policy: Policy, alive: Sequence[_Playing], sampler: Sampler, temperature: float) -> list[Sample]:
    """One batch of answers, checked: from the sampler that was asked for, and a finite log-prob for every token."""
    limits = [playing.attempt.environment.max_tokens for playing in alive]
    requests = [
        Request(prompt_ids=playing.prompt_ids, max_tokens=limit, temperature=temperature)
        for playing, limit in zip(alive, limits, strict=True)
    ]
    samples = policy.generate(requests)
    if len(samples) != len(requests):
        raise RuntimeFailure(f"the policy gave {len(samples)} answers to {len(requests)} requests")
    for sample in samples:
        if sample.sampler != sampler:
            raise RuntimeFailure(f"the policy answered as {sample.sampler}, but {sampler} was asked for: these episodes are discarded")
        if len(sample.logprobs) != len(sample.action_ids) or not all(map(math.isfinite, sample.logprobs)):
            raise RuntimeFailure(f"{sampler} gave {len(sample.action_ids)} tokens with the log-probs {sample.logprobs}")
    return samples


def _step(playing: _Playing, chat: Chat, sample: Sample) -> Outcome | None:
    """Give the answer to the environment and keep the turn. None where the environment failed: its turn is kept with a reward of 0."""
    action = chat.text(sample.action_ids)
    outcome: Outcome | None = None
    try:
        outcome = playing.env.step(action)
    except EnvironmentFault as fault:
        _end(playing, "env_error", "error", str(fault))
    turn = Turn(
        prompt_ids=playing.prompt_ids,
        action_ids=sample.action_ids,
        logprobs=sample.logprobs,
        observation=playing.observation,
        action=action,
        reward=0.0 if outcome is None else outcome.reward,
        sampler=sample.sampler,
        finish=sample.finish,
        invalid=None if outcome is None else outcome.invalid,
        shared=playing.shared,
    )
    playing.turns.append(turn)
    return outcome


def _go_on(playing: _Playing, outcome: Outcome, chat: Chat, context_limit: int) -> None:
    """The next prompt, or the end."""
    environment = playing.attempt.environment
    playing.stated = outcome.success
    if outcome.ended:
        return _end(playing, "completed", "terminated" if outcome.terminated else "truncated")
    if len(playing.turns) >= environment.turn_limit:
        return _end(playing, "completed", "turn_limit")
    said = playing.prompt_ids + playing.turns[-1].action_ids
    prompt_ids = chat.follow(playing.prompt_ids, playing.turns[-1].action_ids, outcome.observation)
    if prompt_ids[: len(said)] != said:
        raise RuntimeFailure("the chat template changes what was said before: this model cannot play environments of several turns")
    if len(prompt_ids) + environment.max_tokens > context_limit:
        return _end(playing, "completed", "context_limit")
    playing.observation, playing.prompt_ids, playing.shared = outcome.observation, prompt_ids, len(said)
    return None


def _end(playing: _Playing, state: Literal["completed", "aborted", "env_error"], reason: StopReason, error: str | None = None) -> None:
    total_reward = math.fsum(turn.reward for turn in playing.turns)
    success, score = playing.attempt.environment.judge(total_reward, playing.stated) if state == "completed" else (False, 0.0)
    playing.ending = Ending(
        episode=playing.id, state=state, stop_reason=reason, total_reward=total_reward, success=success, score=score, error=error
    )


def _episode(playing: _Playing, temperature: float) -> Episode:
    attempt, ending = playing.attempt, playing.ending
    assert ending is not None, "only an episode that has ended is handed out"
    live = attempt.purpose == "live"
    return Episode(
        id=playing.id,
        environment=attempt.environment.name,
        seed=attempt.seed,
        group=attempt.group,
        member=attempt.member,
        purpose=attempt.purpose,
        state=ending.state,
        turns=tuple(playing.turns),
        total_reward=ending.total_reward,
        success=ending.success,
        score=ending.score,
        stop_reason=ending.stop_reason,
        temperature=temperature,
        task=attempt.lease.subject if live else None,
        job=None if live else attempt.lease.subject,
        error=ending.error,
    )
