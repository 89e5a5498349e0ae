"""What may stand under `[log]`, `[telemetry]` and `[notify]`. An address may hold a secret, so none is ever shown."""

from __future__ import annotations

import re
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator

from perdure.agent.config_section import Section

Notable = Literal["promote", "reject", "rollback", "give-up", "disk-low"]
"""What a person may want to hear of."""

ALL: tuple[Notable, ...] = ("promote", "reject", "rollback", "give-up", "disk-low")


class LogSection(Section):
    """How processes write their logs."""

    form: Literal["text", "json"] = Field(default="text", description="text, or json: one object a line, with the ids that it is about")


class TelemetrySection(Section):
    """Traces for OpenTelemetry."""

    otlp_endpoint: SecretStr = Field(
        default=SecretStr(""), description="where spans are sent, such as 'http://127.0.0.1:4318'; empty for nowhere; needs the extra otel"
    )

    @field_validator("otlp_endpoint")
    @classmethod
    def _address(cls, given: SecretStr) -> SecretStr:
        return _checked(given)


class NotifySection(Section):
    """Who is told of what happens, by an HTTP request or by a command."""

    webhook: SecretStr = Field(
        default=SecretStr(""), description="an address that gets a POST with JSON; 'env:NAME' to read it from a variable; empty for none"
    )
    command: tuple[str, ...] = Field(
        default=(), strict=False, description="a program and its arguments that get the JSON on stdin, such as ['mail-me', '--short']"
    )
    on: tuple[Notable, ...] = Field(default=ALL, strict=False, description="of what: promote, reject, rollback, give-up, disk-low")
    timeout_s: int = Field(default=10, ge=1, le=300, description="seconds that one request or command may take; then it is ended")

    @field_validator("webhook")
    @classmethod
    def _address(cls, given: SecretStr) -> SecretStr:
        name = given.get_secret_value()
        if name.startswith("env:"):
            if not re.fullmatch(r"env:[A-Za-z_][A-Za-z0-9_]*", name):
                raise ValueError("after 'env:' comes the name of a variable, such as 'env:PERDURE_WEBHOOK'")
            return given
        return _checked(given)

    @field_validator("command")
    @classmethod
    def _program(cls, command: tuple[str, ...]) -> tuple[str, ...]:
        if command and not command[0].strip():
            raise ValueError("its first word is the program: name one, or leave the list empty")
        if any("\0" in word for word in command):
            raise ValueError("a word of a command cannot hold a NUL")
        return command


def _checked(given: SecretStr) -> SecretStr:
    """The same. Raises `ValueError`, which does not quote the address."""
    if given.get_secret_value():
        require_address(given.get_secret_value())
    return given


def require_address(address: str) -> None:
    """Raise `ValueError` unless this is an address that requests can be sent to. The error does not quote it."""
    plain = "an address begins with 'http://' or 'https://' and a host, without blanks (it is not shown here, as it may hold a secret)"
    if re.search(r"[^\x21-\x7e]", address):
        raise ValueError(plain)
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError as error:
        raise ValueError(plain) from error
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise ValueError(plain)
