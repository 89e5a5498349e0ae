"""Check that the stored text of each turn is the text of its tokens, with the tokenizer of the home's base model.

Learners use the tokens; people and environments read the text. If they differ, one of them was changed.
"""

from __future__ import annotations

from collections.abc import Iterator

from transformers import AutoTokenizer

from perdure.learners.engines.chat import answer_text
from perdure.learners.weights.base_models import ModelFiles
from perdure.memory.errors import InputError
from perdure.memory.store import Store
from perdure.memory.trajectories.turns import actions, valid_text


def differing_texts(store: Store, files: ModelFiles) -> Iterator[tuple[int, int, str, str]]:
    """Each turn whose text differs: episode, number of the turn, its text, and the text of its tokens.

    Raises `InputError` if the tokenizer cannot be loaded.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(files.path, trust_remote_code=False)
    except (OSError, ValueError, ImportError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"the tokenizer in {files.path} cannot be loaded ({reason}): repair its files") from error
    for episode, n, action_ids, action in actions(store):
        decoded = valid_text(answer_text(tokenizer, action_ids))
        if decoded != action:
            yield episode, n, action, decoded
