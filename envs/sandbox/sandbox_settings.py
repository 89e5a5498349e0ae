"""Which environments run in processes of their own, and what those may use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """What one environment or source may use, where that differs from the rest. None: as the rest."""

    memory_mib: int | None = None
    cpu_s: int | None = None
    network: bool | None = None
    variables: tuple[str, ...] = ()
    """In addition to those of all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sandbox:
    """Which environments run in processes of their own, and what those may use."""

    trusted: tuple[str, ...] = ("perdure:",)
    """Sources (`perdure:`) and names without options (`py:prices:Prices`) that run in this process."""
    memory_mib: int = 2048
    """Address space of each process."""
    cpu_s: int = 300
    """Processor time of one episode."""
    network: bool = False
    unconfined: bool = False
    """Whether environments that are not trusted may run where the machine gives no namespaces: they can then change what you can."""
    variables: tuple[str, ...] = ()
    """Environment variables that are passed on in addition to those that every program needs."""
    python: Mapping[str, str] = field(default_factory=dict)
    """The interpreter for the environments of a source, if its packages are installed in another one."""

    only: Mapping[str, Allowance] = field(default_factory=dict)
    """By source (`openenv:`) or name without options: what it may use, instead of what all may use."""

    def of(self, name: str) -> Sandbox:
        """What the environment of this name may use: what is stated for its name counts before what is stated for its source."""
        allowed = self
        for key in (f"{name.partition(':')[0]}:", name.partition("?")[0]):
            own = self.only.get(key, Allowance())
            allowed = replace(
                allowed,
                memory_mib=allowed.memory_mib if own.memory_mib is None else own.memory_mib,
                cpu_s=allowed.cpu_s if own.cpu_s is None else own.cpu_s,
                network=allowed.network if own.network is None else own.network,
                variables=(*allowed.variables, *own.variables),
            )
        return allowed

    def trusts(self, name: str) -> bool:
        """Whether the environment of this name runs in this process."""
        source, plain = name.partition(":")[0], name.partition("?")[0]
        return f"{source}:" in self.trusted or plain in self.trusted


DEFAULT = Sandbox()
