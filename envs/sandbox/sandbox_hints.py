"""What to do about errors that come from the sandbox, not from the environment: by what the errors say."""

from __future__ import annotations

import re

HINTS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), hint)
    for pattern, hint in (
        (
            r"Read-only file system|readonly database|Errno 30\b",
            "the sandbox lets it write only in its working folder, a private one, and in TMPDIR",
        ),
        (
            r"FileNotFoundError|No such file|no such table|unable to open database",
            "it runs in a folder of its own: name its files by the place of the module, Path(__file__).parent / NAME; open a database "
            "with mode=ro&immutable=1",
        ),
        (
            r"Permission denied|Errno 13\b",
            "the sandbox keeps it from sockets and pipes of the machine",
        ),
        (r"(?-i:[A-Z][A-Z0-9_]*_(?:KEY|TOKEN|SECRET|PASSWORD))\b", "only variables that [sandbox] variables names reach it"),
        (
            r"Resource \S*\s*not found.*|nltk",
            "its HOME is another folder here: set NLTK_DATA to the folder of the data, and name NLTK_DATA in [sandbox] variables",
        ),
        (
            r"Connection refused|Network is unreachable|Name or service not known|Temporary failure in name resolution",
            "the sandbox has no network but a loopback of its own: [sandbox] network = true allows it",
        ),
        (
            r"MemoryError|Cannot allocate memory|java|jvm|initialization of VM|std::bad_alloc",
            "each process has sandbox.memory_mib of address space; a JVM needs 8192 or more",
        ),
        (r"f-string: (?:unmatched|expecting)|SyntaxError", "its code may need a newer Python: [sandbox] python names another one"),
    )
)


def with_hint(reason: str) -> str:
    """The reason of a failure, with what to do if the sandbox is likely to be its cause."""
    hint = next((hint for pattern, hint in HINTS if pattern.search(reason)), None)
    return reason if hint is None else f"{reason} ({hint})"
