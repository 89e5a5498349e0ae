"""Whether a job can be ordered as a person asks: what is wrong with an order is said before it is queued.

What does not come from the command line may name no code and no file: neither a reward model nor solved examples. Left out: the
environments that it names (`known_environments.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from math import isfinite
from typing import Any

from perdure.agent.config import VLLM_TEMPERATURE, Config, check_learner
from perdure.learners.gate.scope import PROFILES
from perdure.learners.options import ENVIRONMENT, ORACLE
from perdure.learners.reward_source import MODEL
from perdure.memory.changes import Who
from perdure.memory.contracts.orders import GateOrder, LearnOrder, OptionValue, Order, PanelOrder, ProbeOrder
from perdure.memory.errors import InputError
from perdure.memory.store import Store
from perdure.memory.trajectories.rewards import sources
from perdure.memory.trajectories.traces import IMPORT, require_import
from perdure.memory.versions import get_version, require_files

MOST_EPISODES, MOST_SAMPLES, MOST_TEMPERATURE = 100_000, 64, 10.0
"""Of a probe."""
MOST_TEXT = 500
"""Characters of a learner's name, of an option's and of its value, which errors quote."""


def learn_order(
    config: Config, by: Who, learner: str, options: Mapping[str, OptionValue], *, gate: bool, start: str | None, profile: str | None
) -> LearnOrder:
    """The order of a learning job, with the options of the home under those given. Raises `InputError`."""
    for text in (learner, *options, *(str(value) for value in options.values())):
        if len(text) > MOST_TEXT:
            raise InputError(f"{text[:40]!r}... has {len(text)} characters: learners and options have {MOST_TEXT} at most")
    check_learner(learner)
    if by.via != "command":
        _refuse_code(options)
    chosen = config.learner_options(learner, dict(options))
    return LearnOrder(learner=learner, options=chosen, gate=gate, profile=known_profile(config, profile), start=start)


def known_profile(config: Config, profile: str | None) -> str:
    """The profile of a gate; None is that of the configuration. Raises `InputError`."""
    if profile is not None and profile not in PROFILES:
        raise InputError(f"{profile[:40]!r} is no profile of the gate: there are {', '.join(PROFILES)}")
    return profile or config.gate.profile


def probe_order(config: Config, version: str | None, episodes: int, temperature: float, samples: int) -> ProbeOrder:
    """The order of a probe. Raises `InputError`."""
    if not 1 <= episodes <= MOST_EPISODES or not 1 <= samples <= MOST_SAMPLES:
        raise InputError(f"a probe has 1 to {MOST_EPISODES} episodes and 1 to {MOST_SAMPLES} samples, not {episodes} and {samples}")
    if not isfinite(temperature) or not 0 <= temperature <= MOST_TEMPERATURE:
        raise InputError(f"the temperature of a probe is 0 to {MOST_TEMPERATURE:g}, not {temperature:g}")
    if temperature == 0 and samples > 1:
        raise InputError(f"--samples {samples}: greedy answers to a seed are all the same; give --temperature too, such as 1")
    if config.engine == "vllm" and temperature > VLLM_TEMPERATURE:
        raise InputError(f"--temperature {temperature:g} is more than vLLM takes: {VLLM_TEMPERATURE:g} at most")
    return ProbeOrder(version=version, episodes=episodes, temperature=temperature, samples=samples)


def check_order(store: Store, order: Order, targets: Sequence[str]) -> None:
    """Raise `InputError` or `RuntimeFailure` if this home lacks the version, the rewards or the traces that an order names."""
    match order:
        case LearnOrder():
            _require_version(store, order.start)
            _check_sources(store, order.options)
        case GateOrder():
            _require_version(store, order.candidate)
            if targets and get_version(store, order.candidate).state == "serving":
                raise InputError(f"{order.candidate} serves: there is no gain over itself to show; gate it without --target")
        case ProbeOrder() | PanelOrder():
            _require_version(store, order.version)


def _require_version(store: Store, name: str | None) -> None:
    if name is not None:
        require_files(store, get_version(store, name))


def _refuse_code(options: Mapping[str, OptionValue]) -> None:
    """Raise `InputError` if options name a class, or a file."""
    if str(options.get("rewards", ENVIRONMENT)).strip().startswith(MODEL):
        raise InputError("rewards names a class: only `perdure learn` on the machine itself may name code")
    if str(options.get("demos", ORACLE)).strip() != ORACLE:
        raise InputError("demos names a file: only `perdure learn` on the machine itself may name one")


def _check_sources(store: Store, options: Mapping[str, Any]) -> None:
    """Raise if the order names rewards or traces that do not exist. The class of a reward model is made by its job: it may be large."""
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
