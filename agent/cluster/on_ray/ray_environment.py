"""What Ray reads from the environment of a process, set before it is imported: a token is asked for, and no statistics are sent."""

from __future__ import annotations

from pathlib import Path

from perdure.agent.cluster.cluster_settings import ClusterSection
from perdure.agent.cluster.cluster_token import cluster_token, cluster_token_path

ALWAYS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_enable_metrics_collection": "0",  # it asks each process every few seconds, and nobody reads the answers
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # what Ray will do; until then it warns
    "RAY_TQDM": "0",
}
AUTH_MODE = "RAY_AUTH_MODE"


def ray_environment(home: Path, cluster: ClusterSection, given: dict[str, str]) -> dict[str, str]:
    """The variables to set, beside those given: who set RAY_AUTH_MODE or a token themselves keeps that. Makes the token if missing."""
    cluster_token(home, cluster)
    return {**ALWAYS, AUTH_MODE: given.get(AUTH_MODE, "token"), "RAY_AUTH_TOKEN_PATH": str(cluster_token_path(home, cluster))}
