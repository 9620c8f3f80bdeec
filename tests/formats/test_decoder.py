"""docs/format.md is complete: a reader written from it reads the same as a client."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import msgpack
import pytest

from tests.formats.decoder import Directory
from tests.formats.unpacking import FIXTURES, expected_of, name_of, unpack

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def text_of(time: int) -> str:
    return (EPOCH + timedelta(microseconds=time)).isoformat()


def plain(data: bytes | None) -> Any:
    """Decode a value of the default codec. Only the types in these directories are supported."""
    if not data:
        return None
    value = msgpack.unpackb(data, strict_map_key=False)
    return {"hex": value.hex()} if isinstance(value, bytes) else value


def in_space(keys: dict[bytes, bytes], space: bytes) -> dict[bytes, bytes]:
    return {key[len(space) :]: keys[key] for key in sorted(keys) if key.startswith(space)}


def check_keys(found: Directory, expected: dict[str, Any]) -> None:
    users = in_space(found.newest, b"\x01")
    assert [plain(each) for each in users.values()] == [each for _, each in expected["now"]["keys"]]
    past = {int(commit): state for commit, state in expected["past"].items()}
    for commit, state in past.items():
        if commit <= found.applied_commit:
            then = in_space(found.at(commit), b"\x01")
            assert [plain(each) for each in then.values()] == [each for _, each in state["keys"]]
    accounts = in_space(found.newest, b"\x03n")
    assert [name.decode() for name in accounts] == expected["users"]
    for name, account in accounts.items():
        number, salt, iterations, stored_key, server_key = msgpack.unpackb(account)
        assert found.newest[b"\x03i" + number.to_bytes(8, "big")] == name
        assert [len(each) for each in (salt, stored_key, server_key)] == [32, 32, 32]
        assert iterations > 1000
    groups = in_space(found.newest, b"\x04g")
    assert {name.decode() for name in groups} == set(expected["groups"])
    for name, group in groups.items():
        number, _, lease_ms, attempts, retry_ms, parked_stream = msgpack.unpackb(group)
        info = expected["groups"][name.decode()]["info"]
        assert (lease_ms / 1000, attempts) == (info["lease"], info["attempts"])
        assert (retry_ms / 1000, parked_stream) == (info["retry_delay"], info["parked_stream"])
        parked = in_space(found.newest, b"\x04p" + number.to_bytes(8, "big"))
        assert [int.from_bytes(key, "big") for key in parked] == [
            each["position"] for each in expected["groups"][name.decode()]["parked"]
        ]


def check_transactions(found: Directory, expected: dict[str, Any]) -> None:
    states = {}
    for identity in expected["transactions"]:
        commit = found.transactions.get(UUID(identity).bytes)
        states[identity] = "open" if commit is None else "committed" if commit else "aborted"
    assert states == {
        # The files have no trace of a forgotten transaction.
        identity: "open" if status["state"] == "forgotten" else status["state"]
        for identity, status in expected["transactions"].items()
    }


@pytest.mark.parametrize("fixture", FIXTURES, ids=name_of)
def test_a_reader_written_from_the_page_reads_the_same_as_a_client(
    fixture: Path, tmp_path: Path
) -> None:
    expected = expected_of(fixture)
    found = Directory(unpack(fixture, tmp_path))
    assert found.format == int(fixture.parent.name)
    assert found.last_commit == expected["newest"]
    check_keys(found, expected)
    check_transactions(found, expected)
    assert {info["stream"]: info["version"] for info in expected["now"]["streams"]}.items() <= (
        found.versions.items()
    )
    assert expected["events"]
    for event in expected["events"]:
        stored = found.events[event["position"]]
        assert stored is not None
        position, stream, version, commit, time, identity, kind, data, metadata, tags = stored
        assert (position, stream, version, commit, kind, tags) == (
            event["position"],
            event["stream"],
            event["version"],
            event["commit"],
            event["type"],
            event["tags"],
        )
        assert text_of(time) == event["time"]
        assert str(UUID(bytes=identity)) == event["id"]
        if not event["erased"]:
            assert plain(data) == event["data"]
            assert plain(metadata) == event["metadata"]
    assert expected["commits"]
    for row in expected["commits"]:
        transaction, time, user, first, count = found.commits[row["commit"]]
        assert str(UUID(bytes=transaction)) == row["transaction"]
        assert text_of(time) == row["time"]
        assert bool(user) == bool(row["user"])
        assert count == row["events"]
        if count:
            assert first == row["first_position"]
