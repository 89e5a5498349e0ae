"""Which environments run in processes of their own, and what those may use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


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

    def trusts(self, name: str) -> bool:
        """Whether the environment of this name runs in this process."""
        source, plain = name.partition(":")[0], name.partition("?")[0]
        return f"{source}:" in self.trusted or plain in self.trusted


DEFAULT = Sandbox()
