"""`perdure bench`: the project's own benchmarks, as ratios to a peer."""

from __future__ import annotations

import os
import statistics
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from perdure.agent.show.terminal import config_option, print_json, print_table, report_option, say
from perdure.memory.errors import InputError

if TYPE_CHECKING:
    from perdure.agent.bench.actor_overhead import Share
    from perdure.agent.bench.env_overhead import Cost
    from perdure.agent.bench.journal_speed import JournalBench
    from perdure.agent.bench.large_store import ScaleBench
    from perdure.agent.bench.sampling import EngineBench
    from perdure.agent.bench.updates import Pair
    from perdure.agent.bench.upkeep_speed import UpkeepBench
    from perdure.agent.bench.vllm_speed import VllmBench
    from perdure.agent.config_file import LoadedConfig

NAMES = ("engine", "vllm", "learner", "store", "play", "envs")
SHAPES = ("model", "1b")
TASK = "perdure:smallest-number?shots=3"
JOURNAL_RUNS = 5
"""In each repeat: they are short."""


@click.command()
@click.argument("name", metavar="[NAME]", type=click.Choice(NAMES), required=False)
@click.option("--repeats", type=click.IntRange(1, 100), default=3, show_default=True, help="All but learner and play: runs of each side.")
@click.option("--episodes", type=click.IntRange(100), default=100_000, show_default=True, help="store: size of the large store.")
@click.option("--updates", type=click.IntRange(1, 100), default=3, show_default=True, help="learner: updates of each side after a warm-up.")
@click.option("--tokens", type=click.IntRange(2, 4096), default=40, show_default=True, help="The longest answer.")
@click.option(
    "--shape",
    type=click.Choice(SHAPES),
    default=SHAPES[0],
    show_default=True,
    help="vllm: the configured model, or random weights in the shape of a model of 1B parameters that talks as that one does.",
)
@click.option("--target", metavar="ENV", default=TASK, show_default=True, help="learner: what is learned, in one turn.")
@config_option
@report_option
def bench(
    name: str | None,
    repeats: int,
    updates: int,
    tokens: int,
    episodes: int,
    shape: str,
    target: str,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Measure this machine against a peer.

    NAME is engine (sampling, beside `generate` of transformers), vllm (sampling through the runtime, beside vLLM's own offline API),
    learner (one GRPO update, beside TRL where it is installed), store (the journal, beside plain sqlite3, and a large store), play (what an
    actor does between generations) or envs (environments beside themselves without adapter and sandbox, and how full a batch of 64 episodes
    stays); without one all are run, vllm where it is the engine. Each takes some minutes and wants the machine for itself: only ratios
    taken in one run mean anything. The store is measured in the folder for temporary files, which TMPDIR names: it should be on a real
    disk, with 10 GB free.

    \b
    Example:
      perdure bench engine --repeats 5
      perdure bench learner --updates 1 --json
      perdure bench vllm --shape 1b
      TMPDIR=/var/tmp perdure bench store
    """
    from perdure.agent.config_file import load_config
    from perdure.agent.supervision.children import CHILD_ENVIRONMENT

    os.environ.setdefault("OMP_WAIT_POLICY", CHILD_ENVIRONMENT["OMP_WAIT_POLICY"])  # as Perdure's own processes run, for both sides
    loaded = load_config(config_path)
    found: dict[str, Any] = {}
    if name in (None, "engine"):
        engine = _engine(loaded, repeats, tokens)
        found["engine"] = engine.as_json()
        if not as_json:
            _print_engine(engine)
    if name == "vllm" or (name is None and loaded.config.engine == "vllm"):
        served = _vllm(loaded, shape, repeats, tokens)
        found["vllm"] = served.as_json()
        if not as_json:
            _print_vllm(served)
    if name in (None, "learner"):
        pairs = _learner(loaded, target, updates, tokens)
        found["learner"] = {"environment": target, "rows": [pair.as_json() for pair in pairs], "note": _note(pairs)}
        if not as_json:
            _print_learner(pairs)
    if name in (None, "store"):
        journal, scale, upkeep = _store(episodes, repeats)
        found["store"] = {"journal": journal.as_json(), "large": scale.as_json(), "upkeep": upkeep.as_json()}
        if not as_json:
            _print_store(journal, scale)
            _print_upkeep(upkeep)
    if name in (None, "envs"):
        costs, batch = _envs(loaded, repeats)
        found["envs"] = {"costs": [cost.as_json() for cost in costs], "batch": batch.as_json()}
        if not as_json:
            _print_envs(costs, batch)
    if name in (None, "play"):
        shares = _play(loaded)
        found["play"] = [share.as_json() for share in shares]
        if not as_json:
            _print_play(shares)
    if as_json:
        print_json(found[name] if name else found)


def _engine(loaded: LoadedConfig, repeats: int, tokens: int) -> EngineBench:
    from perdure.agent.bench.sampling import bench_engine
    from perdure.agent.home import cache_dir
    from perdure.learners.weights.base_models import resolve_model

    environments = list(loaded.config.environments(loaded.config.stream.names).values())
    files = resolve_model(loaded.config.model, cache_dir(), say)
    return bench_engine(files, environments, device=loaded.config.device, repeats=repeats, max_tokens=tokens, say=say)


def _vllm(loaded: LoadedConfig, shape: str, repeats: int, tokens: int) -> VllmBench:
    from perdure.agent.bench.vllm_serving import serving
    from perdure.agent.bench.vllm_speed import bench_vllm, offline, random_1b
    from perdure.agent.home import cache_dir
    from perdure.agent.processes.installed_vllm import find_vllm, interpreter
    from perdure.agent.processes.open_engine import server_limits
    from perdure.agent.processes.vllm_command import offline_arguments, variables
    from perdure.learners.engines.vllm_engine import VllmEngine
    from perdure.learners.weights.base_models import resolve_model
    from perdure.memory.store import create_store

    settings = loaded.config.vllm
    version = find_vllm(settings)
    environments = list(loaded.config.environments(loaded.config.stream.names).values())
    with tempfile.TemporaryDirectory(prefix="perdure-bench-") as name:
        home = Path(name)
        create_store(home).close()
        files = resolve_model(loaded.config.model, cache_dir(), say)
        if shape == "1b":
            say("making random weights of that shape (2.1 GB)")
            random_1b(home / shape, files)
            files = resolve_model(str(home / shape), cache_dir(), say)
        say("starting both sides")
        with (
            serving(home, loaded.path, settings.start_timeout_s, files.name),
            offline(
                interpreter(settings),
                offline_arguments(settings, files),
                variables(settings, ""),
            ) as peer,
        ):
            return bench_vllm(
                VllmEngine(files, home, server_limits(loaded.config)),
                peer,
                environments,
                vllm=version,
                model=loaded.config.model if shape == "model" else f"random weights of {shape} shape",
                width=loaded.config.play.width,
                rank=settings.max_rank,
                repeats=repeats,
                max_tokens=tokens,
                say=say,
            )


def _learner(loaded: LoadedConfig, target: str, updates: int, tokens: int) -> list[Pair]:
    from perdure.agent.bench.updates import bench_learner
    from perdure.agent.home import cache_dir
    from perdure.envs.registry import load
    from perdure.learners.weights.base_models import resolve_model

    environment = load(target)
    if environment.apart is not None:
        raise InputError(
            f"{target} runs in a process of its own, where rewards cannot be exchanged for equal work: name one such as {TASK}"
        )
    if environment.turn_limit > 1:
        raise InputError(f"{target} has more than one turn, which TRL plays in another way: name one of one turn, such as {TASK}")
    files = resolve_model(loaded.config.model, cache_dir(), say)
    return bench_learner(files, target, device=loaded.config.device, updates=updates, max_tokens=tokens, say=say)


def _store(episodes: int, repeats: int) -> tuple[JournalBench, ScaleBench, UpkeepBench]:
    from perdure.agent.bench.journal_speed import bench_journal
    from perdure.agent.bench.large_store import bench_scale
    from perdure.agent.bench.store_queries import COMMANDS, DAEMON
    from perdure.agent.bench.upkeep_speed import bench_upkeep

    with tempfile.TemporaryDirectory(prefix="perdure-bench-") as name:
        folder = Path(name)
        journal = bench_journal(folder, repeats=JOURNAL_RUNS * repeats, say=say)
        scale = bench_scale(folder, episodes, COMMANDS | DAEMON, say=say)
        return journal, scale, bench_upkeep(scale.home, episodes, say=say)


def _play(loaded: LoadedConfig) -> list[Share]:
    from perdure.agent.bench.actor_overhead import bench_play
    from perdure.agent.home import cache_dir
    from perdure.learners.weights.base_models import resolve_model

    environments = list(loaded.config.environments(loaded.config.stream.names).values())
    files = resolve_model(loaded.config.model, cache_dir(), say)
    with tempfile.TemporaryDirectory(prefix="perdure-bench-") as name:
        return bench_play(Path(name), files, environments, device=loaded.config.device, say=say)


def _envs(loaded: LoadedConfig, repeats: int) -> tuple[list[Cost], Share]:
    from perdure.agent.bench.actor_overhead import bench_batch
    from perdure.agent.bench.env_overhead import bench_envs
    from perdure.agent.home import cache_dir
    from perdure.learners.weights.base_models import resolve_model

    costs = bench_envs(say, repeats)
    environments = list(loaded.config.environments(loaded.config.stream.names).values())
    files = resolve_model(loaded.config.model, cache_dir(), say)
    with tempfile.TemporaryDirectory(prefix="perdure-bench-") as name:
        return costs, bench_batch(Path(name), files, environments, device=loaded.config.device, say=say)


def _print_engine(found: EngineBench) -> None:
    rows = [
        (speed.work, speed.prompts, round(speed.prompt_tokens), round(ours), round(peer), speed.peer_dtype, ours / peer)
        for speed in found.speeds
        for ours, peer in speed.rates
    ]
    title = f"tokens per second: perdure in {found.dtype}, beside {found.peer}, {found.threads} threads"
    print_table(("work", "prompts", "their tokens", "perdure", "peer", "in", "ratio"), rows, title=title)
    for speed in found.speeds:
        click.echo(f"{speed.work}, {speed.prompts}: {speed.ratio:.2f} times as fast (median of {len(speed.seconds)})")
    click.echo(
        f"log-probs: {found.logprob_mean_gap:.4f} from those of a plain float32 pass on average, {found.logprob_max_gap:.3f} at most; "
        f"a plain {found.dtype} pass of transformers: {found.peer_logprob_mean_gap:.4f}"
    )


def _print_vllm(found: VllmBench) -> None:
    rows = [(speed.sampler, round(ours), round(theirs), ours / theirs) for speed in found.speeds for ours, theirs in speed.rates]
    asked = f"{found.requests} requests of {found.prompt_tokens:.0f} tokens, {found.max_tokens} new"
    title = f"tokens per second through {found.vllm}, {found.model}: {asked}"
    print_table(("sampler", "perdure", "offline", "ratio"), rows, title=title)
    for speed in found.speeds:
        click.echo(f"{speed.sampler}: {speed.ratio:.2f} of the offline API's speed (median of {len(speed.rates)})")
    click.echo(f"a new adapter's first token: {statistics.median(found.swap_s):.3f} s (median of {len(found.swap_s)})")


def _print_learner(pairs: list[Pair]) -> None:
    rows = [
        (pair.work, side, one.seconds_per_update, round(sum(one.tokens) / sum(one.seconds)), round(one.peak_bytes / 2**20))
        for pair in pairs
        for side, one in (("perdure", pair.ours), ("TRL", pair.trl))
        if one is not None
    ]
    title = f"one GRPO update of {pairs[0].prompts} prompts x {pairs[0].samples} samples"
    print_table(("work", "side", "seconds an update", "tokens/s", "peak MiB"), rows, title=title)
    for pair in pairs:
        if pair.ratio is not None:
            click.echo(f"{pair.work}: {pair.ratio:.2f} times as fast")
    if note := _note(pairs):
        click.echo(note)


def _print_store(journal: JournalBench, scale: ScaleBench) -> None:
    found = [speed.as_json() for speed in journal.speeds]
    rows = [(row["batch"], *(round(row[side]) for side in ("turns_per_second", "plain", "plain_ready"))) for row in found]
    ratios = [(row["ratio"], row["ratio_ready"]) for row in found]
    title = f"turns per second through the journal, beside plain sqlite3 {journal.sqlite} with the same settings"
    columns = ("turns at once", "perdure", "sqlite3", "its rows ready", "ratio", "ratio to ready rows")
    print_table(columns, [row + ratio for row, ratio in zip(rows, ratios, strict=True)], title=title)
    size = journal.size.as_json()
    print_table(tuple(size), [[round(part) for part in size.values()]], title="\nbytes a turn: 100 new prompt tokens, 128 of answer")
    click.echo(f"\n{scale.episodes} episodes, {scale.turns} turns, {scale.size_bytes / 1e6:.0f} MB, made in {scale.fill_s:.0f} s")
    asked = [(timing.what, 1000 * timing.median_s, 1000 * timing.p95_s) for timing in scale.timings]
    print_table(("asked of it", "median ms", "p95 ms"), asked)


def _print_upkeep(found: UpkeepBench) -> None:
    click.echo(f"\nbackup: {found.backup_bytes / 1e6:.0f} MB in {found.backup_s:.1f} s, checked")
    click.echo(
        f"prune: {found.pruned_turns} turns in {found.prune_s:.1f} s, to archives of {found.archive_bytes / 1e6:.0f} MB; "
        f"the store is smaller by {found.freed_bytes / 1e6:.0f} MB"
    )


def _print_play(shares: list[Share]) -> None:
    rows = [
        (share.policy, share.episodes, share.rounds, share.wall_s, share.own_ms_per_round, f"{share.own_share:.1%}") for share in shares
    ]
    title = "what an actor does between generations, 32 episodes at once"
    print_table(("policy", "episodes", "rounds", "seconds", "own ms a round", "own share"), rows, title=title)


def _print_envs(costs: list[Cost], batch: Share) -> None:
    rows = [
        (cost.environment, round(cost.bare), round(cost.ours), cost.ratio, round(cost.sandboxed), round(cost.at_once)) for cost in costs
    ]
    columns = ("environment", "bare", "adapted", "ratio", "sandboxed", "64 at once")
    print_table(columns, rows, title="steps per second, making and reset included")
    click.echo(
        f"{batch.episodes} episodes of the stream, 64 at once, with {batch.policy}: {batch.empty_share:.1%} of the slots of "
        f"{batch.rounds} rounds of generation were empty while tasks were waiting"
    )


def _note(pairs: list[Pair]) -> str | None:
    if any(pair.trl is not None for pair in pairs):
        return None
    return "TRL is not installed, so there is nothing to compare with: `pip install 'perdure[bench]'` adds it"
