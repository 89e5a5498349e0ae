"""What players and the journal send each other: a JSON head for all that is small, and after it the packed numbers, in one body.

    4 bytes   length of the head, little-endian
    head      a JSON object
    rest      token ids as int32 and log-probs as float32, little-endian, one after the other as the head says

Token ids are most of it: as JSON they would take three times the room and fifty times the time, and `.npy` blobs would bring a header for
each of them and a package that a player does not need otherwise. Nothing in a body names code, and nothing is pickled. A prompt is sent
without the tokens that the journal has from the turn before, as it is stored.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from perdure.memory.errors import InputError
from perdure.memory.json_value import Document
from perdure.memory.layout.blobs import pack_ids, pack_logprobs, unpack_ids, unpack_logprobs
from perdure.memory.records import Ending, EpisodePlan, Lease, Sampler, StepRef, Task, Turn, VersionRef
from perdure.memory.trajectories.turns import valid_text

PROTOCOL = 1
"""Raised when a form here changes; a player of another one is refused."""
MOST_BYTES = 64 * 2**20
"""Of a body."""
_LENGTH = struct.Struct("<I")
_DAMAGED = (ValueError, LookupError, TypeError, AttributeError, struct.error, RecursionError)

Before = Callable[[int, int], Turn | None]
"""The turn before turn n of an episode, as the journal has it; None if there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """One body, taken apart."""

    head: Document
    rest: bytes = b""

    def packed(self) -> bytes:
        head = json.dumps(self.head, separators=(",", ":")).encode()
        return b"".join((_LENGTH.pack(len(head)), head, self.rest))


def read_message(body: bytes) -> Body:
    """Take a body apart. Raises `InputError` if it is none."""
    try:
        (length,) = _LENGTH.unpack_from(body)
        end = _LENGTH.size + length
        head = json.loads(body[_LENGTH.size : end])
        if end > len(body) or not isinstance(head, dict):
            raise ValueError("its head is cut off, or no object")
        return Body(head=head, rest=body[end:])
    except _DAMAGED as error:
        raise unreadable(error) from error


def unreadable(error: Exception) -> InputError:
    """The error for a message that is not in the form that it should have."""
    return InputError(f"a message cannot be read ({type(error).__name__}: {error}): is the other side another program?")


def turns_message(entries: Iterable[tuple[int, int, Turn]]) -> Body:
    """The turns of one generation batch."""
    rows: list[list[Any]] = []
    blobs: list[bytes] = []
    for episode, n, turn in entries:
        new = turn.prompt_ids[turn.shared :]
        sizes = [turn.shared, len(new), len(turn.action_ids)]
        texts = [turn.observation, turn.action, turn.invalid]
        rows.append([episode, n, *sizes, *texts, turn.reward, turn.finish, _sampler_said(turn.sampler)])
        blobs += (pack_ids(new), pack_ids(turn.action_ids), pack_logprobs(turn.logprobs))
    return Body(head={"turns": rows}, rest=b"".join(blobs))


def read_turns(message: Body, before: Before) -> list[tuple[int, int, Turn]]:
    """The turns of a message; `before` knows what prompts continue. Raises `InputError`."""
    entries: list[tuple[int, int, Turn]] = []
    last: dict[int, Turn] = {}
    offset = 0

    def taken(numbers: int) -> bytes:
        nonlocal offset
        start, offset = offset, offset + 4 * numbers
        if numbers < 0 or offset > len(message.rest):
            raise ValueError("its numbers are cut off")
        return message.rest[start:offset]

    try:
        for episode, n, shared, new, answer, observation, action, invalid, reward, finish, sampler in message.head["turns"]:
            prompt_ids = unpack_ids(taken(new))
            if shared:
                earlier = last.get(episode) or before(episode, n)
                if earlier is None or shared != len(earlier.prompt_ids) + len(earlier.action_ids):
                    raise ValueError(f"turn {n} of episode {episode} shares {shared} tokens with a turn that the journal does not have")
                prompt_ids = earlier.prompt_ids + earlier.action_ids + prompt_ids
            turn = Turn(
                prompt_ids=prompt_ids,
                action_ids=unpack_ids(taken(answer)),
                logprobs=unpack_logprobs(taken(answer)),
                observation=valid_text(observation),  # as it is stored, so that a turn that comes again equals what was read back
                action=valid_text(action),
                reward=float(reward),
                sampler=_read_sampler(sampler),
                finish=finish,
                invalid=None if invalid is None else valid_text(invalid),
                shared=shared,
            )
            last[episode] = turn
            entries.append((episode, n, turn))
        if offset != len(message.rest):
            raise ValueError(f"{len(message.rest) - offset} bytes belong to no turn")
    except _DAMAGED as error:
        raise unreadable(error) from error
    return entries


def plans_said(plans: Sequence[EpisodePlan]) -> list[list[Any]]:
    """Episodes about to be played. Whose lease it is, the journal knows."""
    return [
        [
            *(plan.environment, plan.seed, plan.group, plan.member, plan.purpose, _sampler_said(plan.sampler), plan.temperature),
            *(plan.lease.subject, plan.lease.owner, plan.lease.attempt, plan.seat, plan.code),
        ]
        for plan in plans
    ]


def read_plans(rows: Any) -> list[EpisodePlan]:
    """Raises `InputError`."""
    try:
        return [
            EpisodePlan(
                environment=environment,
                seed=seed,
                group=group,
                member=member,
                purpose=purpose,
                sampler=_read_sampler(sampler),
                temperature=float(temperature),
                lease=Lease(subject=subject, owner=owner, attempt=attempt),
                seat=seat,
                code=code,
            )
            for environment, seed, group, member, purpose, sampler, temperature, subject, owner, attempt, seat, code in rows
        ]
    except _DAMAGED as error:
        raise unreadable(error) from error


def endings_said(endings: Sequence[Ending]) -> list[list[Any]]:
    """How episodes ended."""
    return [
        [end.episode, end.state, end.stop_reason, end.total_reward, end.success, end.score, end.error, end.instructions] for end in endings
    ]


def read_endings(rows: Any) -> list[Ending]:
    """Raises `InputError`."""
    try:
        return [
            Ending(
                episode=episode,
                state=state,
                stop_reason=reason,
                total_reward=float(total),
                success=bool(success),
                score=float(score),
                error=error,
                instructions=instructions,
            )
            for episode, state, reason, total, success, score, error, instructions in rows
        ]
    except _DAMAGED as error:
        raise unreadable(error) from error


def task_said(task: Task, done: Iterable[int], code: str | None) -> list[Any]:
    """A task that a player may play."""
    return [task.id, task.environment, task.seed, task.members, task.attempt, sorted(done), code]


def read_task(row: Any, owner: str) -> tuple[Task, Lease, frozenset[int], str | None]:
    """The task, its lease, its members that are completed, and the code of its environment. Raises `InputError`."""
    try:
        number, environment, seed, members, attempt, done, code = row
        task = Task(id=number, environment=environment, seed=seed, state="leased", members=members, attempt=attempt)
        return task, Lease(subject=number, owner=owner, attempt=attempt), frozenset(done), code
    except _DAMAGED as error:
        raise unreadable(error) from error


def leases_said(held: Iterable[Lease]) -> list[list[int]]:
    """Leases of the player that says it: what each is on, and its attempt."""
    return [[lease.subject, lease.attempt] for lease in held]


def read_leases(rows: Iterable[Sequence[int]], owner: str) -> tuple[Lease, ...]:
    """Raises `InputError`."""
    try:
        return tuple(Lease(subject=int(subject), owner=owner, attempt=int(attempt)) for subject, attempt in rows)
    except _DAMAGED as error:
        raise unreadable(error) from error


def _sampler_said(sampler: Sampler) -> Any:
    return sampler.name if isinstance(sampler, VersionRef) else [sampler.job, sampler.n]


def _read_sampler(said: Any) -> Sampler:
    if isinstance(said, str):
        return VersionRef(said)
    job, n = said
    return StepRef(job, n)
