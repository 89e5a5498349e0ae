"""What a learning job of a person learns if it names no target: what the planner would choose, as in a daemon."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import inf

from perdure.agent.config import Config
from perdure.agent.planning.import_targets import import_targets
from perdure.agent.planning.life_from_store import read_life
from perdure.agent.planning.next_step import next_step, ordinary_step
from perdure.agent.planning.step_kinds import GateNext, LearnNext, NothingNext
from perdure.agent.supervision.learning_jobs import step_options
from perdure.memory.contracts.orders import LearnOrder, OptionValue
from perdure.memory.environments import environments_in_use
from perdure.memory.errors import InputError
from perdure.memory.stages import list_stages
from perdure.memory.store import Store
from perdure.memory.versions import get_version, served_line, serving

Say = Callable[[str], None]


def known_stream(store: Store) -> list[str]:
    """The environments of the stream as the last daemon read it, as far as they are in use here; all in use if none has run yet."""
    known = [row.name for row in environments_in_use(store)]
    streamed = {share.name for stage in list_stages(store) for share in stage.environments}
    return [name for name in known if name in streamed] or known


def with_targets(
    store: Store, config: Config, order: LearnOrder, stream: Sequence[str], given: Mapping[str, OptionValue], say: Say
) -> tuple[LearnOrder, list[str]]:
    """An order that names no target, as the planner completes it, and its targets. Options that were `given` stay as they are.

    Raises `InputError` if nothing is learnable, or only with another learner; `UnknownError` if no version serves.
    """
    imported = import_targets(store, stream, str(order.options.get("traces", "")))
    if imported:
        return order, imported
    step = choose_step(store, stream, order.learner, say)
    if order.start is None:
        planned = {name: value for name, value in step_options(config, step).items() if name not in given}
        order = replace(order, options={**order.options, **planned}, start=step.start, aim=step.aim, follows=step.follows)
    return order, list(step.targets)


def choose_step(store: Store, stream: Sequence[str], learner: str, say: Say) -> LearnNext:
    """What the planner would learn next: by the live episodes of the serving version, else by those of the versions before it too.

    What was trained since those episodes is chosen last.
    """
    serving(store)  # raises if none does
    life = read_life(store, stream)
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
