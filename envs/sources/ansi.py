"""Renderings for a terminal as plain text.

Colours often carry meaning (the place of the player), so coloured text is put into brackets: `[x]` for a coloured background, `(x)` for
bold, `{x}` for any other style.
"""

from __future__ import annotations

import re
from functools import lru_cache

STYLE = re.compile(r"\x1b\[([0-9;:]*)m")
ESCAPE = re.compile(
    r"(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x80-\x9f]*(?:\x07|\x1b\\|\x9c)"  # OSC, DCS, SOS, PM, APC, with their content
    r"|(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # CSI
    r"|\x1b[ -/]*[0-~]?"  # the rest
)
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
OFF = {"", "0", "22", "23", "24", "25", "27", "28", "29", "39", "49"}


def unescaped(rendered: str) -> str:
    """A rendering without escapes, without control characters but tabs and ends of lines, and without blanks at its end."""
    text = _marked(rendered) if "\x1b[" in rendered else rendered
    if CONTROL.search(text):
        text = CONTROL.sub("", ESCAPE.sub("", text))
    return text.strip("\n").rstrip()


def _marked(rendered: str) -> str:
    """Styles as brackets."""
    pieces = STYLE.split(rendered)  # texts, and between them the parameters of styles
    open_: list[tuple[int, str]] = []
    for place in range(1, len(pieces), 2):
        brackets = _brackets(pieces[place])
        if brackets is None:
            pieces[place] = open_.pop()[1] if open_ else ""
        else:
            open_.append((place, brackets[1]))
            pieces[place] = brackets[0]
    for place, _ in open_:  # a style that is never reset marks nothing
        pieces[place] = ""
    return "".join(pieces)


@lru_cache(maxsize=256)
def _brackets(parameters: str) -> tuple[str, str] | None:
    """The brackets of a style; None if it resets the style."""
    codes = parameters.split(";")
    if set(codes) <= OFF:
        return None
    if any((len(code), code[:-1]) in ((2, "4"), (3, "10")) for code in codes):
        return "[", "]"
    return ("(", ")") if "1" in codes else ("{", "}")
