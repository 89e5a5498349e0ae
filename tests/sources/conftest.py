"""Each source is tested where its package is installed, and is not collected elsewhere. `make test-sources` installs and tests them all."""

from __future__ import annotations

from perdure.envs.packages import PACKAGES

collect_ignore = [f"test_{source}.py" for source, package in PACKAGES.items() if not package.installed]
