"""The commands with a leader and its follower: what they show, and that they take such URLs."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import headwater
from headwater.cli import main
from headwater.cli.server_process import ServerProcess
from tests.client.nodes.real_nodes import promote, real_nodes, url_of


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[ServerProcess]]:
    with real_nodes(tmp_path_factory.mktemp("nodes")) as started:
        with headwater.connect_blocking(started[0].url) as db:
            db.put(("k",), 1)
            commit = db.ping().commit
        with headwater.connect_blocking(started[1].url) as db:
            db.wait_commit(commit)
        yield started


def call(url: str, *arguments: str) -> Result:
    return CliRunner().invoke(main, [*arguments, "--url", url])


def test_ping_says_what_a_node_is(servers: list[ServerProcess]) -> None:
    leader, follower = servers
    assert re.fullmatch(
        rf"{leader.address}: leader, commit 1, [\d.]+ ms\n", call(leader.url, "ping").output
    )
    assert re.fullmatch(
        rf"{follower.address}: follower, commit 1, [\d.]+ ms, "
        rf"0 commits and [\d.]+ s behind {leader.url}\n",
        call(follower.url, "ping").output,
    )


def test_ping_asks_each_node_of_a_url_and_says_which_is_away(servers: list[ServerProcess]) -> None:
    url = url_of(servers).replace("/?", ",127.0.0.1:1/?")
    result = call(url, "ping")
    assert result.exit_code == 0
    shown = result.output.splitlines()
    assert [line.split(",")[0] for line in shown] == [
        f"{servers[0].address}: leader",
        f"{servers[1].address}: follower",
        "127.0.0.1:1: cannot connect to 127.0.0.1:1: Connection refused",
    ]
    without = call(f"{servers[1].url},127.0.0.1:1", "ping")
    assert without.exit_code == 1
    assert "no node leads" in without.output


@pytest.mark.parametrize("read", ["leader", "nearest", "follower"])
def test_commands_take_the_url_of_several_nodes(servers: list[ServerProcess], read: str) -> None:
    url = url_of(servers[::-1], read)
    assert call(url, "get", "k").stdout == "1\n"
    figures = json.loads(call(url, "stats", "--json").stdout)
    assert figures["replication"]["role"] == "leader"
    dumped = call(url, "dump")
    assert dumped.exit_code == 0, dumped.output
    assert "1 keys" in dumped.output
    shown = call(url, "top", "--count", "1")
    assert shown.exit_code == 0, shown.output
    assert "leader of 1" in shown.output


def test_top_and_stats_at_a_follower_say_so(servers: list[ServerProcess]) -> None:
    leader, follower = servers
    assert "follower" in call(follower.url, "stats").output
    shown = call(follower.url, "top", "--count", "1").output
    assert f"follower of {leader.url}, 0 commits" in " ".join(shown.split())


def test_a_url_that_is_wrong_is_a_usage_error(servers: list[ServerProcess]) -> None:
    result = call("headwater://a,,b", "ping")
    assert result.exit_code == 2
    assert "url: address 2 of 3 is empty" in result.output


def test_commands_go_on_after_a_promotion(tmp_path: Path) -> None:
    with real_nodes(tmp_path) as nodes:
        leader, follower = nodes
        with headwater.connect_blocking(url_of(nodes)) as db:
            made = db.put(("k",), 1)
        with headwater.connect_blocking(follower.url) as db:
            db.wait_commit(made)
        leader.kill()
        promote(follower)
        assert call(url_of(nodes), "get", "k").stdout == "1\n"
        assert call(url_of(nodes), "user", "list").exit_code == 0
