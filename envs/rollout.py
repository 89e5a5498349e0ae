"""The loop that plays episodes: many at once, one batch of generation a round, every turn journaled as it was sampled.

What it holds to:
- What was sampled is what is kept: a prompt grows by whole turns, and is never decoded and tokenised again.
- All turns of one batch are one journal call, made after the environments have answered, because a turn carries its reward.
- In a game for several each seat sees its own prompt, is an episode of its own, and is played by its own policy (docs/sources.md).
- An environment that fails is data (`env_error`), never a crash and never a score of 0. A policy that fails aborts what it played.
- Each episode has a fresh environment, closed in every case and never stepped after its end (`envs/guarded.py`).

An answer that ran into the token limit goes to the environment like any other; `Turn.finish` says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Literal, Protocol

from perdure.envs.environment import Environment
from perdure.envs.guarded import EnvironmentFault, Guarded, Outcome, opened
from perdure.envs.policy import Chat, Ids, Message, Policy, PolicyError, Request, Sample
from perdure.memory.errors import InputError, RuntimeFailure, UnknownError
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
class _Seat:
    """An episode in play: what one seat of a game has seen and done so far and, at last, how it ended."""

    id: int | None
    """None until the journal has it."""
    number: int
    sampler: Sampler
    policy: Policy
    observation: str = ""
    prompt_ids: Ids = ()
    shared: int = 0
    """How many tokens the prompt begins with that are the last prompt and its answer."""
    turns: list[Turn] = field(default_factory=list)
    written: int = 0
    """How many of them the journal has. The last one waits while others play, as it may yet be rewarded for what they do."""
    unearned: float = 0.0
    """What it was rewarded before its first turn."""
    ending: Ending | None = None


@dataclass(slots=True, kw_only=True)
class _Playing:
    """A game in play, with the seats that have had a turn. Most have one seat, number 0, which is the one that is judged."""

    attempt: Attempt
    env: Guarded
    seats: dict[int, _Seat]
    acting: int = 0
    stated: bool | None = None
    ended: bool = False

    @property
    def seat(self) -> _Seat:
        """Whose turn it is."""
        return self.seats[self.acting]


Opponents = Callable[[str], tuple[Sampler, Policy]]
"""Who plays the other seats, from `serving` or the name of a version. Raises `UnknownError` or `RuntimeFailure` where it cannot."""


def never() -> bool:
    """Nobody asks to stop."""
    return False


def nobody(opponent: str) -> tuple[Sampler, Policy]:
    """There are no opponents here."""
    raise UnknownError(f"{opponent!r} cannot play the other seats here")


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
    opponents: Opponents = nobody,
) -> list[Episode]:
    """Play attempts, up to `width` at once, and return their episodes in the order of the attempts.

    Of a game for several, each seat has an episode of its own in the journal; only those of seat 0 are returned and given to `on_finish`.

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
        """Write down which games have ended, and let go of them."""
        ended = [playing for playing in alive if playing.ended]
        seats = [seat for playing in ended for seat in playing.seats.values()]
        write(seats)
        if ended:
            journal.finish([seat.ending for seat in seats if seat.ending is not None])
        alive[:] = [playing for playing in alive if not playing.ended]
        for playing in ended:
            playing.env.close()
            if on_finish is not None:
                on_finish(_episode(playing, temperature))

    def write(seats: Iterable[_Seat]) -> None:
        """Write the turns of these seats that the journal does not have yet."""
        waiting = [seat for seat in seats if seat.id is not None and len(seat.turns) > seat.written]
        if waiting:
            journal.turns([(seat.id, seat.written, seat.turns[-1]) for seat in waiting if seat.id is not None])
            for seat in waiting:
                seat.written += 1

    def abort(error: str | None) -> None:
        for playing in alive:
            if not playing.ended:
                _end(playing, "aborted", "interrupted", error)
        settle()

    @contextmanager
    def aborting() -> Iterator[None]:
        """Where a policy fails, abort what is in play."""
        try:
            yield
        except (PolicyError, RuntimeFailure) as error:
            abort(str(error))
            raise

    try:
        while not stop():
            fresh = _begin(_drawn(waiting, width - len(alive)), policy, sampler, journal, temperature)
            if on_finish is None:
                begun += fresh
            alive += fresh
            for playing in fresh:
                playing.env.begin(playing.attempt.seed)
            with aborting():
                for playing in fresh:
                    _reset(playing, chat, context_limit, opponents)
            settle()
            if not alive:
                if fresh:
                    continue
                break
            _start([(playing.attempt, playing.seat) for playing in alive if playing.seat.id is None], journal, temperature)
            with aborting():
                samples = _generate([playing.seat for playing in alive], [playing.attempt for playing in alive], temperature)
            actions = [chat.text(sample.action_ids) for sample in samples]
            for playing, action in zip(alive, actions, strict=True):
                playing.env.send(action)
            outcomes = [_step(playing, sample, action) for playing, sample, action in zip(alive, samples, actions, strict=True)]
            write(seat for playing, outcome in zip(alive, outcomes, strict=True) for seat in _rewarded(playing, outcome))
            with aborting():
                for playing, outcome in zip(alive, outcomes, strict=True):
                    if outcome is not None:
                        _go_on(playing, outcome, chat, context_limit, opponents)
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
    return [*messages, Message(role="user", text=environment.asked(observation))]


def _drawn(waiting: Iterator[Attempt | None], places: int) -> list[Attempt]:
    """The next attempts, as many as there are places, or as there are just now."""
    drawn = []
    for attempt in islice(waiting, places):
        if attempt is None:
            break
        drawn.append(attempt)
    return drawn


def _begin(attempts: Sequence[Attempt], policy: Policy, sampler: Sampler, journal: Journal, temperature: float) -> list[_Playing]:
    begun = [
        _Playing(
            attempt=attempt,
            env=opened(attempt.environment),
            seats={0: _Seat(id=None, number=0, sampler=sampler, policy=policy)},
        )
        for attempt in attempts
    ]
    _start([(playing.attempt, playing.seat) for playing in begun], journal, temperature)
    return begun


def _start(seated: Sequence[tuple[Attempt, _Seat]], journal: Journal, temperature: float) -> None:
    """Write the rows of seats that have none yet. The other seats of a group are groups of their own."""
    if not seated:
        return
    plans = [
        EpisodePlan(
            environment=attempt.environment.name,
            seed=attempt.seed,
            group=f"{attempt.group}/seat-{seat.number}" if seat.number else attempt.group,
            member=attempt.member,
            purpose=attempt.purpose,
            sampler=seat.sampler,
            temperature=temperature,
            lease=attempt.lease,
            seat=seat.number,
        )
        for attempt, seat in seated
    ]
    for id_, (_, seat) in zip(journal.start(plans), seated, strict=True):
        seat.id = id_


def _reset(playing: _Playing, chat: Chat, context_limit: int, opponents: Opponents) -> None:
    try:
        observation = playing.env.first()
    except EnvironmentFault as fault:
        return _end(playing, "env_error", "error", str(fault))
    return _tell(playing, playing.env.seat, observation, chat, context_limit, opponents)


def _generate(seats: Sequence[_Seat], attempts: Sequence[Attempt], temperature: float) -> list[Sample]:
    """One batch of answers of each sampler, checked: from the sampler that was asked for, and a finite log-prob for every token."""
    samples: dict[int, Sample] = {}
    batches: dict[Sampler, list[int]] = {}
    for i, seat in enumerate(seats):
        batches.setdefault(seat.sampler, []).append(i)
    for sampler, batch in batches.items():
        requests = [
            Request(prompt_ids=seats[i].prompt_ids, max_tokens=attempts[i].environment.max_tokens, temperature=temperature) for i in batch
        ]
        answers = seats[batch[0]].policy.generate(requests)
        if len(answers) != len(requests):
            raise RuntimeFailure(f"the policy gave {len(answers)} answers to {len(requests)} requests")
        for sample in answers:
            if sample.sampler != sampler:
                raise RuntimeFailure(f"the policy answered as {sample.sampler}, but {sampler} was asked for: these episodes are discarded")
            if len(sample.logprobs) != len(sample.action_ids) or not all(map(math.isfinite, sample.logprobs)):
                raise RuntimeFailure(f"{sampler} gave {len(sample.action_ids)} tokens with the log-probs {sample.logprobs}")
        samples.update(zip(batch, answers, strict=True))
    return [samples[i] for i in range(len(seats))]


def _step(playing: _Playing, sample: Sample, action: str) -> Outcome | None:
    """Take what the action led to, and keep the turn. None where the environment failed: its turn is kept with a reward of 0."""
    seat = playing.seat
    outcome: Outcome | None = None
    try:
        outcome = playing.env.receive()
    except EnvironmentFault as fault:
        _end(playing, "env_error", "error", str(fault))
    turn = Turn(
        prompt_ids=seat.prompt_ids,
        action_ids=sample.action_ids,
        logprobs=sample.logprobs,
        observation=seat.observation,
        action=action,
        reward=0.0 if outcome is None or seat.number else outcome.reward,
        sampler=sample.sampler,
        finish=sample.finish,
        invalid=None if outcome is None else outcome.invalid,
        shared=seat.shared,
    )
    seat.turns.append(turn)
    if outcome is not None and len(playing.seats) > 1:
        for number, other in playing.seats.items():
            if number:
                _reward(other, outcome.rewards[number] if outcome.ended else 0.0)
            elif seat.number:
                _reward(other, outcome.reward)
    return outcome


def _reward(seat: _Seat, reward: float) -> None:
    """Add to the reward of its last turn."""
    if not seat.turns:
        seat.unearned += reward
    elif reward:
        seat.turns[-1] = replace(seat.turns[-1], reward=seat.turns[-1].reward + reward)


def _rewarded(playing: _Playing, outcome: Outcome | None) -> list[_Seat]:
    """The seats whose last turn will not be rewarded any more: all at the end, else the one whose turn it is again."""
    if outcome is None or outcome.ended:
        return list(playing.seats.values())
    return [playing.seats[outcome.seat]] if outcome.seat in playing.seats else []


def _go_on(playing: _Playing, outcome: Outcome, chat: Chat, context_limit: int, opponents: Opponents) -> None:
    """The next prompt, or the end."""
    playing.stated = outcome.success
    if outcome.ended and not playing.seats[0].turns:  # won or lost by others: it says nothing about the policy
        return _end(playing, "env_error", "error", "the game ended before the policy had a turn")
    if outcome.ended:
        return _end(playing, "completed", "terminated" if outcome.terminated else "truncated")
    return _tell(playing, outcome.seat, outcome.observation, chat, context_limit, opponents)


def _tell(playing: _Playing, number: int, observation: str, chat: Chat, context_limit: int, opponents: Opponents) -> None:
    """Make the prompt of the seat whose turn it is, from what it was told before and the observation; or end the game."""
    environment = playing.attempt.environment
    if number not in playing.seats:
        try:
            sampler, policy = opponents(environment.opponent)
        except (UnknownError, RuntimeFailure) as error:  # no such version, or its files are gone: the game's failure, not the policy's
            return _end(playing, "env_error", "error", str(error))
        playing.seats[number] = _Seat(id=None, number=number, sampler=sampler, policy=policy)
    playing.acting, seat = number, playing.seats[number]
    said: Ids = ()
    if not seat.turns:
        prompt_ids = chat.prompt(opening(environment, observation))
        if len(prompt_ids) + environment.max_tokens > context_limit:
            told = f"the first prompt has {len(prompt_ids)} tokens; with {environment.max_tokens} to answer they pass {context_limit}"
            return _end(playing, "env_error", "context_limit", told)
    else:
        if len(seat.turns) >= environment.turn_limit:
            return _end(playing, "completed", "turn_limit")
        said = seat.prompt_ids + seat.turns[-1].action_ids
        prompt_ids = chat.follow(seat.prompt_ids, seat.turns[-1].action_ids, observation)
        if prompt_ids[: len(said)] != said:
            raise RuntimeFailure("the chat template changes what was said before: this model cannot play environments of several turns")
        if len(prompt_ids) + environment.max_tokens > context_limit:
            return _end(playing, "completed", "context_limit")
    seat.observation, seat.prompt_ids, seat.shared = observation, prompt_ids, len(said)
    return None


def _end(playing: _Playing, state: Literal["completed", "aborted", "env_error"], reason: StopReason, error: str | None = None) -> None:
    """All seats end together, each with its own return."""
    playing.ended = True
    for seat in playing.seats.values():
        if seat.id is None:  # it has said nothing yet
            continue
        total_reward = math.fsum((seat.unearned, *(turn.reward for turn in seat.turns)))
        stated = None if seat.number else playing.stated
        success, score = playing.attempt.environment.judge(total_reward, stated) if state == "completed" else (False, 0.0)
        seat.ending = Ending(
            episode=seat.id, state=state, stop_reason=reason, total_reward=total_reward, success=success, score=score, error=error
        )


def _episode(playing: _Playing, temperature: float) -> Episode:
    attempt, seat = playing.attempt, playing.seats[0]
    ending = seat.ending
    assert ending is not None, "only an episode that has ended is handed out"
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
    )
