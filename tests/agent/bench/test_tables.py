"""What people read after a benchmark."""

from __future__ import annotations

from pathlib import Path

import pytest

from perdure.agent.bench import tables
from perdure.agent.bench.actor_overhead import ActorTime
from perdure.agent.bench.journal_speed import JournalBench, JournalSpeed, Run, Size
from perdure.agent.bench.large_store import ScaleBench, Timing
from perdure.agent.bench.updates import Side, UpdatePair
from perdure.agent.bench.vllm_speed import VllmBench, VllmSpeed


def test_the_store_has_a_row_for_each_size_of_batch_and_each_query(capsys: pytest.CaptureFixture[str]) -> None:
    size = Size(prompt_ids=400, answer_ids=512, logprobs=512, texts=900, rest=76, whole_prompts=4504)
    speeds = [JournalSpeed(batch=8, turns=100, runs=[Run(0.5, 0.25, 0.125), Run(1.0, 1.0, 1.0)])]
    scale = ScaleBench(
        home=Path("large"), episodes=2, turns=20, size_bytes=3 * 10**6, fill_s=1.5, timings=[Timing(what="perdure status", seconds=[0.004])]
    )
    tables.print_store(JournalBench(sqlite="3.50", speeds=speeds, size=size), scale)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["8", "150", "250", "450", "0.75", "0.625"] in lines  # medians of 200 and 100, 400 and 100, 800 and 100 turns per second
    assert ["400", "512", "512", "900", "76", "2400", "4504"] in lines
    assert ["perdure", "status", "4", "4"] in lines


def test_the_learner_without_a_peer_says_how_to_get_one(capsys: pytest.CaptureFixture[str]) -> None:
    side = Side(seconds=[2.0, 4.0], tokens=[300, 300], prompt_tokens=50.0, peak_bytes=2**30, seeds=[1])
    alone = UpdatePair(work="equal work", prompts=8, samples=8, ours=side, trl=None)
    tables.print_learner([alone])
    out = capsys.readouterr().out
    assert ["equal", "work", "perdure", "3", "100", "1024"] in [line.split() for line in out.splitlines()]
    assert tables.NO_PEER in out
    slow = Side(seconds=[6.0], tokens=[300], prompt_tokens=50.0, peak_bytes=2**30, seeds=[1])
    tables.print_learner([UpdatePair(work="equal work", prompts=8, samples=8, ours=side, trl=slow)])
    out = capsys.readouterr().out
    assert "equal work: 2.00 times as fast" in out
    assert tables.NO_PEER not in out


def test_the_share_of_an_actors_own_work_is_a_percentage(capsys: pytest.CaptureFixture[str]) -> None:
    time = ActorTime(policy="tiny", episodes=32, rounds=10, wall_s=2.0, generating_s=1.5, empty_share=0.1)
    tables.print_play([time])
    assert capsys.readouterr().out.splitlines()[-1].split() == ["tiny", "32", "10", "2", "50", "25.0%"]


def test_the_ratio_to_the_offline_api_is_a_median(capsys: pytest.CaptureFixture[str]) -> None:
    speed = VllmSpeed(sampler="base", rates=[(90.0, 100.0), (80.0, 100.0), (95.0, 100.0)])
    tables.print_vllm(
        VllmBench(vllm="vllm 1", model="tiny", requests=64, max_tokens=40, prompt_tokens=100.0, speeds=[speed], swap_s=[0.2, 0.1, 0.3])
    )
    out = capsys.readouterr().out
    assert "base: 0.90 of the offline API's speed (median of 3)" in out
    assert "a new adapter's first token: 0.200 s (median of 3)" in out
