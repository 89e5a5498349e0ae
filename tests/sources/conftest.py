"""A source is tested if its package is installed; otherwise its tests are not collected. `make test-sources` installs and tests all."""

from __future__ import annotations

from importlib.util import find_spec

from perdure.envs.sources.packages import PACKAGES

MODULES = {source: package.module for source, package in PACKAGES.items()} | {"openenv": "openenv"}
"""What a source is tested with. The client of OpenEnv needs less, but is tested with a real server."""
collect_ignore = [f"test_{source}.py" for source, module in MODULES.items() if find_spec(module) is None]
if find_spec("websockets") is None:
    collect_ignore.append("test_openenv_answers.py")
