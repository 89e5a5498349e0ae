"""What the chat of a home's model was found to be, kept by the engine that checked it, for `perdure doctor`.

The check needs the libraries of models, whose import alone takes seconds. Its result is in `run/chat.json`, with a digest of all
that it rests on: the files of the model but its weights, the choices under [chat], the date of the home, the packages, and our own code. If
any of that is another, the doctor checks anew. A chat that does not hold is not kept: no engine opens with one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import perdure.learners.chat
from perdure.memory.errors import PerdureError
from perdure.memory.files import making

if TYPE_CHECKING:
    from perdure.learners.chat.chat_settings import ChatSettings

PACKAGES = ("transformers", "tokenizers", "jinja2")


def keep_chat(home: Path, folder: Path, settings: ChatSettings, told: Sequence[str]) -> None:
    """Keep that this chat holds, and what was told of it. A home that takes no file now is left as it is."""
    file = _file(home)
    with suppress(OSError, PerdureError):
        file.parent.mkdir(mode=0o700, exist_ok=True)
        with making(file, replace=True) as made:
            made.write_text(json.dumps({"rests_on": _rests_on(folder, settings), "told": list(told)}))


def kept_chat(home: Path, folder: Path, settings: ChatSettings) -> list[str] | None:
    """What was told of this chat, if it was checked and nothing has changed since."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        kept = json.loads(_file(home).read_text())
        if kept["rests_on"] == _rests_on(folder, settings):
            return [str(line) for line in kept["told"]]
    return None


def _file(home: Path) -> Path:
    return home / "run" / "chat.json"


def _rests_on(folder: Path, settings: ChatSettings) -> str:
    digest = sha256(repr((settings, [version(name) for name in PACKAGES])).encode())
    for file in sorted((*_small_files(folder), *Path(perdure.learners.chat.__file__).parent.glob("*.py"))):
        digest.update(f"\0{file}\0".encode() + sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def _small_files(folder: Path) -> Iterator[Path]:
    """The files of a model but its weights."""
    return (file for file in folder.rglob("*") if file.is_file() and file.suffix != ".safetensors")
