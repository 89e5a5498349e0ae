"""Whether environments are confined on this machine, in words: the same for `doctor` and for the daemon, which notes it for `status`."""

from __future__ import annotations

from perdure.agent.config import Config
from perdure.envs.sandbox.confinement import obstacle


def unconfined(config: Config | None) -> str:
    """Why environments cannot be confined here, and what that leads to with this configuration; empty if they can be."""
    reason = obstacle()
    if not reason:
        return ""
    allowed = config is not None and config.sandbox.unconfined
    says = "sandbox.unconfined = true: environments run without, and can change what you can" if allowed else "only trusted ones can run"
    return f"environments cannot be confined here ({reason}); {says}"
