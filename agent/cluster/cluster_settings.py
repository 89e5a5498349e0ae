"""What may stand under `[cluster]`: which cluster, how much of it, and where the head listens. What is done with it is elsewhere here."""

from __future__ import annotations

import re

from pydantic import Field, field_validator

from perdure.agent.cluster.placement import Needs
from perdure.agent.config_section import Section

HOST_PORT = re.compile(r"(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):(?P<port>[0-9]{1,5})")


def check_address(address: str) -> str:
    """Raise `ValueError` unless this is empty, `local`, `auto`, or a host and a port; give it back otherwise."""
    if address in ("", "local", "auto"):
        return address
    parts = HOST_PORT.fullmatch(address)
    if parts is None or not 1 <= int(parts["port"]) <= 65535:
        raise ValueError(f"{address!r} is neither 'local', nor 'auto', nor HOST:PORT, such as '10.0.0.1:6379'")
    return address


class ClusterSection(Section):
    """More machines, or more processes on this one."""

    address: str = Field(
        default="",
        description="the Ray cluster: empty for none, local to start one here, auto for one that `ray start` began here, or HOST:PORT",
    )
    players: int = Field(default=0, ge=0, le=1000, description="players elsewhere, beside the one on the head; each has an engine")
    player_cpus: float = Field(default=1.0, ge=0, description="cores that each player takes of its node")
    player_gpus: float = Field(
        default=0.0, ge=0, description="GPUs that each player takes of its node; with any it computes there, whatever `device` the head has"
    )
    player_memory_gib: float = Field(default=0.0, ge=0, description="GiB of memory that each player takes of its node; 0 counts none")
    learners: int = Field(default=1, ge=1, le=1024, description="ranks of a learning job; 1 for the head alone")
    learner_cpus: float = Field(default=1.0, ge=0, description="cores that each rank elsewhere takes of its node")
    learner_gpus: float = Field(default=0.0, ge=0, description="GPUs that each rank elsewhere takes of its node")
    learner_memory_gib: float = Field(default=0.0, ge=0, description="GiB of memory that each rank elsewhere takes; 0 counts none")
    learner_timeout_s: int = Field(
        default=300, ge=5, description="seconds for which the ranks of a job wait for a slow or silent one; then the job is tried again"
    )
    listen: str = Field(
        default="127.0.0.1", min_length=1, description="the address of the head that other machines reach: the journal listens there only"
    )
    journal_port: int = Field(default=8378, ge=1, le=65535, description="the port of the journal, which writes for all players elsewhere")
    token_file: str = Field(
        default="",
        description="a file with the token that Ray and the journal ask for; empty for run/cluster-token in the home, made if missing",
    )
    start_timeout_s: int = Field(default=120, ge=1, description="seconds that joining or starting a cluster may take")
    node_timeout_s: int = Field(default=10, ge=2, description="seconds of silence after which a player's work is given to others")

    @property
    def player_needs(self) -> Needs:
        """What one player takes of its node."""
        return Needs(cpus=self.player_cpus, gpus=self.player_gpus, memory_gib=self.player_memory_gib)

    @property
    def learner_needs(self) -> Needs:
        """What one rank elsewhere takes of its node."""
        return Needs(cpus=self.learner_cpus, gpus=self.learner_gpus, memory_gib=self.learner_memory_gib)

    @field_validator("address")
    @classmethod
    def _known_address(cls, address: str) -> str:
        return check_address(address)
