"""Lessons of imported episodes: from their tokens if they are of this model, otherwise from their texts by the model's own template.

Answers that this model cannot be taught are left out, and the event log says how many and why: those that are too long with their prompts,
those in conversations that the template does not accept, and episodes with tool calls if it has no place for calls, which it would drop.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any, cast

from perdure.envs.environment import Environment
from perdure.envs.policy import Chat, Ids, Message, ToolCall
from perdure.envs.rollout import conversation
from perdure.learners.batches import Lesson, Turns, sequences_of
from perdure.learners.learning_job import LearningJob, fits
from perdure.memory.errors import InputError
from perdure.memory.json_value import JsonObject
from perdure.memory.processes import record_event
from perdure.memory.trajectories.traces import ForeignExchange, ForeignTrace

_LOOK: JsonObject = {
    "type": "function",
    "function": {"name": "look", "description": "Look north.", "parameters": {"type": "object", "properties": {}}},
}


def foreign_lessons(job: LearningJob, traces: Iterable[ForeignTrace]) -> list[Lesson]:
    """A lesson of each episode, with the answers that can be taught.

    Raises `InputError` if there are answers but none can be taught, or if one has neither texts nor tokens of this model.
    """
    name, limit = job.engine.files.name, job.context_limit
    too_long = f"exceed, with their prompts, the context of {name}, {limit} tokens"
    lessons: list[Lesson] = []
    left_out: Counter[str] = Counter()
    has_calls = has_tools = None
    refusals: list[str] = []
    for trace in traces:
        if any(_calls(turn) for turn in trace.turns):
            has_calls = writes_calls(job.engine.chat) if has_calls is None else has_calls
            if not has_calls:
                left_out[f"belong to episodes with tool calls, which the chat template of {name} does not write"] += len(trace.turns)
                continue
        if trace.tools:
            has_tools = writes_tools(job.engine.chat) if has_tools is None else has_tools
        turns = _turns(job, trace, refusals)
        fitting = tuple(turn for turn in turns if fits(job, sequences_of((turn,))))
        left_out[too_long] += len(turns) - len(fitting)
        if fitting:
            lessons.append(_lesson(job, trace, fitting))
    if refusals:
        left_out[f"stand in conversations that the chat template of {name} does not accept, such as {refusals[0]}"] = len(refusals)
    said = [f"{number} imported answers are left out: they {reason}" for reason, number in left_out.items() if number]
    if said and not lessons:
        raise InputError(f"{'; '.join(said)}; give other traces, or another model")
    if has_tools is False:
        said.append(f"the chat template of {name} does not write which tools there are: they are not in the prompts")
    for line in said:
        record_event(job.run.store, "import", f"job {job.id}", line)
    return lessons


def writes_calls(chat: Chat) -> bool:
    """Whether the chat template writes an assistant's calls; many drop them."""
    asked = Message(role="user", text="What is in the north?")
    call = ToolCall(name="look", arguments={"direction": "north"}, id="call00001")
    try:
        with_call = chat.exchange([asked, Message(role="assistant", text="", calls=(call,))], [_LOOK])
        return with_call != chat.exchange([asked, Message(role="assistant", text="")], [_LOOK])
    except InputError:
        return False


def writes_tools(chat: Chat) -> bool:
    """Whether the chat template writes which tools there are."""
    said = [Message(role="user", text="What is in the north?"), Message(role="assistant", text="A wall.")]
    try:
        return chat.exchange(said, [_LOOK]) != chat.exchange(said)
    except InputError:
        return False


def _calls(turn: ForeignExchange) -> bool:
    """Whether an assistant calls a tool in an answer or in the conversation before it."""
    return any(message.get("tool_calls") for message in (*(turn.messages or ()), turn.answer or {}))


def _lesson(job: LearningJob, trace: ForeignTrace, turns: Turns) -> Lesson:
    return Lesson(
        episode=None,
        environment=trace.environment,
        turns=turns,
        sampler_logprobs=None,
        imitation=1.0,
        kl=job.options.loss.kl,
    )


def _turns(job: LearningJob, trace: ForeignTrace, refusals: list[str]) -> Turns:
    """Prompts and answers as tokens; an episode of a target without messages has the prompt template of the target.

    Answers that the chat template does not accept are left out, and described in `refusals`.
    """
    files, chat = job.engine.files, job.engine.chat
    targets = {environment.name: environment for environment in job.environments.targets}
    is_ours = trace.base_hash == files.hash if trace.base_hash else trace.base_model == files.name
    turns: list[tuple[Ids, Ids]] = []
    for n, turn in enumerate(trace.turns):
        if is_ours and turn.prompt_ids and turn.action_ids:
            if max(*turn.prompt_ids, *turn.action_ids, 0) >= job.trainee.vocabulary:
                raise InputError(f"imported episode {trace.id} has a token that {files.name} does not have: its ids are of another model")
            turns.append((turn.prompt_ids, turn.action_ids))
            continue
        if turn.action is None or (turn.messages is None and turn.observation is None):
            raise InputError(
                f"imported episode {trace.id} has a turn with neither texts nor tokens of {files.name}: import it with its texts"
            )
        follows = n > 0 and turn.messages is None and turn.answer is None and not chat.separate
        if follows and len(turns) < n:
            refusals.append(f"imported episode {trace.id}, answer {n + 1}: it follows such an answer")
            continue
        try:
            if follows:
                turns.append((chat.follow(*turns[-1], turn.observation or ""), chat.answer(turn.action)))
            else:
                turns.append(_rendered(chat, targets.get(trace.environment), trace, n))
        except InputError as error:
            refusals.append(f"imported episode {trace.id}, answer {n + 1}: {error}")
    return tuple(turns)


def _rendered(chat: Chat, target: Environment | None, trace: ForeignTrace, n: int) -> tuple[Ids, Ids]:
    """The n-th prompt, made of all messages before the answer, and the answer."""
    turn = trace.turns[n]
    before = _conversation(target, trace, n) if turn.messages is None else [_message(message) for message in turn.messages]
    if turn.messages is None and turn.answer is None:
        return chat.prompt(before, trace.tools), chat.answer(turn.action or "")
    return chat.exchange([*before, _message(turn.answer or {"role": "assistant", "content": turn.action})], trace.tools)


def _conversation(target: Environment | None, trace: ForeignTrace, n: int) -> list[Message]:
    """All messages up to the n-th observation; those of a target are in its prompt template."""
    exchanges, observation = [(turn.observation or "", turn.action or "") for turn in trace.turns[:n]], trace.turns[n].observation or ""
    if target is not None:
        said = conversation(target, exchanges, observation, trace.instructions)
    else:
        said = [Message(role="system", text=trace.instructions)] if trace.instructions else []
        for seen, action in exchanges:
            said += [Message(role="user", text=seen), Message(role="assistant", text=action)]
        said.append(Message(role="user", text=observation))
    for back, turn in enumerate(reversed(trace.turns[:n]), start=1):
        if turn.answer is not None:  # more than its text
            said[-2 * back] = _message(turn.answer)
    return said


def _message(document: JsonObject) -> Message:
    """A stored message (`memory/exchange/conversation.py`) as the chat takes it."""
    calls: list[ToolCall] = []
    for call in cast("list[dict[str, JsonObject]]", document.get("tool_calls") or []):
        number, function = cast("str | None", call.get("id")), call["function"]
        calls.append(ToolCall(name=str(function["name"]), arguments=cast(JsonObject, function["arguments"]), id=number))
    return Message(
        role=cast(Any, document["role"]),
        text=str(document["content"]),
        thought=cast("str | None", document.get("reasoning_content")),
        calls=tuple(calls),
        call_id=cast("str | None", document.get("tool_call_id")),
        name=cast("str | None", document.get("name")),
    )
