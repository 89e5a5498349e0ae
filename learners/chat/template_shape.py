"""What a chat template does with a conversation, found by rendering a few short ones.

Found are: whether it has a system role, what stands between the generation prompt and an answer, what closes an answer, how thoughts are
marked, and whether those of earlier answers are dropped. Refused is what would train the model on other tokens than it sampled, or lose
what was said: a template that drops or reorders messages, or that changes earlier turns when later ones are added.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from perdure.envs.policy import Ids, Message
from perdure.learners.chat.chat_settings import Thoughts
from perdure.learners.chat.chat_template import ChatTemplate, TemplateFailure
from perdure.learners.chat.text_encoder import TextEncoder, shared_length
from perdure.memory.errors import InputError

Role = Literal["system", "user", "assistant"]
A, B, C, D, E = "ALPHA0SENTINEL", "BRAVO1SENTINEL", "CHARLIE2SENTINEL", "DELTA3SENTINEL", "ECHO4SENTINEL"
THOUGHT = "GOLF5SENTINEL"
THINK = "<think>"
TAGS = ((f"{THINK}\n", "\n</think>\n\n"), ("<|channel>thought\n", "\n<channel|>"))
"""Of thoughts, in templates that know them but do not take a thought apart from its answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateShape:
    """What must be known of a template to play by it."""

    has_system: bool
    """Whether a system message comes first; if not, the instructions precede the first message."""
    header: str
    """What the template writes between generation prompt and answer to say that this is the answer: a channel. Empty for most."""
    opens: str
    """What begins a thought; empty if there are none."""
    closes: str
    """What stands between a thought and the answer."""
    opened: bool
    """Whether the generation prompt begins a thought."""
    drops_thoughts: bool
    """Whether thoughts of earlier answers are left out, or what the generation prompt wrote of one."""
    closers: Ids
    """The control tokens that a policy samples after an answer; the turn ends with the last of them, or with an earlier one that the model
    names as an end."""
    closers_within: Ids
    """The same in the midst of a conversation."""
    next_role_closes: bool
    """Whether these are no more than the mark of the next role, so that an answer at the end of a conversation has none."""


def template_shape(template: ChatTemplate, encoder: TextEncoder, thoughts: Thoughts) -> TemplateShape:
    """Look at a template; sets whether it wants lists of parts. Raises `InputError` if it cannot be used."""
    opened = _opening(template)
    whole = template.render(_said(A, B, C), ask=True)
    _check_kept(whole, (A, B, C))
    if thoughts == "keep":
        _check_prefix(template, opened, whole)
    before, after = whole.split(B, 1)
    alone = template.render(_said(A, B), ask=False)
    shared = _shared_opening(opened, before)
    opens, closes, _ = marks = _thought_marks(template, shared)
    header = before[len(opened) :] if before.startswith(opened) else ""
    if closes and (mark := closes.strip()) and mark in header:  # an empty thought that the template writes into an answer without one
        header = header.rsplit(mark, 1)[1]
    within, at_end = closing_run(encoder, after), closing_run(encoder, alone.split(B, 1)[1] if B in alone else "")
    common = within[: shared_length(within, at_end)]
    return TemplateShape(
        has_system=_keeps_system(template),
        header=header if encoder.lead(header) != header else "",
        opens=opens,
        closes=closes,
        opened=bool(opens) and opened[len(shared) :].rstrip().endswith(opens.strip()),
        drops_thoughts=_drops_thoughts(template, opened, before, marks),
        closers=common or at_end[:1] or within[:1],
        closers_within=common or within[:1],
        next_role_closes=not at_end,
    )


def closing_run(encoder: TextEncoder, text: str) -> Ids:
    """The control tokens at the beginning of a text, after whitespace at most."""
    if encoder.lead(text).strip():
        return ()
    ids = encoder.encode(text, start="joined")
    start = next((n for n, number in enumerate(ids) if number in encoder.control_ids), len(ids))
    stop = next((n for n in range(start, len(ids)) if ids[n] not in encoder.control_ids), len(ids))
    return ids[start:stop]


def _said(*texts: str, system: str | None = None) -> list[Message]:
    roles: tuple[Role, Role] = ("user", "assistant")
    said = [Message(role=roles[n % 2], text=text) for n, text in enumerate(texts)]
    return said if system is None else [Message(role="system", text=system), *said]


def _opening(template: ChatTemplate) -> str:
    """The first prompt. A template that loses a plain text is tried with lists of parts."""
    failure: TemplateFailure | None = None
    for template.parts in (False, True):
        try:
            opened = template.render(_said(A), ask=True)
        except TemplateFailure as error:
            failure = failure or error
            continue
        if A in opened:
            return opened
    if failure is not None:
        raise failure
    raise InputError("the model's chat template leaves out what a user says: use one that renders texts")


def _check_kept(whole: str, texts: Sequence[str]) -> None:
    places = [whole.find(text) for text in texts]
    if min(places) < 0 or places != sorted(places):
        raise InputError("the model's chat template drops or reorders messages: use one that only appends")


def _check_prefix(template: ChatTemplate, opened: str, whole: str) -> None:
    """What precedes an answer may differ only in what begins it."""
    longer = template.render(_said(A, B, C, D, E), ask=True)
    first, second = opened.index(A) + len(A), whole.index(C) + len(C)
    if not whole.startswith(opened[:first]) or not longer.startswith(whole[: whole.index(B)]) or whole[:second] != longer[:second]:
        raise InputError(
            "the model's chat template does not keep its prefix: it changes earlier turns when later ones are added, so the model "
            "would be trained on other tokens than it sampled; use a template that only appends, or set thoughts = 'drop' in [chat], which "
            "makes each turn a sequence of its own"
        )


def _shared_opening(opened: str, before: str) -> str:
    """The generation prompt up to where a thought or a channel may begin."""
    shared = opened[: shared_length(opened, before)]
    if A not in shared:  # earlier turns are changed, which only separate turns allow
        return opened
    tag = shared.find(THINK, shared.index(A))
    return shared if tag < 0 else shared[:tag]


def _thought_marks(template: ChatTemplate, shared: str) -> tuple[str, str, bool]:
    """What begins and what ends a thought, and whether the template takes thoughts apart from answers."""
    last = template.render([*_said(A), Message(role="assistant", text=B, thought=THOUGHT)], ask=False)
    before, thought, rest = last.partition(THOUGHT)
    if thought and B in rest and before.startswith(shared):
        return before[len(shared) :], rest.split(B, 1)[0], True
    source = template.source
    known = ((opens, closes) for opens, closes in TAGS if opens.strip() in source or closes.strip() in source)
    return (*next(known, ("", "")), False)


def _drops_thoughts(template: ChatTemplate, opened: str, before: str, marks: tuple[str, str, bool]) -> bool:
    """Whether the thought of an answer is missing when the conversation goes on."""
    opens, closes, apart = marks
    if not opens:
        return False
    text, thought = (B, THOUGHT) if apart else (f"{opens}{THOUGHT}{closes}{B}", None)
    user, _, after = _said(A, B, C)
    longer = template.render([user, Message(role="assistant", text=text, thought=thought), after], ask=True)
    return THOUGHT not in longer or not (before.startswith(opened) or opened.startswith(before))


def _keeps_system(template: ChatTemplate) -> bool:
    """Whether the template puts a system message first: some reject it, some drop it, some move it to the last message."""
    try:
        whole = template.render(_said(A, B, C, system=D), ask=True)
    except TemplateFailure:
        return False
    places = [whole.find(text) for text in (D, A, B, C)]
    return min(places) >= 0 and places == sorted(places)
