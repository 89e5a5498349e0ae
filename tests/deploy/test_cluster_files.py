"""What can be said of deploy/cluster/ without the tools of others and without a cluster: it was never run on one."""

from __future__ import annotations

import re
import shlex
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
    for line in re.findall(r"^ *(perdure [a-z].*)$", SLURM.read_text(), re.MULTILINE):
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
