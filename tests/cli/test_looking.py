"""`headwater get`, `read` and `tail` show data of any codec."""

import json
import uuid

import pytest
from click.testing import CliRunner, Result

import headwater
from headwater.cli import main
from headwater.cli.server_process import ServerProcess
from headwater.codecs.codec import RawCodec

NO_MSGPACK = b"\xc1\x00\xff"


@pytest.fixture
def name() -> str:
    """A name that no other test uses: they share a server."""
    return "l" + uuid.uuid4().hex


def call(server: ServerProcess, *arguments: str) -> Result:
    return CliRunner().invoke(main, [*arguments, "--url", server.url])


def rows(result: Result) -> list[dict[str, object]]:
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_get_shows_a_value_as_json(real_server: ServerProcess, name: str) -> None:
    with headwater.connect_blocking(real_server.url) as db:
        db.put((name, "ann"), {"größe": 1.5, "of": b"\0"})
        db.put((name, 7), 1)
    shown = call(real_server, "get", name, "ann")
    assert json.loads(shown.stdout) == {"größe": 1.5, "of": {"$bytes": "AA=="}}
    assert call(real_server, "get", json.dumps([name, 7])).stdout == "1\n"
    assert rows(call(real_server, "get", "--json", json.dumps([name, 7]))) == [
        {"key": [name, 7], "value": 1}
    ]


def test_get_lists_the_keys_of_a_prefix_under_a_head(real_server: ServerProcess, name: str) -> None:
    with headwater.connect_blocking(real_server.url) as db:
        for number in range(3):
            db.put((name, number), number)
    lines = call(real_server, "get", "--prefix", name).stdout.splitlines()
    assert lines[0].split() == ["KEY", "VALUE"]
    assert len(lines) == 4
    found = rows(call(real_server, "get", "--prefix", name, "--limit", "2", "--json"))
    assert [row["value"] for row in found] == [0, 1]


def test_get_says_that_a_key_is_absent_and_shows_the_past(
    real_server: ServerProcess, name: str
) -> None:
    with headwater.connect_blocking(real_server.url) as db:
        before = db.ping().commit
        db.put((name,), 1)
    absent = call(real_server, "get", name, "--commit", str(before))
    assert absent.exit_code == 1
    assert absent.stderr == f"Error: there is no key {name}\n"
    assert call(real_server, "get").exit_code == 2
    assert call(real_server, "get", "[").exit_code == 2
    assert call(real_server, "get", "[{}]").exit_code == 2


def test_read_shows_the_events_of_a_stream_or_a_category(
    real_server: ServerProcess, name: str
) -> None:
    with headwater.connect_blocking(real_server.url) as db:
        for place in range(3):
            db.append(f"{name}-{place}", headwater.Event("Happened", {"n": place}, tags=["t"]))
        db.append(f"{name}-0", headwater.Event("Ended", None))
        db.erase(f"{name}-1", versions=[1])
    lines = call(real_server, "read", f"{name}-0").stdout.splitlines()
    assert lines[0].split() == ["POSITION", "STREAM", "VERSION", "TIME", "TYPE", "DATA"]
    assert [line.split()[4] for line in lines[1:]] == ["Happened", "Ended"]
    found = rows(call(real_server, "read", "--category", name, "--type", "Happened", "--json"))
    assert [row["data"] for row in found] == [{"n": 0}, None, {"n": 2}]
    assert [row["erased"] for row in found] == [False, True, False]
    assert found[0]["tags"] == ["t"]
    backwards = rows(
        call(real_server, "read", "--category", name, "--reverse", "--limit", "1", "--json")
    )
    assert backwards[0]["type"] == "Ended"
    assert call(real_server, "read", f"{name}-0", "--category", name).exit_code == 2


def test_tail_begins_with_the_newest_events_and_follows(
    real_server: ServerProcess, name: str
) -> None:
    with headwater.connect_blocking(real_server.url) as db:
        for number in range(5):
            db.append(name, headwater.Event("Happened", number))
    found = rows(call(real_server, "tail", name, "-n", "2", "--limit", "2", "--json"))
    assert [row["data"] for row in found] == [3, 4]
    first = int(str(found[0]["position"]))
    later = call(real_server, "tail", name, "--after", str(first - 1), "--limit", "1")
    assert later.stdout.splitlines()[0].split()[0] == "POSITION"
    assert later.stdout.splitlines()[1].split()[0] == str(first)


def test_data_of_another_codec_is_shown(real_server: ServerProcess, name: str) -> None:
    with headwater.connect_blocking(real_server.url, codec=RawCodec()) as db:
        db.put((name,), NO_MSGPACK)
        db.append(name, headwater.Event("Raw", NO_MSGPACK, NO_MSGPACK))
        db.groups.create(name, stream=name)
        with db.join(name, until_caught_up=True) as group:
            for delivery in group:
                delivery.park("not mine")
    raw = {"$raw": "wQD/"}
    assert json.loads(call(real_server, "get", name).stdout) == raw
    assert rows(call(real_server, "get", "--prefix", name, "--json"))[0]["value"] == raw
    (event,) = rows(call(real_server, "read", name, "--json"))
    assert (event["data"], event["metadata"]) == (raw, raw)
    assert rows(call(real_server, "tail", name, "--limit", "1", "--json")) == [event]
    assert rows(call(real_server, "group", "parked", name, "--json"))[0]["reason"] == "not mine"
