"""`perdure learn`, `perdure gate` and `perdure probe`: one job each, run by the daemon if there is one, else by the command itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from perdure.agent.show.gate_table import answers_drawn
from perdure.agent.show.terminal import Cell, config_option, home_option, print_json, print_table, report_option, say
from perdure.memory.contracts.orders import GateOrder, Job, LearnOrder, Order, ProbeOrder
from perdure.memory.contracts.results import GateResult, LearnResult, ProbeResult
from perdure.memory.errors import InputError

if TYPE_CHECKING:
    from perdure.agent.config_file import LoadedConfig
    from perdure.agent.planning.step_kinds import LearnNext
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
    from perdure.agent.config import check_learner
    from perdure.agent.config_file import load_config
    from perdure.agent.planning.import_targets import import_targets
    from perdure.agent.supervision.learning_jobs import step_options
    from perdure.memory.versions import get_version, require_files

    check_learner(learner)
    loaded = load_config(config_path)
    asked = profile or loaded.config.gate.profile
    given = _pairs(options)
    chosen = loaded.config.learner_options(learner, given)
    order = LearnOrder(learner=learner, options=chosen, gate=not no_gate, profile=asked, start=start)

    def check(store: Store) -> None:
        if start is not None:
            require_files(store, get_version(store, start))
        _check_sources(store, chosen)

    with _prepared(home, loaded, targets, check) as prepared:
        aims = prepared.targets or import_targets(prepared.store, prepared.stream, str(chosen.get("traces", "")))
        if not aims:
            step = _choose(prepared, learner)
            aims = list(step.targets)
            if start is None:
                planned = {name: value for name, value in step_options(loaded.config, step).items() if name not in given}
                order = replace(order, options={**chosen, **planned}, start=step.start, aim=step.aim, follows=step.follows)
    job = _see_through(home, loaded, aims, order, as_json)
    if isinstance(job.result, LearnResult) and not as_json:
        _print_learning(job.result, asked)
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
    from perdure.agent.config_file import load_config
    from perdure.memory.versions import get_version, require_files

    if self_test == (candidate is not None):
        raise click.UsageError("Give the version to be gated, or --self-test.", ctx)
    if self_test:
        ctx.exit(0 if _self_test(runs, profile, as_json) else 1)
    assert candidate is not None
    loaded = load_config(config_path)

    def check(store: Store) -> None:
        require_files(store, version := get_version(store, candidate))
        if targets and version.state == "serving":
            raise InputError(f"{candidate} serves: there is no gain over itself to show; gate it without --target")

    with _prepared(home, loaded, targets, check) as prepared:
        aims = prepared.targets
    asked = profile or loaded.config.gate.profile
    job = _see_through(home, loaded, aims, GateOrder(candidate=candidate, profile=asked), as_json)
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
    from perdure.agent.config import VLLM_TEMPERATURE
    from perdure.agent.config_file import load_config
    from perdure.memory.versions import get_version, require_files

    if temperature == 0 and samples > 1:
        raise InputError(f"--samples {samples}: greedy answers to a seed are all the same; give --temperature too, such as 1")
    loaded = load_config(config_path)
    if loaded.config.engine == "vllm" and temperature > VLLM_TEMPERATURE:
        raise InputError(f"--temperature {temperature:g} is more than vLLM takes: {VLLM_TEMPERATURE:g} at most")

    def check(store: Store) -> None:
        if version is not None:
            require_files(store, get_version(store, version))

    with _prepared(home, loaded, targets, check) as prepared:
        aims = prepared.targets
    order = ProbeOrder(version=version, episodes=episodes, temperature=temperature, samples=samples)
    job = _see_through(home, loaded, aims, order, as_json)
    if isinstance(job.result, ProbeResult) and not as_json:
        rows = [(name, row.score, row.low, row.high, row.episodes) for name, row in job.result.environments.items()]
        title = f"{job.result.version} on held-out seeds: {answers_drawn(job.result.temperature, job.result.samples)}"
        print_table(("environment", "score", "from", "to", "seeds"), rows, title=title)


def _check_sources(store: Store, options: Mapping[str, Any]) -> None:
    """Raise if the order names rewards or traces that do not exist. The class of a reward model is made by its job: it may be large."""
    from importlib.util import find_spec

    from perdure.learners.options import ENVIRONMENT
    from perdure.learners.reward_source import MODEL
    from perdure.memory.trajectories.rewards import sources
    from perdure.memory.trajectories.traces import IMPORT, require_import

    traces, rewards = str(options.get("traces", "")), str(options.get("rewards", ENVIRONMENT))
    if traces.startswith(IMPORT):
        require_import(store, traces.removeprefix(IMPORT))
    if rewards.startswith(MODEL):
        module = rewards.removeprefix(MODEL).partition(":")[0]
        try:
            found = find_spec(module)
        except (ImportError, ValueError):
            found = None
        if found is None:
            raise InputError(f"rewards={rewards}: there is no module {module!r} here; name a class as py:package.module:Class")
    elif rewards != ENVIRONMENT and rewards not in (known := sources(store)):
        there = f"there are rewards of {', '.join(known)}" if known else "there are no stored rewards"
        raise InputError(f"rewards={rewards}: this source has no rewards; {there}; see `perdure episode reward --help`")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Prepared:
    """A home in which a job can be queued: its environments are registered."""

    store: Store
    stream: list[str]
    targets: list[str]


@contextmanager
def _prepared(home: Path, loaded: LoadedConfig, targets: Sequence[str], check: Callable[[Store], None]) -> Iterator[_Prepared]:
    """Open or make the home, and register the environments of the stages that have begun, and the targets. The default environments stay
    out of a home that has its own (`stream/own_stream.py`).

    All are loaded before anything is made. `check` raises what is wrong with the rest of the order, and nothing is registered then.
    """
    from perdure.agent.home import open_or_create
    from perdure.agent.own_model import require_own_model, require_room
    from perdure.agent.stream.own_stream import own_stream
    from perdure.agent.stream.registering import register_environments
    from perdure.agent.stream.task_drawing import begun, stages_of
    from perdure.memory.environments import list_environments, refuse_retired
    from perdure.memory.stages import progress

    config = loaded.config
    own = own_stream(home, loaded)
    environments = config.environments((*(config.stream.names if own is None else ()), *targets))
    stages = stages_of(config, {name: environment.name for name, environment in environments.items()}) if own is None else ()
    by_name = {environment.name: environment for environment in environments.values()}
    require_room(config, [environments[name] for name in targets], with_prompt=True)
    with open_or_create(home) as store:
        require_own_model(store, config)
        check(store)
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


def _choose(prepared: _Prepared, learner: str) -> LearnNext:
    """What the planner would learn next: by the live episodes of the serving version, else by those of the versions before it too.

    What was trained since those episodes is chosen last. Raises `InputError` if nothing is learnable, or only with another learner.
    """
    from math import inf

    from perdure.agent.planning.life_from_store import read_life
    from perdure.agent.planning.next_step import next_step, ordinary_step
    from perdure.agent.planning.step_kinds import GateNext, LearnNext, NothingNext
    from perdure.memory.versions import get_version, served_line, serving

    store = prepared.store
    serving(store)  # raises if none does
    life = read_life(store, prepared.stream)
    assert life is not None
    step = next_step(life)
    if isinstance(step, GateNext):
        say(f"a daemon would first gate again: {step.why}")
        step = ordinary_step(life)
    first, since = step, ""
    if isinstance(step, NothingNext):
        trained = {name for version in served_line(store)[1:] for name in get_version(store, version).targets}
        others = replace(life, environments=tuple(each for each in life.environments if each.name not in trained))
        older = (ordinary_step(part, prior_episodes=inf) for part in (others, life))
        step, since = next((found for found in older if isinstance(found, LearnNext)), step), f" since {life.serving}"
    if isinstance(step, NothingNext) or (isinstance(first, NothingNext) and step.aim != "gain"):
        raise InputError(f"no target was chosen: {first.why}; name one with --target, or let `perdure run` play more")
    if step.learner is not None and step.learner != learner:
        options = "".join(f" --option {name}={str(value).lower()}" for name, value in step.options.items())
        raise InputError(f"no target was chosen: {step.why}; `perdure learn {step.learner}{options} --target {step.targets[0]}` does that")
    if step.unfollowed:
        say(step.unfollowed)
    say(f"target {step.why}{since}")
    return step


def _see_through(home: Path, loaded: LoadedConfig, targets: Sequence[str], order: Order, as_json: bool) -> Job:
    """Queue the job and wait until it is done; with `as_json` print its result."""
    from perdure.agent.processes.installed_vllm import require_vllm
    from perdure.agent.supervision.run_or_follow import require_done, run_or_follow, submit
    from perdure.memory.contracts.json_form import result_document

    require_vllm(loaded.config)
    job = require_done(run_or_follow(home, loaded, submit(home, targets, order), say))
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
