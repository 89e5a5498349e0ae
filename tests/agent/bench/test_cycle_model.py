"""The model of the cycle, against numbers worked by hand, and against the limits that it must have."""

from __future__ import annotations

from dataclasses import replace

import pytest

from perdure.agent.bench.cluster.cluster_bench import forecasts
from perdure.agent.bench.cluster.constants import DEFAULT_CYCLE, check_model, costs_of, measured_kind
from perdure.agent.bench.cluster.cycle_model import (
    STREAM_TICK_S,
    Costs,
    PlayerKind,
    forecast_cycle,
    forecast_play,
    messages,
    rounds_s,
    saturating_players,
    service_s,
)
from perdure.agent.bench.cluster.players import PlayGrowth, PlayRate
from perdure.agent.bench.cluster.players_writing import PlayersWriting

COSTS = Costs(turn_s=1e-4, message_s=4e-4, episode_s=5e-4, ping_s=1e-4, answer_s=0.01, part_bytes_s=1e8)
KIND = PlayerKind(name="invented", width=10, turns=5, members=5, tokens=20, round_s=0.49)


def test_a_queue_of_one_server_is_what_mean_value_analysis_says_by_hand() -> None:
    """One player: 1 / (1 + 1). Two: the second finds the first half of the time, waits 1.5, and 2 / (1 + 1.5)."""
    assert rounds_s(1.0, 1.0, 1) == 0.5
    assert rounds_s(1.0, 1.0, 2) == pytest.approx(0.8)
    assert rounds_s(1.0, 0.0, 7) == 7.0
    assert rounds_s(0.0, 0.25, 9) == pytest.approx(4.0), "the server never rests"


def test_few_players_are_limited_by_themselves_and_many_by_the_journal() -> None:
    each = service_s(COSTS, KIND)
    assert messages(KIND) == pytest.approx(1 + 2 * 0.4 + 0.4 + 0.4)
    assert each == pytest.approx(2.6 * 4e-4 + 10 * (1e-4 + 1e-4))
    one = forecast_play(COSTS, KIND, 1)
    assert one.turns_s == pytest.approx(10 / (0.49 + 0.01 + each), rel=1e-4)
    assert one.limit == "players"
    full = saturating_players(COSTS, KIND)
    many = forecast_play(COSTS, KIND, 4 * full)
    assert many.limit == "journal"
    assert many.turns_s < 10 / each
    assert many.journal == pytest.approx(1.0, abs=0.02)
    rates = [forecast_play(COSTS, replace(KIND, round_s=5.0), n).turns_s for n in (1, 2, 4, 8)]
    assert [rate / rates[0] for rate in rates] == pytest.approx([1, 2, 4, 8], rel=0.01), "they wait, and do not disturb each other"


def test_a_stream_that_queues_too_few_tasks_limits_play() -> None:
    limited = forecast_play(COSTS, KIND, 50, queued_tasks=4)
    assert limited.limit == "stream"
    assert limited.turns_s == 4 * KIND.members * KIND.turns / STREAM_TICK_S


def test_the_longest_part_is_the_bottleneck() -> None:
    slow = forecast_cycle(COSTS, KIND, replace(DEFAULT_CYCLE, episodes=100_000), 1)
    assert slow.bottleneck == "playing (players)"
    assert slow.cycle_s == slow.play_s
    quick = forecast_cycle(COSTS, KIND, DEFAULT_CYCLE, 20)
    assert quick.bottleneck == "learning"
    assert quick.cycle_s == quick.learn_s + quick.transfer_s + quick.gate_s
    ranks = forecast_cycle(COSTS, KIND, DEFAULT_CYCLE, 20, 10)
    assert DEFAULT_CYCLE.samples_s < ranks.learn_s < quick.learn_s
    assert forecast_cycle(COSTS, KIND, DEFAULT_CYCLE, 2000).bottleneck == "adapters on their way"
    alone, many = (forecast_cycle(COSTS, KIND, DEFAULT_CYCLE, n).gate_s for n in (1, 1000))
    assert alone == DEFAULT_CYCLE.gate_batches * 13 * KIND.turns * 0.5
    assert many == DEFAULT_CYCLE.gate_batches * 1 * KIND.turns * 0.5, "each batch decides whether there is another"


def test_the_costs_are_found_again_that_the_measurements_were_made_with() -> None:
    """Numbers as they would be measured if the model were true."""
    kind = measured_kind()
    true = replace(COSTS, answer_s=0.05)

    def writing(width: int) -> PlayersWriting:
        of_turn = true.turn_s + true.message_s / width
        return PlayersWriting(players=16, width=width, turns=1000, seconds=[1.0], journal_cpu_s=[1000 * of_turn])

    rates = tuple(
        PlayRate(
            players=n,
            turns_per_s=forecast_play(true, kind, n).turns_s,
            journal_cpu=forecast_play(true, kind, n).turns_s / kind.width * service_s(true, kind),
            player_cpu=0.0,
        )
        for n in (1, 2, 8)
    )
    growth = PlayGrowth(rates=rates, waits_only=16.0)
    found = costs_of(growth, writing(64), writing(4), true.ping_s, true.part_bytes_s)
    assert found.as_json() == pytest.approx(true.as_json(), rel=0.01)
    assert [check.measured / check.modelled for check in check_model(found, growth)] == pytest.approx([1, 1, 1], rel=1e-3)


def test_the_forecast_has_every_size_of_both_kinds_of_players() -> None:
    found = forecasts(COSTS)
    assert [(len(one.sizes), one.as_json()["sizes"][0]["players"]) for one in found] == [(5, 1)] * 4
    assert {size.bottleneck for one in found for size in one.sizes} >= {"learning", "playing (players)"}
