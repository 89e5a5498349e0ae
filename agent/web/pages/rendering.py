"""Pages from templates. Everything that is put into one is escaped, and shown with its control characters visible."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from perdure import __version__
from perdure.agent.show.short_names import short_name
from perdure.agent.show.terminal import rounded, visible
from perdure.agent.web.access import session_cookie
from perdure.agent.web.pages.forms import SAID_COOKIE, said
from perdure.agent.web.tokens import Sessions

LONGEST = 2000
"""Characters of one text from a model or an environment on a page; the rest is left out, with a mark."""

FORMS_OF = ("tasks", "environments", "versions", "episodes")
"""The pages with forms, beside the first; a form posts below the path of its page."""
HEADLINES = {
    400: "That cannot be done",
    403: "That is not allowed",
    404: "There is no such thing here",
    405: "That is not how to ask",
    409: "Something else was changed first",
    422: "Something in this request is not right",
    503: "Not now",
}


def page(request: Request, template: str, code: int = 200, **values: Any) -> HTMLResponse:
    """A page from a template; one that comes after a form says what that did."""
    answer = HTMLResponse(_rendered(request, template, {"said": said(request), **values}), status_code=code)
    if SAID_COOKIE in request.cookies:
        answer.delete_cookie(SAID_COOKIE, httponly=True, samesite="strict")
    return answer


def part(request: Request, template: str, **values: Any) -> HTMLResponse:
    """A live part of a page, without what is around it."""
    return HTMLResponse(_rendered(request, template, values))


def _rendered(request: Request, template: str, values: Mapping[str, Any]) -> str:
    """With what every template needs: its address, and what its forms carry."""
    sessions = request.app.state.sessions
    assert isinstance(sessions, Sessions)
    return TEMPLATES.get_template(template).render(
        path=request.url.path,
        address=request.url.path + (f"?{request.url.query}" if request.url.query else ""),
        csrf=sessions.form_mark(session_cookie(request.headers)),
        new_key=lambda: secrets.token_urlsafe(12),
        release=__version__,
        **values,
    )


def error_page(request: Request, status: int, text: str) -> HTMLResponse:
    """A page that says what was wrong, and leads back to where a form was."""
    told = {"Not Found": "no page has this address", "Method Not Allowed": "this address takes no such request"}.get(text, text)
    _, first, second, *_ = (*request.url.path.split("/"), "", "")
    back = f"/{second}" if second in FORMS_OF else "/"
    return page(request, "error.html", status, status=status, headline=HEADLINES.get(status), text=told, back=back, form=first == "act")


def _shown(text: object) -> str:
    """A text of any origin, with what could move or hide other text made visible."""
    return visible(str(text))


def _cut(text: object, longest: int = LONGEST) -> str:
    """The beginning of a long text, with the number of characters that are left out."""
    whole = str(text)
    return _shown(whole) if len(whole) <= longest else f"{_shown(whole[:longest])} … {len(whole) - longest:,} more characters"


def _tail(text: object, longest: int = LONGEST) -> str:
    """The end of a long text, with the number of characters that are left out before it."""
    whole = str(text)
    return _shown(whole) if len(whole) <= longest else f"{len(whole) - longest:,} characters before … {_shown(whole[-longest:])}"


def _time(unix_s: float | str | None) -> Markup:
    """A moment for people and for programs, in UTC; takes seconds, or what `iso_utc` wrote."""
    if unix_s is None:
        return Markup("-")
    try:
        at = datetime.fromisoformat(unix_s) if isinstance(unix_s, str) else datetime.fromtimestamp(unix_s, UTC)
    except (ValueError, OverflowError, OSError):
        return escape(_shown(unix_s))
    return Markup('<time datetime="{}">{}</time>').format(at.isoformat(timespec="seconds"), at.strftime("%Y-%m-%d %H:%M:%S UTC"))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else rounded(value)


def _score(value: float | None) -> str:
    """A share, a success or a score, which lie between 0 and 1 or near."""
    return "-" if value is None else f"{value:.2f}"


def _sentence(text: object) -> Markup:
    """A sentence of our own: with a capital, unless it begins with a name, an end, and what stands between backticks as code.

    Any part of it may be of any origin.
    """
    told = _shown(text).strip()
    ended = told if told.endswith((".", "!", "?", ":")) else f"{told}."
    begun = ended[:1].upper() + ended[1:] if ended.split()[:1] and ended.split()[0].strip(",;").isalpha() else ended
    parts = begun.split("`")
    if len(parts) % 2 == 0:  # one backtick has no other
        return escape("`".join(parts))
    return Markup("").join(Markup("<code>{}</code>").format(part) if n % 2 else escape(part) for n, part in enumerate(parts))


def _size(size_bytes: float) -> str:
    """Bytes for people."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size_bytes < 1024 or unit == "GiB":
            return f"{size_bytes:.0f} {unit}" if unit == "bytes" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1024
    raise AssertionError


TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parents[1] / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
TEMPLATES.filters.update(
    shown=_shown, cut=_cut, tail=_tail, moment=_time, number=_number, score=_score, sentence=_sentence, size=_size, short=short_name
)
