"""The cards of this machine: which there are, which of them a process may see, and who uses them.

Numbers are those of nvidia-smi. If CUDA_VISIBLE_DEVICES is set, as a scheduler does, they count within what it names. Asked of nvidia-smi,
so that no CUDA is loaded here. Left out: cards of other makers, and slices of a card.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from perdure.agent.config import Config
from perdure.memory.errors import InputError

LOOK_TIMEOUT_S = 20
VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    number: int
    name: str
    memory: str
    """In the words of nvidia-smi, such as '81559 MiB'."""
    uuid: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CardUser:
    """A process that computes on a card."""

    uuid: str
    pid: int
    memory: str


def cards() -> list[Card]:
    """The cards that nvidia-smi lists; none if there is no nvidia-smi, or if it does not work."""
    rows = _asked("--query-gpu=index,name,memory.total,uuid")
    return [Card(number=int(row[0]), name=row[1], memory=row[2], uuid=row[3]) for row in rows if len(row) == 4 and row[0].isdecimal()]


def card_users() -> list[CardUser]:
    """The processes that compute on cards. In a container it may name none."""
    rows = _asked("--query-compute-apps=gpu_uuid,pid,used_memory")
    return [CardUser(uuid=row[0], pid=int(row[1]), memory=row[2]) for row in rows if len(row) == 3 and row[1].isdecimal()]


def seen(numbers: Sequence[int], environ: Mapping[str, str]) -> dict[str, str]:
    """The environment variables with which a process sees these cards only, in this order; none for no numbers, which leaves all."""
    if not numbers:
        return {}
    given = [one.strip() for one in environ.get(VISIBLE, "").split(",") if one.strip()]
    names = [given[number] for number in numbers] if given else [str(number) for number in numbers]
    return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", VISIBLE: ",".join(names)}


def require_cards(config: Config) -> None:
    """Raise `InputError` if the configuration names a card that is not there."""
    wanted = {"engine": config.devices.engine, "learner": config.devices.learner}
    if not any(wanted.values()):
        return
    given = [one for one in os.environ.get(VISIBLE, "").split(",") if one.strip()]
    count = len(given) or len(cards()) or _device_files()
    for name, numbers in wanted.items():
        missing = [number for number in numbers if number >= count]
        if missing:
            why = f"{VISIBLE}={os.environ[VISIBLE]} shows {count}" if given else f"this machine has {count or 'none'}"
            remedy = f"number them from 0 to {count - 1}" if count else "set device = 'cpu' and leave [devices] out"
            raise InputError(f"devices.{name} names card {missing[0]}, and {why}: {remedy}")


def _device_files() -> int:
    """How many cards the driver shows, for a container without nvidia-smi."""
    return sum(1 for one in Path("/dev").glob("nvidia[0-9]*"))


def _asked(question: str) -> list[list[str]]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    try:
        done = subprocess.run(
            [program, question, "--format=csv,noheader"], capture_output=True, text=True, timeout=LOOK_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [[part.strip() for part in line.split(",")] for line in done.stdout.splitlines()] if done.returncode == 0 else []
