"""What the settings of telemetry need, and whether it is here: for `perdure doctor`, and before a daemon starts."""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec

from perdure.agent.config import Config
from perdure.agent.telemetry.notifier import address_of
from perdure.memory.errors import InputError

EXTRA = "otel"
OTEL_PACKAGES = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")


def require_telemetry(config: Config) -> None:
    """Raise `InputError` if spans or notifications are asked for that cannot be sent from here."""
    if config.telemetry.otlp_endpoint.get_secret_value() and not otel_is_installed():
        raise InputError(
            f"telemetry.otlp_endpoint is set, and the extra {EXTRA} is not installed: `python -m pip install 'perdure[{EXTRA}]'`, "
            "or empty the setting"
        )
    address_of(config.notify, dict(os.environ))
    if config.notify.command and shutil.which(config.notify.command[0]) is None:
        raise InputError(
            f"notify.command names {config.notify.command[0]!r}, which is no program that can be run: correct it, or empty the setting"
        )


def otel_is_installed() -> bool:
    """Whether the packages of the extra can be found. They are not imported."""
    try:
        return all(find_spec(package) is not None for package in OTEL_PACKAGES)
    except ModuleNotFoundError:  # a parent of one of them
        return False
