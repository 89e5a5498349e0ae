"""Names of environments and skills for tables and plots."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence


def short_name(environment: str) -> str:
    """'first-word' of 'perdure:first-word?shots=2'."""
    return environment.split(":", 1)[-1].split("?", 1)[0]


def short_names(subjects: Sequence[str]) -> dict[str, str]:
    """The same of several, and a skill's name in words; those that would read alike keep their whole name."""
    short = {subject: short_name(subject).replace("_", " ") for subject in subjects}
    counts = Counter(short.values())
    return {subject: name if counts[name] == 1 else subject for subject, name in short.items()}
