"""The loop that plays episodes: many at once, one batch of generation a round, every turn journaled as it was sampled.

Its rules:
- Tokens are stored as they were sampled: a prompt grows by whole turns, and is never decoded and tokenised again.
- All turns of one batch are one journal call, made after the environments have answered, because a turn carries its reward.
- In a game for several players each seat has its own prompt, its own episode and its own policy (docs/sources.md).
- An environment that fails is data (`env_error`), never a crash and never a score of 0. A policy that fails aborts its episodes.
- Each episode has a fresh environment, which is always closed and never stepped after its end (`envs/guarded.py`).

An answer that was cut at the token limit goes to the environment like any other; `Turn.finish` records it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Protocol

from perdure.envs.environment import Environment, Exchange, StepOutcome
from perdure.envs.guarded import EnvironmentFault, open_episode
from perdure.envs.playing import Attempt, Playing, Seat, end, episode_of, reward, settled_seats
from perdure.envs.policy import Chat, Ids, Message, Policy, PolicyError, Request, Sample
from perdure.envs.seeds import answer_seed
from perdure.memory.errors import InputError, RuntimeFailure, UnknownError
from perdure.memory.records import Ending, Episode, EpisodePlan, Sampler, Turn


class Journal(Protocol):
    """Stores episodes while they are played. Each call is one transaction."""

    def start(self, plans: Sequence[EpisodePlan]) -> list[int]:
        """Write episodes that are about to be played; returns their ids, in order."""
        ...

    def turns(self, entries: Sequence[tuple[int, int, Turn]]) -> None:
        """Write the turns of one batch: episode id, number of the turn in its episode (from 0), turn."""
        ...

    def finish(self, endings: Sequence[Ending]) -> None:
        """Write the ends of episodes."""
        ...


Opponents = Callable[[str], tuple[Sampler, Policy]]
"""The policy of the other seats, from `serving` or the name of a version. Raises `UnknownError` or `RuntimeFailure`."""


def never() -> bool:
    """Never stop."""
    return False


def nothing() -> None:
    """Do nothing each round."""


def no_opponents(opponent: str) -> tuple[Sampler, Policy]:
    """Refuse every opponent."""
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
    each_round: Callable[[], None] = nothing,
    on_finish: Callable[[Episode], None] | None = None,
    opponents: Opponents = no_opponents,
) -> list[Episode]:
    """Play attempts, up to `width` at once, and return their episodes in the order of the attempts.

    In a game for several players each seat has an episode of its own in the journal; only those of seat 0 are returned and given to
    `on_finish`.

    A free place takes the next attempt, which is drawn only then. None means that there is no attempt at the moment: the next round asks
    again, as long as anything is in play. With `on_finish` each episode is handed over when it ends, and none is returned: play that
    lasts for days has no memory for all. When `stop()` is true, episodes in play are aborted and no others begin.
    `each_round` is called before each round of generation.

    Raises `PolicyError` if the policy cannot answer, and `RuntimeFailure` if it answers as another sampler or in the wrong form; the
    episodes in play are aborted first. Errors of the journal are passed on.
    """
    if width < 1:
        raise InputError(f"width={width}: at least one episode must be played at once")
    waiting = iter(attempts)
    begun: list[Playing] = []
    alive: list[Playing] = []

    def close_ended() -> None:
        """Journal the games that have ended, and close them."""
        ended = [playing for playing in alive if playing.ended]
        seats = [seat for playing in ended for seat in playing.seats.values()]
        write(seats)
        if ended:
            journal.finish([seat.ending for seat in seats if seat.ending is not None])
        alive[:] = [playing for playing in alive if not playing.ended]
        for playing in ended:
            playing.env.close()
            if on_finish is not None:
                on_finish(episode_of(playing, temperature))

    def write(seats: Iterable[Seat]) -> None:
        """Write the turns of these seats that are not in the journal yet."""
        unwritten = [seat for seat in seats if seat.id is not None and len(seat.turns) > seat.written]
        if unwritten:
            journal.turns([(seat.id, seat.written, seat.turns[-1]) for seat in unwritten if seat.id is not None])
            for seat in unwritten:
                seat.written += 1

    def abort(error: str | None) -> None:
        for playing in alive:
            if not playing.ended:
                end(playing, "aborted", "interrupted", error)
        close_ended()

    @contextmanager
    def aborting() -> Iterator[None]:
        """If a policy fails inside, abort the episodes in play."""
        try:
            yield
        except (PolicyError, RuntimeFailure) as error:
            abort(str(error))
            raise

    try:
        while not stop():
            each_round()
            fresh = _begin(_drawn(waiting, width - len(alive)), policy, sampler, journal, temperature)
            if on_finish is None:
                begun += fresh
            alive += fresh
            for playing in fresh:
                playing.env.begin(playing.attempt.seed)
            with aborting():
                for playing in fresh:
                    _reset(playing, chat, context_limit, opponents)
            close_ended()
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
            write(seat for playing, outcome in zip(alive, outcomes, strict=True) for seat in settled_seats(playing, outcome))
            with aborting():
                for playing, outcome in zip(alive, outcomes, strict=True):
                    if outcome is not None:
                        _continue(playing, outcome, chat, context_limit, opponents)
            close_ended()
        abort(None)
    finally:
        for playing in alive:
            playing.env.close()
    return [episode_of(playing, temperature) for playing in begun]


def opening(environment: Environment, observation: str, instructions: str | None = None) -> list[Message]:
    """The first messages to a policy: instructions, those of the task if it has any; solved examples; the first observation."""
    system = environment.instructions if instructions is None else instructions
    messages = [Message(role="system", text=system)] if system else []
    for observed, action in environment.examples:
        messages += [Message(role="user", text=observed), Message(role="assistant", text=action)]
    return [*messages, Message(role="user", text=environment.first_message(observation))]


def conversation(
    environment: Environment, exchanges: Sequence[Exchange], observation: str, instructions: str | None = None
) -> list[Message]:
    """All messages to a policy up to an observation, after these exchanges; `instructions` are those of the task, if it has any."""
    if not exchanges:
        return opening(environment, observation, instructions)
    observed = [*(seen for seen, _ in exchanges[1:]), observation]
    messages = opening(environment, exchanges[0][0], instructions)
    for (_, action), seen in zip(exchanges, observed, strict=True):
        messages += [Message(role="assistant", text=action), Message(role="user", text=seen)]
    return messages


def _drawn(waiting: Iterator[Attempt | None], places: int) -> list[Attempt]:
    """The next attempts: as many as there are places, or fewer if there are fewer at the moment."""
    drawn = []
    for attempt in islice(waiting, places):
        if attempt is None:
            break
        drawn.append(attempt)
    return drawn


def _begin(attempts: Sequence[Attempt], policy: Policy, sampler: Sampler, journal: Journal, temperature: float) -> list[Playing]:
    begun = [
        Playing(
            attempt=attempt,
            env=open_episode(attempt.environment),
            seats={0: Seat(id=None, number=0, sampler=sampler, policy=policy)},
        )
        for attempt in attempts
    ]
    _start([(playing.attempt, playing.seat) for playing in begun], journal, temperature)
    return begun


def _start(seated: Sequence[tuple[Attempt, Seat]], journal: Journal, temperature: float) -> None:
    """Begin the episodes of these seats in the journal. The other seats of a group are groups of their own."""
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
            code=attempt.environment.code or None,
        )
        for attempt, seat in seated
    ]
    for id_, (_, seat) in zip(journal.start(plans), seated, strict=True):
        seat.id = id_


def _reset(playing: Playing, chat: Chat, context_limit: int, opponents: Opponents) -> None:
    try:
        observation = playing.env.first()
    except EnvironmentFault as fault:
        return end(playing, "env_error", "error", str(fault))
    return _prompt(playing, playing.env.seat, observation, chat, context_limit, opponents)


def _generate(seats: Sequence[Seat], attempts: Sequence[Attempt], temperature: float) -> list[Sample]:
    """One batch of answers from each sampler, checked: from the right sampler, with a finite log-prob for every token."""
    samples: dict[int, Sample] = {}
    batches: dict[Sampler, list[int]] = {}
    for i, seat in enumerate(seats):
        batches.setdefault(seat.sampler, []).append(i)
    for sampler, batch in batches.items():
        requests = [_request(seats[i], attempts[i], temperature) for i in batch]
        answers = seats[batch[0]].policy.generate(requests)
        if len(answers) != len(requests):
            raise RuntimeFailure(f"the policy gave {len(answers)} answers to {len(requests)} requests")
        for sample in answers:
            if sample.sampler != sampler:
                raise RuntimeFailure(f"the policy answered as {sample.sampler}, not as {sampler}: these episodes are discarded")
            if len(sample.logprobs) != len(sample.action_ids) or not all(map(math.isfinite, sample.logprobs)):
                raise RuntimeFailure(
                    f"{sampler} gave {len(sample.action_ids)} tokens with log-probs that are missing or not finite: {sample.logprobs}"
                )
        samples.update(zip(batch, answers, strict=True))
    return [samples[i] for i in range(len(seats))]


def _request(seat: Seat, attempt: Attempt, temperature: float) -> Request:
    return Request(
        prompt_ids=seat.prompt_ids,
        max_tokens=attempt.environment.max_tokens,
        temperature=temperature,
        seed=answer_seed(attempt.seed, seat.number, len(seat.turns)) if attempt.repeatable else None,
    )


def _step(playing: Playing, sample: Sample, action: str) -> StepOutcome | None:
    """Receive the outcome of the action, and record the turn. None if the environment failed: the turn then has a reward of 0."""
    seat = playing.seat
    outcome: StepOutcome | None = None
    try:
        outcome = playing.env.receive()
    except EnvironmentFault as fault:
        end(playing, "env_error", "error", str(fault))
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
                reward(other, outcome.rewards[number] if outcome.ended else 0.0)
            elif seat.number:
                reward(other, outcome.reward)
    return outcome


def _continue(playing: Playing, outcome: StepOutcome, chat: Chat, context_limit: int, opponents: Opponents) -> None:
    """Make the next prompt, or end the game."""
    playing.stated = outcome.success
    if outcome.ended and not playing.seats[0].turns:  # won or lost by others: no data about the policy
        return end(playing, "env_error", "error", "the game ended before the policy had a turn")
    if outcome.ended:
        return end(playing, "completed", "terminated" if outcome.terminated else "truncated")
    return _prompt(playing, outcome.seat, outcome.observation, chat, context_limit, opponents)


def _prompt(playing: Playing, number: int, observation: str, chat: Chat, context_limit: int, opponents: Opponents) -> None:
    """Make the prompt of the seat whose turn it is, from its last prompt and the observation; or end the game."""
    environment = playing.attempt.environment
    if number not in playing.seats:
        try:
            sampler, policy = opponents(environment.opponent)
        except (UnknownError, RuntimeFailure) as error:  # no such version, or its files are missing: not the policy's failure
            return end(playing, "env_error", "error", str(error))
        playing.seats[number] = Seat(id=None, number=number, sampler=sampler, policy=policy)
    playing.acting, seat = number, playing.seats[number]
    if seat.turns and len(seat.turns) >= environment.turn_limit:
        return end(playing, "completed", "turn_limit")
    try:
        prompt_ids, shared = _next_prompt(playing, seat, observation, chat)
    except InputError as error:  # the template does not accept what was said
        return end(playing, "env_error", "error", str(error))
    if not seat.turns:
        if len(prompt_ids) + environment.max_tokens > context_limit:
            reason = f"the first prompt has {len(prompt_ids)} tokens; with {environment.max_tokens} to answer it exceeds {context_limit}"
            return end(playing, "env_error", "context_limit", reason)
    elif len(prompt_ids) + environment.max_tokens > context_limit:
        return end(playing, "completed", "context_limit")
    seat.observation, seat.prompt_ids, seat.shared = observation, prompt_ids, shared
    return None


def _next_prompt(playing: Playing, seat: Seat, observation: str, chat: Chat) -> tuple[Ids, int]:
    """The prompt for an observation, and how many of its tokens are the last prompt and answer."""
    if not seat.turns or chat.separate:
        said = [(turn.observation, turn.action) for turn in seat.turns]
        return chat.prompt(conversation(playing.attempt.environment, said, observation, playing.env.instructions)), 0
    previous_ids = seat.prompt_ids + seat.turns[-1].action_ids
    prompt_ids = chat.follow(seat.prompt_ids, seat.turns[-1].action_ids, observation)
    if prompt_ids[: len(previous_ids)] != previous_ids:
        raise RuntimeFailure("the chat template changes earlier turns: this model cannot play environments of several turns")
    return prompt_ids, len(previous_ids)
