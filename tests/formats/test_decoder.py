"""docs/format.md says enough: a reader written from it reads what a client did."""

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
    """A value of the default codec, as far as these directories have them."""
    if not data:
        return None
    value = msgpack.unpackb(data, strict_map_key=False)
    return {"hex": value.hex()} if isinstance(value, bytes) else value


@pytest.mark.parametrize("fixture", FIXTURES, ids=name_of)
def test_a_reader_that_knows_the_page_alone_reads_the_same(fixture: Path, tmp_path: Path) -> None:
    expected = expected_of(fixture)
    found = Directory(unpack(fixture, tmp_path))
    assert found.format == int(fixture.parent.name)
    assert found.last_commit == expected["newest"]
    assert [plain(found.keys[key]) for key in sorted(found.keys)] == [
        value for _, value in expected["now"]["keys"]
    ]
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
