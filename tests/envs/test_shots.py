"""What is put before a task: instructions, a template, solved examples of the oracle or of a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from perdure.envs.environment import Environment
from perdure.envs.registry import load_here as load
from perdure.envs.rollout import opening
from perdure.memory.errors import InputError

ONE = {"observation": "1 + 2 =", "action": "3"}
TWO = {"observation": "3 + 4 =", "action": "7"}
TURNS = [{"observation": "Guess.", "action": "5"}, {"observation": "Higher.", "action": "7"}]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(folder: Path, *lines: Any, name: str = "sums.jsonl") -> str:
    (folder / name).write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return name


def messages(environment: Environment) -> list[tuple[str, str]]:
    return [(message.role, message.text) for message in opening(environment, "2 + 2 =")]


def test_instructions_replace_those_of_the_environment() -> None:
    environment = load("perdure:add?instructions=Only+the+sum,+please%0A1%2B1%3D2")
    assert messages(environment) == [("system", "Only the sum, please\n1+1=2"), ("user", "2 + 2 =")]
    assert load(environment.name).name == environment.name
    assert messages(load("perdure:add?instructions="))[0][0] == "user"
    assert load(f"perdure:add?instructions={load('perdure:add').instructions}").name == "perdure:add"


def test_the_template_is_put_around_the_first_observation_of_task_and_examples() -> None:
    environment = load("perdure:guess-number?shots=1&template=Task:+{observation}%0AGo!+{x}")
    assert messages(environment)[-1] == ("user", "Task: 2 + 2 =\nGo! {x}")
    plain = load("perdure:guess-number?shots=1").examples
    assert len(plain) > 1
    assert environment.examples == ((f"Task: {plain[0][0]}\nGo! {{x}}", plain[0][1]), *plain[1:])
    assert load(environment.name).name == environment.name


def test_a_template_without_the_observation_is_refused() -> None:
    with pytest.raises(InputError, match=r"template='Go!' must contain \{observation\}"):
        load("perdure:add?template=Go!")


def test_attributes_of_the_environment_are_the_defaults() -> None:
    environment = load("py:tests.envs.test_shots:Framed")
    assert messages(environment) == [("system", "Think."), ("user", "<2 + 2 =>")]
    assert messages(load("py:tests.envs.test_shots:Framed?template={observation}"))[-1] == ("user", "2 + 2 =")
    with pytest.raises(InputError, match="instructions=7 must be text"):
        load("py:tests.envs.test_shots:Numbered")


def test_examples_of_a_file_take_the_place_of_the_oracle(folder: Path) -> None:
    file = written(folder, ONE, "", TURNS, TWO)
    environment = load(f"perdure:add?shots=2&examples={file}&template=Q:+{{observation}}")
    assert environment.examples == (("Q: 1 + 2 =", "3"), ("Q: Guess.", "5"), ("Higher.", "7"))
    assert messages(environment)[1:3] == [("user", "Q: 1 + 2 ="), ("assistant", "3")]
    assert load(f"py:tests.envs.faulty:PaysForTrying?shots=1&examples={file}").examples == (("1 + 2 =", "3"),)


def test_what_the_file_holds_is_part_of_the_name(folder: Path) -> None:
    file = written(folder, ONE)
    environment = load(f"perdure:add?shots=1&examples={file}")
    assert environment.name.startswith("perdure:add?examples=sums.jsonl:")
    assert load(environment.name).name == environment.name
    written(folder, ONE, TWO)
    with pytest.raises(InputError, match=r"sums.jsonl has changed: it is sums.jsonl:[0-9a-f]{12} now. Restore the old file"):
        load(environment.name)
    assert load(f"perdure:add?shots=1&examples={file}").name != environment.name
    written(folder, ONE)
    assert load(environment.name).examples == environment.examples


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "sums.jsonl, line 2 is not JSON"),
        ("[" * 100_000, "sums.jsonl, line 2 is not JSON"),
        ([], "sums.jsonl, line 2 is empty"),
        ("7", "sums.jsonl, line 2 has 7: it must be"),
        ({"observation": "1"}, "line 2 has .*it must be"),
        ({"observation": "1", "action": 1}, "line 2 has .*it must be"),
        ({**ONE, "reward": 1}, "line 2 has .*it must be"),
        ([ONE, "7"], 'line 2 has "7": it must be'),
    ],
)
def test_a_line_that_is_no_example_is_named(folder: Path, line: Any, message: str) -> None:
    file = written(folder, ONE, line)
    with pytest.raises(InputError, match=message):
        load(f"perdure:add?shots=1&examples={file}")


@pytest.mark.parametrize(("shots", "message"), [(0, "has 2 examples, but shots=0"), (3, "has 2 examples, but shots=3")])
def test_there_must_be_as_many_as_are_asked_for_and_some_must_be(folder: Path, shots: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load(f"perdure:add?shots={shots}&examples={written(folder, ONE, TWO)}")


def test_a_file_that_cannot_be_read_is_named(folder: Path) -> None:
    (folder / "bytes.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"the examples in none\.jsonl cannot be read: No such file"):
        load("perdure:add?shots=1&examples=none.jsonl")
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        load("perdure:add?shots=1&examples=.")
    with pytest.raises(InputError, match=r"bytes\.jsonl is not UTF-8 text"):
        load("perdure:add?shots=1&examples=bytes.jsonl")


class Framed:
    """Says how it wants to be shown."""

    instructions: Any = "Think."
    template = "<{observation}>"

    def reset(self) -> str:
        return "2 + 2 ="

    def step(self, action: str) -> Any:
        return "", float(action == "4"), True


class Numbered(Framed):
    instructions = 7
