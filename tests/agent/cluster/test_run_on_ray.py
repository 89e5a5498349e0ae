"""`perdure run --cluster local` as a user runs it: a real Ray of three nodes, and a tiny real model in each player, rank and judge."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.agent.web.servers import free_port
from tests.faults.place import child_environment
from tests.tiny_models import tiny_llama

from perdure.memory.gates import pairs_of
from perdure.memory.jobs import get_job
from perdure.memory.leases import BootClock
from perdure.memory.store import open_store
from perdure.memory.upkeep.integrity import check

pytestmark = [pytest.mark.cluster, pytest.mark.processes, pytest.mark.timeout(900)]

COIN = "py:tests.agent.coin:Coin"
CONFIG = """
model = "{model}"
[play]
width = 8
members = 4
[stream]
environments = ["{coin}", "{coin}?side=1"]
tasks_per_round = 8
[learn]
every_episodes = 256
options = {{ updates = 2, prompts = 2, samples = 4, replay = 0.0 }}
[sandbox]
trusted = ["{coin}"]
[web]
enabled = false
[cluster]
players = 2
player_cpus = 0.25
learners = 2
learner_cpus = 0.25
journal_port = {port}
start_timeout_s = 240
"""


def test_players_play_learn_and_judge_up_to_a_verdict(tmp_path: Path) -> None:
    model = tiny_llama(tmp_path / "model")
    (tmp_path / "perdure.toml").write_text(CONFIG.format(model=model, coin=COIN, port=free_port()))
    command = [sys.executable, "-m", "perdure", "run", "--cycles", "1", "--cluster", "local"]
    done = subprocess.run(command, cwd=tmp_path, env=child_environment(), capture_output=True, text=True, timeout=800, check=False)
    logs = "\n".join(f"--- {file.name}\n{file.read_text()[-3000:]}" for file in (tmp_path / ".perdure" / "logs").glob("*.log"))
    assert done.returncode == 0, f"{done.stderr}\n{logs}"
    with open_store(tmp_path / ".perdure") as store:
        job = get_job(store, 1)
        assert (job.state, job.verdict in ("promote", "reject", "inconclusive")) == ("done", True), logs  # both ranks have come
        assert pairs_of(store, 1)
        judges = {row["owner"] for row in store.rows("SELECT DISTINCT owner FROM errand WHERE state = 'done'")}
        assert judges, "nobody elsewhere has judged"
        assert all(judge.startswith("player:player-") for judge in judges)
        players = {row["name"] for row in store.rows("SELECT DISTINCT name FROM judge")}
        assert len(players) >= 2, players
        assert [one for one in check(store, BootClock()) if one.level == "error"] == []
