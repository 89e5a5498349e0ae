"""How fast the page and the API are over a large store, and what an open page costs an actor.

Everything is asked of a real web process, over HTTP, three times in one run: of `perdure web` over a home in which nothing else works,
and of the page of a whole daemon in the same home, while its actor plays and while its job learns (on a CPU the actor then waits). A page
is asked for three times; the first answer counts, as it does for a person. Its size is that of the page and of all files that it names.
Status is asked by 32 clients, once a second as open pages do, and again and again, which shows how much there can be. In between, without
a daemon, an actor plays the same tasks with the same tokens in turn with and without a browser that has the first page open.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from perdure.agent.bench.actor_overhead import WIDTH, play_batches
from perdure.agent.bench.journal_speed import TURNS
from perdure.agent.bench.large_store import Timing, fill, require_store_room
from perdure.agent.bench.measure import in_turn, timed
from perdure.agent.bench.pages.page_clients import NAMED, ask_at_once, fetch
from perdure.agent.bench.pages.served_home import (
    ServedPage,
    learning,
    page_open,
    prepare,
    running_daemon,
    serving_page,
    updates_of_last_job,
)
from perdure.agent.control_groups import usable_cores
from perdure.envs.environment import Environment
from perdure.envs.policy import Policy, Request, Sample
from perdure.learners.engines.serving_model import ServingModel
from perdure.learners.engines.transformers_engine import TransformersEngine
from perdure.learners.hardware import faster_dtype
from perdure.learners.weights.base_models import ModelFiles
from perdure.memory.gates import last_verdict
from perdure.memory.jobs import list_jobs
from perdure.memory.json_value import Document
from perdure.memory.store import FILE_NAME, Store, open_store
from perdure.memory.trajectories.episodes import count
from perdure.memory.versions import serving

CLIENTS = 32
ASK_S = 15.0
"""How long status is asked for at each pace."""
EVERY_S = 1.0
TIMES = 3
"""That each page is asked for."""
BATCHES = 4
"""Of 32 episodes, played on each side of a pair."""
PAGE_BYTES, PAGE_S, STATUS_S, LOST = 300_000, 1.0, 0.05, 0.02
"""What is aimed at: size and time of each page, the 95th percentile of status, and the share of the actor's time."""
STATUS = "/api/v1/status"
SideName = Literal["nothing else works", "a daemon plays", "its job learns"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PageTime:
    """One page."""

    path: str
    page_bytes: int
    all_bytes: int
    """With the files that it names."""
    seconds: list[float]
    """In the order of asking: the first time nothing of it is in memory."""

    def as_json(self) -> Document:
        return {"path": self.path, "page_bytes": self.page_bytes, "all_bytes": self.all_bytes, "seconds": self.seconds}


@dataclass(frozen=True, slots=True, kw_only=True)
class PageSide:
    """What was asked while one thing went on in the home."""

    side: SideName
    pages: list[PageTime]
    steady: Timing
    """Status, asked by each client once a second."""
    busy: Timing
    """Status, asked by each client again as soon as it has an answer."""
    ask_s: float
    """How long it was asked for at each pace."""
    updates: int
    """That the job made meanwhile."""
    episodes: int
    """That were begun meanwhile, by the actor or for the job."""

    def as_json(self) -> Document:
        return {
            "side": self.side,
            "pages": [page.as_json() for page in self.pages],
            "status_once_a_second": self.steady.as_json(),
            "status_again_and_again": self.busy.as_json() | {"a_second": len(self.busy.seconds) / self.ask_s},
            "updates": self.updates,
            "episodes": self.episodes,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """What an actor did, and the page meanwhile."""

    wall_s: float
    page_cpu_s: float
    """Of processors, taken by the web process."""

    def as_json(self) -> Document:
        return {"wall_s": self.wall_s, "page_cpu_s": self.page_cpu_s}


@dataclass(frozen=True, slots=True, kw_only=True)
class PageBench:
    """The measurements."""

    episodes: int
    turns: int
    size_bytes: int
    fill_s: float
    sides: list[PageSide]
    pairs: list[tuple[Played, Played]]
    """The same work with an open page and without."""

    @property
    def lost(self) -> float:
        """The share of an actor's time that an open page takes, the median of the pairs."""
        return statistics.median(1 - without.wall_s / beside.wall_s for beside, without in self.pairs)

    @property
    def processors(self) -> float:
        """The share of this machine's processors that the web process takes for an open page, the median of the pairs.

        It depends less than `lost` on what else the machine does.
        """
        cores = usable_cores()
        return statistics.median((beside.page_cpu_s - without.page_cpu_s) / beside.wall_s / cores for beside, without in self.pairs)

    def as_json(self) -> Document:
        alone, playing, learns = (side.steady.p95_s for side in self.sides)
        return {
            "episodes": self.episodes,
            "turns": self.turns,
            "size_bytes": self.size_bytes,
            "fill_s": self.fill_s,
            "clients": CLIENTS,
            "sides": [side.as_json() for side in self.sides],
            "status_p95_ratio": {"a daemon plays": playing / alone, "its job learns": learns / alone},
            "open_page": {
                "pairs": [{"open": beside.as_json(), "closed": without.as_json()} for beside, without in self.pairs],
                "lost": self.lost,
                "processors": self.processors,
            },
            "missed": missed(self),
        }


def bench_pages(
    folder: Path,
    episodes: int,
    files: ModelFiles,
    environment: Environment,
    *,
    model: str,
    device: str,
    pairs: int,
    ask_s: float = ASK_S,
    say: Callable[[str], None],
) -> PageBench:
    """Measure over a store with `episodes` episodes in `folder`. Raises `InputError` if the disk has no room for it."""
    home = folder / "large"
    require_store_room(folder, episodes)
    say(f"filling a store with {episodes} episodes of {TURNS} turns")
    _, fill_s = timed(lambda: fill(home, episodes))
    prepare(home, files, environment.name)
    with open_store(home) as store:
        paths = page_paths(store)
    with serving_page(home, model, device, environment.name) as page:
        say("asking for every page, and for status")
        alone = _ask(page, paths, "nothing else works", ask_s)
        pairs_played = [*_play_beside(page, files, environment, device, pairs, say)]
    say("waiting for a daemon to play")
    with running_daemon(home, model, device, environment.name) as page:
        say("asking again while it plays")
        sides = [alone, _ask(page, paths, "a daemon plays", ask_s)]
        say("waiting for its job to learn")
        with learning(page, environment.name):
            say("asking again while it learns")
            sides.append(_ask(page, paths, "its job learns", ask_s))
    return PageBench(
        episodes=episodes,
        turns=episodes * TURNS,
        size_bytes=(home / FILE_NAME).stat().st_size,
        fill_s=fill_s,
        sides=sides,
        pairs=pairs_played,
    )


def missed(bench: PageBench) -> list[str]:
    """What is not as it is aimed at, in words."""
    found = []
    for side in bench.sides:
        for page in side.pages:
            if page.all_bytes > PAGE_BYTES:
                found.append(f"{page.path} has {page.all_bytes / 1000:.0f} KB")
            if page.seconds[0] > PAGE_S:
                found.append(f"{page.path} takes {page.seconds[0]:.2f} s while {side.side}")
        if side.steady.p95_s > STATUS_S:
            found.append(f"the 95th percentile of status is {1000 * side.steady.p95_s:.0f} ms while {side.side}")
    if bench.lost > LOST:
        found.append(f"an open page takes {bench.lost:.1%} of an actor's time")
    return found


def page_paths(store: Store) -> list[str]:
    """Every kind of page that there is, of the store's newest things."""
    now = serving(store)
    verdict = last_verdict(store)
    [episode] = store.rows(
        "SELECT id, environment, version FROM episode WHERE state = 'completed' AND version IS NOT NULL ORDER BY id DESC LIMIT 1"
    )
    of_environment = quote(episode["environment"], safe="")
    gate = 1 if verdict is None else verdict.id
    [last] = [job.id for job in list_jobs(store, limit=1)]
    return [
        "/",
        "/learning",
        f"/learning?environment={of_environment}",
        f"/learning?job={last}",
        "/retention",
        f"/retention/{now.name}?environment={of_environment}",
        "/versions",
        f"/versions/{now.name}",
        f"/versions/v0/against/{now.name}",
        f"/versions/{episode['version']}/against/{episode['version']}?a_episode={episode['id']}&b_episode={episode['id']}",
        f"/gates/{gate}",
        "/episodes",
        f"/episodes?environment={of_environment}&outcome=success&purpose=live",
        f"/episodes/{episode['id']}",
        f"/episodes/{episode['id']}/turns/0",
        "/tasks",
        "/environments",
        f"/environments?name={of_environment}",
        "/studies",
        "/system",
    ]


def _ask(page: ServedPage, paths: Sequence[str], side: SideName, ask_s: float) -> PageSide:
    with open_store(page.home) as store:
        updates, episodes = updates_of_last_job(store), count(store)
        pages = [_ask_page(page, path) for path in paths]
        times = [ask_at_once(page.port, page.token, STATUS, clients=CLIENTS, for_s=ask_s, every_s=every_s) for every_s in (EVERY_S, 0.0)]
        steady, busy = (Timing(what=STATUS, seconds=seconds) for seconds in times)
        return PageSide(
            side=side,
            pages=pages,
            steady=steady,
            busy=busy,
            ask_s=ask_s,
            updates=updates_of_last_job(store) - updates,
            episodes=count(store) - episodes,
        )


def _ask_page(page: ServedPage, path: str) -> PageTime:
    got = [fetch(page.port, page.token, path) for _ in range(TIMES)]
    named = set(NAMED.findall(got[0].body.decode()))
    files = sum(len(fetch(page.port, page.token, file).body) for file in named)
    size = len(got[0].body)
    return PageTime(path=path, page_bytes=size, all_bytes=size + files, seconds=[one.seconds for one in got])


@dataclass(slots=True)
class SameEachTime:
    """A policy whose n-th answer is drawn by the n-th seed: it does the same work each time that it is played from its start."""

    policy: Policy
    asked: int = 0

    def generate(self, requests: Sequence[Request]) -> list[Sample]:
        seeded = [replace(request, seed=self.asked + n) for n, request in enumerate(requests)]
        self.asked += len(requests)
        return self.policy.generate(seeded)


def _play_beside(
    page: ServedPage, files: ModelFiles, environment: Environment, device: str, pairs: int, say: Callable[[str], None]
) -> Iterator[tuple[Played, Played]]:
    """The actor with an open page and without. In odd pairs it is without first."""
    engine = TransformersEngine(files, device=device, dtype=faster_dtype(device), seed=0)
    engine.choose_threads()
    with open_store(page.home) as store:
        policy = ServingModel(store, engine).load(serving(store).name)

        def play() -> Played:
            before_s = page.cpu_s()
            wall_s = play_batches(store, files.name, engine, SameEachTime(policy), [environment], BATCHES, WIDTH).wall_s
            return Played(wall_s=wall_s, page_cpu_s=page.cpu_s() - before_s)

        def play_open() -> Played:
            with page_open(page):
                return play()

        play()  # a warm-up
        for n in range(pairs):
            say(f"playing {2 * BATCHES * WIDTH} episodes, half of them beside an open page: pair {n + 1} of {pairs}")
            (beside, _), (without, _) = in_turn(play_open, play, n)
            yield beside, without
