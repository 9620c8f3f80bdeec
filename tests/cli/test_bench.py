"""`headwater bench` on a real server: every operation works, and the figures add up."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

import headwater
from headwater.cli import main
from headwater.cli.bench import OPERATIONS, PREFIX, bench
from headwater.cli.server_process import ServerProcess
from headwater_protocol.keys import encode_key


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


def test_the_default_codec_reads_what_a_benchmark_leaves_and_it_leaves_nothing(url: str) -> None:
    given = ["--url", url, "-c", "1", "-s", "0.05", "--keys", "20", "-o", "put", "-o", "append"]
    assert CliRunner().invoke(bench, [*given, "--keep"]).exit_code == 0
    with headwater.connect_blocking(url) as db:
        assert [key for key, _ in db.scan((PREFIX,))]
        assert [event.data for event in db.read_all(category=PREFIX)]
        assert CliRunner().invoke(bench, given).exit_code == 0
        assert list(db.scan()) == []
        assert list(db.read_all()) == []
        assert list(db.streams()) == []


def test_a_benchmark_whose_requests_fail_says_so_by_its_status(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path)
    server.start()
    try:
        with headwater.connect_blocking(server.url) as db:
            # A text cannot be added to, but a put would succeed. So this makes only a get fail.
            batch = db.batch()
            batch._keep(["put", encode_key((PREFIX, 0)), b"\xc1"], 1)
            db.execute(batch)
        given = ["--url", server.url, "-c", "1", "-s", "0.05", "--keys", "1", "-o", "get"]
        ran = CliRunner().invoke(main, ["bench", *given])
        assert ran.exit_code == 1
        assert "requests failed" in ran.stderr
    finally:
        server.stop()
