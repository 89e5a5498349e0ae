"""The agent of a verifiers rollout: it asks for one reply a segment, and runs no program.

verifiers finds a harness by the name of a top-level module that lists its class in `__all__`: `envs/sources/verifiers.py` registers this
module under such a name. Importing it needs the package.
"""

from __future__ import annotations

from typing import Any

import httpx
import verifiers.v1 as vf
from verifiers.v1.dialects.chat import message_to_wire

__all__ = ["Asking"]


class AskingConfig(vf.HarnessConfig):  # type: ignore[misc]  # verifiers is not installed when types are checked
    """It has no settings."""


class Asking(vf.Harness[AskingConfig]):  # type: ignore[misc]  # verifiers is not installed when types are checked
    """Sends the conversation to the rollout's endpoint once. The endpoint records the reply, and enforces limits and stops."""

    APPENDS_SYSTEM_PROMPT = True
    SUPPORTS_RESUME = True
    EXECUTES_CODE = False
    NEEDS_CONTAINER = False

    async def launch(
        self, ctx: Any, trace: Any, runtime: Any, endpoint: str, secret: str, mcp_urls: dict[str, str], data: Any
    ) -> vf.ProgramResult:
        system, prompt = self.resolve_prompt(data)
        turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [message_to_wire(message) for message in prompt or []]
        messages = [{"role": "system", "content": system}, *turns] if system else turns
        async with httpx.AsyncClient(timeout=None, trust_env=False) as client:
            answer = await client.post(
                f"{endpoint}/chat/completions",
                json={"model": ctx.model, "messages": messages},
                headers={"Authorization": f"Bearer {secret}"},
            )
        return vf.ProgramResult(exit_code=0 if answer.is_success else 1, stdout="", stderr="" if answer.is_success else answer.text)
