"""`perdure bench`: the project's own benchmarks, as ratios to a peer."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from perdure.agent.show.terminal import config_option, print_json, report_option
from perdure.agent.show.terminal import report_progress as say
from perdure.memory.errors import InputError

if TYPE_CHECKING:
    from perdure.agent.bench.actor_overhead import ActorTime
    from perdure.agent.bench.cluster.cluster_bench import ClusterBench
    from perdure.agent.bench.env_overhead import EnvironmentCost
    from perdure.agent.bench.history.history_speed import HistoryBench
    from perdure.agent.bench.journal_speed import JournalBench
    from perdure.agent.bench.large_store import ScaleBench
    from perdure.agent.bench.learner_sides import UpdatePair
    from perdure.agent.bench.pages.page_speed import PageBench
    from perdure.agent.bench.sampling import EngineBench
    from perdure.agent.bench.upkeep_speed import UpkeepBench
    from perdure.agent.bench.vllm_speed import VllmBench
    from perdure.agent.config_file import LoadedConfig
    from perdure.envs.environment import Environment
    from perdure.learners.weights.base_models import ModelFiles
    from perdure.memory.json_value import Document

ALL = "all"
NAMES = ("engine", "vllm", "learner", "store", "history", "play", "envs", "web", "cluster")
SHAPES = ("model", "1b")
TASK = "perdure:smallest-number?shots=3"
JOURNAL_RUNS = 5
"""In each repeat: they are short."""


@click.command()
@click.argument("name", metavar="[NAME]", type=click.Choice((*NAMES, ALL)), required=False)
@click.option(
    "--repeats",
    type=click.IntRange(1, 100),
    default=3,
    show_default=True,
    help="Runs of each side, except in learner and play; web: pairs.",
)
@click.option("--episodes", type=click.IntRange(100), default=100_000, show_default=True, help="store and web: size of the large store.")
@click.option("--turns", type=click.IntRange(1000), default=10_000_000, show_default=True, help="history: turns in shards that SQL reads.")
@click.option("--updates", type=click.IntRange(1, 100), default=3, show_default=True, help="learner: updates of each side after a warm-up.")
@click.option(
    "--tokens", type=click.IntRange(2, 4096), default=40, show_default=True, help="engine, vllm and learner: tokens of the longest answer."
)
@click.option(
    "--shape",
    type=click.Choice(SHAPES),
    default=SHAPES[0],
    show_default=True,
    help="vllm: the configured model, or random weights in the shape of a 1B model with its tokenizer.",
)
@click.option("--target", metavar="ENV", default=TASK, show_default=True, help="learner: what is learned, in one turn.")
@config_option
@report_option
@click.pass_context
def bench(
    ctx: click.Context,
    name: str | None,
    repeats: int,
    updates: int,
    tokens: int,
    episodes: int,
    turns: int,
    shape: str,
    target: str,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Measure Perdure beside its peers on this machine.

    NAME is engine (sampling, beside `generate` of transformers), vllm (sampling through the runtime, beside vLLM's own offline API),
    learner (one GRPO update in bfloat16 and float32, beside TRL if it is installed, and one of a default job), store (the journal, beside
    plain sqlite3, and a large store), history (old turns that move into shards, and SQL over many, beside DuckDB alone), play (an actor's
    work between generations), envs (environments with and without adapter and sandbox, and how full a batch of 64 episodes stays), web
    (the page and the API over a large store, alone and in a daemon that plays and learns, and what an open page costs an actor) or
    cluster (players that wait, the journal that writes for them, a player that is lost, and what a model of the cycle forecasts). all
    runs them one after the other, vllm only if it is the engine, and web and cluster not: they take longest.
    Engine and learner also say which share they reached of the machine's bound: the time of their matrix products alone, at the speed of a
    large product. Each takes some minutes, learner beside TRL a quarter of an hour, and needs the machine for itself: only ratios from one
    run mean anything. How far it is goes to stderr. The stores of store, history and web are measured in the folder for temporary files,
    which TMPDIR names: it should be on a real disk with 10 GB free.

    \b
    Example:
      perdure bench engine --repeats 5
      perdure bench learner --updates 1 --json
      perdure bench vllm --shape 1b
      TMPDIR=/var/tmp perdure bench store
    """
    from perdure.agent.bench import tables
    from perdure.agent.config_file import load_config
    from perdure.agent.supervision.children import CHILD_ENVIRONMENT

    if name is None:
        raise click.exceptions.NoArgsIsHelpError(ctx)
    os.environ.setdefault("OMP_WAIT_POLICY", CHILD_ENVIRONMENT["OMP_WAIT_POLICY"])  # as Perdure's own processes run, for both sides
    loaded = load_config(config_path)
    document: Document = {}
    if name in (ALL, "engine"):
        engine = _engine(loaded, repeats, tokens)
        document["engine"] = engine.as_json()
        if not as_json:
            tables.print_engine(engine)
    if name == "vllm" or (name == ALL and loaded.config.engine == "vllm"):
        served = _vllm(loaded, shape, repeats, tokens)
        document["vllm"] = served.as_json()
        if not as_json:
            tables.print_vllm(served)
    if name in (ALL, "learner"):
        pairs = _learner(loaded, target, updates, tokens)
        note = tables.NO_PEER if all(pair.trl is None for pair in pairs) else None
        document["learner"] = {"environment": target, "rows": [pair.as_json() for pair in pairs], "note": note}
        if not as_json:
            tables.print_learner(pairs)
    if name in (ALL, "store"):
        journal, scale, upkeep = _store(episodes, repeats)
        document["store"] = {"journal": journal.as_json(), "large": scale.as_json(), "upkeep": upkeep.as_json()}
        if not as_json:
            tables.print_store(journal, scale)
            tables.print_upkeep(upkeep)
    if name in (ALL, "history"):
        history = _history(turns, repeats)
        document["history"] = history.as_json()
        if not as_json:
            tables.print_history(history)
    if name in (ALL, "envs"):
        costs, batch = _envs(loaded, repeats)
        document["envs"] = {"costs": [cost.as_json() for cost in costs], "batch": batch.as_json()}
        if not as_json:
            tables.print_envs(costs, batch)
    if name in (ALL, "play"):
        times = _play(loaded)
        document["play"] = [time.as_json() for time in times]
        if not as_json:
            tables.print_play(times)
    if name == "web":
        pages = _web(loaded, episodes, repeats)
        document["web"] = pages.as_json()
        if not as_json:
            tables.print_web(pages)
    if name == "cluster":
        cluster = _cluster(repeats)
        document["cluster"] = cluster.as_json()
        if not as_json:
            tables.print_cluster(cluster)
    if as_json:
        print_json(document if name == ALL else document[name])


def _played(loaded: LoadedConfig) -> tuple[ModelFiles, list[Environment]]:
    """The configured model, and the environments of the stream."""
    from perdure.agent.home import cache_dir
    from perdure.learners.weights.base_models import resolve_model

    environments = list(loaded.config.environments(loaded.config.stream.names).values())
    return resolve_model(loaded.config.model, cache_dir(), say), environments


@contextmanager
def _scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="perdure-bench-") as name:
        yield Path(name)


def _engine(loaded: LoadedConfig, repeats: int, tokens: int) -> EngineBench:
    from perdure.agent.bench.sampling import bench_engine

    files, environments = _played(loaded)
    return bench_engine(files, environments, device=loaded.config.device, repeats=repeats, max_tokens=tokens, say=say)


def _vllm(loaded: LoadedConfig, shape: str, repeats: int, tokens: int) -> VllmBench:
    from perdure.agent.bench.vllm_serving import serving
    from perdure.agent.bench.vllm_speed import bench_vllm, offline, random_1b
    from perdure.agent.home import cache_dir
    from perdure.agent.processes.open_engine import server_limits
    from perdure.agent.processes.vllm.cards import seen
    from perdure.agent.processes.vllm.installed_vllm import find_vllm, interpreter
    from perdure.agent.processes.vllm.vllm_command import offline_arguments, variables
    from perdure.learners.engines.vllm_engine import VllmEngine
    from perdure.learners.weights.base_models import resolve_model
    from perdure.memory.store import create_store

    settings = loaded.config.vllm
    version = find_vllm(settings)
    files, environments = _played(loaded)
    with _scratch() as home:
        create_store(home).close()
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
                variables(settings, "") | seen(loaded.config.servers[0], os.environ),
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


def _learner(loaded: LoadedConfig, target: str, updates: int, tokens: int) -> list[UpdatePair]:
    from perdure.agent.bench.learner_sides import BatchSpec, default_batch
    from perdure.agent.bench.updates import BATCH, bench_learner
    from perdure.envs.registry import load

    environment = load(target)
    if environment.open_remote is not None:
        raise InputError(f"{target} runs in a process of its own, where rewards cannot be replaced for equal work: name one such as {TASK}")
    if environment.turn_limit > 1:
        raise InputError(f"{target} has more than one turn, which TRL plays differently: name one with one turn, such as {TASK}")
    files, stream = _played(loaded)
    device = loaded.config.device
    prompts, samples = BATCH[device]
    batch = BatchSpec(environment=target, max_tokens=tokens, prompts=prompts, samples=samples)
    return bench_learner(files, batch, default_batch([one.name for one in stream]), device=device, updates=updates, say=say)


def _store(episodes: int, repeats: int) -> tuple[JournalBench, ScaleBench, UpkeepBench]:
    from perdure.agent.bench.journal_speed import bench_journal
    from perdure.agent.bench.large_store import bench_scale
    from perdure.agent.bench.store_queries import COMMANDS, DAEMON
    from perdure.agent.bench.upkeep_speed import bench_upkeep

    with _scratch() as folder:
        journal = bench_journal(folder, repeats=JOURNAL_RUNS * repeats, say=say)
        scale = bench_scale(folder, episodes, COMMANDS | DAEMON, say=say)
        return journal, scale, bench_upkeep(scale.home, episodes, say=say)


def _history(turns: int, repeats: int) -> HistoryBench:
    from perdure.agent.bench.history.history_speed import bench_history
    from perdure.memory.history.read_sql import require_duckdb

    require_duckdb()
    with _scratch() as folder:
        return bench_history(folder, turns, repeats=repeats, say=say)


def _web(loaded: LoadedConfig, episodes: int, pairs: int) -> PageBench:
    from perdure.agent.bench.pages.page_speed import bench_pages
    from perdure.agent.home import cache_dir
    from perdure.agent.web_conditions import require_web
    from perdure.envs.registry import load
    from perdure.learners.weights.base_models import resolve_model

    require_web()
    model, device = loaded.config.model, loaded.config.device
    files = resolve_model(model, cache_dir(), say)
    with _scratch() as folder:
        return bench_pages(folder, episodes, files, load(TASK), model=model, device=device, pairs=pairs, say=say)


def _cluster(repeats: int) -> ClusterBench:
    from perdure.agent.bench.cluster.cluster_bench import bench_cluster
    from perdure.agent.web_conditions import require_web

    require_web()
    with _scratch() as folder:
        return bench_cluster(folder, repeats=repeats, say=say)


def _play(loaded: LoadedConfig) -> list[ActorTime]:
    from perdure.agent.bench.actor_overhead import bench_play

    files, environments = _played(loaded)
    with _scratch() as folder:
        return bench_play(folder, files, environments, device=loaded.config.device, say=say)


def _envs(loaded: LoadedConfig, repeats: int) -> tuple[list[EnvironmentCost], ActorTime]:
    from perdure.agent.bench.actor_overhead import bench_batch
    from perdure.agent.bench.env_overhead import bench_envs

    costs = bench_envs(say, repeats)
    files, environments = _played(loaded)
    with _scratch() as folder:
        return costs, bench_batch(folder, files, environments, device=loaded.config.device, say=say)
