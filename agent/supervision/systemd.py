"""What systemd is told, where it started this process: the datagrams of sd_notify(3), without its library.

Ready once there is something that plays; the watchdog is fed only by whoever saw progress (`Supervisor._beat`). Elsewhere nothing happens.
"""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping

SOCKET_VARIABLE = "NOTIFY_SOCKET"
WATCHDOG_VARIABLES = ("WATCHDOG_USEC", "WATCHDOG_PID")


class Systemd:
    """The service manager of this process. It takes what was told out of the environment, so that no child speaks in its place."""

    def __init__(self, environment: MutableMapping[str, str]) -> None:
        self._address = environment.pop(SOCKET_VARIABLE, "")
        usec, pid = (environment.pop(name, "") for name in WATCHDOG_VARIABLES)
        self.watchdog_s = int(usec) / 1e6 if usec.isdigit() and pid in ("", str(os.getpid())) else None
        """How long it waits for a sign of life; None where it does not ask for any."""
        self._ready = False

    def ready(self) -> None:
        """The service has started. Said once."""
        if not self._ready:
            self._ready = True
            self._tell("READY=1")

    def status(self, text: str) -> None:
        """What `systemctl status` shows."""
        self._tell(f"STATUS={' '.join(text.split())}")

    def alive(self) -> None:
        """A sign of life. Only for who saw that work goes on, or that it rightly waits."""
        if self.watchdog_s is not None:
            self._tell("WATCHDOG=1")

    def stopping(self) -> None:
        self._tell("STOPPING=1")

    def _tell(self, message: str) -> None:
        """Nobody waits for an answer, and a manager that does not listen is no reason to fail."""
        if not self._address:
            return
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as to:
            to.setblocking(False)
            try:
                to.sendto(message.encode(), address)
            except OSError:
                return
