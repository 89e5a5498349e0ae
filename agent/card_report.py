"""What each card of this machine is for, and who uses it, for `perdure doctor`. Nothing is loaded onto a card."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from perdure.agent.config import Config
from perdure.agent.processes.vllm.cards import VISIBLE, card_users, cards
from perdure.learners.engines.vllm_client import server_name


def card_report(config: Config) -> dict[int, str]:
    """A line for each card, by its number."""
    users, report = card_users(), {}
    for card in cards():
        uses = [f"process {user.pid}{_called(user.pid)} with {user.memory}" for user in users if user.uuid == card.uuid]
        used = f"used by {', '.join(uses)}" if uses else "nvidia-smi names no process on it"
        report[card.number] = f"{card.name}, {card.memory}, for {_purpose(config, card.number)}; {used}"
    return report


def _purpose(config: Config, card: int) -> str:
    """What the configuration uses a card for, unless a scheduler numbers them otherwise."""
    if os.environ.get(VISIBLE):
        return f"what {VISIBLE}={os.environ[VISIBLE]} leaves"
    purposes = []
    if card in (config.devices.engine or (0,)):
        server = next((n for n, of_server in enumerate(config.servers) if card in of_server), 0)
        purposes.append(f"sampling ({server_name(server)})" if config.engine == "vllm" else "sampling")
    if card in (config.devices.learner or (0,)):
        purposes.append("learning")
    return " and ".join(purposes) or "nothing"


def _called(pid: int) -> str:
    """The name of a process, if this user may see it."""
    with suppress(OSError):
        return f" ({Path(f'/proc/{pid}/comm').read_text().strip()})"
    return ""
