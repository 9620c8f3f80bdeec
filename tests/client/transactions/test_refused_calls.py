"""A call that the client refuses changes nothing.

For any arguments, a method of a transaction does one of two things. Either it accepts the call, and
then the transaction can be sent. Or it raises InvalidArgument or TooLarge, and then the transaction
sends the same as without the call.
"""

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import pytest

import headwater
from headwater import Event, Query
from headwater.transactions.batch import Batch
from headwater.transactions.transaction import Transaction
from headwater_protocol.limits import MIB
from tests.client.faces import FACES, run_on
from tests.client.fake_server import FakeServer, Received

VALID: Final[dict[str, dict[str, Any]]] = {
    "put": {"key": "a", "value": 1, "ttl": 10},
    "touch": {"key": "a", "ttl": 10},
    "delete": {"key": "a"},
    "delete_range": {"prefix": ("a",)},
    "add": {"key": "a", "number": 1},
    "min": {"key": "a", "number": 1},
    "max": {"key": "a", "number": 1},
    "append": {"stream": "s", "events": [Event("A")], "unless": Query(tags=["x"])},
    "save_snapshot": {"stream": "s", "version": 1, "state": 1},
    "ack": {},
    "truncate": {"stream": "s", "before": 2},
    "delete_stream": {"stream": "s"},
    "set_retention": {"stream": "s"},
    "erase": {"stream": "s", "versions": [1]},
    "get": {"key": "a"},
    "get_many": {"keys": ["a"]},
    "get_entry": {"key": "a"},
    "ttl": {"key": "a"},
    "scan": {"prefix": ("a",)},
    "expiries": {"prefix": ("a",)},
    "count": {"prefix": ("a",)},
    "prefixes": {"prefix": ("a",)},
    "read": {"stream": "s"},
    "read_all": {},
    "newest_position": {},
    "version": {"stream": "s"},
    "load": {"stream": "s"},
    "caused_by": {"event": UUID(int=1)},
    "correlated": {"chain": UUID(int=1)},
}
"""The methods of a transaction, with arguments that they accept."""

CONDITIONS: Final[dict[str, dict[str, Any]]] = {
    "require": {"key": "a", "value": 1},
    "require_absent": {"key": "a"},
    "exists": {"key": "a"},
    "require_number": {"key": "a", "less": 1},
    "require_stream": {"stream": "s", "expect": 1},
    "require_unchanged": {"prefix": ("a",), "commit": 1},
    "require_no_events": {"query": Query(tags=["x"])},
}
"""What a batch has besides."""

NOT_CALLED: Final = {
    "begin", "commit", "rollback", "committed", "id", "settle", "settle_deliveries",
    "request", "results", "prepare",
}  # fmt: skip
"""Public members that take no argument of a caller."""

JUNK: Final[tuple[Any, ...]] = (
    None,
    True,
    -1,
    0,
    2.5,
    float("nan"),
    2**70,
    "",
    "\ud800",
    "x" * 10_000,
    b"",
    (),
    [],
    {},
    object(),
    ("a", object()),
    [1],
    [object()],
    "text",
    datetime(2013, 1, 1),  # noqa: DTZ001
    datetime(2013, 1, 1, tzinfo=UTC),
    timedelta(days=-1),
    Event("A", object()),
    Event("A", 1, {}, id="no UUID"),  # type: ignore[arg-type]
    Event("A", 1, tags=[5]),  # type: ignore[list-item]
    Event("", 1),
    Event(5),  # type: ignore[arg-type]
    [Event("A"), Event("A", object())],
    [Event("A", bytes(8 * MIB), bytes(8 * MIB))],
    UUID(int=1),
    [UUID(int=1)],
)


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as server:
        server.on("get", b"\x01")
        server.on("get_many", [7, [b"\x01"]])
        server.on("get_entry", None)
        server.on("get_expiry", None)
        server.on("scan", [7, [], False])
        server.on("scan_keys", [7, [], None])
        server.on("scan_expiries", [7, [], False])
        server.on("count_keys", [7, 0, None])
        server.on("scan_prefixes", [7, [], None])
        server.on("stream_version", [7, 0])
        server.on("read_stream", [7, 0, [], False])
        server.on("read_all", [7, 0, [], False])
        server.on("newest_position", [7, 0, False])
        server.on("position_at", 0)
        server.on("load", [7, 0, None, [], False, 1])
        server.on("position_before", 0)
        yield server


async def made(result: Any) -> None:
    """Await what a method returned, or read all its pages."""
    if isinstance(result, AsyncIterator):
        async for _ in result:
            pass
    elif isinstance(result, Awaitable):
        await result


def sent(server: FakeServer) -> list[tuple[str, list[Any]]]:
    """Return the requests that write, without the transaction's id, and clear the list."""
    came: list[Received] = [
        one for one in server.requests if one.name in ("write", "commit", "execute")
    ]
    server.requests.clear()
    return [(one.name, one.arguments[1:]) for one in came]


async def with_call(
    db: headwater.Database, name: str, arguments: dict[str, Any], begun: bool
) -> bool:
    """A transaction with a call between two writes. Returns whether the call was accepted."""
    accepted = True
    async with db.transaction() as tx:
        if begun:
            await tx.get("a")
        tx.put("before", 1)
        if name:
            try:
                await made(call(tx, name, arguments))
            except (headwater.InvalidArgument, headwater.TooLarge):
                accepted = False
        tx.put("after", 2)
    return accepted


def call(target: object, name: str, arguments: dict[str, Any]) -> Any:
    method: Callable[..., Any] = getattr(target, name)
    if name == "ack":
        return method(*arguments.values())
    return method(**arguments)


def attempts(methods: dict[str, dict[str, Any]], kind: type) -> Iterator[tuple[str, Any]]:
    """Each method with each of its arguments replaced by each piece of junk."""
    for name, valid in methods.items():
        parameters = inspect.signature(getattr(kind, name)).parameters
        for parameter in [*parameters][1:]:
            for junk in JUNK:
                yield name, {**valid, parameter: junk}


def test_every_method_is_tried() -> None:
    """A new method has to be added here, with arguments that it accepts."""
    for kind, tried in ((Transaction, VALID), (Batch, {**VALID, **CONDITIONS})):
        public = {name for name in dir(kind) if not name.startswith("_")}
        assert public - NOT_CALLED == public & tried.keys()


@pytest.mark.parametrize("begun", [False, True])
def test_a_refused_call_leaves_a_transaction_as_it_was(server: FakeServer, begun: bool) -> None:
    refused = 0

    async def scenario(db: headwater.Database) -> None:
        nonlocal refused
        await with_call(db, "", {}, begun)
        without = sent(server)
        for name, arguments in attempts(VALID, Transaction):
            accepted = await with_call(db, name, arguments, begun)
            if not accepted:
                refused += 1
                assert sent(server) == without, (name, arguments)
            server.requests.clear()

    run_on("blocking", server.url, scenario)
    assert refused > 300


@pytest.mark.parametrize("face", FACES)
def test_a_refused_read_leaves_a_transaction_as_it_was_on_every_face(
    face: str, server: FakeServer
) -> None:
    async def scenario(db: headwater.Database) -> None:
        for begun in (False, True):
            await with_call(db, "", {}, begun)
            without = sent(server)
            for name, arguments in (
                ("scan", {"limit": 2.5}),
                ("load", {"stream": "user-\ud800"}),
                ("read", {"stream": "s", "limit": "many"}),
                ("read_all", {"category": "\ud800"}),
                ("get", {"key": object()}),
            ):
                assert not await with_call(db, name, arguments, begun)
                assert sent(server) == without, (name, arguments)

    run_on(face, server.url, scenario)


def test_a_refused_call_leaves_a_batch_as_it_was(server: FakeServer) -> None:
    async def scenario(db: headwater.Database) -> None:
        tried = {
            name: given for name, given in {**VALID, **CONDITIONS}.items() if hasattr(Batch, name)
        }
        for name, arguments in attempts(tried, Batch):
            batch = db.batch()
            batch.put("before", 1)
            before = repr(batch.request())
            try:
                call(batch, name, arguments)
            except (headwater.InvalidArgument, headwater.TooLarge):
                assert repr(batch.request()) == before, (name, arguments)
                continue
            reads = len(batch.request()[1])
            server.on("execute", [[8, 1_000_000, None, None, {}], [None] * reads])
            await db._channel.persist(bytes(16), "execute", bytes(16), *batch.request())

    run_on("blocking", server.url, scenario)


def test_a_call_that_exceeds_a_bound_of_the_transaction_is_refused(
    server: FakeServer,
) -> None:
    """The server used to refuse such a call at the commit, and all writes were lost."""

    async def scenario(db: headwater.Database) -> None:
        async with db.transaction() as tx:
            tx.erase("s", versions=range(1, 10_001))
            with pytest.raises(headwater.TooLarge, match="10001 erased events; the maximum is 100"):
                tx.erase(positions=[1])
            for number in range(1000):
                tx.delete_range((number,))
            with pytest.raises(headwater.TooLarge, match="1001 range deletes; the maximum is 1000"):
                tx.delete_range(("one more",))
            tx.append("s", [Event("A")] * 99_999)
            with pytest.raises(headwater.TooLarge, match="100001 events; the maximum is 100000"):
                tx.append("s", [Event("A")] * 2)
            with pytest.raises(headwater.InvalidArgument, match="start 2 is not before end 1"):
                tx.delete_range(start=2, end=1)
            tx.append("s", Event("A"))

    run_on("blocking", server.url, scenario)
    writes = [write[0] for write in server.named("execute")[0].arguments[3]]
    assert writes == ["erase", *["delete_range"] * 1000, "append", "append"]
