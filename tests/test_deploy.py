"""The files in deploy/ name metrics and labels that exist, and are whole."""

import configparser
import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click
import pytest
import yaml

from headwater_server.cli.serve import serve
from headwater_server.net.monitoring.catalogue import METRICS, PREFIX, Kind
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
