"""`perdure learn`, `perdure gate` and `perdure probe`: one job each, run by the daemon if there is one, else by the command itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import click

from perdure.agent.show.gate_table import answers_drawn
from perdure.agent.show.terminal import Cell, config_option, home_option, print_json, print_table, report_option, say
from perdure.memory.contracts.orders import GateOrder, Job, Order
from perdure.memory.contracts.results import GateResult, LearnResult, ProbeResult
from perdure.memory.errors import InputError

if TYPE_CHECKING:
    from perdure.agent.config_file import LoadedConfig
    from perdure.memory.json_value import Document
    from perdure.memory.store import Store

PROFILES = click.Choice(["economy", "standard", "strict"])
profile_option = click.option("--profile", type=PROFILES, help="How small a loss the gate catches. [default: gate.profile]")


class _LearnCommand(click.Command):
    """Its help also lists the options of the learners, which are looked up only then."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from perdure.learners.option_parsing import option_entries

        for title, entries in groupby(option_entries(), lambda entry: entry.section):
            with formatter.section(f"For --option. {title}"):
                formatter.write_dl([(f"{entry.name}={entry.default}", entry.meaning) for entry in entries])


@click.command(cls=_LearnCommand)
@click.argument("learner")
@click.option("--target", "targets", multiple=True, metavar="ENV", help="What to get better at; may be repeated. [default: chosen]")
@click.option("--option", "options", multiple=True, metavar="NAME=VALUE", help="An option of the learner; may be repeated.")
@click.option("--no-gate", is_flag=True, help="Skip the gate; the result stays a candidate.")
@click.option("--start", metavar="VERSION", help="The version to train from. [default: the serving one]")
@profile_option
@home_option
@config_option
@report_option
@click.pass_context
def learn(
    ctx: click.Context,
    learner: str,
    targets: tuple[str, ...],
    options: tuple[str, ...],
    no_gate: bool,
    start: str | None,
    profile: str | None,
    home: Path,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Learn, gate, and promote if the gate says so.

    LEARNER is grpo, reinforce, iterative-sft or sdft, which learn from fresh answers of the agent (sdft needs right answers instead of
    rewards), or sft, self-sft or trace-sft, which learn from stored answers. Without a target the planner chooses, as in a daemon: what
    follows the last verdict, else the target that promises most. Exit code 1 if the gate did not promote.

    \b
    Example:
      perdure learn grpo --target 'perdure:largest-number?shots=3' --option updates=20 --option replay=0.5
      perdure learn sft --option demos=oracle --no-gate
    """
    from perdure.agent.changes.job_orders import queue_learn
    from perdure.agent.changes.order_checks import learn_order
    from perdure.agent.changes.person import person_here
    from perdure.agent.config import check_learner
    from perdure.agent.config_file import load_config

    check_learner(learner)
    loaded, by = load_config(config_path), person_here()
    given = _pairs(options)
    order = learn_order(loaded.config, by, learner, given, gate=not no_gate, start=start, profile=profile)
    with _prepared(home, loaded, targets, order) as prepared:
        queued = queue_learn(
            prepared.store,
            loaded,
            by,
            learner,
            targets=prepared.targets,
            options=given,
            gate=not no_gate,
            start=start,
            profile=profile,
            stream=prepared.stream,
            say=say,
        )
    job = _see_through(home, loaded, queued, as_json)
    if isinstance(job.result, LearnResult) and not as_json:
        _print_learning(job.result, profile or loaded.config.gate.profile)
    ctx.exit(0 if no_gate or job.verdict == "promote" else 1)


@click.command()
@click.argument("candidate", metavar="[VERSION]", required=False)
@click.option(
    "--target",
    "targets",
    multiple=True,
    metavar="ENV",
    help="Environment in which the candidate must beat the serving version; may be repeated.",
)
@profile_option
@click.option("--self-test", is_flag=True, help="Simulate bad candidates and check that at most alpha of them pass.")
@click.option("--runs", type=click.IntRange(50, 100_000), default=1000, show_default=True, help="Gates to simulate for each row.")
@home_option
@config_option
@report_option
@click.pass_context
def gate(
    ctx: click.Context,
    candidate: str | None,
    targets: tuple[str, ...],
    profile: str | None,
    self_test: bool,
    runs: int,
    home: Path,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Judge whether a candidate may serve.

    It never changes which version serves. Without a target only retention is judged. Exit code 0 only if the verdict is promote.

    \b
    Example:
      perdure gate v3 --target 'perdure:largest-number?shots=3' --profile standard
      perdure gate --self-test --runs 200
    """
    from perdure.agent.changes.job_orders import queue_gate
    from perdure.agent.changes.person import person_here
    from perdure.agent.config_file import load_config

    if self_test == (candidate is not None):
        raise click.UsageError("Give the version to be gated, or --self-test.", ctx)
    if self_test:
        ctx.exit(0 if _self_test(runs, profile, as_json) else 1)
    assert candidate is not None
    loaded = load_config(config_path)
    asked = profile or loaded.config.gate.profile
    with _prepared(home, loaded, targets, GateOrder(candidate=candidate, profile=asked)) as prepared:
        queued = queue_gate(prepared.store, loaded, person_here(), candidate, targets=prepared.targets, profile=profile)
    job = _see_through(home, loaded, queued, as_json)
    if isinstance(job.result, GateResult) and not as_json:
        _print_gate(job.result, asked)
        click.echo(f"verdict: {job.result.verdict}. {job.result.reason}")
    ctx.exit(0 if job.verdict == "promote" else 1)


@click.command()
@click.argument("version", metavar="[VERSION]", required=False)
@click.option("--episodes", type=click.IntRange(1, 100_000), default=50, show_default=True, help="Episodes of each environment.")
@click.option("--target", "targets", multiple=True, metavar="ENV", help="Only this environment; may be repeated. [default: all]")
@click.option(
    "--temperature", type=click.FloatRange(0, 10), default=0.0, show_default=True, help="At which answers are sampled; 0 is greedy."
)
@click.option("--samples", type=click.IntRange(1, 64), default=1, show_default=True, help="Answers to each seed; its score is their mean.")
@home_option
@config_option
@report_option
def probe(
    version: str | None,
    episodes: int,
    targets: tuple[str, ...],
    temperature: float,
    samples: int,
    home: Path,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Score a version on held-out seeds.

    The serving one by default, in every environment, greedily, on the same seeds each time, with 95 % intervals.

    \b
    Example:
      perdure probe v1 --episodes 100
      perdure probe v1 --temperature 1 --samples 4
    """
    from perdure.agent.changes.job_orders import queue_probe
    from perdure.agent.changes.order_checks import probe_order
    from perdure.agent.changes.person import person_here
    from perdure.agent.config_file import load_config

    loaded = load_config(config_path)
    order = probe_order(loaded.config, version, episodes, temperature, samples)
    with _prepared(home, loaded, targets, order) as prepared:
        queued = queue_probe(
            prepared.store,
            loaded,
            person_here(),
            version,
            targets=prepared.targets,
            episodes=episodes,
            temperature=temperature,
            samples=samples,
        )
    job = _see_through(home, loaded, queued, as_json)
    if isinstance(job.result, ProbeResult) and not as_json:
        rows = [(name, row.score, row.low, row.high, row.episodes) for name, row in job.result.environments.items()]
        title = f"{job.result.version} on held-out seeds: {answers_drawn(job.result.temperature, job.result.samples)}"
        print_table(("environment", "score", "from", "to", "seeds"), rows, title=title)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Prepared:
    """A home in which a job can be queued: its environments are registered."""

    store: Store
    stream: list[str]
    targets: list[str]


@contextmanager
def _prepared(home: Path, loaded: LoadedConfig, targets: Sequence[str], order: Order) -> Iterator[_Prepared]:
    """Open or make the home, and register the environments of the stages that have begun, and the targets. The default environments stay
    out of a home that has its own (`stream/own_stream.py`).

    All are loaded before anything is made. If the home lacks what the order names, this is raised, and nothing is registered.
    """
    from perdure.agent.changes.order_checks import check_order
    from perdure.agent.home import open_or_create
    from perdure.agent.own_model import require_own_model, require_room
    from perdure.agent.processes.vllm.installed_vllm import require_vllm
    from perdure.agent.stream.own_stream import own_stream
    from perdure.agent.stream.registering import register_environments
    from perdure.agent.stream.task_drawing import begun, stages_of
    from perdure.memory.environments import list_environments, refuse_retired
    from perdure.memory.stages import progress

    config = loaded.config
    require_vllm(config)
    own = own_stream(home, loaded)
    environments = config.environments((*(config.stream.names if own is None else ()), *targets))
    stages = stages_of(config, {name: environment.name for name, environment in environments.items()}) if own is None else ()
    by_name = {environment.name: environment for environment in environments.values()}
    require_room(config, [environments[name] for name in targets], with_prompt=True)
    with open_or_create(home) as store:
        require_own_model(store, config)
        check_order(store, order, targets)
        for name in targets:
            refuse_retired(store, environments[name].name)
        stream = [by_name[share.name] for stage in begun(stages, progress(store)) for share in stage.environments]
        critical = {row.name for row in list_environments(store) if row.critical}  # only a daemon takes this from an environment
        critical.update(environments[name].name for name in config.gate.critical if name in environments)
        yield _Prepared(
            store=store,
            stream=register_environments(store, stream, critical) if own is None else own,
            targets=register_environments(store, [environments[name] for name in targets]),
        )


def _see_through(home: Path, loaded: LoadedConfig, queued: Document, as_json: bool) -> Job:
    """Wait until a queued job is done; with `as_json` print its result."""
    from perdure.agent.supervision.run_or_follow import require_done, run_or_follow
    from perdure.memory.contracts.json_form import result_document

    job = require_done(run_or_follow(home, loaded, queued["id"], say))
    if as_json and job.result is not None:
        print_json(result_document(job.result))
    return job


def _pairs(options: Sequence[str]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in options:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise InputError(f"--option {text}: write NAME=VALUE, as in --option updates=20")
        if name.strip() in pairs:
            raise InputError(f"--option {name.strip()} is given twice: leave one out")
        pairs[name.strip()] = value.strip()
    return pairs


def _self_test(runs: int, profile: str | None, as_json: bool) -> bool:
    """Print measured rates beside their bounds; False if one is above."""
    from perdure.learners.gate.rates import self_test
    from perdure.learners.gate.scope import PROFILES as ALL

    rates = []
    for rate in self_test(runs, profiles=[profile] if profile else tuple(ALL)):
        say(f"{rate.profile}, {rate.earlier} earlier: {rate.truth}: promoted {rate.promoted:.3f}, at most {rate.bound or 1:.3f}")
        rates.append(rate)
    ok = all(rate.ok for rate in rates)
    if as_json:
        print_json({"ok": ok, "rates": [rate.as_json() for rate in rates]})
        return ok
    columns = ("the truth", "profile", "earlier", "runs", "promoted", "bound", "episodes", "within bound")
    rows: list[Sequence[Cell]] = [
        (rate.truth, rate.profile, rate.earlier, rate.runs, rate.promoted, rate.bound, round(rate.episodes), rate.ok) for rate in rates
    ]
    print_table(columns, rows, title="How often the gate promotes simulated candidates")
    return ok


def _print_learning(result: LearnResult, asked: str) -> None:
    from perdure.agent.show.candidate_line import candidate_line
    from perdure.memory.contracts.json_form import update_document

    if result.gate is not None:
        _print_gate(result.gate, asked)
    if result.diagnostics is not None:
        numbers = [(name, value) for name, value in update_document(result.diagnostics).items() if value is not None]
        print_table(("diagnostic of the last update", "value"), numbers)
    print_table(("cost of all updates", "value"), list(asdict(result.cost).items()))
    click.echo(candidate_line(result))
    click.echo(f"{result.version}: {result.verdict or 'not gated'}. {result.reason}")


def _print_gate(result: GateResult, asked: str) -> None:
    """`asked` is the profile that was asked for."""
    from perdure.agent.show.gate_table import print_gate

    print_gate(result)
    if result.profile != asked:
        click.echo(f"The margins of {result.profile} applied, not those of {asked}: too few earlier environments vote for smaller ones.")
