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

from perdure.learners.panel.answer_marks import canonical, is_json_form, plain, refuses, stands_in
from perdure.learners.panel.form_checks import FormCheck, fulfils
from perdure.learners.panel.item_lines import Example, ItemHeader, PassageLine, QuestionLine, documents, parsed, read_bytes
from perdure.memory.errors import InputError
from perdure.memory.files import making

BUILT_IN = Path(__file__).parent / "items"
FOLDER = "panel"
LEAST_ITEMS = 20
"""Of an operator's skill: with fewer, one item that turns from right to wrong would lose more than a limit allows."""
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
    answer_in_prompt: bool = False
    """Whether the right answer stands in the prompt by its nature, as with a passage."""
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
    own = [] if home is None else [_not_built_in(read_skill(file), file) for file in _files(home / FOLDER)]
    return (*_built_in(), *own)


def operators_skill(file: Path) -> tuple[Skill, bytes]:
    """A file that may become part of a panel, and what stands in it. It is read once, so it may be a pipe.

    Raises `InputError` if it has a bad item or too few, or the name of a skill that comes with Perdure.
    """
    content = read_bytes(file)
    skill = _not_built_in(skill_of(content, file), file)
    if len(skill.items) < LEAST_ITEMS:
        raise InputError(
            f"{file} has {len(skill.items)} items: at least {LEAST_ITEMS} are needed, so that no single one exceeds the limits of a gate"
        )
    return skill, content


def add_skill(home: Path, skill: Skill, content: bytes) -> None:
    """Make an operator's skill part of the panel of a home. A skill of that name is replaced."""
    folder = home / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    with making(folder / f"{skill.name}.jsonl", replace=True) as made:
        made.write_bytes(content)


def read_skill(file: Path) -> Skill:
    """Read and check one file, whose name is that of the skill. Raises `InputError` naming file and line of a bad item."""
    skill = skill_of(read_bytes(file), file)
    if skill.name != file.stem:
        raise InputError(f"{file}, line 1: the skill is {skill.name}, so the file must be named {skill.name}.jsonl")
    return skill


def _not_built_in(skill: Skill, file: Path) -> Skill:
    if skill.name in {one.name for one in _built_in()}:
        raise InputError(f"{file}, line 1: {skill.name} is a skill that comes with Perdure: give yours another name")
    return skill


def skill_of(content: bytes, file: Path) -> Skill:
    """Check what stands in a file. Raises `InputError` naming file and line of a bad item."""
    lines = documents(content, file)
    if not lines:
        raise InputError(f"{file} is empty: its first line must be the header, {{'skill': ..., 'about': ...}}")
    (first, head), *rest = lines
    header = parsed(ItemHeader, head, first)
    if not rest:
        raise InputError(f"{file} has a header and no item")
    seen: dict[str, str] = {}
    questions, passages = [], []
    for where, document in rest:
        hashed = _hash(header, document)
        if "text" in document:
            passage = parsed(PassageLine, document, where)
            _check_new(passage.id, f"the id {passage.id!r}", where, seen)
            _check_new(f"text {plain(passage.text)}", "the text", where, seen)
            passages.append(Passage(id=passage.id, text=passage.text, content=hashed))
        else:
            asked = parsed(QuestionLine, document, where)
            _check_new(asked.id, f"the id {asked.id!r}", where, seen)
            _check_new(f"prompt {plain(asked.prompt)}", "the prompt", where, seen)
            _check_question(asked, header, where)
            questions.append(_question(asked, header, hashed))
    if questions and passages:
        raise InputError(f"{file} mixes questions with passages of text: make a file of each")
    if len({question.harmful for question in questions}) > 1:
        raise InputError(f"{file} mixes questions to refuse with others, which would hide what is lost in one of them: make a file of each")
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
        answer_in_prompt=header.answer_in_prompt,
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
    elif is_json_form(asked.right):
        taken = {canonical(answer) for answer in (asked.right, *asked.accept)}
        if None in taken:
            raise InputError(f"{where}: the right answer is JSON, and one under 'accept' is none")
        if bad := [answer for answer in asked.wrong if canonical(answer) in taken]:
            raise InputError(f"{where}: the wrong answer {bad[0]!r} is the same JSON as a right one")
        if not header.answer_in_prompt and asked.right in asked.prompt:
            raise InputError(f"{where}: the right answer {asked.right!r} stands in the prompt; if that is its nature, set answer_in_prompt")
    else:
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
