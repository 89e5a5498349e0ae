"""What can be said of deploy/cluster/ without the tools of others and without a cluster: it was never run on one."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from perdure import __version__
from perdure.agent.cli import perdure
from perdure.agent.config_file import load_config

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
KUBERNETES = DEPLOY / "cluster" / "kubernetes"
SLURM = DEPLOY / "cluster" / "perdure.slurm"
CLUSTER_TOKEN = "/run/secrets/perdure-cluster-token/token"
TOKEN_VARIABLES = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": CLUSTER_TOKEN, "RAY_USAGE_STATS_ENABLED": "0"}


def documents() -> dict[str, dict[str, Any]]:
    """Every object by its kind."""
    return {one["kind"]: one for path in KUBERNETES.glob("*.yaml") for one in yaml.safe_load_all(path.read_text())}


def groups() -> dict[str, dict[str, Any]]:
    spec = documents()["RayCluster"]["spec"]
    return {"head": spec["headGroupSpec"], **{one["groupName"]: one for one in spec["workerGroupSpecs"]}}


def containers() -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Each container with its pod."""
    for group in groups().values():
        pod = group["template"]["spec"]
        yield from ((container, pod) for container in pod["containers"])


def test_every_process_of_ray_asks_for_the_token_and_sends_no_statistics() -> None:
    for container, _ in containers():
        assert {one["name"]: one["value"] for one in container["env"] if "value" in one} == TOKEN_VARIABLES
    for group in groups().values():
        assert group["rayStartParams"]["disable-usage-stats"] == "true"
    assert (groups()["head"]["rayStartParams"]["dashboard-host"], groups()["head"]["rayStartParams"]["include-dashboard"]) == (
        "127.0.0.1",
        "false",
    )
    exported = dict(re.findall(r"^export (RAY_\w+)=(.*)$", SLURM.read_text(), re.MULTILINE))
    assert (exported["RAY_AUTH_MODE"], exported["RAY_USAGE_STATS_ENABLED"]) == ("token", "0")
    starts = re.findall(r"ray start (?:[^\n\\]|\\\n)*", SLURM.read_text())
    assert len(starts) == 2
    assert all("--disable-usage-stats" in start for start in starts)


def test_tokens_are_secrets_that_are_made_elsewhere() -> None:
    assert "Secret" not in documents()
    for container, pod in containers():
        mounted = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        (volume,) = [volume for volume in pod["volumes"] if volume["name"] == mounted[str(Path(CLUSTER_TOKEN).parent)]]
        assert volume["secret"]["secretName"] == "perdure-cluster-token"
        assert volume["secret"]["defaultMode"] & 0o007 == 0  # else the program refuses it


def test_the_configuration_of_the_head_fits_its_pods() -> None:
    config = load_config(KUBERNETES / "perdure.toml").config
    assert config.cluster.token_file == CLUSTER_TOKEN
    assert config.cluster.address == "127.0.0.1:6379"
    ports = {port["name"]: port["containerPort"] for container, _ in containers() for port in container.get("ports", ())}
    assert ports == {"gcs": 6379, "web": config.web.port, "journal": config.cluster.journal_port}
    volume = documents()["PersistentVolumeClaim"]["spec"]
    assert config.disk.budget_gib <= 0.8 * float(volume["resources"]["requests"]["storage"].removesuffix("Gi"))
    assert volume["accessModes"] == ["ReadWriteOncePod"]
    cpu = groups()["cpu"]
    has = cpu["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert config.cluster.player_cpus <= float(has["cpu"])
    assert config.cluster.player_memory_gib <= float(has["memory"].removesuffix("Gi")) * 0.7  # Ray keeps some for its object store
    assert config.cluster.players <= cpu["replicas"] * (float(has["cpu"]) // config.cluster.player_cpus)


def test_the_head_writes_its_address_where_the_configuration_has_one_line_for_it() -> None:
    script = groups()["head"]["template"]["spec"]["containers"][1]["command"][-1]
    assert "s/^listen = .*/" in script
    assert re.findall(r"(?m)^listen = .*$", (KUBERNETES / "perdure.toml").read_text()) == ['listen = "127.0.0.1"']


def test_no_piece_is_placed_on_the_head() -> None:
    assert groups()["head"]["rayStartParams"]["num-cpus"] == "0"
    assert "--num-cpus=0" in SLURM.read_text()


def test_images_have_tags_of_this_version_and_nothing_runs_as_root() -> None:
    for container, pod in containers():
        name, _, tag = container["image"].partition(":")
        assert name == "perdure"
        assert tag.removesuffix("-cuda") == f"{__version__}-cluster"
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert container["securityContext"]["readOnlyRootFilesystem"] is True


def test_only_the_page_is_reached_from_outside_of_the_cluster() -> None:
    among_nodes, others = documents()["NetworkPolicy"]["spec"]["ingress"]
    assert among_nodes["from"] == [{"podSelector": {"matchLabels": {"ray.io/cluster": documents()["RayCluster"]["metadata"]["name"]}}}]
    assert others["ports"] == [{"port": "web"}]
    assert [port["targetPort"] for port in documents()["Service"]["spec"]["ports"]] == ["web"]


def test_every_file_is_named_by_the_kustomization() -> None:
    text = (KUBERNETES / "kustomization.yaml").read_text()
    assert [path.name for path in KUBERNETES.iterdir() if path.name != "kustomization.yaml" and path.name not in text] == []


def commands() -> Iterator[list[str]]:
    """Every command line of the program that a file here runs."""
    for container, _ in containers():
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            yield container.get(probe, {}).get("exec", {}).get("command", [])
        yield from map(shlex.split, re.findall(r"exec (perdure .*)", "\n".join(container.get("command", ()))))
    for line in re.findall(r"(?m)^ *(perdure [a-z].*)$", SLURM.read_text()):
        yield shlex.split(re.split(r" (?:>|&|\|\|)", line)[0])


def test_every_command_that_is_run_exists() -> None:
    found = [words for words in commands() if words and words[0] == "perdure"]
    assert len(found) == 6, found
    for _, *words in found:
        command: click.Command = perdure
        context = click.Context(command, info_name="perdure", **command.context_settings)
        while isinstance(command, click.Group):
            _, words, _ = command.make_parser(context).parse_args(list(words))
            word, inner, words = command.resolve_command(context, words)
            assert inner is not None, words
            command, context = inner, click.Context(inner, info_name=word, parent=context)
        command.make_parser(click.Context(command)).parse_args([re.sub(r"\$\w+", "1", word) for word in words])


def test_options_of_ray_start_exist() -> None:
    """Against the Ray that is installed, if there is one."""
    scripts = pytest.importorskip("ray.scripts.scripts")
    known = {option.lstrip("-") for parameter in scripts.start.params for option in (*parameter.opts, *parameter.secondary_opts)}
    named = {name for group in groups().values() for name in group["rayStartParams"]}
    for start in re.findall(r"ray start (?:[^\n\\]|\\\n)*", SLURM.read_text()):
        named |= set(re.findall(r"--([a-z-]+)", start))
    assert named - known == set()


@pytest.mark.processes
def test_the_slurm_script_brings_the_home_back_runs_until_slurm_ends_it_and_keeps_it(tmp_path: Path) -> None:
    """With stand-ins for Slurm, Ray and Perdure, which write down how they were called."""
    stand_ins = {
        "hostname": "echo 10.0.0.7 10.1.0.7",
        "ray": f'echo ray "$@" >> {tmp_path}/calls',
        "srun": f'echo srun "$@" >> {tmp_path}/calls',
        "perdure": f"""echo perdure "$@" >> {tmp_path}/calls
case "$1 $2" in
    "run --config") cp "$3" {tmp_path}/used.toml; trap 'echo ended in order >> {tmp_path}/calls; exit 0' TERM
        touch {tmp_path}/runs; while true; do sleep 0.1; done;;
    "store backup") echo database > "$3"; mkdir "$3.versions" "$3.history"; mkdir -p "$PERDURE_HOME/panel";;
    "store check") ls -d "$4"/* >> {tmp_path}/restored;;
esac""",
    }
    (tmp_path / "bin").mkdir()
    for name, script in stand_ins.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{script}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "perdure.toml").write_text("seed = 3\n")
    job = {"JOB_ID": "4711", "JOB_NUM_NODES": "3", "CPUS_PER_TASK": "8", "SUBMIT_DIR": str(tmp_path)}
    environment = {**os.environ, **{f"SLURM_{name}": value for name, value in job.items()}, "SLURMD_NODENAME": "first"}
    environment |= {"HOME": str(tmp_path), "TMPDIR": str(tmp_path), "PERDURE_BIN": str(tmp_path / "bin")}
    for _ in range(2):
        with subprocess.Popen(["bash", str(SLURM)], env=environment) as script:
            deadline = time.monotonic() + 60
            while not (tmp_path / "runs").exists():
                assert time.monotonic() < deadline
                time.sleep(0.1)
            script.send_signal(signal.SIGTERM)
            assert script.wait(60) == 0
        (tmp_path / "runs").unlink()
    first, second = [part.splitlines() for part in (tmp_path / "calls").read_text().split("ray stop\n")[:2]]
    assert [line for line in second if line not in first] == [f"perdure store check --home {tmp_path}/perdure-4711/home"]
    assert first.index("ended in order") < first.index(f"perdure store backup {tmp_path}/perdure-kept/next.db")
    assert any(line.startswith("ray start --head --node-ip-address=10.0.0.7 --port=7090 --num-cpus=0") for line in first)
    assert any("--nodes=2" in line and "--exclude=first ray start --address=10.0.0.7:7090 --num-cpus=8" in line for line in first)
    config = load_config(tmp_path / "used.toml").config
    assert (config.seed, config.cluster.players, config.cluster.listen, config.cluster.address) == (3, 2, "10.0.0.7", "10.0.0.7:7090")
    kept = tmp_path / "perdure-kept"
    assert sorted(path.name for path in kept.iterdir()) == [
        "cluster-token",
        *(f"{name}.db{part}" for name in ("last", "newest") for part in ("", ".history", ".panel", ".versions")),
    ]
    restored = [Path(line).name for line in (tmp_path / "restored").read_text().splitlines()]
    assert restored == ["history", "panel", "perdure.db", "versions"]
    assert (kept / "cluster-token").stat().st_mode & 0o077 == 0
    assert not (tmp_path / "perdure-4711").exists()
