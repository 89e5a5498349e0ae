"""The benchmark of the page asks what it says that it asks, and says what it found. Numbers at this size mean nothing."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from tests.agent.bench.test_store_bench import quiet

from perdure.agent.bench import tables
from perdure.agent.bench.large_store import TURNS, Timing, fill
from perdure.agent.bench.pages.page_clients import LIVE
from perdure.agent.bench.pages.page_speed import (
    CLIENTS,
    TIMES,
    PageBench,
    PageSide,
    PageTime,
    Played,
    SameEachTime,
    SideName,
    bench_pages,
    missed,
    page_paths,
)
from perdure.agent.bench.pages.served_home import LEARNS_S
from perdure.agent.web.pages.rendering import TEMPLATES
from perdure.envs.policy import Request, Sample
from perdure.envs.registry import load
from perdure.learners.weights.base_models import ModelFiles
from perdure.memory.records import VersionRef
from perdure.memory.store import open_store

TASK = "perdure:smallest-number?shots=1&max_tokens=4"


def page(path: str, size: int, *seconds: float) -> PageTime:
    return PageTime(path=path, page_bytes=size - 100, all_bytes=size, seconds=list(seconds))


def side(name: SideName, p95_s: float, *pages: PageTime) -> PageSide:
    steady = Timing(what="status", seconds=[p95_s] * 20)
    return PageSide(
        side=name, pages=list(pages), steady=steady, busy=Timing(what="status", seconds=[0.1] * 40), ask_s=10.0, updates=2, episodes=9
    )


def bench(*sides: PageSide, beside_s: float = 10.0) -> PageBench:
    pairs = [(Played(wall_s=beside_s, page_cpu_s=0.5), Played(wall_s=10.0, page_cpu_s=0.1))] * 3
    return PageBench(episodes=10, turns=100, size_bytes=1000, fill_s=1.0, sides=list(sides), pairs=pairs)


def test_what_is_too_large_or_too_slow_is_named() -> None:
    well = bench(side("nothing else works", 0.04, page("/", 299_000, 0.9, 2.0)), side("its job learns", 0.05, page("/", 1, 1.0)))
    assert missed(well) == []
    alone = side("nothing else works", 0.051, page("/", 300_001, 0.1, 0.1))
    ill = bench(alone, side("a daemon plays", 0.04, page("/tasks", 1, 1.25, 0.1)), beside_s=12.5)
    assert missed(ill) == [
        "/ has 300 KB",
        "the 95th percentile of status is 51 ms while nothing else works",
        "/tasks takes 1.25 s while a daemon plays",
        "an open page takes 20.0% of an actor's time",
    ]


def test_the_numbers_are_ratios_of_one_run(capsys: pytest.CaptureFixture[str]) -> None:
    found = bench(
        side("nothing else works", 0.02, page("/", 2000, 0.5, 0.1, 0.3)),
        side("a daemon plays", 0.04, page("/", 2000, 0.25, 0.1, 0.1)),
        side("its job learns", 0.05, page("/", 3000, 1.5, 0.2)),
    )
    document = json.loads(json.dumps(found.as_json()))
    assert document["status_p95_ratio"] == {"a daemon plays": 2.0, "its job learns": 2.5}
    assert document["sides"][0]["status_again_and_again"]["a_second"] == 4.0
    assert document["open_page"]["lost"] == 0.0
    assert document["open_page"]["processors"] > 0
    tables.print_web(found)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["/", "1.9", "2", "500", "200", "250", "100", "1500", "200"] in lines
    assert ["not", "as", "aimed", "at:", "/", "takes", "1.50", "s", "while", "its", "job", "learns"] in lines


def test_the_same_seeds_are_asked_each_time() -> None:
    class Recorder:
        def __init__(self) -> None:
            self.seeds: list[int | None] = []

        def generate(self, requests: list[Request]) -> list[Sample]:
            self.seeds += [request.seed for request in requests]
            return [Sample(action_ids=(1,), logprobs=(-1.0,), finish="stop", sampler=VersionRef("v0"))] * len(requests)

    recorder = Recorder()
    request = Request(prompt_ids=(1,), max_tokens=1, temperature=1.0)
    for _ in range(2):
        policy = SameEachTime(recorder)  # type: ignore[arg-type]
        policy.generate([request] * 2)
        policy.generate([request])
    assert recorder.seeds == [0, 1, 2] * 2


def test_the_browser_finds_the_live_parts_of_a_page() -> None:
    template = "{% from 'macros.html' import live %}{% call live('state', '/?part=state', 'episode job') %}text{% endcall %}"
    assert LIVE.findall(TEMPLATES.from_string(template).render()) == [("episode job", "/?part=state")]


def test_there_is_a_path_of_every_page(tmp_path: Path) -> None:
    fill(tmp_path, 400)
    with open_store(tmp_path) as store:
        paths = page_paths(store)
    shown = {path.partition("?")[0].strip("/").partition("/")[0] for path in paths}
    text = (Path(__file__).parents[3] / "agent/web/templates/base.html").read_text()
    named = {line.strip("/") for line in re.findall(r'\("(/[a-z]*)", "', text)}
    assert named <= shown
    assert named


@pytest.mark.browser  # it needs none, but minutes: `make test-browser` has the time
@pytest.mark.processes
@pytest.mark.timeout(LEARNS_S + 900)
def test_a_real_page_is_asked_alone_and_beside_a_daemon_that_plays_and_learns(llama: ModelFiles, tmp_path: Path) -> None:
    found = bench_pages(tmp_path, 400, llama, load(TASK), model=str(llama.path), device="cpu", pairs=2, ask_s=2.5, say=quiet)
    assert (found.episodes, found.turns, len(found.pairs)) == (400, 400 * TURNS, 2)
    assert [one.side for one in found.sides] == ["nothing else works", "a daemon plays", "its job learns"]
    assert found.sides[1].episodes > 0, "the actor plays"
    assert found.sides[1].updates == 0
    for one in found.sides:
        assert {len(page.seconds) for page in one.pages} == {TIMES}
        assert all(page.page_bytes > 1000 and page.all_bytes > page.page_bytes for page in one.pages)
        assert CLIENTS <= len(one.steady.seconds) <= 4 * CLIENTS
        assert len(one.busy.seconds) > len(one.steady.seconds)
    assert all(played.wall_s > 0 and played.page_cpu_s >= 0 for pair in found.pairs for played in pair)
    json.dumps(found.as_json())
