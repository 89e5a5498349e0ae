"""The daemon's duty to tell a person what happens: it looks at the store at each tick, and gives what is new to the channels.

It never waits for a channel. What could not be sent is an event of the kind `notify`. Left out: what happens (`happenings.py`), and
sending it (`delivery.py`).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, MutableMapping
from functools import partial
from pathlib import Path

from perdure.agent.supervision.disk import DiskLack
from perdure.agent.telemetry.delivery import Channel, Program, webhook
from perdure.agent.telemetry.happenings import Happening, Seen, lack_of_room, news, rejection, seen_now
from perdure.agent.telemetry.telemetry_settings import NotifySection, require_address
from perdure.memory.contracts.orders import Job
from perdure.memory.errors import InputError, PerdureError
from perdure.memory.processes import keep_latest_events, record_event
from perdure.memory.store import Store, open_store

NOTIFY = "notify"
"""The kind of the events."""
EVENTS_KEPT = 200
LAST_PATIENCE_S = 5.0
"""How long the end of the daemon waits for what is still to be sent."""


class Notifier:
    """What a person wants to hear of in one run of the daemon. Nothing happens unless a webhook or a command is set."""

    def __init__(self, store: Store, settings: NotifySection, environment: MutableMapping[str, str] = os.environ) -> None:
        self._store = store
        self._on = settings.on
        self._channels = channels(store.home, settings, environment)
        self._seen: Seen = seen_now(store)

    def look(self) -> None:
        """Take what was written since the last look."""
        if self._channels:
            found, self._seen = news(self._store, self._seen)
            self._put(found)

    def job_ended(self, job: Job) -> None:
        """Take what a job came to that was to lead to a promotion."""
        found = rejection(job)
        self._put([found] if found else [])

    def room_changed(self, before: DiskLack, now: DiskLack) -> None:
        """Take what has begun to wait for room. It is not read from the store, which may be unable to take it down."""
        both = (("learning", before.learn, now.learn), ("play", before.play, now.play))
        self._put(lack_of_room([(what, why) for what, was, why in both if was is None and why is not None]))

    def close(self) -> None:
        """Take what was written at the end of the run, and wait a little until it is sent."""
        try:
            self.look()
        finally:
            for channel in self._channels:
                channel.close(LAST_PATIENCE_S)

    def _put(self, found: Iterable[Happening]) -> None:
        for happening in found:
            if happening.event in self._on:
                for channel in self._channels:
                    channel.put(f"{happening.event} ({happening.subject})", happening.payload(self._store.home))


def channels(home: Path, settings: NotifySection, environment: MutableMapping[str, str]) -> list[Channel]:
    """Those that are set. Raises `InputError` if the address is to come from a variable that has none."""
    found = []
    address = address_of(settings, environment)
    if address:
        found.append(Channel("webhook", webhook(address, settings.timeout_s), partial(_note, home, "webhook")))
    if settings.command:
        program = Program(words=settings.command, timeout_s=settings.timeout_s)
        found.append(Channel("command", program, partial(_note, home, "command")))
    return found


def address_of(settings: NotifySection, environment: MutableMapping[str, str]) -> str:
    """The address of the webhook; empty if there is none. A variable that holds it is removed, so that no child can read it.

    Raises `InputError`, which does not quote the address.
    """
    given = settings.webhook.get_secret_value()
    if not given.startswith("env:"):
        return given
    name = given.removeprefix("env:")
    address = environment.pop(name, "")
    try:
        require_address(address)
    except ValueError as error:
        raise InputError(
            f"notify.webhook reads the variable {name}, which holds no address: {error}; set it, or empty the setting"
        ) from error
    return address


def _note(home: Path, channel: str, line: str) -> None:
    """Write down what could not be sent. It is called in the thread of a channel, which opens the store for itself."""
    try:
        with open_store(home) as store, store.write():
            record_event(store, NOTIFY, channel, line)
            keep_latest_events(store, NOTIFY, EVENTS_KEPT)
    except PerdureError:  # a full disk takes no events
        print(f"perdure: notify, {channel}: {line}", file=sys.stderr)
