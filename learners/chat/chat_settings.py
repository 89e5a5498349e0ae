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

    @property
    def label(self) -> str:
        """What was chosen, to follow other parts of a line; empty if nothing was. Scores under two labels are not compared."""
        chosen = [f"thoughts={self.thoughts}"] if self.thoughts != "keep" else []
        chosen += [f"{name}={value!r}" for name, value in sorted(self.template_options.items())]
        chosen += [f"shows {word}" for word in sorted(self.show_special)]
        return "".join(f", {one}" for one in chosen)
