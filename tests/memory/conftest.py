"""A real store in a folder of its own, a clock that only the test moves, and what it takes to play an episode."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from perdure.memory import environments, tasks, versions
from perdure.memory.records import Ending, EpisodePlan, Lease, Purpose, Sampler, Turn, VersionRef
from perdure.memory.store import Store, create_store
from perdure.memory.trajectories import journal

ADD = "perdure:add"
SORT = "perdure:sort?numbers=3"


class SetClock:
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        self.now = 100.0
        self.boot = "boot-1"

    def now_s(self) -> float:
        return self.now

    def boot_id(self) -> str:
        return self.boot


class Player:
    """Plays episodes of one turn into a store."""

    def __init__(self, store: Store, clock: SetClock) -> None:
        self.store = store
        self.clock = clock

    def plan(
        self,
        lease: Lease,
        group: str,
        member: int = 0,
        *,
        environment: str = ADD,
        seed: int = 7,
        purpose: Purpose = "live",
        sampler: Sampler | None = None,
    ) -> EpisodePlan:
        return EpisodePlan(
            environment=environment,
            seed=seed,
            group=group,
            member=member,
            purpose=purpose,
            sampler=sampler or VersionRef("v0"),
            temperature=1.0,
            lease=lease,
        )

    def turn(self, prompt: tuple[int, ...] = (1, 2, 3), action: tuple[int, ...] = (4, 5), reward: float = 0.0, shared: int = 0) -> Turn:
        return Turn(
            prompt_ids=prompt,
            action_ids=action,
            logprobs=tuple(-0.5 * (i + 1) for i in range(len(action))),
            observation="1 + 1?",
            action="2",
            reward=reward,
            sampler=VersionRef("v0"),
            finish="stop",
            shared=shared,
        )

    def ending(self, episode: int, reward: float = 1.0) -> Ending:
        return Ending(
            episode=episode,
            state="completed",
            stop_reason="terminated",
            total_reward=reward,
            success=reward >= 1,
            score=min(max(reward, 0), 1),
        )

    def group(
        self, lease: Lease, group: str, rewards: list[float], *, purpose: Purpose = "live", sampler: Sampler | None = None
    ) -> list[int]:
        """Play a whole group and give the ids of its episodes."""
        writer = journal.StoreJournal(self.store, self.clock)
        ids = writer.start([self.plan(lease, group, member, purpose=purpose, sampler=sampler) for member in range(len(rewards))])
        writer.turns([(episode, 0, self.turn(reward=reward)) for episode, reward in zip(ids, rewards, strict=True)])
        writer.finish([self.ending(episode, reward) for episode, reward in zip(ids, rewards, strict=True)])
        return ids

    def task(self, owner: str = "actor", ttl_s: float = 60.0) -> Lease:
        """Add a task and lease it."""
        tasks.add_tasks(self.store, ADD, [7], 2, "stream")
        return tasks.lease_tasks(self.store, owner, 1, ttl_s, self.clock)[0][1]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def store(home: Path) -> Iterator[Store]:
    """A home with the base model serving and two environments."""
    with create_store(home) as store:
        environments.register(store, ADD)
        versions.add_initial(store, "tiny", "hash-of-tiny")
        environments.register(store, SORT, 1.0, -1.0, 1.0, critical=True)
        yield store


@pytest.fixture
def full(store: Store) -> Store:
    """A home with a few rows of everything."""
    from tests.memory.everything import fill

    fill(store)
    return store


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def player(store: Store, clock: SetClock) -> Player:
    return Player(store, clock)


@pytest.fixture
def add_version(store: Store) -> Callable[..., str]:
    """Bring a candidate whose folder is there, and give its name."""

    def add(parent: str = "v0", targets: tuple[str, ...] = (ADD,)) -> str:
        name = versions.next_name(store)
        (store.home / "versions" / name).mkdir()
        versions.add_candidate(store, None, name, parent, f"hash-of-{name}", f"versions/{name}", targets, None)
        return name

    return add
