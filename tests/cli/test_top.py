"""`headwater top`: rates of two readings, sparklines, and one run against a real server."""

from pathlib import Path
from typing import Any

from click.testing import CliRunner

import headwater
from headwater.cli.server_process import ServerProcess
from headwater.cli.top import READINGS_KEPT, Readings, Series, top

FIGURES: dict[str, Any] = {
    "server": "headwater",
    "commit": 0,
    "position": 0,
    "commit_groups": 0,
    "connections": 3,
    "connections_total": 3,
    "subscriptions": 1,
    "open_transactions": 2,
    "memtable_size": 2**20,
    "log_size": 3 * 2**20,
    "checkpoint_commit": 0,
    "checkpoint_running": False,
    "read_only": None,
}


def test_rates_are_differences_of_two_readings() -> None:
    readings = Readings()
    readings.add(10.0, FIGURES)
    assert not readings.series["commits/s"].values
    readings.add(12.0, FIGURES | {"commit": 30, "position": 8})
    assert readings.series["commits/s"].values[-1] == 15
    assert readings.series["events/s"].values[-1] == 4
    assert list(readings.series["connections"].values) == [3, 3]
    # The server was restored, and counts from a lower number.
    readings.add(13.0, FIGURES)
    assert readings.series["commits/s"].values[-1] == 0


def test_a_sparkline_has_one_bar_for_each_value_and_the_largest_is_full() -> None:
    series = Series()
    assert series.line() == ""
    for value in (0.0, 0.0):
        series.values.append(value)
    assert series.line() == "▁▁"
    series.values.extend([7.0, 14.0])
    assert series.line() == "▁▁▅█"
    series.values.extend(range(2 * READINGS_KEPT))
    assert len(series.line()) == READINGS_KEPT


def test_top_shows_a_real_server(tmp_path: Path) -> None:
    with ServerProcess(tmp_path) as server:
        with headwater.connect_blocking(server.url) as db:
            db.append("account-ann", [headwater.Event("Opened")] * 5)
            db.groups.create("mailer", category="account", after=0)
        options = ["--url", server.url, "--count", "2", "--interval", "0.1"]
        shown = CliRunner().invoke(top, options)
    assert shown.exit_code == 0, shown.output
    assert "commit 2" in shown.output
    assert "commits/s" in shown.output
    assert "group mailer" in shown.output
