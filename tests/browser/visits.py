"""Windows of a browser, and what a test may ask of them."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from playwright.sync_api import Browser, BrowserContext, Page, Request
from tests.agent.web.servers import Server

AXE = Path(__file__).parent / "vendor" / "axe.min.js"
PATIENCE_MS = 60_000
"""A machine that runs these tests may do much else."""
Size = Literal["desktop", "phone"]
SIZES: dict[Size, tuple[int, int]] = {"desktop": (1280, 900), "phone": (390, 844)}
Scheme = Literal["light", "dark"]


def chromium() -> str:
    """The system's Chromium. Raises `RuntimeError` if there is none."""
    found = os.environ.get("PERDURE_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        raise RuntimeError("there is no Chromium: install it (apt-get install chromium), or name one in PERDURE_CHROMIUM")
    return found


@dataclass(kw_only=True)
class Visit:
    """One window that has signed in, and what it asked for and complained of."""

    page: Page
    address: str
    asked: list[str] = field(default_factory=list)
    """Every address that the window asked for."""
    complaints: list[str] = field(default_factory=list)
    """Errors of scripts, and what the policy of the page forbade."""

    def go(self, path: str) -> Page:
        self.page.goto(self.address + path, wait_until="load")
        return self.page

    def elsewhere(self) -> list[str]:
        """What was asked of any other than this server."""
        return [url for url in self.asked if not url.startswith(("data:", "about:", "blob:")) and _origin(url) != self.address]

    def faults(self) -> list[str]:
        """What axe finds of serious faults, each with the elements that have it."""
        self.page.evaluate(AXE.read_text())  # as a debugger: no script of a test could stand in a page
        found: dict[str, Any] = self.page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        return [
            f"{one['id']}: {one['help']}: {'; '.join(' '.join(map(str, node['target'])) for node in one['nodes'][:5])}"
            for one in found["violations"]
            if one["impact"] in ("serious", "critical")
        ]


class Visits:
    """Windows in front of servers."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self._contexts: list[BrowserContext] = []

    def open(
        self,
        server: Server,
        *,
        size: Size = "desktop",
        scheme: Scheme = "light",
        name: str = "Anna",
        signed_in: bool = True,
        scripts: bool = True,
    ) -> Visit:
        """A new window of somebody who signs in by hand."""
        width, height = SIZES[size]
        context = self._browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme=scheme,
            is_mobile=size == "phone",
            has_touch=size == "phone",
            java_script_enabled=scripts,
        )
        context.set_default_timeout(PATIENCE_MS)
        self._contexts.append(context)
        visit = Visit(page=context.new_page(), address=f"http://127.0.0.1:{server.port}")
        context.on("request", lambda request: visit.asked.append(_url(request)))
        visit.page.on("pageerror", lambda error: visit.complaints.append(str(error)))
        visit.page.on("console", lambda message: visit.complaints.append(message.text) if message.type == "error" else None)
        if signed_in:
            visit.go("/login")
            visit.page.get_by_label("Token").fill(server.token)
            visit.page.get_by_label("Your name").fill(name)
            visit.page.get_by_role("button", name="Sign in").click()
            visit.page.wait_for_url(visit.address + "/")
        return visit

    def close(self) -> None:
        for context in self._contexts:
            context.close()
        self._contexts.clear()


def _url(request: Request) -> str:
    return request.url


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
