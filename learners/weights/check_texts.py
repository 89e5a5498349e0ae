"""Check that the stored text of each turn is the text of its tokens, with the tokenizer of the home's base model.

Learners use the tokens; people and environments read the text. If they differ, one of them was changed. Tokens of a byte-level tokenizer
are joined as bytes, which takes an eighth of the time of decoding them; only an answer whose bytes differ, or one of another tokenizer, is
decoded as it was when it was played.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from operator import itemgetter
from typing import TYPE_CHECKING

from perdure.envs.policy import Ids
from perdure.learners.weights.base_models import ModelFiles
from perdure.memory.errors import InputError
from perdure.memory.layout.blobs import unpack_ids
from perdure.memory.trajectories.turns import valid_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from perdure.learners.chat.template_chat import TemplateChat


def text_comparison(files: ModelFiles) -> Callable[[bytes, bytes], str | None]:
    """A function of the packed token ids of an answer and the UTF-8 of its text: the text of the ids if it is another one, else None.

    Raises `InputError` if it needs the tokenizer, and that cannot be loaded.
    """
    spelled = _byte_table(files)

    def compare(action_ids: bytes, action: bytes) -> str | None:
        if len(action_ids) % 4:  # torn: another rule names it
            action_ids = action_ids[: len(action_ids) // 4 * 4]
        if spelled is not None and _joined(spelled, action_ids) == action:
            return None
        ids = unpack_ids(action_ids)
        decoded = valid_text(_plain_text(_tokenizer(files), ids))
        if decoded.encode() == action:
            return None
        visible = _visible_text(files, ids, action.decode("utf-8", "replace"))
        return None if valid_text(visible).encode() == action else decoded

    return compare


def _joined(spelled: list[bytes], packed: bytes) -> bytes | None:
    try:
        ids = unpack_ids(packed)
        return b"".join(itemgetter(*ids)(spelled)) if len(ids) > 1 else b"".join(spelled[number] for number in ids)
    except IndexError:  # no token of this tokenizer
        return None


def _plain_text(tokenizer: PreTrainedTokenizerBase, ids: Ids) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))


def _visible_text(files: ModelFiles, ids: Ids, action: str) -> str:
    """The answer without its thoughts, as environments read it, with those special tokens whose words are in the stored text."""
    from perdure.learners.chat.answer_text import AnswerText

    chat = _chat(files)
    if chat is None:
        return _plain_text(_tokenizer(files), ids)
    shown = frozenset(word for word, number in chat.encoder.controls.items() if number in chat.encoder.special_ids and word in action)
    return AnswerText(_tokenizer(files), chat.encoder, chat.shape, shown).read(ids)


@cache
def _chat(files: ModelFiles) -> TemplateChat | None:
    """None if the model has no template that can be used."""
    from perdure.learners.chat.chat_settings import ChatSettings
    from perdure.learners.chat.open_chat import open_chat

    try:
        return open_chat(files.path, ChatSettings(thoughts="drop"))[0]
    except InputError:
        return None


@cache
def _tokenizer(files: ModelFiles) -> PreTrainedTokenizerBase:
    from perdure.learners.chat.open_chat import load_tokenizer

    return load_tokenizer(files.path)


def _byte_table(files: ModelFiles) -> list[bytes] | None:
    """The bytes of each token of a byte-level tokenizer, none for a special one; None if it is of another kind."""
    try:
        document = json.loads((files.path / "tokenizer.json").read_bytes())
        if document["decoder"]["type"] != "ByteLevel":
            return None
        byte_of = {sign: byte for byte, sign in _byte_signs().items()}
        spelled = {number: bytes(map(byte_of.__getitem__, token)) for token, number in document["model"]["vocab"].items()}
        spelled |= {token["id"]: b"" if token["special"] else token["content"].encode() for token in document["added_tokens"]}
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return [spelled.get(number, b"") for number in range(max(spelled) + 1)]


def _byte_signs() -> dict[int, str]:
    """The sign that byte-level tokenizers write for each byte (Radford et al. 2019, `bytes_to_unicode` of GPT-2's code)."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in plain]
    return {byte: chr(byte) for byte in plain} | {byte: chr(256 + n) for n, byte in enumerate(others)}
