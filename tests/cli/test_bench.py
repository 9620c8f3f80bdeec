"""`headwater bench` on a real server: every operation works, and the figures add up."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from headwater.cli.bench import OPERATIONS, bench
from headwater.cli.server_process import ServerProcess


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    directory: Path = tmp_path_factory.mktemp("bench")
    server = ServerProcess(directory)
    server.start()
    yield server.url
    server.stop()


def test_every_operation_can_be_measured(url: str) -> None:
    given = ["--url", url, "-c", "2", "-d", "2", "-s", "0.1", "--keys", "50", "--json"]
    ran = CliRunner().invoke(bench, given, catch_exceptions=False)
    assert ran.exit_code == 0
    found = json.loads(ran.output)
    assert [each["operation"] for each in found] == list(OPERATIONS)
    for each in found:
        assert each["failures"] == 0
        assert each["requests"] > 0
        assert each["rate"] == pytest.approx(each["requests"] / 0.1, rel=0.01)
        assert 0 < each["p50_ms"] <= each["p99_ms"] <= each["p999_ms"] <= each["max_ms"]


def test_a_single_operation_can_be_measured(url: str) -> None:
    ran = CliRunner().invoke(bench, ["--url", url, "-o", "get", "-s", "0.05", "-c", "1"])
    assert ran.exit_code == 0
    assert "get" in ran.output
    assert "append" not in ran.output
