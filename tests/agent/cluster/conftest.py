"""Placement by processes, and by a real Ray cluster: a head and two nodes on this machine, with a token."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from perdure.agent.cluster.cluster_settings import ClusterSection
from perdure.agent.cluster.local_placement import LocalPlacement
from perdure.agent.cluster.on_ray.ray_runtime import RayCluster, joined_ray
from perdure.agent.cluster.placement import Needs, Placement


@pytest.fixture(scope="session")
def ray_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    """Joined by this process, once; Ray lets a process join no other afterwards."""
    home = tmp_path_factory.mktemp("cluster") / ".perdure"
    home.mkdir()
    with joined_ray(home, ClusterSection(address="local", start_timeout_s=240)) as cluster:
        until_s = time.monotonic() + 240
        while len(cluster.nodes) < 2 and time.monotonic() < until_s:
            assert cluster.lost() is None  # it starts a node anew that Ray gave up, as on a busy machine
            time.sleep(0.5)
        assert len(cluster.nodes) == 2
        yield cluster


@pytest.fixture(params=["local", pytest.param("ray", marks=pytest.mark.cluster)])
def placement(request: pytest.FixtureRequest) -> Iterator[Placement]:
    if request.param == "local":
        made: Placement = LocalPlacement(Needs(cpus=2, memory_gib=2))
    else:
        request.getfixturevalue("ray_cluster")
        from perdure.agent.cluster.on_ray.ray_placement import RayPlacement

        made = RayPlacement()
    with closing(made):
        yield made
