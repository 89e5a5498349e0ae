"""Messages to systemd, if it started this process: the datagrams of sd_notify(3), without its library.

When to send them is decided in `reporting.py`. If systemd did not start this process, nothing happens.
"""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping

SOCKET_VARIABLE = "NOTIFY_SOCKET"
WATCHDOG_VARIABLES = ("WATCHDOG_USEC", "WATCHDOG_PID")


class Systemd:
    """The service manager of this process. Its variables are removed from the environment, so that no child writes to it."""

    def __init__(self, environment: MutableMapping[str, str]) -> None:
        self._address = environment.pop(SOCKET_VARIABLE, "")
        usec, pid = (environment.pop(name, "") for name in WATCHDOG_VARIABLES)
        self.watchdog_s = int(usec) / 1e6 if usec.isdigit() and pid in ("", str(os.getpid())) else None
        """How long it waits for a sign of life; None if it does not ask for any."""
        self._ready = False

    def ready(self) -> None:
        """The service has started. Sent once."""
        if not self._ready:
            self._ready = True
            self._send("READY=1")

    def status(self, text: str) -> None:
        """What `systemctl status` shows."""
        self._send(f"STATUS={' '.join(text.split())}")

    def alive(self) -> None:
        """A sign of life. Send it only if there was progress, or if the work waits for a good reason."""
        if self.watchdog_s is not None:
            self._send("WATCHDOG=1")

    def stopping(self) -> None:
        self._send("STOPPING=1")

    def _send(self, message: str) -> None:
        """Send a message without waiting for an answer. A manager that does not listen is no reason to fail."""
        if not self._address:
            return
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as to:
            to.setblocking(False)
            try:
                to.sendto(message.encode(), address)
            except OSError:
                return
