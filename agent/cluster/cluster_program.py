"""The cluster process: a child of the supervisor that joins the cluster of the settings and keeps the players placed.

It alone imports Ray. It may die at any time: Ray then ends its players, whose tasks go to others, and the supervisor starts it again.
While a cluster that is not ours does not answer, it waits and says so, and joins it again when it is back; a cluster of our own that has
lost its head is started anew. Left out: what players do (`playing/`), and what they send (`journal/`).
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from contextlib import closing

from perdure.agent.cluster.cluster_packages import require_cluster
from perdure.agent.cluster.kept_pieces import KeptPieces, KeptState, summary
from perdure.agent.cluster.on_ray.piece_actor import PieceActor
from perdure.agent.cluster.on_ray.ray_environment import ray_environment
from perdure.agent.cluster.on_ray.ray_placement import RayPlacement
from perdure.agent.cluster.on_ray.ray_runtime import RayCluster, describe, joined_ray, resolved, silence
from perdure.agent.cluster.placement import Placement
from perdure.agent.cluster.player_orders import player_order
from perdure.agent.cluster.ranks.rank_requests import RankPlacer, forget_requests
from perdure.agent.config_file import LoadedConfig, load_config
from perdure.agent.processes.child import Stop, child_parser, run_child
from perdure.agent.processes.process_names import CLUSTER, PLAYER_PREFIX, player_process
from perdure.agent.processes.pulse import Pulse
from perdure.memory.errors import Unavailable
from perdure.memory.jobs import unfinished_jobs
from perdure.memory.processes import beat, forget_processes, record_event
from perdure.memory.store import Store, open_store

LOOK_S = 0.5
"""How often it looks whether it is to end, and what has changed."""
STATES_EVERY_S = 2.0
AGAIN_S = 5.0
"""Between attempts to reach a cluster that does not answer."""


def main(host: type[PieceActor] = PieceActor) -> int:
    """Keep the players of a home placed until its supervisor ends, each in an actor of this class."""
    arguments = child_parser("perdure.agent.cluster.cluster_program", __doc__).parse_args()
    loaded = load_config(arguments.config)

    def work(stop: Stop) -> None:
        with open_store(arguments.home) as store:
            keep(store, loaded, stop, host)

    return run_child(work)


def keep(store: Store, loaded: LoadedConfig, stop: Stop, host: type[PieceActor] = PieceActor) -> None:
    """Join the cluster when it answers, and keep the players placed until `stop`, or until it is lost. Raises as `joined_ray` does."""
    cluster, pulse = loaded.config.cluster, Pulse(store, CLUSTER)
    require_cluster(cluster)
    os.environ.update(ray_environment(store.home, cluster, dict(os.environ)))
    forget_processes(store, PLAYER_PREFIX, 0)
    if cluster.address != "local" and not _answers(store, cluster.address, pulse, stop):
        return
    pulse.say("starting", "a local cluster is being started" if cluster.address == "local" else f"joins the cluster at {cluster.address}")
    with joined_ray(store.home, cluster, stop) as joined, closing(RayPlacement(host)) as placement:
        names = [player_process(n + 1) for n in range(cluster.players)]
        kept = KeptPieces(
            placement, "player", names, cluster.player_needs, lambda name: player_order(store.home, loaded, name), time.monotonic
        )
        try:
            _keep_placed(store, joined, placement, kept, pulse, stop)
        finally:
            forget_processes(store, PLAYER_PREFIX, 0)


def _answers(store: Store, address: str, pulse: Pulse, stop: Stop) -> bool:
    """Wait until something listens at the address; False if this process is to end."""
    while not stop():
        try:
            why = silence(resolved(address))
        except Unavailable as error:
            why = str(error)
        if why is None:
            return True
        said = f"{why}; players elsewhere wait, and it is joined when it is back"
        if pulse.latest != ("waiting", said):
            record_event(store, "waiting", CLUSTER, said)
        pulse.say("waiting", said)
        until_s = time.monotonic() + AGAIN_S
        while time.monotonic() < until_s and not stop():
            time.sleep(LOOK_S)
    return False


def _keep_placed(store: Store, joined: RayCluster, placement: Placement, kept: KeptPieces, pulse: Pulse, stop: Stop) -> None:
    ranks = RankPlacer(store.home, placement)
    shown: dict[str, KeptState] = {}
    states: Sequence[KeptState] = ()
    looked_s = -STATES_EVERY_S
    while not stop():
        kept.start_due()
        ranks.tick()
        ends = placement.ended(LOOK_S)
        for end in ends:
            ranks.note(end.key, end.error)
        for death in kept.note(ends):
            record_event(store, "death", death.name, death.message)
        lost = joined.lost()
        if lost is not None:
            raise Unavailable(lost)
        if time.monotonic() - looked_s > STATES_EVERY_S:
            looked_s, states = time.monotonic(), kept.states()
            forget_requests(store.home, [job.id for job in unfinished_jobs(store)])
            for one in states:
                if shown.get(one.name) != one:
                    shown[one.name] = one
                    beat(store, one.name, os.getpid(), one.state, one.detail)
        waiting = any(one.state == "waiting" for one in states)
        pulse.say("waiting" if waiting else "serving", f"{describe(joined)}; players: {summary(states)}")


if __name__ == "__main__":
    sys.exit(main())
