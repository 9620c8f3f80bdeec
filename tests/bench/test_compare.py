from pathlib import Path

import pytest

from bench import clients, compare, servers


def test_a_pair_whose_package_is_missing_is_skipped_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # `make bench-quick` used to fail if redis-server was installed without redis-py.
    pair = ("a get", "headwater-blocking-get", "nosuchrival-get", 1.0)
    monkeypatch.setattr(clients, "PAIRS", (pair,))
    started: dict[str, servers.Server] = {"nosuchrival": servers.Redis(tmp_path)}
    assert [*compare.measure_clients(started, 1, 0.1)] == []
    said = capsys.readouterr().out
    assert said == (
        "skipped: a get, times nosuchrival-get: the package nosuchrival is not installed\n"
    )


def test_a_pair_whose_server_does_not_run_is_skipped_and_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pair = ("a get", "headwater-blocking-get", "nosuchrival-get", 1.0)
    monkeypatch.setattr(clients, "PAIRS", (pair,))
    assert [*compare.measure_clients({}, 1, 0.1)] == []
    assert "nosuchrival-get: its server is not installed" in capsys.readouterr().out


def test_every_loop_that_is_compared_exists() -> None:
    for _, ours, theirs, _ in clients.PAIRS:
        for name in (ours, theirs):
            assert callable(getattr(clients, name.replace("-", "_")))
