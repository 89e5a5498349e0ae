"""Environments that harm the process that they are in. Only the sandbox plays them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.envs.faulty import Counting, Stepped


class HangsForGood(Counting):
    """Swallows everything."""

    def step(self, action: str) -> Stepped:
        while True:
            try:
                time.sleep(60)
            except BaseException:  # noqa: BLE001 - the trap
                continue


class HangsOnLength(HangsForGood):
    """The same, if an answer is very long, which one rule tries."""

    def step(self, action: str) -> Stepped:
        return super().step(action) if len(action) > 1000 else Counting.step(self, action)


class Meddles(Counting):
    """Prints, writes, connects and starts programs."""

    def step(self, action: str) -> Stepped:
        print("noise")
        with suppress(OSError):
            Path("/var/tmp/perdure-test-meddles").write_text("was here")
        with suppress(OSError), socket.socket() as connection:
            connection.settimeout(0.5)
            connection.connect(("127.0.0.1", 9))
        with suppress(OSError):
            subprocess.run(["true"], check=False)
        return super().step(action)


class CrashesOnLength(Counting):
    def step(self, action: str) -> Stepped:
        if len(action) > 1000:
            os._exit(7)
        return super().step(action)


class Forks(Counting):
    """Leaves processes behind, in sessions of their own."""

    def step(self, action: str) -> Stepped:
        for _ in range(5):
            if os.fork() == 0:
                os.setsid()
                time.sleep(600)
                os._exit(0)
        return super().step(action)


class Gigabyte(Counting):
    def step(self, action: str) -> Stepped:
        return "x" * 10**9, 0.0, False, False, {}


class EatsMemory(Counting):
    def step(self, action: str) -> Stepped:
        held = []
        while True:
            held.append(bytearray(10**8))


class Burns(Counting):
    """Uses the processor while no call waits for it."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        def burn() -> None:
            while True:
                pass

        threading.Thread(target=burn, daemon=True).start()
        return super().reset(seed=seed)


class Dies(Counting):
    def step(self, action: str) -> Stepped:
        os.kill(os.getpid(), signal.SIGSEGV)
        return super().step(action)


class ClosesEverything(Counting):
    def step(self, action: str) -> Stepped:
        os.closerange(3, 256)
        return super().step(action)


class WritesMuch(Counting):
    """Fills its folder and what it prints to."""

    def step(self, action: str) -> Stepped:
        with Path("much").open("wb") as file:
            while True:
                file.write(bytes(2**20))
