"""The text of sampled tokens: what an environment reads of an answer, and what is stored beside its tokens.

Special tokens are left out, but for those of `[chat] show_special`. Thoughts are left out too: the text begins behind the last mark that
the template puts between a thought and an answer, unless that mark is one of the shown words. An answer that was cut off within its
thought has no text.
"""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from perdure.learners.chat.template_shape import TemplateShape
from perdure.learners.chat.text_encoder import TextEncoder


class AnswerText:
    """Reads answers by the marks of a template."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, encoder: TextEncoder, shape: TemplateShape, shown: frozenset[str]) -> None:
        self._tokenizer = tokenizer
        self._hidden_ids = encoder.special_ids - {encoder.controls[word] for word in shown}
        self._opens, self._opened = shape.opens.strip(), shape.opened
        mark = (shape.header or shape.closes).strip()
        self._mark = "" if mark in shown else mark
        """It ends a thought, or says that what follows is the answer. Empty if there are no thoughts, or if they are shown."""
        self._is_channel = bool(shape.header)
        self._last_of_mark = next((number for word, number in encoder.controls.items() if self._mark.endswith(word)), None)

    def read(self, action_ids: Sequence[int]) -> str:
        """The visible text of an answer."""
        if not self._mark:
            return self._decode(action_ids)
        begin = self._behind_mark(action_ids)
        if begin is not None:
            text = self._decode(action_ids[begin:])
            return text if self._is_channel else text.lstrip("\n")
        text = self._decode(action_ids)
        if self._last_of_mark is None and self._mark in text:  # its letters are ordinary tokens
            return text.rsplit(self._mark, 1)[1].lstrip("\n")
        within = self._is_channel or self._opened or self._decode(action_ids, hidden=frozenset()).lstrip().startswith(self._opens)
        return "" if within else text

    def _behind_mark(self, action_ids: Sequence[int]) -> int | None:
        """Where the answer begins behind the last mark; None if there is none, or if it is no token of its own."""
        if self._last_of_mark is not None:
            for n in range(len(action_ids), 0, -1):
                if action_ids[n - 1] == self._last_of_mark and self._decode(action_ids[:n], hidden=frozenset()).endswith(self._mark):
                    return n
        return None

    def _decode(self, ids: Sequence[int], hidden: frozenset[int] | None = None) -> str:
        hidden = self._hidden_ids if hidden is None else hidden
        kept = [number for number in ids if number not in hidden]
        return str(self._tokenizer.decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False))
