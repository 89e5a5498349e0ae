"""A browser without scripts: it keeps cookies, reads the forms of a page and sends them, to an application without a server."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlencode

from starlette.types import ASGIApp
from tests.agent.web.in_process import HOST, ask_app

from perdure.agent.config_file import load_config
from perdure.agent.web.application import application

TOLD = ("aria-label", "title", "placeholder", "alt", "data-confirm", "data-chart")
VOID = ("input", "meta", "link", "br", "rect", "polyline")


@dataclass(kw_only=True)
class FormSeen:
    """A form of a page: where it goes, and what it sends as it stands."""

    action: str
    fields: dict[str, str] = field(default_factory=dict)
    confirm: str | None = None


class PageSeen(HTMLParser):
    """A page as a reader has it: its texts, its forms, and what a browser would run or fetch."""

    def __init__(self, status: int, headers: Mapping[str, str], html: str) -> None:
        super().__init__()
        self.status = status
        self.headers = headers
        self.html = html
        self.forms: list[FormSeen] = []
        self.scripts: list[str | None] = []
        self.fetched: list[str] = []
        self.styled: list[str] = []
        """Elements that carry a style or a handler of events, which the pages never have."""
        self.told: list[str] = []
        """Attributes that a reader is told, or that are drawn."""
        self._texts: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.left_open = list(self._open)

    @property
    def text(self) -> str:
        """All that can be read, with single blanks."""
        return " ".join(" ".join(self._texts).split())

    def form(self, action: str, **fields: str) -> FormSeen:
        """The form that goes there and has these hidden fields."""
        (found,) = (form for form in self.forms if form.action == action and fields.items() <= form.fields.items())
        return found

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag not in VOID:
            self._open.append(tag)
        if tag == "form":
            self.forms.append(FormSeen(action=values.get("action") or "", confirm=values.get("data-confirm")))
        if tag == "input" and self.forms and values.get("name"):
            self.forms[-1].fields[str(values["name"])] = values.get("value") or ""
        if tag == "script":
            self.scripts.append(values.get("src"))
        self.fetched += [str(values[name]) for name in ("src", "href") if values.get(name) and tag in ("script", "link", "img", "iframe")]
        self.told += [values[name] or "" for name in TOLD if name in values]
        self.styled += [f"{tag} {name}" for name in values if name == "style" or name.startswith("on")] + ["style"] * (tag == "style")

    def handle_endtag(self, tag: str) -> None:
        if self._open and self._open[-1] == tag:
            self._open.pop()

    def handle_data(self, data: str) -> None:
        self._texts.append(data)


@dataclass(kw_only=True)
class Browser:
    """It is signed in after `sign_in`."""

    app: ASGIApp
    token: str
    cookies: dict[str, str] = field(default_factory=dict)

    def sign_in(self, name: str = "Anna") -> Browser:
        answer = self.send("/act/login", {"token": self.token, "name": name})
        assert (answer.status, answer.headers["location"]) == (303, "/")
        return self

    def get(self, path: str) -> PageSeen:
        return self.ask("GET", path)

    def send(self, action: str, fields: Mapping[str, str], headers: Mapping[str, str] | None = None) -> PageSeen:
        """A form; what answers it, which may lead elsewhere."""
        return self.ask("POST", action, urlencode(fields).encode(), headers)

    def submit(self, form: FormSeen, **fields: str) -> PageSeen:
        """Send a form as it stands on its page, with these fields filled in, and go where the answer leads."""
        answer = self.send(form.action, {**form.fields, **fields})
        return self.get(answer.headers["location"]) if answer.status == 303 else answer

    def ask(self, method: str, target: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> PageSeen:
        given = {"content-type": "application/x-www-form-urlencoded", "origin": f"http://{HOST}", **(headers or {})}
        given["cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        sent = asyncio.run(ask_app(self.app, method, target, given, body))
        for name, morsel in sent.cookies.items():
            self.cookies.pop(name, None)
            if morsel.value and morsel["max-age"] != "0":
                self.cookies[name] = morsel.value
        return PageSeen(sent.status, sent.headers, sent.body.decode())


def browser_of(home: Path) -> Browser:
    """A browser that has signed in to the application over a home."""
    app = application(home, load_config(None))
    return Browser(app=app, token=(home / "run" / "token").read_text().strip()).sign_in()
