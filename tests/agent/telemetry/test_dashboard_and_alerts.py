"""The dashboard and the alert rules: every metric that they name is there, and Prometheus's own tool takes every expression."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from tests.agent.telemetry.test_json_log import learning
from tests.results import TERMS, gate_result

from perdure.agent.home import HomeLock
from perdure.agent.telemetry.metrics import metrics_text
from perdure.memory.contracts.orders import GateOrder, LearnOrder
from perdure.memory.contracts.results import Drift, GroupStats, RatioStats, Update
from perdure.memory.gates import close_gate, start_gate
from perdure.memory.jobs import add_job, add_step, lease_job
from perdure.memory.leases import BootClock
from perdure.memory.processes import beat
from perdure.memory.store import open_store

ROOT = Path(__file__).parents[3]
ALERTS = ROOT / "deploy" / "alerts.yml"
DASHBOARD = ROOT / "deploy" / "grafana-dashboard.json"
CASES = tuple(Path(__file__).with_name(name) for name in ("alert_cases.yml", "alert_cases_of_weeks.yml"))
NAME = re.compile(r"perdure_[a-z_]+")

promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool, of the package prometheus")


def expressions(place: Any) -> Iterator[str]:
    """Every expression of the dashboard, wherever it stands."""
    if isinstance(place, dict):
        for key, value in place.items():
            if key == "expr":
                yield value
            else:
                yield from expressions(value)
    elif isinstance(place, list):
        for value in place:
            yield from expressions(value)


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return found


@pytest.fixture
def families(home: Path) -> list[Metric]:
    """The metrics of a home in which everything has happened."""
    with HomeLock(home), open_store(home) as store:
        learning(store)
        beat(store, "supervisor", os.getpid(), "learning")
        judged = lease_job(store, "learner", 60.0, BootClock(), add_job(store, "b", [], GateOrder(candidate="v2")))
        assert judged is not None
        gate = start_gate(store, judged[1], "v2", "v1", "economy", TERMS)
        close_gate(store, judged[1], gate_result("reject", gate=gate, candidate="v2"))
        leased = lease_job(store, "learner", 60.0, BootClock(), add_job(store, "c", [], LearnOrder(learner="grpo")))
        assert leased is not None
        groups = GroupStats(reward=0.5, success=0.5, old_success=0.5, entropy=0.5)
        drift = Drift(kl_base_new=0.1, kl_base_old=0.1, kl_serving_new=0.1, kl_serving_old=0.1)
        add_step(store, leased[1], Update(update=1, groups=groups, ratios=RatioStats(mismatch_kl=0.1), drift=drift, grad_norm=1.0))
        return list(text_string_to_metric_families(metrics_text(home).decode()))


@pytest.fixture
def told(families: list[Metric]) -> set[str]:
    """Their names."""
    return {sample.name for family in families for sample in family.samples}


def test_every_metric_of_the_dashboard_and_of_the_alerts_is_there(told: set[str]) -> None:
    shown = {name for one in expressions(dashboard()) for name in NAME.findall(one)}
    alerts = set(NAME.findall(ALERTS.read_text()))
    cases = {name for file in CASES for name in NAME.findall(file.read_text())}
    assert len(told) > 40
    assert len(shown) > 25
    assert shown | alerts | cases <= told


def test_every_metric_is_documented(families: list[Metric]) -> None:
    wanted = [
        f"| `{family.samples[0].name}` | {', '.join(sorted(family.samples[0].labels))} | {family.documentation} |" for family in families
    ]
    found = [line for line in (ROOT / "docs" / "telemetry.md").read_text().splitlines() if line.startswith("| `perdure_")]
    assert found == wanted, "\n".join(wanted)


def test_the_panels_of_the_dashboard_lie_beside_each_other() -> None:
    found = dashboard()
    taken: set[tuple[int, int]] = set()
    for panel in found["panels"]:
        at = panel["gridPos"]
        squares = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not squares & taken, panel["title"]
        taken |= squares
    ids = [panel["id"] for panel in found["panels"]]
    assert len(set(ids)) == len(ids)
    assert all("instance=~" in one for one in expressions(found))


@promtool
@pytest.mark.processes
def test_prometheus_takes_every_expression_of_the_dashboard(tmp_path: Path) -> None:
    rules = [{"record": f"panel:{n}", "expr": one.replace("$instance", "a")} for n, one in enumerate(expressions(dashboard()))]
    (tmp_path / "rules.json").write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    done = subprocess.run(["promtool", "check", "rules", str(tmp_path / "rules.json")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"SUCCESS: {len(rules)} rules found" in done.stdout


@promtool
@pytest.mark.processes
def test_the_alert_rules_fire_when_they_should_and_not_when_all_is_well() -> None:
    for arguments in (["check", "rules", str(ALERTS)], ["test", "rules", *map(str, CASES)]):
        done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    assert set(re.findall(r"- alert: (\w+)", ALERTS.read_text())) == {
        name for file in CASES for name in re.findall(r"alertname: (\w+)", file.read_text())
    }


@promtool
@pytest.mark.processes
def test_prometheus_takes_the_metrics(home: Path) -> None:
    done = subprocess.run(["promtool", "check", "metrics"], input=metrics_text(home), capture_output=True, check=False)
    assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()
