"""Events of versions without tags have nine members in the log, and can still be read."""

from typing import Any

import pytest

from headwater_server.engine.format.events import decode_event, encode_events
from headwater_server.engine.reads.filters import EVERYTHING, Criterion, EventFilter
from headwater_server.engine.transactions import appending
from tests.engine.damaged import Closed
from tests.engine.database import Database, all_events


def append(identity: int, *tags: str) -> list[Any]:
    return ["append", "s", -1, [[bytes([identity]) * 16, "T", b"d%d" % identity, b"", [*tags]]]]


def encode_nine(*members: Any) -> list[bytes]:
    return [b"\x99" + packed[1:-1] for packed in encode_events(*members)]


def test_old_events_are_read_found_repeated_and_checked_beside_new_ones() -> None:
    database = Database()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(appending, "encode_events", encode_nine)
        database.execute(append(1))
        database.checkpoint()
        database.execute(append(2))
        database.sync()
    # One of them is in the files, the other one in the write-ahead log only.
    database = database.crash()
    answer = database.execute(append(3, "x"))
    reader = database.engine.reader()
    stored = all_events(reader, 0, EVERYTHING)
    assert [event[:1] for event in stored] == [b"\x99", b"\x99", b"\x9a"]
    assert [decode_event(event).tags for event in stored] == [(), (), ("x",)]
    assert len(all_events(reader, 0, EventFilter(types=("T",)))) == 3
    tagged = all_events(reader, 0, EventFilter(query=(Criterion((), ("x",)),)))
    assert tagged == stored[2:]
    # Sent again, they count as done.
    assert database.execute(append(1))[0] == 1
    assert database.execute(append(3, "x")) == answer
    database.checkpoint()
    assert Closed(database).check().is_clean
