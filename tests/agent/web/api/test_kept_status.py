"""The status is kept for half a second, is made by one reader at a time, and never waits for the report of the life."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from perdure.agent.config_file import load_config
from perdure.agent.web.kept_status import FRESH_S, LIFE_S, STALE_S, KeptStatus
from perdure.agent.web.stores import ServedHome
from perdure.memory.processes import pause
from perdure.memory.store import open_store


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def kept(home: Path, clock: Clock) -> KeptStatus:
    return KeptStatus(ServedHome(path=home, loaded=load_config(home.parent / "perdure.toml")), clock)


async def paused(status: KeptStatus) -> list[str]:
    found: dict[str, Any] = json.loads(await status.document())
    return [one["what"] for one in found["pauses"]]


def test_it_is_kept_for_half_a_second(home: Path) -> None:
    clock = Clock()
    status = kept(home, clock)

    async def ask() -> None:
        assert await paused(status) == []
        with open_store(home) as store:
            pause(store, "play", "r")
        clock.now_s += FRESH_S * 0.9
        assert await paused(status) == []
        clock.now_s += STALE_S
        assert await paused(status) == ["play"]

    asyncio.run(ask())


def test_while_it_is_made_anew_the_one_before_is_given(home: Path) -> None:
    clock = Clock()
    status = kept(home, clock)

    async def ask() -> None:
        assert await paused(status) == []
        with open_store(home) as store:
            pause(store, "play", "r")
        clock.now_s += FRESH_S
        assert await paused(status) == []
        for _ in range(500):
            if await paused(status) == ["play"]:
                return
            await asyncio.sleep(0.01)
        raise AssertionError("it was never made anew")

    asyncio.run(ask())


def test_many_who_ask_at_once_get_one_document(home: Path) -> None:
    status = kept(home, Clock())

    async def ask() -> list[bytes]:
        return list(await asyncio.gather(*(status.document() for _ in range(32))))

    assert len({id(document) for document in asyncio.run(ask())}) == 1


def test_the_report_of_the_life_follows_a_change_of_jobs_at_once_and_all_else_in_time(home: Path) -> None:
    clock = Clock()
    status = kept(home, clock)

    async def upcoming() -> Any:
        return json.loads(await status.document())["next"]

    async def until_it_is(wanted: Any) -> None:
        for _ in range(500):
            clock.now_s += STALE_S
            if (await upcoming()).get("job") == wanted:
                return
            await asyncio.sleep(0.01)
        raise AssertionError(f"never {wanted}")

    async def ask() -> None:
        assert (await upcoming())["job"] == 4
        with open_store(home) as store, store.write() as conn:
            conn.execute("UPDATE job SET state = 'failed' WHERE id = 4")
        await until_it_is(None)

    asyncio.run(ask())
    assert LIFE_S > STALE_S


def test_an_error_is_for_those_who_ask_and_not_for_the_next(home: Path) -> None:
    status, hidden = kept(home, Clock()), home / "hidden.db"
    (home / "perdure.db").rename(hidden)

    async def ask() -> list[Any]:
        return list(await asyncio.gather(*(status.document() for _ in range(4)), return_exceptions=True))

    assert {type(one).__name__ for one in asyncio.run(ask())} == {"NoStoreYet"}
    hidden.rename(home / "perdure.db")
    assert json.loads(asyncio.run(status.document()))["serving"] == "v1"
