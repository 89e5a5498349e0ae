"""Options of a learner as they are given: checked, listed for help and documentation, and errors that say what to do.

An option that a learner does not read is an error if it was given for that learner, and passed over if it stands in the configuration,
which is for all learners.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from pydantic import ValidationError

from perdure.learners.options import (
    OWN,
    SHARED,
    CheckOptions,
    CommonLearnOptions,
    GeneralOptions,
    Group,
    LearnOptions,
    LossOptions,
    OptionGroup,
    ReplayOptions,
    RetentionOptions,
    SamplingOptions,
    TuningOptions,
)
from perdure.memory.contracts.orders import OptionValue
from perdure.memory.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class OptionEntry:
    """One option, as it is documented."""

    name: str
    default: OptionValue
    meaning: str
    """It names the learners that read the option, unless all do."""
    section: str


def option_entries() -> Iterator[OptionEntry]:
    """Every option once, in the order of the classes."""
    listed = set[str]()
    for group in (*SHARED, *OWN.values()):
        for name, field in zip(_names_in(group), group.model_fields.values(), strict=True):
            if name not in listed:
                listed.add(name)
                readers = "" if group in SHARED else f"{', '.join(readers_of(name))}: "
                yield OptionEntry(name=name, default=field.default, meaning=f"{readers}{field.description}", section=group.title)


def readers_of(option: str) -> list[str]:
    """The learners that read this option."""
    return [learner for learner in OWN if option in _names(learner)]


def parse_options(learner: str, given: Mapping[str, OptionValue]) -> LearnOptions:
    """Check the options of a learner, given as text or as values.

    Raises `InputError` naming the first that is wrong, that this learner does not read, or that does not fit the others.
    """
    for name in given:
        _require_read(learner, name)

    def read(group: type[Group]) -> Group:
        return group.model_validate({name: given[name] for name in _names_in(group) if name in given})

    try:
        options = LearnOptions(
            common=read(CommonLearnOptions),
            loss=read(LossOptions),
            replay=read(ReplayOptions),
            retention=read(RetentionOptions),
            general=read(GeneralOptions),
            checks=read(CheckOptions),
            tuning=read(TuningOptions),
            own=read(OWN[learner]),
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"option {first['loc'][0]}={first['input']!r}: {first['msg'].lower()}") from error
    tuning = options.tuning
    if tuning.tuning == "full" and (tuning.quantized or options.retention.olora or tuning.dtype == "bfloat16"):
        raise InputError("tuning=full trains all weights in float32: quantized, olora and dtype=bfloat16 need tuning=lora")
    if isinstance(options.own, SamplingOptions) and options.own.source == "live" and options.replay.stored:
        raise InputError("from=live takes all replay from stored episodes: leave stored out")
    _check_general(options)
    return options


def _check_general(options: LearnOptions) -> None:
    """Raise `InputError` if general prompts have a share, but of nothing, or in a loss without weight."""
    if not options.general.share:
        return
    if not options.replay.share:
        raise InputError("general is a share of replay, and replay=0: set replay above 0, or leave general out")
    loss, weight = options.general.loss, "kl_old" if options.general.loss == "kl" else "general_weight"
    if not options.flat()[weight]:
        raise InputError(f"general_loss={loss} has the weight {weight}, which is 0: set it above 0, or leave general out")


def read_by(learner: str, given: Mapping[str, OptionValue]) -> dict[str, OptionValue]:
    """Those of the given options that this learner reads."""
    return {name: value for name, value in given.items() if name in _names(learner)}


def every_option(given: Mapping[str, OptionValue]) -> dict[str, OptionValue]:
    """The options of all learners by name, with these values. Raises `InputError` for a wrong value, or a name that no learner reads."""
    for name in given:
        if not readers_of(name):
            raise _unknown(name, [entry.name for entry in option_entries()])
    return {name: value for learner in OWN for name, value in parse_options(learner, read_by(learner, given)).flat().items()}


def _names_in(group: type[OptionGroup]) -> list[str]:
    return [field.alias or name for name, field in group.model_fields.items()]


def _names(learner: str) -> list[str]:
    """The options that a learner reads."""
    return [name for group in (*SHARED, OWN[learner]) for name in _names_in(group)]


def _require_read(learner: str, name: str) -> None:
    readers = readers_of(name)
    if not readers:
        raise _unknown(name, _names(learner))
    if learner not in readers:
        raise InputError(f"option {name!r} belongs to {', '.join(readers)}: {learner} does not read it; leave it out")


def _unknown(name: str, known: list[str]) -> InputError:
    near = get_close_matches(name, known, n=1)
    return InputError(f"no option {name!r}: there are {', '.join(known)}" + (f"; did you mean {near[0]}?" if near else ""))
