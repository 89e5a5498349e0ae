"""What `perdure bench` prints for people: a table for each benchmark, and its ratios."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from perdure.agent.show.terminal import Cell, print_table

if TYPE_CHECKING:
    from perdure.agent.bench.actor_overhead import ActorTime
    from perdure.agent.bench.cluster.cluster_bench import ClusterBench
    from perdure.agent.bench.env_overhead import EnvironmentCost
    from perdure.agent.bench.history.history_speed import HistoryBench
    from perdure.agent.bench.journal_speed import JournalBench
    from perdure.agent.bench.large_store import ScaleBench
    from perdure.agent.bench.learner_sides import UpdatePair
    from perdure.agent.bench.pages.page_speed import PageBench, PageTime
    from perdure.agent.bench.sampling import EngineBench
    from perdure.agent.bench.upkeep_speed import UpkeepBench
    from perdure.agent.bench.vllm_speed import VllmBench

NO_PEER = "TRL is not installed, so there is no comparison: `pip install 'perdure[bench]'` adds it"


def print_engine(bench: EngineBench) -> None:
    rows = [
        (speed.work, speed.prompts, round(speed.prompt_tokens), round(ours), round(peer), speed.peer_dtype, ours / peer)
        for speed in bench.speeds
        for ours, peer in speed.rates
    ]
    title = f"tokens per second: perdure in {bench.dtype}, beside {bench.peer}, {bench.threads} threads"
    print_table(("work", "prompts", "their tokens", "perdure", "peer", "in", "ratio"), rows, title=title)
    for speed in bench.speeds:
        click.echo(
            f"{speed.work}, {speed.prompts}: {speed.ratio:.2f} times as fast (median of {len(speed.seconds)}), "
            f"{speed.share_of_bound:.0%} of the speed of products alone"
        )
    click.echo(f"products alone: {bench.product_flop_s / 1e9:.0f} GFLOP/s in {bench.dtype}")
    click.echo(
        f"log-probs: {bench.logprob_mean_gap:.4f} from those of a plain float32 pass on average, {bench.logprob_max_gap:.3f} at most; "
        f"a plain {bench.dtype} pass of transformers: {bench.peer_logprob_mean_gap:.4f}"
    )


def print_vllm(bench: VllmBench) -> None:
    rows = [(speed.sampler, round(ours), round(theirs), ours / theirs) for speed in bench.speeds for ours, theirs in speed.rates]
    asked = f"{bench.requests} requests of {bench.prompt_tokens:.0f} tokens, {bench.max_tokens} new"
    title = f"tokens per second through {bench.vllm}, {bench.model}: {asked}"
    print_table(("sampler", "perdure", "offline", "ratio"), rows, title=title)
    for speed in bench.speeds:
        click.echo(f"{speed.sampler}: {speed.ratio:.2f} of the offline API's speed (median of {len(speed.rates)})")
    click.echo(f"a new adapter's first token: {statistics.median(bench.swap_s):.3f} s (median of {len(bench.swap_s)})")


def print_learner(pairs: Sequence[UpdatePair]) -> None:
    rows = [
        (
            pair.work,
            pair.dtype,
            side,
            result.seconds_per_update,
            round(sum(result.tokens) / sum(result.seconds)),
            round(result.peak_bytes / 2**20),
            None if result.share_of_bound is None else f"{result.share_of_bound:.0%}",
        )
        for pair in pairs
        for side, result in (("perdure", pair.ours), ("TRL", pair.trl))
        if result is not None
    ]
    columns = ("work", "in", "side", "seconds per update", "tokens/s", "peak MiB", "of products alone")
    print_table(
        columns, rows, title=f"one GRPO update of {pairs[0].prompts} prompts x {pairs[0].samples} samples; a default job of its own"
    )
    for pair in pairs:
        ours = pair.ours
        if pair.ratio is not None:
            click.echo(f"{pair.work}, {pair.dtype}: {pair.ratio:.2f} times as fast, {1 / pair.ratio:.3f} of TRL's time")
        if pair.work == "default job":
            sampling = f"{statistics.median(ours.episodes):.0f} episodes in {statistics.median(ours.sampling_s):.1f} s"
            click.echo(f"{pair.work}, {pair.dtype}: {ours.seconds_per_update:.1f} s per update, of which sampling {sampling}")
    speeds = {pair.dtype: pair.ours.product_flop_s for pair in pairs}
    click.echo("products alone: " + ", ".join(f"{speed / 1e9:.0f} GFLOP/s in {dtype}" for dtype, speed in speeds.items()))
    if all(pair.trl is None for pair in pairs):
        click.echo(NO_PEER)


def print_store(journal: JournalBench, scale: ScaleBench) -> None:
    rows = [
        (
            *(speed.batch, round(speed.turns_per_second), round(speed.plain), round(speed.plain_ready), speed.ratio, speed.ratio_ready),
            f"{100 * speed.digests:.1f} %",
        )
        for speed in journal.speeds
    ]
    title = f"turns per second through the journal, beside plain sqlite3 {journal.sqlite} with the same settings"
    columns = ("turns at once", "perdure", "sqlite3", "its rows ready", "ratio", "ratio to ready rows", "digests' share")
    print_table(columns, rows, title=title)
    size = journal.size.as_json()
    print_table(tuple(size), [[round(part) for part in size.values()]], title="\nbytes per turn: 100 new prompt tokens, 128 of answer")
    click.echo(f"\n{scale.episodes} episodes, {scale.turns} turns, {scale.size_bytes / 1e6:.0f} MB, made in {scale.fill_s:.0f} s")
    asked = [(timing.what, 1000 * timing.median_s, 1000 * timing.p95_s) for timing in scale.timings]
    print_table(("query", "median ms", "p95 ms"), asked)


def print_upkeep(upkeep: UpkeepBench) -> None:
    click.echo(f"\ncheck: {upkeep.check_s:.1f} s, every row against its digest")
    click.echo(f"backup: {upkeep.backup_bytes / 1e6:.0f} MB in {upkeep.backup_s:.1f} s, checked")
    click.echo(
        f"prune: {upkeep.pruned_turns} turns in {upkeep.prune_s:.1f} s, to archives of {upkeep.archive_bytes / 1e6:.0f} MB; "
        f"the store is smaller by {upkeep.freed_bytes / 1e6:.0f} MB"
    )


def print_history(bench: HistoryBench) -> None:
    click.echo(
        f"archive: {bench.turns} turns in {bench.archive_s:.1f} s, {bench.turns / bench.archive_s:.0f} a second, with "
        f"{bench.archive_cpu_s:.1f} s of processor time; reading the same rows alone took {bench.read_s:.1f} s, and writing them alone "
        f"{bench.write_s:.1f} s"
    )
    click.echo(f"the store is smaller by {bench.bytes_before / 1e6:.0f} MB, the shards have {bench.shard_bytes / 1e6:.0f} MB")
    rows = [(one.what, statistics.median(one.seconds), max(one.seconds)) for one in bench.sql]
    print_table(("question", "median s", "slowest s"), rows, title=f"{bench.sql_turns} turns in {bench.sql_shards} shards")
    click.echo(f"the first one takes {bench.ratio:.2f} times as long as DuckDB alone on the same files (median of {len(bench.duckdb_s)})")


def print_play(times: Sequence[ActorTime]) -> None:
    rows = [(time.policy, time.episodes, time.rounds, time.wall_s, time.own_ms_per_round, f"{time.own_share:.1%}") for time in times]
    title = "an actor's work between generations, 32 episodes at once"
    print_table(("policy", "episodes", "rounds", "seconds", "own ms per round", "own share"), rows, title=title)


def print_envs(costs: Sequence[EnvironmentCost], batch: ActorTime) -> None:
    rows = [
        (cost.environment, round(cost.bare), round(cost.ours), cost.ratio, round(cost.sandboxed), round(cost.at_once)) for cost in costs
    ]
    columns = ("environment", "bare", "adapted", "ratio", "sandboxed", "64 at once")
    print_table(columns, rows, title="steps per second, making and reset included")
    click.echo(
        f"{batch.episodes} episodes of the stream, 64 at once, with {batch.policy}: {batch.empty_share:.1%} of the slots of "
        f"{batch.rounds} rounds of generation were empty while tasks were waiting"
    )


def print_web(bench: PageBench) -> None:
    from perdure.agent.bench.pages.page_speed import CLIENTS, missed

    alone, playing, learns = bench.sides
    click.echo(f"{bench.episodes} episodes, {bench.turns} turns, {bench.size_bytes / 1e6:.0f} MB, made in {bench.fill_s:.0f} s")
    rows: list[tuple[Cell, ...]] = [
        (
            page.path,
            page.page_bytes / 1000,
            page.all_bytes / 1000,
            *(1000 * one for other in (page, beside, busy) for one in _first_and_next(other)),
        )
        for page, beside, busy in zip(alone.pages, playing.pages, learns.pages, strict=True)
    ]
    columns = ("page", "KB", "with its files", "first ms", "then", "first, a daemon plays", "then", "first, its job learns", "then")
    print_table(columns, rows, title="pages")
    asked: list[tuple[Cell, ...]] = [
        (f"{CLIENTS} clients, {pace}", *(1000 * one for timing in timings for one in (timing.median_s, timing.p95_s)))
        for pace, timings in (
            ("once a second", [side.steady for side in bench.sides]),
            ("again and again", [side.busy for side in bench.sides]),
        )
    ]
    meanwhile = f"the daemon began {playing.episodes} episodes, then its job made {learns.updates} updates"
    heads = ("status", "median ms", "p95 ms", "median, a daemon plays", "p95", "median, its job learns", "p95")
    print_table(heads, asked, title=f"status; meanwhile {meanwhile}")
    click.echo(
        f"an open page takes {bench.lost:.1%} of an actor's time (median of {len(bench.pairs)} pairs), and {bench.processors:.1%} of the "
        "machine's processors"
    )
    for line in missed(bench):
        click.echo(f"not as aimed at: {line}")


def _first_and_next(page: PageTime) -> tuple[float, float]:
    return page.seconds[0], statistics.median(page.seconds[1:])


def print_cluster(bench: ClusterBench) -> None:
    rows: list[tuple[Cell, ...]] = [
        (one.players, one.measured, one.measured / bench.checks[0].measured, one.modelled, one.measured / one.modelled)
        for one in bench.checks
    ]
    print_table(("players", "turns/s", "times one", "model", "measured / model"), rows, title="play that waits")
    most = bench.checks[-1].players
    click.echo(f"{most} players play {bench.growth.times_one(most):.2f} times as much as one (median of pairs of windows)")
    click.echo(
        f"journal: {bench.writing.turns_per_second:.0f} turns/s from {bench.writing.players} players in messages of {bench.writing.width}, "
        f"{bench.small_messages.turns_per_second:.0f} in messages of {bench.small_messages.width}"
    )
    click.echo(f"idle: {bench.idle.players} players take {bench.idle.journal_cpu:.1%} of a core of the head")
    lost = bench.loss
    click.echo(f"lost: {lost.tasks} tasks of a killed player were played elsewhere {lost.first_s:.1f} to {lost.all_s:.1f} s later")
    for forecast in bench.forecasts:
        sizes: list[tuple[Cell, ...]] = [
            (
                one.play.players,
                one.ranks,
                one.play.turns_s,
                f"{one.play.journal:.0%}",
                *(f"{seconds:.1f}" for seconds in (one.play_s, one.learn_s, one.transfer_s, one.gate_s, one.cycle_s)),
                one.bottleneck,
            )
            for one in forecast.sizes
        ]
        title = f"forecast: {forecast.name}; {forecast.load}; {forecast.saturating} players fill the journal"
        columns = ("players", "ranks", "turns/s", "journal", "play s", "learn s", "adapters s", "gate s", "a version each s", "bottleneck")
        print_table(columns, sizes, title=title)
