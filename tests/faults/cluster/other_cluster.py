"""A real cluster of Ray on this machine that is not the daemon's: it can end and come back at the same address."""

from __future__ import annotations

import time
from pathlib import Path

from tests.faults.cluster.cluster_place import AS_URGENT
from tests.faults.cluster.witness import VARIABLE
from tests.faults.place import Stuck, child_environment

from perdure.agent.cluster.cluster_settings import ClusterSection
from perdure.agent.cluster.on_ray.own_ray import OwnRay
from perdure.agent.cluster.on_ray.ray_environment import ray_environment

TRIES = 4


class OtherCluster:
    """A cluster that is not the daemon's, at the same address each time. As a context manager it leaves no process behind."""

    def __init__(self, place: Path, address: str) -> None:
        self._place = place
        self.address = address
        self._ray: OwnRay | None = None

    def start(self) -> float:
        """Start it; gives the moment at which its head runs. Ray gives a head up that needs 30 s, and then another is started."""
        variables = {**child_environment(), **ray_environment(self._place / "home", ClusterSection(), {}), VARIABLE: str(self._place)}
        for _ in range(TRIES):
            self.close()
            before = self._running()
            self._ray = OwnRay(self._place / "other", {**variables, **AS_URGENT}, int(self.address.rpartition(":")[2]))
            while self._running() == before and self._ray.dead() is None:
                time.sleep(0.25)
            if self._ray.dead() is None:
                moment = time.monotonic()
                self._ray.mend()
                return moment
        raise Stuck(f"the other cluster did not start in {TRIES} attempts")

    def mend(self) -> None:
        """Start its nodes, one after the other, and those anew that Ray gave up. Call it often."""
        if self._ray is not None:
            self._ray.mend()

    def _running(self) -> int:
        """How many heads and nodes have said that they run."""
        log = self._place / "other" / "logs" / "ray.log"
        return log.read_text(errors="replace").count("will now block forever") if log.exists() else 0

    def close(self) -> None:
        if self._ray is not None:
            self._ray.close()
            self._ray = None

    def __enter__(self) -> OtherCluster:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
