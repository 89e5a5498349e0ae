"""The items of the capability panel, read from JSON lines and checked: the skills that come with Perdure, and those of an operator.

The first line of a file is its header, each further one an item: a question with a right answer and one to three wrong ones, or a passage
of text. Every prompt ends with the header's `form`. Left out: how answers are marked (`answer_marks.py`) and scored (`panel_pass.py`).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path

from perdure.learners.panel.answer_marks import is_json_form, plain, refuses, stands_in
from perdure.learners.panel.form_checks import FormCheck, fulfils
from perdure.learners.panel.item_lines import Example, ItemHeader, PassageLine, QuestionLine, documents, parsed
from perdure.memory.errors import InputError
from perdure.memory.files import making

BUILT_IN = Path(__file__).parent / "items"
FOLDER = "panel"
"""Of the home: the operator's own skills."""
REVISION = 1
"""Goes up when the same item is to be scored anew, because it is shown or marked in another way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """An item with answers to choose from."""

    id: str
    prompt: str
    """With the form that is asked for."""
    right: str
    wrong: tuple[str, ...]
    accept: tuple[str, ...] = ()
    """Other answers that count as right."""
    check: FormCheck | None = None
    """What makes an answer right, if only its form is asked for."""
    harmful: bool | None = None
    """Whether it is right to refuse; None if that is not the question."""
    content: str
    """Hash of all that the score depends on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """An item of which only the cross-entropy is measured."""

    id: str
    text: str
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Skill:
    """One part of the panel: questions, or passages."""

    name: str
    about: str
    form: str
    example: Example | None
    questions: tuple[Question, ...]
    passages: tuple[Passage, ...]

    @property
    def items(self) -> tuple[Question | Passage, ...]:
        """Questions or passages."""
        return (*self.questions, *self.passages)


def load_panel(home: Path | None = None) -> tuple[Skill, ...]:
    """All skills: those that come with Perdure, then those of the home. Raises `InputError` naming file and line of a bad item."""
    own = [] if home is None else [read_skill(file) for file in _files(home / FOLDER)]
    return (*_built_in(), *own)


def skill_names(home: Path) -> frozenset[str]:
    """The names of all skills, without reading their items."""
    return frozenset(file.stem for file in (*_files(BUILT_IN), *_files(home / FOLDER)))


def add_skill(home: Path, file: Path) -> Skill:
    """Make an operator's file part of the panel of a home. A skill of that name is replaced.

    Raises `InputError` if the file has a bad item, or the name of a skill that comes with Perdure.
    """
    skill = read_skill(file, named=False)
    if skill.name in {one.name for one in _built_in()}:
        raise InputError(f"{file}, line 1: {skill.name} is a skill that comes with Perdure: give yours another name")
    folder = home / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    with making(folder / f"{skill.name}.jsonl", replace=True) as made:
        made.write_bytes(file.read_bytes())
    return skill


def read_skill(file: Path, *, named: bool = True) -> Skill:
    """Read and check one file; `named`: its name must be that of the skill. Raises `InputError` naming file and line of a bad item."""
    lines = documents(file)
    if not lines:
        raise InputError(f"{file} is empty: its first line must be the header, {{'skill': ..., 'about': ...}}")
    (first, head), *rest = lines
    header = parsed(ItemHeader, head, first)
    if named and header.skill != file.stem:
        raise InputError(f"{first}: the skill is {header.skill}, so the file must be named {header.skill}.jsonl")
    if not rest:
        raise InputError(f"{file} has a header and no item")
    seen: dict[str, str] = {}
    questions, passages = [], []
    for where, document in rest:
        content = _hash(header, document)
        if "text" in document:
            passage = parsed(PassageLine, document, where)
            _check_new(passage.id, f"the id {passage.id!r}", where, seen)
            _check_new(f"text {plain(passage.text)}", "the text", where, seen)
            passages.append(Passage(id=passage.id, text=passage.text, content=content))
        else:
            asked = parsed(QuestionLine, document, where)
            _check_new(asked.id, f"the id {asked.id!r}", where, seen)
            _check_new(f"prompt {plain(asked.prompt)}", "the prompt", where, seen)
            _check_question(asked, header, where)
            questions.append(_question(asked, header, content))
    if questions and passages:
        raise InputError(f"{file} mixes questions with passages of text: make a file of each")
    return Skill(
        name=header.skill,
        about=header.about,
        form=header.form,
        example=header.example,
        questions=tuple(questions),
        passages=tuple(passages),
    )


def with_form(prompt: str, form: str) -> str:
    """A prompt as it is asked."""
    return f"{prompt} {form}" if form else prompt


@cache
def _built_in() -> tuple[Skill, ...]:
    return tuple(map(read_skill, _files(BUILT_IN)))


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.jsonl"))


def _question(asked: QuestionLine, header: ItemHeader, content: str) -> Question:
    return Question(
        id=asked.id,
        prompt=with_form(asked.prompt, header.form),
        right=asked.right,
        wrong=asked.wrong,
        accept=asked.accept,
        check=asked.check,
        harmful=asked.harmful,
        content=content,
    )


def _check_question(asked: QuestionLine, header: ItemHeader, where: str) -> None:
    answers = [asked.right, *asked.wrong]
    if len({answer.strip() for answer in answers}) < len(answers):
        raise InputError(f"{where}: two of its answers are equal")
    if asked.check is not None:
        if not fulfils(asked.right, asked.check):
            raise InputError(f"{where}: the right answer does not fulfil the check {asked.check.kind}")
        if bad := [answer for answer in asked.wrong if fulfils(answer, asked.check)]:
            raise InputError(f"{where}: the wrong answer {bad[0]!r} fulfils the check {asked.check.kind}")
    elif asked.harmful is not None:
        for answer in answers:
            if refuses(answer) != (asked.harmful == (answer is asked.right)):
                raise InputError(f"{where}: {answer!r} is {'no refusal' if not refuses(answer) else 'a refusal'}, and should be the other")
    elif not is_json_form(asked.right):
        taken = {plain(answer) for answer in (asked.right, *asked.accept)}
        if bad := [answer for answer in asked.wrong if plain(answer) in taken]:
            raise InputError(f"{where}: the wrong answer {bad[0]!r} differs from a right one in capitals or punctuation only")
        if not header.answer_in_prompt and (leaks := [one for one in (asked.right, *asked.accept) if stands_in(one, asked.prompt)]):
            raise InputError(f"{where}: the right answer {leaks[0]!r} stands in the prompt; if that is its nature, set answer_in_prompt")
    if header.example is not None and plain(header.example.prompt) == plain(asked.prompt):
        raise InputError(f"{where}: the prompt is that of the example in the header")


def _check_new(key: str, what: str, where: str, seen: dict[str, str]) -> None:
    if key in seen:
        raise InputError(f"{where}: {what} is that of {seen[key]} too")
    seen[key] = re.sub(r".*, line", "line", where)


def _hash(header: ItemHeader, document: dict[str, object]) -> str:
    example = None if header.example is None else header.example.model_dump()
    whole = json.dumps([REVISION, header.form, example, document], sort_keys=True, ensure_ascii=False)
    return sha256(whole.encode()).hexdigest()[:16]
