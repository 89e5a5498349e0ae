"""The faults of a cluster, one function for each way to bring one about. Each ends with all players playing and a home examined."""

from __future__ import annotations

import time
from random import Random

from tests.faults.cases import linger, settle
from tests.faults.cluster.cluster_place import ClusterPlace, found, kill
from tests.faults.cluster.cluster_table import ClusterTable
from tests.faults.cluster.other_cluster import OtherCluster
from tests.faults.invariants import Findings
from tests.faults.place import Stuck, descendants_of

from perdure.agent.cluster.on_ray.own_ray import NODE_HOSTS

PLAYER, JUDGE, RANK = "kill -9 of a player", "kill -9 of a player that judges", "kill -9 of a rank of a job"
JOURNAL, CLUSTER = "kill -9 of the journal", "kill -9 of the cluster process"
RAYLET, NODE = "kill -9 of a raylet", "kill -9 of all of a node"
OWN_HEAD, OTHER_HEAD = "kill -9 of the head of Ray, with `local`", "kill -9 of the head of Ray, of a cluster that is not ours"
TRIES = 4
RANK_UPDATES = 20
"""The target is learned before, in some four."""
REJOIN_S = 60.0
"""A cluster that is not ours is joined again within this time of its return."""
POINTS = {"player": ("after-answer", 60), "journal": ("before-answer", 60)}
"""The point of each that can be told to die; one of the first so many times is drawn."""


def kill_player(place: ClusterPlace, random: Random, table: ClusterTable) -> None:
    """A player at any moment; the one that is placed for it dies at its point."""
    point, most = POINTS["player"]
    (number,) = place.arm("player", f"{point}:{random.randint(5, most)}")
    player = random.choice(found(place, "a player at work", place.at_work))
    linger(random, 1.0)
    moment = kill(player)
    elsewhere_s = place.goes_on_elsewhere(place.held_by([player]), moment)
    place.wait("another player", lambda: len(place.players()) == place.wanted)
    table.add(PLAYER, place.examine(), elsewhere_s)
    dead, moment = place.dies("player", number)
    elsewhere_s = place.goes_on_elsewhere(place.held_by([dead]), moment)
    again_s = place.all_play(moment)
    table.add(point, place.examine(), elsewhere_s, again_s)


def kill_journal(place: ClusterPlace, random: Random, table: ClusterTable) -> None:
    """The journal at any moment; the next one dies at its point."""
    point, most = POINTS["journal"]
    (number,) = place.arm("journal", f"{point}:{random.randint(1, most)}")
    journal = found(place, "the journal", lambda: place.child("cluster.journal"))
    linger(random, 1.0)
    kill(journal)
    _, moment = place.dies("journal", number)
    table.add(JOURNAL, place.examine())
    table.add(point, place.examine(), None, place.all_play(moment))


def kill_judge(place: ClusterPlace, random: Random, table: ClusterTable) -> None:
    """A player that plays held-out tasks of a job."""
    job = place.queue_probe()
    judge = random.choice(found(place, "a player that judges", lambda: place.at_work("errand")))
    linger(random, 0.5)
    moment = kill(judge)
    elsewhere_s = place.goes_on_elsewhere(place.held_by([judge], "errand"), moment)
    findings, again_s = place.examine(), place.all_play(moment)
    if place.job_ends(job).state != "done" or place.job(job).attempt != 1:
        raise Stuck(f"the job that was judged for did not go on\n{place.logs()}")
    table.add(JUDGE, findings, elsewhere_s, again_s)


def kill_rank(place: ClusterPlace, random: Random, table: ClusterTable) -> None:
    """A rank of a learning job elsewhere, while it starts or learns: the job is tried again, from its last update."""
    for _ in range(TRIES):
        killed = _rank_killed_at_work(place, random)
        if killed is not None:
            return table.add(RANK, *killed)
    raise Stuck(f"no rank was killed at work in {TRIES} jobs")


def _rank_killed_at_work(place: ClusterPlace, random: Random) -> tuple[Findings, float] | None:
    """What was found, and seconds until the job was tried again. None if the rank had done its work already."""
    job = place.queue_job(updates=RANK_UPDATES)
    rank = found(place, "a rank", lambda: next(iter(place.ranks()), None))
    if random.random() < 0.7:
        place.wait("an update", lambda: place.ask(f"SELECT count(*) FROM step WHERE job = {job}") > 0)
        linger(random, 0.3)
    else:
        linger(random, 2.0)
    attempt = place.job(job).attempt
    moment = kill(rank)
    place.wait("the job to be tried again, or to end", lambda: place.job(job).attempt > attempt or place.job(job).state == "done")
    again_s, findings = time.monotonic() - moment, place.examine()
    if place.job_ends(job).state != "done":
        raise Stuck(f"the job whose rank died has failed\n{place.logs()}")
    settle(place)
    return (findings, again_s) if place.job(job).attempt > attempt else None


def kill_cluster(place: ClusterPlace, random: Random, table: ClusterTable, fault: str = CLUSTER) -> None:
    """The cluster process, or the head of its own Ray: all players end, and others take their place."""
    place.wait("a player at work", lambda: bool(place.at_work()))
    linger(random, 1.0)
    players = place.players()
    held = place.held_by(players)
    pid = place.child("cluster_program") if fault == CLUSTER else place.head()
    if pid is None:
        raise Stuck(f"there is nothing to kill for {fault}\n{place.logs()}")
    moment = kill(pid)
    elsewhere_s = place.goes_on_elsewhere(held, moment)
    findings = place.examine()
    place.wait("the players to end", lambda: not set(place.players()) & set(players))
    table.add(fault, findings, elsewhere_s, place.all_play(moment))


def kill_node(place: ClusterPlace, random: Random, table: ClusterTable, fault: str) -> None:
    """A raylet, or with it all that runs on its node; another node takes its place some time later."""
    raylets = [found(place, f"the raylet of {host}", lambda host=host: place.raylet(host)) for host in NODE_HOSTS]
    place.wait("a player at work", lambda: bool(place.at_work()))
    linger(random, 1.0)
    for raylet in random.sample(raylets, len(raylets)):
        below = descendants_of(raylet)
        players = sorted(set(below) & set(place.players()))
        if place.held_by(players):
            break
    moment = kill(raylet, *(below if fault == NODE else []))
    elsewhere_s = place.goes_on_elsewhere(place.held_by(players), moment)
    findings = place.examine()
    place.wait("its players to end", lambda: not set(place.players()) & set(players))
    table.add(fault, findings, elsewhere_s, place.all_play(moment))


def kill_other_head(place: ClusterPlace, other: OtherCluster, random: Random, table: ClusterTable) -> None:
    """The head of a cluster that is not ours: play elsewhere stops with a sentence, and it is joined again when it is back."""
    place.wait("a player at work", lambda: bool(place.at_work()))
    linger(random, 1.0)
    players = place.players()
    held = place.held_by(players)
    head = place.head()
    if head is None:
        raise Stuck(f"the other cluster has no head\n{place.logs()}")
    moment = kill(head)
    elsewhere_s = place.goes_on_elsewhere(held, moment)
    findings = place.examine()
    place.wait("the sentence", lambda: "does not answer" in place.cluster_says())
    place.wait("the players to end", lambda: not set(place.players()) & set(players))
    place.serves_after(time.monotonic())  # the head plays on
    other.close()  # its nodes, which have lost their head
    back = other.start()
    table.add(OTHER_HEAD, findings, elsewhere_s, place.all_play(back, other.mend), REJOIN_S)


def all_faults() -> list[str]:
    """What the table has a row for, once all was tried."""
    return [PLAYER, JUDGE, RANK, JOURNAL, CLUSTER, RAYLET, NODE, OWN_HEAD, OTHER_HEAD, *(point for point, _ in POINTS.values())]
