"""Trajectories in ATIF, the Agent Trajectory Interchange Format of Harbor (RFC 0001, to v1.7): one JSON document a trajectory.

A step of the agent becomes an answer with its thought and calls, and each result of its observation a message after it: of a tool if it
names a call, else of the user. As the RFC asks, steps that were copied for context or made without a model are not learned from, and what
was said before a step that replaces the context is not in later prompts. Left out: embedded trajectories of subagents, which are counted.
"""

from __future__ import annotations

from collections.abc import Iterator

from perdure.memory.exchange.checked_row import CheckedRow, Place, row_of
from perdure.memory.exchange.conversation import Said, SampledIds, Unread, call_of, stored_json, text_of, tools_of, turns_of
from perdure.memory.exchange.foreign_records import ForeignEpisode
from perdure.memory.exchange.openai_form import note_unread
from perdure.memory.json_value import JsonObject, JsonValue

ROW_KEYS = ("schema_version", "session_id", "trajectory_id", "agent", "steps")
NOTES = ("notes", "final_metrics", "extra", "continued_trajectory_ref")
"""Keys of a trajectory that say nothing of what was said."""
STEP_KEYS = (
    "step_id",
    "timestamp",
    "source",
    "model_name",
    "reasoning_effort",
    "message",
    "reasoning_content",
    "tool_calls",
    "observation",
    "metrics",
    "extra",
    "llm_call_count",
    "is_copied_context",
)
SOURCES = {"system": "system", "user": "user", "agent": "assistant"}
_FORGETS = ("truncate",)


def atif_episode(document: JsonValue, place: Place, label: str, unread: Unread) -> ForeignEpisode:
    """One trajectory. Raises `InputError` that names the place."""
    row = row_of(document, place)
    version = row.text("schema_version")
    if version is None or not version.startswith("ATIF-v1."):
        raise place.at("schema_version").bad(f"is {version!r}: ATIF-v1.0 to v1.7 are known")
    note_unread(row.values, (*ROW_KEYS, *NOTES), "", unread)
    agent = row_of(row.values.get("agent") or {}, place.at("agent"))
    model = agent.text("model_name")
    steps = row.items("steps")
    if not steps:
        raise place.at("steps").bad("is missing or empty")
    said: list[Said] = []
    for n, step in enumerate(steps):
        said += _step(row_of(step, place.at("steps").at(n)), model, unread)
    tools = tools_of(agent.values.get("tool_definitions"), place.at("agent").at("tool_definitions"))
    turns = turns_of(said, place.at("steps"), unread)
    return ForeignEpisode(
        name=row.text("trajectory_id") or row.text("session_id"),
        environment=label,
        seed=None,
        group=None,
        sampler=model,
        base_model=model if any(turn.action_ids is not None for turn in turns) else None,
        base_hash=None,
        total_reward=None,
        success=True,
        state="completed",
        purpose=None,
        turns=turns,
        tools=stored_json(tools) if tools else None,
    )


def _step(row: CheckedRow, model: str | None, unread: Unread) -> Iterator[Said]:
    note_unread(row.values, STEP_KEYS, "steps[].", unread)
    source = row.choice("source", tuple(SOURCES))
    if source is None:
        raise row.place.at("source").bad(f"is missing: it is one of {', '.join(SOURCES)}")
    at = row.place.at("message")
    text = text_of(row.values.get("message"), at)
    if source == "agent":
        yield _answer(row, text, model, unread)
        yield from _results(row)
        return
    boundary = _boundary(row)
    if boundary in _FORGETS:
        raise row.place.at("extra").bad("cuts the context without saying what the agent still saw: end the trajectory before it")
    seen = [one for one in _results(row) if one.message["content"]]
    if boundary is None:
        yield Said(message={"role": SOURCES[source], "content": text}, place=row.place)
        yield from seen
    elif boundary == "replace" and not seen:
        raise row.place.at("observation").bad("has no content, but replaces what the agent saw: end the trajectory before it")
    else:
        for n, one in enumerate(seen):
            yield Said(message=one.message, place=one.place, replaces=boundary == "replace" and n == 0)


def _boundary(row: CheckedRow) -> str | None:
    """How a step changes the agent's context, by the RFC's convention; None if it is an ordinary message."""
    extra = row.values.get("extra")
    convention = extra.get("context_management") if isinstance(extra, dict) else None
    boundary = convention.get("boundary") if isinstance(convention, dict) else None
    return boundary if isinstance(boundary, str) else None


def _answer(row: CheckedRow, text: str, model: str | None, unread: Unread) -> Said:
    message: JsonObject = {"role": "assistant", "content": text}
    thought = row.text("reasoning_content")
    if thought:
        message["reasoning_content"] = thought
    calls: list[JsonValue] = []
    for n, call in enumerate(row.items("tool_calls") or ()):
        one = row_of(call, row.place.at("tool_calls").at(n))
        calls.append(call_of(one.values.get("function_name"), one.values.get("arguments"), one.values.get("tool_call_id"), one.place))
    if calls:
        message["tool_calls"] = calls
    count = row.integer("llm_call_count")
    is_learned = row.flag("is_copied_context") is not True and count in (None, 1)
    if not is_learned:
        unread["steps that are not to be learned"] += 1
    return Said(message=message, place=row.place, is_learned=is_learned, has_all_results=True, ids=_ids(row, model) if is_learned else None)


def _ids(row: CheckedRow, model: str | None) -> SampledIds | None:
    """The step's tokens, if it has those of prompt and answer and its model is named; log-probs only if there is one for each."""
    if model is None or row.values.get("metrics") is None:
        return None
    metrics = row_of(row.values["metrics"], row.place.at("metrics"))
    prompt_ids, action_ids = metrics.ids("prompt_token_ids"), metrics.ids("completion_token_ids")
    if not prompt_ids or not action_ids:
        return None
    given = metrics.items("logprobs") or []
    fits = len(given) == len(action_ids) // 4
    return SampledIds(prompt_ids=prompt_ids, action_ids=action_ids, logprobs=metrics.logprobs(action_ids) if fits else None)


def _results(row: CheckedRow) -> Iterator[Said]:
    """What came back after a step: results of calls as a tool's messages, others as the user's.

    If no result of a step names a call, they belong to its calls in their order, as some agents write them.
    """
    if row.values.get("observation") is None:
        return
    observation = row_of(row.values["observation"], row.place.at("observation"))
    results = [row_of(result, observation.place.at("results").at(n)) for n, result in enumerate(observation.items("results") or ())]
    is_named = any(one.values.get("source_call_id") is not None for one in results)
    calls = 0 if is_named else len(row.items("tool_calls") or ())
    for n, one in enumerate(results):
        content, number = one.values.get("content"), one.values.get("source_call_id")
        if content is None and one.values.get("subagent_trajectory_ref"):
            raise one.place.bad("is of a subagent and has no content: what the agent saw is not in the file; end the trajectory before it")
        role = "tool" if number is not None or n < calls else "user"
        message: JsonObject = {"role": role, "content": text_of(content, one.place.at("content"))}
        if number is not None:
            message["tool_call_id"] = str(number)
        yield Said(message=message, place=one.place)
