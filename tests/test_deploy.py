"""The files in deploy/ name metrics and labels that exist, and are whole."""

import configparser
import itertools
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click
import pytest
import yaml

from headwater.console.command import console
from headwater_server.cli.serve import serve
from headwater_server.net.monitoring.catalogue import METRICS, PAGES, PREFIX, Kind
from headwater_server.net.server import SHUTDOWN_NOTICE_S_MAX
from headwater_server.net.settings import ServerSettings

DEPLOY: Final = Path(__file__).parent.parent / "deploy"
RULES: Final = DEPLOY / "prometheus/headwater.rules.yml"
DASHBOARD: Final = DEPLOY / "grafana/headwater.json"

OTHER_LABELS: Final = {"instance", "le"}
"""Labels that the scraper adds, and that of buckets."""


def series() -> dict[str, set[str]]:
    """The series of a scrape by name, each with its labels."""
    found: dict[str, set[str]] = {}
    for metric in METRICS.values():
        parts = ("_bucket", "_count", "_sum") if metric.kind is Kind.HISTOGRAM else ("",)
        for part in parts:
            found[metric.full_name + part] = set(metric.labels)
    return found


def alerts() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    return list(group["rules"])


def panels() -> list[dict[str, Any]]:
    found = json.loads(DASHBOARD.read_text())["panels"]
    return [panel for panel in found if panel["type"] != "row"]


def expressions() -> Iterator[str]:
    yield from (alert["expr"] for alert in alerts())
    yield from (target["expr"] for panel in panels() for target in panel["targets"])


def names_in(expression: str) -> list[str]:
    return re.findall(rf"\b{PREFIX}\w+", expression)


def labels_in(expression: str) -> set[str]:
    """The labels of matchers and of `by`."""
    grouped = ",".join(re.findall(r"by \(([^)]*)\)", expression))
    matched = re.findall(r"(\w+)=~?\"", expression)
    return {label.strip() for label in grouped.split(",") if label.strip()} | set(matched)


@pytest.mark.parametrize("expression", list(expressions()))
def test_an_expression_names_existing_series_with_their_labels(expression: str) -> None:
    known = series()
    names = names_in(expression)
    if not names:
        assert expression == 'up{job="headwater"} == 0', (
            "the one expression without a metric of ours"
        )
        return
    assert set(names) <= known.keys()
    labels = set().union(*(known[name] for name in names)) | OTHER_LABELS
    assert labels_in(expression) <= labels
    assert expression.count("(") == expression.count(")")
    for name in names:
        if name.endswith(("_total", "_bucket", "_count", "_sum")):
            assert re.search(rf"(rate|increase)\({name}", expression), "a counter by itself"


def test_an_alert_says_how_bad_it_is_and_what_it_is() -> None:
    names = [alert["alert"] for alert in alerts()]
    assert len(set(names)) == len(names)
    known = {label for metric in METRICS.values() for label in metric.labels} | OTHER_LABELS
    for alert in alerts():
        assert alert["labels"]["severity"] in ("critical", "warning")
        assert alert["annotations"].keys() == {"summary", "description"}
        told = " ".join(alert["annotations"].values())
        assert set(re.findall(r"\$labels\.(\w+)", told)) <= known


def test_every_panel_has_a_place_of_its_own_and_legends_of_known_labels() -> None:
    known = {label for metric in METRICS.values() for label in metric.labels} | OTHER_LABELS
    places = set()
    for panel in panels():
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        places.add((place["x"], place["y"]))
        for target in panel["targets"]:
            assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= known
    assert len(places) == len(panels())


def test_every_subject_of_the_catalogue_is_on_the_dashboard() -> None:
    shown = {
        name for panel in panels() for each in panel["targets"] for name in names_in(each["expr"])
    }
    left_out = {"server_info", "clock_offset_seconds", "users", "operations_waiting", "events"}
    left_out |= {"oldest_readable_commit", "history_commits", "wal_fsync_on_event_loop"}
    left_out |= {"state_cache_bytes", "state_keys", "memtable_commits", "checkpoints", "groups"}
    left_out |= {"checkpoint_running", "connections_opened", "group_members", "group_retrying"}
    left_out |= {"projections", "backups", "backup_running", "backup_last_size_bytes"}
    left_out |= {"backup_last_duration_seconds", "scrub_damage", "scrub_passes"}
    left_out |= {"scrub_progress_ratio", "scrub_last_timestamp_seconds"}
    missing = {
        metric.name
        for metric in METRICS.values()
        if not any(name.startswith(metric.full_name) for name in shown)
    }
    assert missing <= left_out


def test_the_unit_starts_the_server_with_existing_options_and_lets_it_write_its_data() -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read(DEPLOY / "systemd/headwater.service")
    service = unit["Service"]
    _, command, *arguments = service["ExecStart"].split()
    assert command == "serve"
    options = {name for one in serve.params if isinstance(one, click.Option) for name in one.opts}
    given = dict(itertools.pairwise(arguments))
    assert {name for name in arguments if name.startswith("--")} <= options
    assert given["--data"] == f"/var/lib/{service['StateDirectory']}"
    assert given["--unix"].startswith(f"/run/{service['RuntimeDirectory']}/")
    assert service["Type"] == "notify"
    stop_s = ServerSettings(data="").shutdown_ms_max / 1000
    assert float(service["TimeoutStopSec"]) > stop_s + SHUTDOWN_NOTICE_S_MAX


def options_of_serve() -> dict[str, str]:
    """The environment variables of `serve`, each with its option."""
    return {
        str(one.envvar): one.opts[0]
        for one in serve.params
        if isinstance(one, click.Option) and one.envvar is not None
    }


def environment_of_the_image() -> dict[str, str]:
    text = (DEPLOY.parent / "Dockerfile").read_text().replace("\\\n", " ")
    (line,) = re.findall(r"^ENV (.*)$", text, re.MULTILINE)
    return dict(word.split("=", 1) for word in shlex.split(line))


def test_the_compose_file_gives_existing_settings_and_mounts_existing_files() -> None:
    folder = DEPLOY / "compose"
    composed = yaml.safe_load((folder / "compose.yaml").read_text())
    image = environment_of_the_image()
    for name in ("leader", "follower"):
        service = composed["services"][name]
        assert service["environment"].keys() <= options_of_serve().keys()
        assert service["read_only"]
        assert any(
            one.startswith(f"{Path(image['HEADWATER_UNIX']).parent}:uid=")
            for one in service["tmpfs"]
        )
        assert f"{name}:{image['HEADWATER_DATA']}" in service["volumes"]
        assert (folder / service["build"] / "Dockerfile").is_file()
        assert float(service["stop_grace_period"].removesuffix("s")) >= 60
    asked = shlex.split(composed["services"]["console"]["command"])
    assert asked[0] == "console"
    options = {name for one in console.params for name in one.opts}
    assert {word for word in asked if word.startswith("--")} <= options
    variables = {str(one.envvar) for one in console.params if isinstance(one, click.Option)}
    assert composed["services"]["console"]["environment"].keys() <= variables
    for service in composed["services"].values():
        for port in service["ports"]:
            assert port.startswith("127.0.0.1:"), "open to other machines"
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            if source.startswith("../"):
                assert (folder / source).exists(), source
            elif not source.startswith("."):
                assert source in composed["volumes"]


def test_prometheus_scrapes_the_servers_of_the_compose_file() -> None:
    composed = yaml.safe_load((DEPLOY / "compose/compose.yaml").read_text())
    config = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
    (job,) = config["scrape_configs"]
    assert job["job_name"] == "headwater"
    ports = {
        name: service["environment"]["HEADWATER_HTTP"].rpartition(":")[2]
        for name, service in composed["services"].items()
        if "HEADWATER_HTTP" in service.get("environment", {})
    }
    assert job["static_configs"][0]["targets"] == [f"{name}:{port}" for name, port in ports.items()]
    assert config["rule_files"] == [RULES.name]


def test_grafana_finds_its_source_and_the_dashboard() -> None:
    folder = DEPLOY / "grafana/provisioning"
    (source,) = yaml.safe_load((folder / "datasources/headwater.yml").read_text())["datasources"]
    (provider,) = yaml.safe_load((folder / "dashboards/headwater.yml").read_text())["providers"]
    composed = yaml.safe_load((DEPLOY / "compose/compose.yaml").read_text())["services"]
    assert source["url"] == f"http://prometheus:{composed['prometheus']['ports'][0].split(':')[2]}"
    mounted = [volume.split(":")[1] for volume in composed["grafana"]["volumes"]]
    assert f"{provider['options']['path']}/{DASHBOARD.name}" in mounted


def test_the_manifest_for_kubernetes_probes_existing_pages_and_keeps_the_data() -> None:
    parts = yaml.safe_load_all((DEPLOY / "kubernetes/headwater.yaml").read_text())
    by_kind = {part["kind"]: part for part in parts}
    service, stateful = by_kind["Service"], by_kind["StatefulSet"]
    pod = stateful["spec"]["template"]["spec"]
    (server,) = pod["containers"]
    ports = {port["name"]: port["containerPort"] for port in server["ports"]}
    given = {one["name"]: one["value"] for one in server["env"]}
    assert given.keys() <= options_of_serve().keys()
    assert given["HEADWATER_HTTP"].endswith(f":{ports['http']}")
    for probe, path in (
        ("liveness", "/healthz"),
        ("readiness", "/readyz"),
        ("startup", "/healthz"),
    ):
        asked = server[f"{probe}Probe"]["httpGet"]
        assert (asked["path"], asked["port"]) == (path, "http")
        assert path in PAGES
    image = environment_of_the_image()
    mounts = {one["mountPath"]: one["name"] for one in server["volumeMounts"]}
    (claim,) = stateful["spec"]["volumeClaimTemplates"]
    assert mounts[image["HEADWATER_DATA"]] == claim["metadata"]["name"]
    assert str(Path(image["HEADWATER_UNIX"]).parent) in mounts
    assert all(
        any(value.startswith(path) for path in mounts)
        for name, value in given.items()
        if "TLS" in name
    )
    assert {one["name"] for one in pod["volumes"]} | {claim["metadata"]["name"]} == set(
        mounts.values()
    )
    (user_id,) = re.findall(r"useradd --uid (\d+)", (DEPLOY.parent / "Dockerfile").read_text())
    assert pod["securityContext"]["runAsUser"] == int(user_id)
    for container in (*pod["initContainers"], server):
        assert container["securityContext"]["readOnlyRootFilesystem"]
    assert service["spec"]["selector"] == stateful["spec"]["selector"]["matchLabels"]
    assert stateful["spec"]["replicas"] == 1


def test_the_first_user_of_the_manifest_is_added_once(tmp_path: Path) -> None:
    parts = yaml.safe_load_all((DEPLOY / "kubernetes/headwater.yaml").read_text())
    (stateful,) = (part for part in parts if part["kind"] == "StatefulSet")
    (adding,) = stateful["spec"]["template"]["spec"]["initContainers"]
    tool = tmp_path / "headwater"
    tool.write_text(f'#!/bin/sh\nexec {sys.executable} -m headwater "$@"\n')
    tool.chmod(0o755)
    script = adding["args"][0].replace("/data", str(tmp_path / "data"))
    (tmp_path / "data").mkdir()
    told = [
        subprocess.run(
            [*adding["command"], script],
            env={
                **os.environ,
                "ADMIN_PASSWORD": "correct horse",
                "PATH": f"{tmp_path}:{os.environ['PATH']}",
            },
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for _ in range(2)
    ]
    assert told == ["user admin added", ""]


def test_the_unit_s_companions_name_its_user() -> None:
    unit = (DEPLOY / "systemd/headwater.service").read_text()
    (user,) = re.findall(r"^User=(.*)$", unit, re.MULTILINE)
    users = (DEPLOY / "systemd/headwater.sysusers.conf").read_text()
    assert re.findall(r"^u (\S+)", users, re.MULTILINE) == [user]
    made = (DEPLOY / "systemd/headwater.tmpfiles.conf").read_text()
    rows = re.findall(rf"^d (\S+) 0700 {user} {user} -$", made, re.MULTILINE)
    (writable,) = re.findall(r"^# ReadWritePaths=(.*)$", unit, re.MULTILINE)
    assert rows == writable.split()
