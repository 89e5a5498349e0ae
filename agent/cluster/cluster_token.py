"""The token of a cluster: one line in a file that its owner alone can read. Ray asks every process for it, the journal every player.

Who has it can run programs on all nodes. Nothing encrypts it on its way (docs/cluster.md).
"""

from __future__ import annotations

from pathlib import Path

from perdure.agent.cluster.cluster_settings import ClusterSection
from perdure.agent.web.tokens import read_or_make_token

SETTING = "cluster.token_file"


def cluster_token_path(home: Path, cluster: ClusterSection) -> Path:
    """Where the token is."""
    return (Path(cluster.token_file).expanduser() if cluster.token_file else home / "run" / "cluster-token").absolute()


def cluster_token(home: Path, cluster: ClusterSection) -> str:
    """The token, made if missing. Raises `InputError` if others can read its file, `RuntimeFailure` if it cannot be read or made."""
    return read_or_make_token(cluster_token_path(home, cluster), links=bool(cluster.token_file), setting=SETTING)
