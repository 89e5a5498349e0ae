"""Imported traces of agents as lessons: rendered by the model's own template, with its tools, calls and results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.learners.conftest import MANY_LETTERS
from tests.learners.home import EASY, Learner
from tests.tiny_models import sharpen, tiny_llama

from perdure.learners.loops.foreign_lessons import foreign_lessons, writes_calls, writes_tools
from perdure.learners.weights.base_models import resolve_model
from perdure.memory.errors import InputError
from perdure.memory.exchange.import_traces import import_file
from perdure.memory.processes import events
from perdure.memory.store import create_store
from perdure.memory.trajectories.traces import foreign_traces

GOLDEN = Path(__file__).resolve().parents[2] / "memory" / "golden"
WITH_TOOLS = (
    "{% if tools %}<|im_start|>system\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.reasoning_content %}<think>{{ message.reasoning_content }}</think>{% endif %}{{ message.content }}"
    "{% for call in message.tool_calls or [] %}<tool_call>{{ call.function | tojson }}</tool_call>{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture
def agent(tmp_path: Path) -> Learner:
    """A home whose model's template writes tools and calls; its context has room for them."""
    folder = sharpen(tiny_llama(tmp_path / "model", context=1024), 1)
    (folder / "chat_template.jinja").write_text(WITH_TOOLS)
    store = create_store(tmp_path / "home")
    return Learner(store, resolve_model(str(folder), folder, print))


def text(learner: Learner, ids: tuple[int, ...]) -> str:
    from transformers import AutoTokenizer

    return str(AutoTokenizer.from_pretrained(learner.files.path).decode(ids))


def test_an_answer_is_what_the_template_writes_of_it(agent: Learner) -> None:
    import_file(agent.store, GOLDEN / "openai.jsonl", "agent", "openai")
    job = agent.job([EASY], traces="import:agent", updates=1)
    traces = list(reversed(foreign_traces(agent.store, "agent")))
    lessons = foreign_lessons(job, traces)
    assert [len(lesson.turns) for lesson in lessons] == [1, 3, 1, 1, 2, 1]
    (first, second, third) = lessons[1].turns
    call = '<tool_call>{"name": "look", "arguments": {"direction": "north"}}</tool_call><|im_end|>'
    assert text(agent, first[1]) == call
    prompt = text(agent, first[0])
    assert prompt.startswith('<|im_start|>system\n{"type": "function", "function": {"name": "look"')
    assert prompt.endswith("<|im_start|>user\nWhere is the key? Look first.<|im_end|>\n<|im_start|>assistant\n")
    assert second[0][: len(first[0]) + len(first[1])] == first[0] + first[1], "a conversation grows"
    assert text(agent, second[0]).endswith("<|im_end|>\n<|im_start|>tool\nA wall.<|im_end|>\n<|im_start|>assistant\n")
    assert text(agent, third[1]) == "The key lies in the south.<|im_end|>"
    assert text(agent, lessons[3].turns[0][1]) == "<think>One more than 3 is 4.</think>4<|im_end|>"
    assert {lesson.imitation for lesson in lessons} == {1.0}
    assert [event for event in events(agent.store, 9) if event.kind == "import"] == []


@pytest.mark.parametrize(("name", "form"), [("atif.jsonl", "atif"), ("sharegpt.json", "sharegpt"), ("perdure.jsonl", "perdure")])
def test_every_form_becomes_lessons(agent: Learner, name: str, form: str) -> None:
    came = import_file(agent.store, GOLDEN / name, "agent", form)
    lessons = foreign_lessons(agent.job([EASY], traces="import:agent", updates=1), foreign_traces(agent.store, "agent"))
    assert sum(len(lesson.turns) for lesson in lessons) == came.turns


@pytest.mark.learning
def test_trace_sft_learns_what_an_agent_did(agent: Learner) -> None:
    import_file(agent.store, GOLDEN / "openai.jsonl", "agent", "openai")
    version = agent.learn(EASY, "trace-sft", traces="import:agent", updates=20, prompts=4, samples=2, lr=0.02)
    assert version.state == "candidate"
    nll = [step.nll for step in agent.steps(1)]
    assert nll[0] is not None
    assert nll[-1] is not None
    assert nll[-1] < 0.7 * nll[0]


def test_a_template_without_calls_takes_the_episodes_without_and_says_so(llama_learner: Learner) -> None:
    assert not writes_calls(llama_learner.engine.chat)
    assert not writes_tools(llama_learner.engine.chat)
    import_file(llama_learner.store, GOLDEN / "openai.jsonl", "agent", "openai")
    lessons = foreign_lessons(llama_learner.job([EASY], traces="import:agent", updates=1), foreign_traces(llama_learner.store, "agent"))
    assert len(lessons) == 4
    (event,) = [event for event in events(llama_learner.store, 9) if event.kind == "import"]
    assert event.message.startswith("5 imported answers are left out: they belong to episodes with tool calls, which the chat template of")


def test_what_no_template_can_say_is_an_error(llama_learner: Learner, tmp_path: Path) -> None:
    import_file(llama_learner.store, GOLDEN / "atif.json", "agent", "atif")
    job = llama_learner.job([EASY], traces="import:agent", updates=1)
    with pytest.raises(InputError, match=r"belong to episodes with tool calls, which the chat template of .* does not write; give other"):
        foreign_lessons(job, foreign_traces(llama_learner.store, "agent"))


def test_answers_that_are_too_long_are_left_out_and_counted(llama_learner: Learner, tmp_path: Path) -> None:
    def row(times: int) -> dict[str, Any]:
        return {"messages": [{"role": "user", "content": MANY_LETTERS * times}, {"role": "assistant", "content": "a"}]}

    path = tmp_path / "rows"
    path.write_text("".join(json.dumps(row(times)) + "\n" for times in (1, 9, 9)))
    import_file(llama_learner.store, path, "long", "openai")
    job = llama_learner.job([EASY], traces="import:long", updates=1)
    assert len(foreign_lessons(job, foreign_traces(llama_learner.store, "long"))) == 1
    (event,) = [event for event in events(llama_learner.store, 9) if event.kind == "import"]
    assert event.message.startswith("2 imported answers are left out: they exceed, with their prompts, the context of")
    with pytest.raises(InputError, match="1 imported answers are left out"):
        foreign_lessons(job, foreign_traces(llama_learner.store, "long")[:1])


def test_conversations_that_a_template_refuses_are_left_out_and_one_is_named(agent: Learner) -> None:
    """As Llama 3.2's, which takes one call at a time: the answers before it are learned."""
    one = "{% if (message.tool_calls or []) | length > 1 %}{{ raise_exception('one call at a time') }}{% endif %}"
    file = agent.files.path / "chat_template.jinja"
    file.write_text(WITH_TOOLS.replace("<|im_start|>{{ message.role }}", one + "<|im_start|>{{ message.role }}"))
    learner = Learner(agent.store, agent.files)
    import_file(learner.store, GOLDEN / "openai.jsonl", "agent", "openai")
    traces = foreign_traces(learner.store, "agent")
    lessons = foreign_lessons(learner.job([EASY], traces="import:agent", updates=1), traces)
    assert [len(lesson.turns) for lesson in reversed(lessons)] == [1, 1, 1, 1, 2, 1]
    (event,) = [event for event in events(learner.store, 9) if event.kind == "import"]
    assert "2 imported answers are left out: they stand in conversations that the chat template of" in event.message
    assert "such as imported episode 2, answer 2:" in event.message
    assert "one call at a time" in event.message


def test_a_call_in_answer_to_an_observation_is_learned_under_the_system_message_of_its_task(agent: Learner, tmp_path: Path) -> None:
    call = {"type": "function", "function": {"name": "look", "arguments": {"direction": "north"}}}
    turns = [
        {"observation": "Where?", "tool_calls": [call], "reasoning_content": "I must look."},
        {"observation": "A wall.", "action": "In the south."},
        {"observation": "Sure?", "tool_calls": [call]},
    ]
    row = {"environment": "robot", "instructions": "Look first.", "success": True, "turns": turns}
    (tmp_path / "rows").write_text(json.dumps(row) + "\n")
    import_file(agent.store, tmp_path / "rows", "agent")
    (lesson,) = foreign_lessons(agent.job([EASY], traces="import:agent", updates=1), foreign_traces(agent.store, "agent"))
    first, second, third = lesson.turns
    called = '<tool_call>{"name": "look", "arguments": {"direction": "north"}}</tool_call><|im_end|>'
    assert text(agent, first[0]) == "<|im_start|>system\nLook first.<|im_end|>\n<|im_start|>user\nWhere?<|im_end|>\n<|im_start|>assistant\n"
    assert text(agent, first[1]) == "<think>I must look.</think>" + called
    assert second[0][: len(first[0]) + len(first[1])] == first[0] + first[1]
    assert (text(agent, second[1]), text(agent, third[1])) == ("In the south.<|im_end|>", called)
    assert third[0][: len(second[0]) + len(second[1])] == second[0] + second[1]
