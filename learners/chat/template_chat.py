"""Conversations as token ids, by the model's own chat template.

A prompt is what `apply_chat_template` gives, token for token, if no message holds a control word; if one does, that word stays text. What
was sampled is never rendered again: the next prompt is the last one, the answer, and what the template puts between an answer and the next
observation. A template may leave out thoughts of earlier answers; `[chat] thoughts` says whether they stay (`keep`) or whether each turn's
prompt is made anew (`drop`).
"""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from perdure.envs.policy import Ids, Message
from perdure.learners.chat.answer_text import AnswerText
from perdure.learners.chat.chat_settings import ChatSettings
from perdure.learners.chat.chat_template import ChatTemplate
from perdure.learners.chat.guarded_conversation import GuardedConversation, tagged_thought
from perdure.learners.chat.template_shape import template_shape
from perdure.learners.chat.text_encoder import Start, TextEncoder, shared_length
from perdure.memory.errors import InputError
from perdure.memory.json_value import JsonObject

_QUESTION = Message(role="user", text="A")
_ANSWER = Message(role="assistant", text="B")
_DEFAULT = ChatSettings()


class TemplateChat:
    """`Chat` by a tokenizer with a chat template. `ends` are the tokens that end an answer by the model's files; in `stop_ids` they are
    joined by the template's own.

    Raises `InputError` if the tokenizer has no template or cannot be read, if an answer would have no end, if the template loses what was
    said, or if it rewrites earlier turns: the model would then be trained on other tokens than it sampled.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, ends: frozenset[int], settings: ChatSettings = _DEFAULT) -> None:
        if not isinstance(tokenizer, PreTrainedTokenizerFast):
            raise InputError("the model's tokenizer has no tokenizer.json: save it with transformers as a fast one, and use that folder")
        self.settings = settings
        self.template = ChatTemplate(tokenizer, settings)
        self.encoder = TextEncoder(tokenizer)
        self.shape = template_shape(self.template, self.encoder, settings.thoughts)
        for word in settings.show_special:
            if word not in self.encoder.controls:
                raise InputError(f"chat.show_special names {word!r}, which is no token of its own in the model's tokenizer")
        closers = self.shape.closers
        self.end = next((token for token in closers if token in ends), closers[-1] if closers else None)
        """The token that a template ends an answer with; None if it has none of its own."""
        self.stop_ids = ends if self.end is None else ends | {self.end}
        if not self.stop_ids:
            raise InputError("the model has no end-of-turn token: set eos_token_id in its generation_config.json")
        self._shown = frozenset(settings.show_special)
        self._answers = AnswerText(tokenizer, self.encoder, self.shape, self._shown)

    @property
    def separate(self) -> bool:
        """Whether each turn's prompt is made anew."""
        return self.settings.thoughts == "drop"

    def prompt(self, messages: Sequence[Message], tools: Sequence[JsonObject] = ()) -> Ids:
        """The ids of a conversation up to the assistant's answer; without a system role, the instructions precede the first message."""
        guarded = self._guarded(messages, tools)
        return self.encoder.encode(guarded.rendered(guarded.messages, ask=True), guarded.breaker)

    def follow(self, prompt_ids: Ids, action_ids: Ids, observation: str) -> Ids:
        """The next turn's prompt. It starts with `prompt_ids + action_ids`; if the answer was cut off, its end-of-turn token is added."""
        guarded = self._guarded([_QUESTION, _ANSWER, Message(role="user", text=observation)])
        question, answer, said = guarded.messages
        mark = guarded.breaker * 2
        rendered = guarded.rendered([question, guarded.with_mark(answer, mark), said], ask=True)
        after = rendered.split(f"{mark}{answer.text}", 1)[1]
        piece = self.encoder.encode(after, guarded.breaker, "joined")
        return (*prompt_ids, *action_ids, *piece[self._sampled_already(piece, action_ids) :])

    def text(self, action_ids: Ids) -> str:
        """The text of an answer, without its thoughts and without special tokens but those of `show_special`."""
        return self._answers.read(action_ids)

    def answer(self, text: str) -> Ids:
        """The ids of a given answer, with the end-of-turn token that the template puts after it."""
        return self.exchange([_QUESTION, Message(role="assistant", text=text)])[1]

    def exchange(self, messages: Sequence[Message], tools: Sequence[JsonObject] = ()) -> tuple[Ids, Ids]:
        """Prompt and answer of a conversation whose last message is the assistant's.

        Raises `InputError` if it is not, or if the template begins an answer otherwise than its generation prompt does.
        """
        if not messages or messages[-1].role != "assistant":
            raise InputError("an exchange ends with the assistant's message")
        guarded = self._guarded(messages, tools)
        asked = guarded.rendered(guarded.messages[:-1], ask=True)
        whole = guarded.rendered(guarded.messages, ask=False)
        rest = whole[len(asked) :] if whole.startswith(asked) else self._behind_opened_thought(guarded, asked)
        start: Start = "later" if self.encoder.ends_in_control(asked) else "joined"
        return self.encoder.encode(asked, guarded.breaker), self._ended(self.encoder.encode(rest, guarded.breaker, start))

    def _guarded(self, messages: Sequence[Message], tools: Sequence[JsonObject] = ()) -> GuardedConversation:
        return GuardedConversation(messages, tools, template=self.template, encoder=self.encoder, shape=self.shape, shown=self._shown)

    def _behind_opened_thought(self, guarded: GuardedConversation, asked: str) -> str:
        """The answer to a generation prompt that has opened a thought, which the template leaves out of the answer: the thought, its end,
        and what follows."""
        if not self.shape.opened:
            raise InputError("the model's chat template begins an answer otherwise than its generation prompt does")
        said, mark = guarded.messages[-1], guarded.breaker * 2
        whole = guarded.rendered([*guarded.messages[:-1], guarded.with_mark(said, mark)], ask=False)
        found = tagged_thought(said.text, self.shape)
        thought = said.thought or (found.thought if found else "")
        rest = whole.split(mark, 1)[1] if mark in whole else whole[shared_length(asked, whole) :].removeprefix(self.shape.closes.strip())
        return thought.strip("\n") + self.shape.closes + rest

    def _ended(self, ids: Ids) -> Ids:
        """A rendered answer up to its end; if the template has none here, as before the next role's mark, it is added."""
        for ends in ({self.end}, self.stop_ids):
            place = next((n for n, token in enumerate(ids) if token in ends), None)
            if place is not None:
                return ids[: place + 1]
        return (*ids, min(self.stop_ids) if self.end is None else self.end)

    def _sampled_already(self, piece: Ids, action_ids: Ids) -> int:
        """How many tokens of the piece after an answer close it, and were sampled with it.

        An answer may have ended with another end token of the model; that closes it as well, but does not begin the next role.
        """
        start = next((n for n, token in enumerate(piece) if token in self.encoder.control_ids), 0)
        within = self.shape.closers_within
        if not action_ids or not within or piece[start : start + len(within)] != within:
            return 0
        if action_ids[-1] in within:
            return start + within.index(action_ids[-1]) + 1
        return start + len(within) if action_ids[-1] in self.stop_ids and not self.shape.next_role_closes else 0
