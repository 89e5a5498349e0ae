"""What can be chosen about a model's chat template."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

Thoughts = Literal["keep", "drop"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatSettings:
    """The section [chat] of the configuration, and the date of the home."""

    thoughts: Thoughts = "keep"
    """keep: a conversation only grows, with all that was sampled. drop: each turn's prompt is made anew from texts, without thoughts."""
    template_options: Mapping[str, Any] = field(default_factory=dict)
    """Variables of the template."""
    show_special: tuple[str, ...] = ()
    """Special tokens that stay in the text of an answer, and are tokens in a given one."""
    date: datetime = field(default_factory=lambda: datetime.now(UTC))
    """What a template prints that asks for the time."""
