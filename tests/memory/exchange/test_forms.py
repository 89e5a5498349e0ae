"""Traces of agents in the forms of others: what their descriptions say comes in as messages, and what cannot be learned from is named.

`golden/` has files of each form, written by hand: openai by the description of its chat API and its fine-tuning files, sharegpt by that of
LLaMA-Factory, atif by Harbor's RFC 0001.
"""

from __future__ import annotations

import copy
import gzip
import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perdure.memory.errors import InputError
from perdure.memory.exchange.checked_row import Place
from perdure.memory.exchange.conversation import Unread
from perdure.memory.exchange.import_traces import FORMS, READERS, Imported, import_file
from perdure.memory.exchange.trace_format import parse_episode
from perdure.memory.store import Store
from perdure.memory.trajectories.traces import ForeignTrace, foreign_traces

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
LOOK_SOUTH: dict[str, Any] = {"type": "function", "function": {"name": "look", "arguments": {"direction": "south"}}}
LOOK_NORTH: dict[str, Any] = {"type": "function", "function": {"name": "look", "arguments": {"direction": "north"}}}


def golden(store: Store, name: str, form: str) -> tuple[Imported, list[ForeignTrace]]:
    """A file of the folder, and its traces in the order of the file."""
    came = import_file(store, GOLDEN / name, "agent", form)
    return came, list(reversed(foreign_traces(store, "agent")))


def said(trace: ForeignTrace, n: int) -> list[tuple[str, str]]:
    """Role and text of the conversation before an answer."""
    messages = trace.turns[n].messages
    assert messages is not None
    return [(str(message["role"]), str(message["content"])) for message in messages]


def jsonl(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_openai_messages_come_in_with_tools_calls_parts_and_null(store: Store) -> None:
    came, traces = golden(store, "openai.jsonl", "openai")
    assert (came.episodes, came.turns) == (6, 9)
    assert came.unread == {"parallel_tool_calls": 1, "messages after the last answer": 1}
    assert all(trace.success for trace in traces), "they are given to be imitated"
    word, robot, again, thought, older, cut = traces
    assert said(word, 0) == [("system", "Answer with one word."), ("user", "What is the first word of: door window roof?")]
    assert (word.turns[0].action, word.turns[0].answer, word.environment) == ("door", None, "agent")
    first, second, third = robot.turns
    assert said(robot, 0) == [("system", "You guide a robot."), ("user", "Where is the key? Look first.")]
    assert first.answer == {"role": "assistant", "content": "", "tool_calls": [{"id": "call_a", **LOOK_NORTH}]}
    assert said(robot, 1) == [*said(robot, 0), ("assistant", ""), ("tool", "A wall.")]
    assert second.answer is not None
    wait = {"id": "call_c", "type": "function", "function": {"name": "wait", "arguments": {}}}
    assert second.answer["tool_calls"] == [{"id": "call_b", **LOOK_SOUTH}, wait]
    assert third.messages is not None
    assert third.messages[-2:] == (
        {"role": "tool", "content": "ok", "tool_call_id": "call_c", "name": "wait"},
        {"role": "tool", "content": "A key on the floor.", "tool_call_id": "call_b", "name": "look"},
    )
    assert third.messages[2] == first.answer
    assert [tool["function"]["name"] for tool in robot.tools] == ["look", "wait"]  # type: ignore[index, call-overload]
    assert [turn.action for turn in again.turns] == ["Yes."], "an answer of weight 0 is not learned"
    assert said(again, 0) == [("user", "Say yes."), ("assistant", "No."), ("user", "Please.")]
    assert thought.turns[0].answer == {"role": "assistant", "content": "4", "reasoning_content": "One more than 3 is 4."}
    assert older.turns[0].answer == {"role": "assistant", "content": "", "tool_calls": [LOOK_NORTH]}
    assert older.turns[1].messages is not None
    assert older.turns[1].messages[-1] == {"role": "tool", "content": "A wall.", "name": "look"}
    assert [turn.action for turn in cut.turns] == ["At the door."]


@pytest.mark.parametrize("name", ["sharegpt.json", "sharegpt.jsonl"])
def test_sharegpt_conversations_come_in_as_lines_or_as_one_list(store: Store, name: str) -> None:
    came, (plain, called, both, roles) = golden(store, name, "sharegpt")
    assert (came.episodes, came.turns, came.unread) == (4, 7, {"source": 1})
    assert said(plain, 1)[0] == ("system", "Answer with one word.")
    assert [turn.action for turn in plain.turns] == ["door", "roof"]
    assert called.turns[0].answer == {"role": "assistant", "content": "", "tool_calls": [LOOK_SOUTH]}
    assert called.turns[1].messages is not None
    assert called.turns[1].messages[-1] == {"role": "tool", "content": "A key on the floor.", "name": "look"}
    assert called.tools[0]["type"] == "function"
    assert both.turns[0].answer is not None
    assert both.turns[0].answer["tool_calls"] == [LOOK_NORTH, LOOK_SOUTH]
    assert said(both, 1)[-2:] == [("tool", "A wall."), ("tool", "A key.")]
    assert said(roles, 0) == [("user", "Say yes.")]


def test_an_atif_trajectory_comes_in_though_it_takes_many_lines(store: Store) -> None:
    came, (trace,) = golden(store, "atif.json", "atif")
    assert (came.episodes, came.turns, came.unread) == (1, 2, {})
    first, second = trace.turns
    assert first.answer == {
        "role": "assistant",
        "content": "I look both ways.",
        "reasoning_content": "It may be on either side.",
        "tool_calls": [{"id": "c1", **LOOK_NORTH}, {"id": "c2", **LOOK_SOUTH}],
    }
    assert (first.prompt_ids, first.action_ids, trace.base_model) == ((5, 6, 7), (8, 9, 2), "small-model")
    assert (second.prompt_ids, second.action_ids) == (None, None), "ids of an answer mean nothing without those of its prompt"
    assert said(trace, 1)[2:] == [("assistant", "I look both ways."), ("tool", "A wall."), ("tool", "A key on the floor.")]
    assert store.rows("SELECT name, sampler FROM foreign_episode")[0]["name"] == "trial-7"


def test_what_atif_forbids_to_learn_is_only_context_and_a_replaced_context_is_forgotten(store: Store) -> None:
    came, (_, shell) = golden(store, "atif.jsonl", "atif")
    assert came.unread == {"steps that are not to be learned": 2}
    assert [turn.action for turn in shell.turns] == ["cat a.txt", "Done: it says hello."]
    assert said(shell, 0) == [("user", "List the files."), ("assistant", "ls"), ("user", "a.txt")]
    assert said(shell, 1) == [("user", "So far: a.txt says hello."), ("assistant", ""), ("tool", "passed")]


def test_our_own_form_has_room_for_tools_too(store: Store) -> None:
    came, (robot, sums) = golden(store, "perdure.jsonl", "perdure")
    assert (came.episodes, came.turns) == (2, 3)
    first, second = robot.turns
    assert first.answer is not None
    assert first.answer["reasoning_content"] == "I must look."
    assert (first.action, second.action, second.answer) == ("", "In the south.", None)
    assert said(robot, 1) == [("user", "Where is the key?"), ("assistant", ""), ("tool", "A key.")]
    assert said(sums, 0) == [("user", "1 + 1?")]


def test_the_view_shows_calls(store: Store) -> None:
    golden(store, "openai.jsonl", "openai")
    rows = store.rows("SELECT observation, action, tool_calls FROM foreign_text WHERE tool_calls IS NOT NULL ORDER BY episode, n")
    assert [row["observation"] for row in rows] == ["Where is the key? Look first.", "A wall.", "Look north."]
    assert json.loads(rows[0]["tool_calls"])[0]["function"]["arguments"] == {"direction": "north"}


USER: dict[str, Any] = {"role": "user", "content": "Where?"}
CALL: dict[str, Any] = {"role": "assistant", "content": None, "tool_calls": [{"id": "a", **LOOK_NORTH}]}
DONE: dict[str, Any] = {"role": "assistant", "content": "There."}


def calling(arguments: Any) -> dict[str, Any]:
    return {"messages": [USER, {**CALL, "tool_calls": [{"function": {"name": "look", "arguments": arguments}}]}]}


def step(**more: Any) -> dict[str, Any]:
    steps = [{"step_id": 1, "source": "user", "message": "Where?"}, {"step_id": 2, "source": "agent", "message": "There.", **more}]
    return {"schema_version": "ATIF-v1.6", "agent": {"name": "a", "version": "1"}, "steps": steps}


BAD: list[tuple[str, Any, str]] = [
    ("openai", {"messages": [{"role": "narrator", "content": "x"}, DONE]}, "messages[0].role: is 'narrator': it is one of system"),
    ("openai", {"messages": [{"content": "x"}, DONE]}, "messages[0].role: is 'nothing'"),
    ("openai", {"prompt": "x", "completion": "y"}, "messages: is missing: a row is {'messages': [...]}"),
    ("openai", {"messages": [USER]}, "messages: has no answer to learn from"),
    ("openai", {"messages": [DONE]}, "messages: has no answer to learn from"),
    (
        "openai",
        {"messages": [USER, {"role": "assistant", "content": None}]},
        "messages[1]: has neither content nor tool_calls: give one of them",
    ),
    ("openai", {"messages": [{"role": "user", "content": None}, DONE]}, "messages[0].content: is missing"),
    (
        "openai",
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}, DONE]},
        "messages[0].content[0]: is an image: only text can be learned from; take this row out",
    ),
    ("openai", {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}, DONE]}, "messages[0].content[0]: is sound"),
    ("openai", {"messages": [{"role": "user", "content": [{"type": "tool_use"}]}, DONE]}, "is a part of the type 'tool_use'"),
    ("openai", {"messages": [USER, {**DONE, "audio": {"id": "x"}}]}, "messages[1].audio: is sound"),
    ("openai", calling('{"direction": '), "messages[1].tool_calls[0].arguments: is no JSON"),
    ("openai", calling("[1]"), "messages[1].tool_calls[0].arguments: is a list: arguments are an object, or its JSON text"),
    ("openai", calling('{"x": NaN}'), "arguments: is no JSON (JSON has no number NaN)"),
    ("openai", calling("[" * 100_000), "arguments: is no JSON"),
    ("openai", {"messages": [USER, {**CALL, "tool_calls": [{"type": "custom"}]}]}, "tool_calls[0]: is a call of the type 'custom'"),
    ("openai", {"messages": [USER, {**CALL, "tool_calls": [{"function": {}}]}]}, "tool_calls[0]: has no name of a function"),
    (
        "openai",
        {"messages": [USER, CALL, USER, DONE]},
        "messages[2]: comes before the result of the call of look ('a'): the trace was cut there",
    ),
    ("openai", {"messages": [USER, {"role": "tool", "content": "x"}, DONE]}, "messages[1]: answers no call"),
    (
        "openai",
        {"messages": [USER, CALL, {"role": "tool", "tool_call_id": "b", "content": "x"}, DONE]},
        "messages[2]: answers no call (there is none with the id 'b')",
    ),
    ("openai", {"messages": [USER, {**DONE, "weight": 0.5}]}, "messages[1].weight: is neither 0 nor 1"),
    ("openai", {"messages": [USER, DONE], "tools": [{"type": "web_search"}]}, "tools[0]: is no function with a name"),
    ("sharegpt", {"conversations": [{"from": "narrator", "value": "x"}]}, "conversations[0].from: is 'narrator': it is one of human"),
    ("sharegpt", {"conversations": [], "images": ["a.png"]}, "images: has images: only text can be learned from"),
    ("sharegpt", {"conversations": [], "chosen": {"from": "gpt", "value": "a"}}, "chosen: is of a pair to choose from"),
    ("sharegpt", {"conversations": [{"from": "function_call", "value": "look north"}]}, "conversations[0].value: is no JSON"),
    ("sharegpt", {"conversations": [{"from": "human", "value": "x"}], "tools": "{"}, "tools: is no JSON"),
    ("atif", {"steps": []}, "schema_version: is None: ATIF-v1.0 to v1.7 are known"),
    ("atif", {**step(), "steps": []}, "steps: is missing or empty"),
    ("atif", {**step(), "steps": [{"source": "tool", "message": "x"}]}, "steps[0].source: is 'tool'"),
    (
        "atif",
        step(observation={"results": [{"content": [{"type": "image", "source": {"path": "a.png"}}]}]}),
        "steps[1].observation.results[0].content[0]: is an image",
    ),
    (
        "atif",
        step(observation={"results": [{"source_call_id": "z", "content": "x"}]}),
        "steps[1].observation.results[0]: answers no call",
    ),
    (
        "atif",
        step(observation={"results": [{"subagent_trajectory_ref": [{"trajectory_id": "s"}]}]}),
        "steps[1].observation.results[0]: is of a subagent and has no content",
    ),
    (
        "perdure",
        {"environment": "e", "turns": [{"messages": [{**USER, "colour": 1}], "action": "x"}]},
        "messages[0].colour: is an unknown key",
    ),
]


@pytest.mark.parametrize(("form", "row", "message"), BAD, ids=[f"{form}: {message[:50]}" for form, _, message in BAD])
def test_what_cannot_be_learned_from_is_named_with_its_row_and_nothing_is_kept(
    store: Store, tmp_path: Path, form: str, row: Any, message: str
) -> None:
    good = {
        "openai": {"messages": [USER, DONE]},
        "sharegpt": {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
        "atif": step(),
        "perdure": {"environment": "e", "turns": [{"observation": "a", "action": "b"}]},
    }
    path = jsonl(tmp_path / "traces.jsonl", good[form], row)
    with pytest.raises(InputError) as refused:
        import_file(store, path, "bad", form)
    text = str(refused.value)
    assert message in text
    assert text.startswith(f"{path}, row 2")
    assert "\n" not in text
    assert store.rows("SELECT 1 FROM foreign_episode") == []
    assert import_file(store, jsonl(path, good[form]), "mended", form).episodes == 1


@pytest.mark.parametrize("form", [form for form in FORMS if form != "perdure"])
def test_files_that_are_cut_say_where(store: Store, tmp_path: Path, form: str) -> None:
    for name, content in (("list", '[\n {"messages": [\n'), ("document", '{\n "messages": [\n  {"role"')):
        path = tmp_path / name
        path.write_text(content)
        with pytest.raises(InputError, match=r"row 1: is not JSON in UTF-8 .*line \d"):
            import_file(store, path, "cut", form)


def test_a_conversation_that_ends_with_open_calls_is_learned_up_to_them(store: Store, tmp_path: Path) -> None:
    """A trace that was cut while the tools worked."""
    import_file(store, jsonl(tmp_path / "a", {"messages": [USER, CALL]}), "cut", "openai")
    ((turn,),) = [trace.turns for trace in foreign_traces(store, "cut")]
    assert turn.answer is not None
    assert turn.answer["tool_calls"] == CALL["tool_calls"]


def test_rows_that_say_how_they_went_are_believed(store: Store, tmp_path: Path) -> None:
    rows = [{"messages": [USER, DONE], **more} for more in ({}, {"success": False}, {"reward": 0.25}, {"total_reward": 1, "success": True})]
    import_file(store, jsonl(tmp_path / "a", *rows), "judged", "openai")
    assert [(trace.success, trace.total_reward) for trace in reversed(foreign_traces(store, "judged"))] == [
        (True, None),
        (False, None),
        (None, 0.25),
        (True, 1.0),
    ]


def test_half_a_character_anywhere_in_a_call_becomes_a_question_mark(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text(
        json.dumps({"messages": [USER, {**CALL, "tool_calls": [{"function": {"name": "look", "arguments": {"x": "\ud800"}}}]}]})
    )
    assert import_file(store, path, "strange", "openai").mended == 1
    (row,) = store.rows("SELECT answer FROM foreign_turn")
    assert json.loads(row["answer"])["tool_calls"][0]["function"]["arguments"] == {"x": "?"}


ODD = (None, True, 0, -1, 1.5, 10**400, "", "x", "{", "\ud800", [], {}, [None], [[]], {"type": "text"}, {"role": "tool"}, ["x"])


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every place in a document, as what holds it and its key there."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, inner in items for place in ((value, key), *places(inner))]


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_stands_in_a_row_is_taken_or_named(tmp_path: Path, data: st.DataObject) -> None:
    """Any value of a golden row may be another one: never another error than the one line."""
    form = data.draw(st.sampled_from(FORMS))
    lines = (GOLDEN / f"{form}.jsonl").read_text().splitlines()
    row = json.loads(lines[data.draw(st.integers(0, len(lines) - 1))])
    for _ in range(data.draw(st.integers(1, 3))):
        found = places(row)
        if found:
            holder, key = found[data.draw(st.integers(0, len(found) - 1))]
            holder[key] = copy.deepcopy(ODD[data.draw(st.integers(0, len(ODD) - 1))])
    place = Place(file=tmp_path / "rows", row=1)
    try:
        episode = parse_episode(row, place) if form == "perdure" else READERS[form](row, place, "label", Unread())
    except InputError as error:
        refused = str(error)
    else:
        refused = f"{place.file}, row 1"
        for text in (episode.tools, *(turn.messages for turn in episode.turns), *(turn.answer for turn in episode.turns)):
            assert text is None or isinstance(json.loads(text.encode()), list | dict)
    assert refused.startswith(f"{place.file}, row 1")
    assert "\n" not in refused


def test_a_hundred_thousand_messages_come_in_well_under_a_minute(store: Store, tmp_path: Path) -> None:
    """Long conversations are kept once, not again before each of their answers."""
    result = {"role": "tool", "tool_call_id": "a", "content": "A wall of bricks, and a door in it." * 5}
    row = {"messages": [USER, *[CALL, result] * 49, DONE]}
    path = tmp_path / "many.jsonl.gz"
    with gzip.open(path, "wt", compresslevel=1) as file:
        file.writelines(json.dumps({**row, "id": n}) + "\n" for n in range(1000))
    began = time.monotonic()
    came = import_file(store, path, "many", "openai")
    assert (came.episodes, came.turns) == (1000, 50_000)
    assert time.monotonic() - began < 60
    assert (store.home / "perdure.db").stat().st_size < 4 * 1000 * len(json.dumps(row))
