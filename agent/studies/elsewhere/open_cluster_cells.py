"""Opening a cluster for the cells of a study. Loads Ray, which comes with the extra `[cluster]`.

The study's own folder `cluster` has what a cluster that is started here writes, and its token. A cluster that was there before has a token
already: `RAY_AUTH_TOKEN_PATH` names its file, as for `ray start`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager

from perdure.agent.cluster.cluster_settings import ClusterSection
from perdure.agent.studies.cells import Study
from perdure.agent.studies.elsewhere.cell_order import AskedStudy
from perdure.agent.studies.elsewhere.cluster_cells import ClusterCells
from perdure.agent.studies.local_cells import LocalCells

FOLDER = "cluster"
TOKEN_VARIABLE = "RAY_AUTH_TOKEN_PATH"
START_S = 300
"""A study takes longer than a busy machine takes to start a cluster."""
NOWHERE = "0.0.0.0"
"""For `cluster.listen`, which must not be loopback beside other machines: a study has no journal, and listens nowhere."""


@contextmanager
def open_cluster_cells(address: str, study: Study, asked: AskedStudy, here: LocalCells) -> Iterator[ClusterCells]:
    """Join the Ray cluster at an address, or start one here for `local`, and end afterwards what was started.

    Raises `InputError` if Ray is missing, or the cluster has another version or token, and `Unavailable` if it does not answer.
    """
    from perdure.agent.cluster.on_ray.ray_placement import RayPlacement
    from perdure.agent.cluster.on_ray.ray_runtime import joined_ray

    token_file = os.environ.get(TOKEN_VARIABLE, "")
    cluster = ClusterSection(address=address, token_file=token_file, listen=NOWHERE, start_timeout_s=START_S)
    with joined_ray(here.folder / FOLDER, cluster) as joined, closing(RayPlacement()) as placement:
        here.say(f"cells go to the cluster at {joined.address}")
        yield ClusterCells(placement=placement, study=study, asked=asked, here=here, lost=joined.lost)
