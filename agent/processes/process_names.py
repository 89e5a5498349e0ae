"""The names of processes: what each is called in the store, in leases and in `logs/`."""

from __future__ import annotations

SUPERVISOR = "supervisor"
ACTOR = "actor"
VLLM = "vllm"
WEB = "web"
CLUSTER = "cluster"
JOURNAL = "journal"
JOB_PREFIX = "learner-"
PLAYER_PREFIX = "player-"


def is_vllm(name: str) -> bool:
    """Whether it is the process of a vLLM server; the second one of a home is called `vllm-2`."""
    return name == VLLM or name.startswith(f"{VLLM}-")


def job_process(job_id: int) -> str:
    """The name of the process of a job."""
    return f"{JOB_PREFIX}{job_id}"


def player_process(number: int) -> str:
    """The name of a player elsewhere, from 1 on."""
    return f"{PLAYER_PREFIX}{number}"
