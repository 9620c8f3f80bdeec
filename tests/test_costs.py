"""The cost of requests in function calls, which do not depend on the machine or its load.

For a fixed number of requests, every call of a Python function is counted, from the received bytes
to the bytes to send. The disk is in memory. The source is measured, because calls inside compiled
modules cannot be counted; there are as many. The bounds are the measured numbers, rounded up. A
change that makes the hot path longer fails here: find another way, or raise the bound and say why.
bench/ measures times.
"""

import gc
import sys
from collections.abc import Callable
from types import FrameType

import pytest

from headwater_protocol.frames import encode_frame
from headwater_protocol.messages import encode
from headwater_server.net.server import Server
from headwater_server.net.session.session import Session, open_session
from headwater_server.storage.store.interface import Family
from tests.engine.database import Database
from tests.net.serving import settings

pytestmark = pytest.mark.source

REQUESTS = 64
VALUE = bytes(100)

# Calls of a request. In a scan of 100 keys, only keys in a memtable cost a call each.
# Records of the log are encoded piece by piece, and numbers by functions of their own. That is
# more calls, but compiled, a quarter of the instructions. Each request tells how many bytes of an
# incomplete one are held, which the memory budget counts: two calls. A commit looks whether a key
# has expired, whether its writes need steps, and whether somebody waits for the log: nine. A page
# of a scan is charged to the budget of work.
GET_CALLS_MAX = 19
PUT_CALLS_MAX = 87
GROUPED_PUT_CALLS_MAX = 40
APPEND_CALLS_MAX = 122
APPEND_MANY_CALLS_MAX = 651
TRANSACTION_CALLS_MAX = 176
MEMTABLE_SCAN_CALLS_MAX = 158
SCAN_CALLS_MAX = 53
# For each put in a checkpoint: calls, and entries of the state store. One entry is the version.
# Half of these transaction ids are random, so each of those has its own entry.
CHECKPOINT_CALLS_MAX = 21
CHECKPOINT_ENTRIES_MAX = 1.6


class Costs:
    """A session without a socket. The test runs the group commit."""

    def __init__(self) -> None:
        given = settings()
        self.database = Database(given.engine)

        async def nobody(call: Callable[[], object], /) -> object:
            raise AssertionError("no task runs here")

        self.server = Server(
            self.database.engine,
            given,
            clock=lambda: self.database.now,
            worker=lambda name: nobody,  # type: ignore[arg-type, return-value]
        )
        self.session: Session = open_session(self.server.service, "test", lambda: None)
        self.request("hello", 1, "test")

    def request(self, operation: str, *arguments: object) -> bytes:
        """Send one request, sync what it committed, and take the answer."""
        self.session.receive(encode_frame(encode([7, operation, *arguments])))
        self.commit()
        return self.take()

    def commit(self) -> None:
        """Make a group durable as the committer does."""
        commits = self.server.service.group_commit
        group = commits._engine.take_group()
        if group is not None:
            commits._begin(group)
            commits._engine.make_durable(group)
            commits._finish(group)

    def take(self) -> bytes:
        """Take the output, as a driver does."""
        sent = b""
        while self.session.output_size:
            output = bytes(self.session.output())
            self.session.sent(len(output))
            sent += output
        self.session.notified = False
        return sent

    def calls(self, *frames: bytes) -> int:
        """Count the calls while frames are served in turn, up to their answers."""
        count = 0
        for frame in frames:
            count += self.count(self.session.receive, frame)
        if not self.session.output_size:
            count += self.count(self.commit)
        answers = self.take()
        assert answers, "every request is answered"
        assert b"\x01\x94" not in answers[:8], f"an error: {answers!r}"
        return count

    @staticmethod
    def count(function: Callable[..., object], *arguments: object) -> int:
        """Count the calls of Python functions in a call, including the call itself."""
        count = 0

        def see(frame: FrameType, event: str, argument: object) -> None:
            nonlocal count
            count += event == "call"

        # A garbage collection could call callbacks of other libraries, which would be counted.
        gc.disable()
        sys.setprofile(see)
        try:
            function(*arguments)
        finally:
            sys.setprofile(None)
            gc.enable()
        return count


def frame(*members: object) -> bytes:
    return encode_frame(encode(list(members)))


@pytest.fixture
async def costs() -> Costs:
    return Costs()


async def test_a_get_makes_few_calls(costs: Costs) -> None:
    costs.request("execute", costs.database.new_id(), [], [], [["put", b"k", VALUE]])
    gets = [frame(number, "get", None, b"k") for number in range(1, REQUESTS + 1)]
    assert sum(costs.calls(get) for get in gets) <= GET_CALLS_MAX * REQUESTS


async def test_a_put_makes_few_calls(costs: Costs) -> None:
    puts = [
        frame(7, "execute", costs.database.new_id(), [], [], [["put", b"k%d" % number, VALUE]])
        for number in range(REQUESTS)
    ]
    assert sum(map(costs.calls, puts)) <= PUT_CALLS_MAX * REQUESTS


async def test_puts_that_are_committed_together_make_fewer_calls(costs: Costs) -> None:
    puts = [
        frame(number, "execute", costs.database.new_id(), [], [], [["put", b"k%d" % number, VALUE]])
        for number in range(1, REQUESTS + 1)
    ]
    assert costs.calls(*puts) <= GROUPED_PUT_CALLS_MAX * REQUESTS


async def test_an_append_makes_few_calls(costs: Costs) -> None:
    appends = [
        frame(
            7,
            "execute",
            costs.database.new_id(),
            [],
            [],
            [["append", "stream-1", number, [[None, "Happened", VALUE, b""]]]],
        )
        for number in range(REQUESTS)
    ]
    assert sum(map(costs.calls, appends)) <= APPEND_CALLS_MAX * REQUESTS


async def test_an_append_of_a_hundred_events_makes_few_calls_for_each_event(costs: Costs) -> None:
    events = [[None, "Happened", VALUE, b""]] * 100
    appends = [
        frame(
            7,
            "execute",
            costs.database.new_id(),
            [],
            [],
            [["append", "stream-1", 100 * number, events]],
        )
        for number in range(REQUESTS)
    ]
    assert sum(map(costs.calls, appends)) <= APPEND_MANY_CALLS_MAX * REQUESTS


async def test_a_transaction_in_two_round_trips_makes_few_calls(costs: Costs) -> None:
    count = 0
    for number in range(REQUESTS):
        transaction, key = costs.database.new_id(), b"k%d" % number
        count += costs.calls(frame(1, "begin", transaction), frame(2, "get", transaction, key))
        count += costs.calls(frame(3, "commit", transaction, [["put", key, VALUE]]))
    assert count <= TRANSACTION_CALLS_MAX * REQUESTS


async def test_a_scan_makes_few_calls_however_many_keys_it_finds(costs: Costs) -> None:
    writes = [["put", b"k%03d" % number, VALUE] for number in range(100)]
    costs.request("execute", costs.database.new_id(), [], [], writes)
    scan = frame(7, "scan", None, b"", None, 100)
    costs.request("scan", None, b"", None, 100)
    assert costs.calls(scan) <= MEMTABLE_SCAN_CALLS_MAX
    costs.database.checkpoint()
    costs.request("scan", None, b"", None, 100)
    assert costs.calls(scan) <= SCAN_CALLS_MAX


async def test_a_checkpoint_makes_few_calls_and_entries_for_a_put(costs: Costs) -> None:
    puts = 8 * REQUESTS
    for number in range(puts):
        put = ["put", b"k%d" % (number % (3 * REQUESTS)), VALUE]
        costs.request("execute", costs.database.new_id(), [], [], [put])
    count = costs.count(costs.database.checkpoint)
    store = costs.database.store
    entries = sum(1 for family in Family for _ in store.scan(family, b""))
    assert count <= CHECKPOINT_CALLS_MAX * puts
    assert entries <= CHECKPOINT_ENTRIES_MAX * puts
