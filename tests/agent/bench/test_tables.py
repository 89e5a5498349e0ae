"""What people read after a benchmark."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from perdure.agent.bench import tables
from perdure.agent.bench.actor_overhead import ActorTime
from perdure.agent.bench.journal_speed import JournalBench, JournalSpeed, Run, Size
from perdure.agent.bench.large_store import ScaleBench, Timing
from perdure.agent.bench.learner_sides import LearnerSide, LearnerWork, UpdatePair, at_fastest_products
from perdure.agent.bench.sampling import EngineBench, SamplingSpeed
from perdure.agent.bench.vllm_speed import VllmBench, VllmSpeed


def test_the_store_has_a_row_for_each_size_of_batch_and_each_query(capsys: pytest.CaptureFixture[str]) -> None:
    size = Size(prompt_ids=400, answer_ids=512, logprobs=512, texts=900, rest=76, whole_prompts=4504)
    speeds = [JournalSpeed(batch=8, turns=100, runs=[Run(0.5, 0.25, 0.125, 0.01), Run(1.0, 1.0, 1.0, 0.04)])]
    scale = ScaleBench(
        home=Path("large"), episodes=2, turns=20, size_bytes=3 * 10**6, fill_s=1.5, timings=[Timing(what="perdure status", seconds=[0.004])]
    )
    tables.print_store(JournalBench(sqlite="3.50", speeds=speeds, size=size), scale)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [
        "8",
        "150",
        "250",
        "450",
        "0.75",
        "0.625",
        "3.0",
        "%",
    ] in lines  # medians of 200 and 100, 400 and 100, 800 and 100 turns per second
    assert ["400", "512", "512", "900", "76", "2400", "4504"] in lines
    assert ["perdure", "status", "4", "4"] in lines


def learner_side(seconds: list[float], **measured: object) -> LearnerSide:
    side = LearnerSide(seconds=seconds, tokens=[300] * len(seconds), prompt_tokens=50.0, peak_bytes=2**30, seeds=[1])
    return replace(side, **measured)  # type: ignore[arg-type]


def learner_pair(ours: LearnerSide, trl: LearnerSide | None, work: LearnerWork = "equal work") -> UpdatePair:
    return UpdatePair(work=work, dtype="bfloat16", prompts=8, samples=8, ours=ours, trl=trl)


def test_the_learner_without_a_peer_says_how_to_get_one(capsys: pytest.CaptureFixture[str]) -> None:
    side = learner_side([2.0, 4.0], bound_s=[1.0, 1.0], product_flop_s=9e11)
    tables.print_learner([learner_pair(side, None)])
    out = capsys.readouterr().out
    row = ["equal", "work", "bfloat16", "perdure", "3", "100", "1024", "38%"]  # the median of 1 / 2 and 1 / 4
    assert row in [line.split() for line in out.splitlines()]
    assert "products alone: 900 GFLOP/s in bfloat16" in out
    assert tables.NO_PEER in out
    tables.print_learner([learner_pair(side, learner_side([6.0]))])
    out = capsys.readouterr().out
    assert ["equal", "work", "bfloat16", "TRL", "6", "50", "1024", "-"] in [line.split() for line in out.splitlines()]
    assert "equal work, bfloat16: 2.00 times as fast, 0.500 of TRL's time" in out
    assert tables.NO_PEER not in out


def test_bounds_are_by_the_fastest_product_of_a_precision() -> None:
    slow, fast = (learner_side([4.0], bound_s=[1.0], product_flop_s=speed) for speed in (1e11, 4e11))
    other = replace(learner_pair(slow, None), dtype="float32")
    found = at_fastest_products([learner_pair(slow, None), learner_pair(fast, None, "as it runs"), other])
    assert [pair.ours.bound_s for pair in found] == [[0.25], [1.0], [1.0]]
    assert [pair.ours.product_flop_s for pair in found] == [4e11, 4e11, 1e11]


def test_the_learner_says_how_long_a_default_job_samples(capsys: pytest.CaptureFixture[str]) -> None:
    side = learner_side([9.0, 11.0, 10.0], sampling_s=[3.0, 4.0, 3.5], episodes=[128, 128, 128])
    tables.print_learner([learner_pair(side, None, "default job")])
    assert "default job, bfloat16: 10.0 s per update, of which sampling 128 episodes in 3.5 s" in capsys.readouterr().out


def test_the_engine_says_which_share_of_the_bound_it_reached(capsys: pytest.CaptureFixture[str]) -> None:
    speed = SamplingSpeed(
        prompts="p",
        work="equal work",
        prompt_tokens=50.0,
        peer_dtype="bfloat16",
        tokens=[(80, 80)] * 3,
        seconds=[(1.0, 2.0), (2.0, 5.0), (4.0, 12.0)],
        bound_s=[0.5, 0.5, 0.5],
    )
    gaps = {"logprob_mean_gap": 0.01, "logprob_max_gap": 0.1, "peer_logprob_mean_gap": 0.01}
    tables.print_engine(EngineBench(machine="m", threads=2, dtype="bfloat16", peer="peer", product_flop_s=9e11, speeds=[speed], **gaps))
    out = capsys.readouterr().out
    assert "equal work, p: 2.50 times as fast (median of 3), 25% of the speed of products alone" in out
    assert "products alone: 900 GFLOP/s in bfloat16" in out


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
