"""A commit during which a read fails is complete or leaves no trace.

The state store and the event log are read while a commit is planned. Each of these reads fails
here in turn. Whatever the answer to the client, the transaction is then either committed or not:
its status, keys, events and snapshots agree. They stay the same after other commits, after a
checkpoint, and after a crash.
"""

import errno
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from headwater_protocol.errors import HeadwaterError
from headwater_protocol.numbers import ANY
from headwater_server.engine.reads.filters import EVERYTHING
from headwater_server.storage.store.interface import Family, Page
from headwater_server.testing.memory_files import Call
from headwater_server.testing.memory_store import MemoryStore
from tests.engine.database import OWNER, Database, all_events

READS_MAX = 200
"""More reads in one commit mean an endless loop."""

KEYS = [b"a", b"b", b"c", b"number", b"set\x00one", b"set\x00two"]
STREAMS = ["account-1", "account-2", "kept-1"]


class FailingReads:
    """Counts the reads of a database's files and of its store, and makes one of them fail."""

    def __init__(self) -> None:
        self.count = 0
        self.fails: int | None = None

    def __call__(self) -> None:
        self.count += 1
        if self.count == self.fails:
            raise OSError(errno.EIO, "read failed")

    def on_call(self, call: Call) -> None:
        if call.operation == "read":
            self()


class CountedStore(MemoryStore):
    """A store that calls a hook before each read."""

    def __init__(self, content: MemoryStore) -> None:
        super().__init__()
        self._live = content._live.copy()
        self._durable = content._durable.copy()
        self.reading: Callable[[], None] = lambda: None

    def get(self, family: Family, key: bytes) -> bytes | None:
        self.reading()
        return super().get(family, key)

    def get_many(self, family: Family, keys: Sequence[bytes]) -> list[bytes | None]:
        self.reading()
        return super().get_many(family, keys)

    def scan(
        self, family: Family, start: bytes, end: bytes | None = None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        self.reading()
        return super().scan(family, start, end, reverse=reverse)

    def page(
        self,
        family: Family,
        start: bytes,
        end: bytes | None,
        *,
        count_max: int,
        size_max: int,
        reverse: bool = False,
    ) -> Page:
        self.reading()
        return super().page(
            family, start, end, count_max=count_max, size_max=size_max, reverse=reverse
        )


def events(*data: bytes, identity: bytes | None = None) -> list[list[Any]]:
    return [[identity, "T", each, b""] for each in data]


def prepared() -> tuple[Database, FailingReads]:
    """A database whose content is only in files, so that every look-up reads them."""
    database = Database()
    database.execute(*(["put", key, b"\x01"] for key in KEYS))
    for stream in STREAMS:
        database.execute(["append", stream, ANY, events(b"1", b"2", b"3", b"4")])
    database.execute(["append", "account-1", ANY, events(b"known", identity=b"i" * 16)])
    database.execute(["save_snapshot", "account-1", "totals", 1, 2, b"state"])
    database.execute(["set_retention", "kept-1", 4, None])
    database.checkpoint()
    reads = FailingReads()
    store = CountedStore(database.store.crash())
    database.engine.close()
    cold = Database(seed=2, files=database.files, store=store, now=database.now)
    store.reading = reads
    cold.files.faults.before = reads.on_call
    return cold, reads


def contents(database: Database) -> list[Any]:
    """The results of all reads, with the versions of the streams."""
    reader = database.engine.reader()
    loads = [reader.load(stream, "totals", 1) for stream in STREAMS]
    return [
        reader.scan(b"", None, 1000, False).items,
        all_events(reader, 0, EVERYTHING),
        [(load.version, load.snapshot, load.events) for load in loads],
    ]


Writes = list[list[Any]]

COMMITS: dict[str, tuple[Writes, Writes]] = {
    # name: conditions, writes
    "put": ([], [["put", b"a", b"\x02"], ["put", b"new", b"\x02"]]),
    "add": ([], [["add", b"number", 1], ["put", b"a", b"\x02"]]),
    "append": ([], [["put", b"a", b"\x02"], ["append", "account-1", 5, events(b"6")]]),
    "append to two streams": (
        [],
        [
            ["put", b"a", b"\x02"],
            ["append", "account-1", 5, events(b"6", b"7")],
            ["append", "account-2", ANY, events(b"5")],
            ["append", "fresh-1", 0, events(b"1")],
        ],
    ),
    "append with an id": (
        [],
        [["put", b"a", b"\x02"], ["append", "account-2", ANY, events(b"5", identity=b"j" * 16)]],
    ),
    "append again": (
        [],
        [
            ["put", b"a", b"\x02"],
            ["append", "account-1", ANY, events(b"known", identity=b"i" * 16)],
        ],
    ),
    "append that hides an older event": (
        [],
        [["put", b"a", b"\x02"], ["append", "kept-1", 4, events(b"5")]],
    ),
    "conditions": (
        [["value", b"a", b"\x01"], ["stream", "account-1", 5], ["value", b"absent", None]],
        [["put", b"a", b"\x02"], ["append", "account-1", ANY, events(b"6")]],
    ),
    "erase": ([], [["put", b"a", b"\x02"], ["erase", "account-1", [1, 3]]]),
    "truncate": ([], [["put", b"a", b"\x02"], ["truncate", "account-1", 3]]),
    "delete a stream": (
        [],
        [["delete_stream", "account-1"], ["append", "account-2", ANY, events(b"5")]],
    ),
    "delete a range": ([], [["delete_range", b"set\x00", b"set\x01"], ["put", b"a", b"\x02"]]),
    "save a snapshot": (
        [],
        [["put", b"a", b"\x02"], ["save_snapshot", "account-1", "totals", 1, 5, b"later"]],
    ),
}


def execute(database: Database, transaction: bytes, name: str) -> None:
    """The commit in one request."""
    conditions, writes = COMMITS[name]
    ticket, _ = database.engine.execute(
        transaction, user=0, conditions=conditions, reads=None, writes=[list(w) for w in writes]
    )
    if ticket.error is not None:
        raise ticket.error


def commit(database: Database, transaction: bytes, name: str) -> None:
    """The commit of an open serializable transaction, see `begin`."""
    writes = [list(write) for write in COMMITS[name][1]]
    ticket = database.engine.commit(transaction, OWNER, writes)
    if ticket.error is not None:
        raise ticket.error


def begin(database: Database, transaction: bytes) -> None:
    """Begin the transaction for `commit`, with reads that are checked at commit."""
    opened = database.engine.begin(transaction, owner=OWNER, isolation="serializable")
    opened.get(b"a")
    opened.scan(b"set\x00", b"set\x01", 10, False)
    opened.read_stream("account-1", 0, 10, False)


@pytest.mark.parametrize("name", COMMITS)
@pytest.mark.parametrize("way", [execute, commit])
def test_a_commit_with_a_failing_read_is_complete_or_leaves_no_trace(
    way: Callable[[Database, bytes, str], None], name: str
) -> None:
    transaction = b"t" * 16
    database, reads = prepared()
    before = contents(database)
    outcomes = set()
    for number in range(1, READS_MAX):
        database, reads = prepared()
        if way is commit:
            begin(database, transaction)
        reads.count, reads.fails = 0, number
        try:
            way(database, transaction, name)
            failed = False
        except (OSError, HeadwaterError):
            failed = True
        reached, reads.fails = reads.count >= number, None
        database.sync()
        outcomes.add(_checked_status(database, transaction, before))
        if not reached:
            assert not failed
            break
    else:
        raise AssertionError(f"more than {READS_MAX} reads")
    assert "committed" in outcomes, "the last attempt had no failed read"


def _checked_status(database: Database, transaction: bytes, before: list[Any]) -> str:
    """The status of the transaction; it must be the same now, later, and after a crash."""
    state = database.engine.status(transaction, resolve=False).state
    first = contents(database)
    assert (first != before) == (state == "committed")
    database.execute(["put", b"of others", b"\x03"])
    second = contents(database)
    assert second[0] == sorted_with(first[0], b"of others", b"\x03")
    assert second[1:] == first[1:]
    database.checkpoint()
    assert contents(database) == second
    database.files.faults.before = None
    database = database.crash()
    assert contents(database) == second
    assert database.engine.status(transaction, resolve=False).state == state
    # Appends must still count versions correctly.
    database.execute(["append", "account-1", ANY, events(b"one more")])
    database.execute(["append", "fresh-1", ANY, events(b"one more")])
    return state


def sorted_with(items: list[Any], key: bytes, value: bytes) -> list[Any]:
    pairs = dict(zip(items[::2], items[1::2], strict=True)) | {key: value}
    return [each for pair in sorted(pairs.items()) for each in pair]
