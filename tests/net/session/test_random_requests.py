"""Random requests, many in each write, over several connections, with a slow disk.

The laws: Every request is answered once. The answers of one transaction have the order of its
requests. No answer depends on a commit that is not published. A transaction id commits once, and
all answers about it are the same. A model that executes the commits one after the other returns
the same reads.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgpack
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from headwater_protocol.connection import Answer, Failure
from headwater_protocol.errors import HeadwaterError, TransactionAborted
from headwater_server.engine.settings import EngineSettings
from tests.net.serving import Client, MemoryServer, serving, settings

KEYS = [b"a", b"b", b"c"]
STREAMS = ["s-1", "s-2"]
# With these small bounds, requests are left for the next turn, commits wait for other syncs, and
# checkpoints run all the time.
SETTINGS = replace(
    settings(requests_per_turn_max=5, requests_waiting_max=7),
    engine=EngineSettings(disk_reserve_size=0, memtable_commits_max=9),
)


@dataclass(slots=True)
class Sent:
    """A request, and its answer once it has arrived."""

    operation: str
    arguments: list[Any]
    payload: Any = None
    error: HeadwaterError | None = None

    @property
    def transaction(self) -> bytes | None:
        return self.arguments[0] if self.arguments else None

    @property
    def committed(self) -> list[Any] | None:
        """The commit in the answer, if there is one."""
        if self.error is not None:
            return None
        answer: list[Any] | None = None
        if self.operation == "commit":
            answer = self.payload
        elif self.operation == "execute":
            answer = self.payload[0]
        elif self.operation == "status" and self.payload[0] == "committed":
            answer = self.payload[1]
        return answer

    @property
    def tells_of_fence(self) -> bool:
        """Whether the answer says that the transaction can never commit."""
        aborted = self.operation == "status" and self.error is None and self.payload[0] == "aborted"
        return aborted or isinstance(self.error, TransactionAborted)


@dataclass
class Connection:
    """A client that sends many requests in one write."""

    client: Client
    server: MemoryServer
    sent: list[Sent] = field(default_factory=list)
    answered: list[Sent] = field(default_factory=list)
    unanswered: dict[int, Sent] = field(default_factory=dict)
    own: list[bytes] = field(default_factory=list)

    async def send(self, requests: Sequence[tuple[Any, ...]]) -> None:
        frames = []
        for operation, *arguments in requests:
            request_id, frame = self.client.connection.request(operation, *arguments)
            sent = Sent(operation, arguments)
            self.sent.append(sent)
            self.unanswered[request_id] = sent
            frames.append(frame)
        await self.client.stream.send_all(b"".join(frames))

    async def collect(self) -> None:
        """Take answers until cancelled."""
        while True:
            item = await self.client.receive()
            assert isinstance(item, Answer | Failure), item
            # A second answer to a request finds none here.
            sent = self.unanswered.pop(item.request_id)
            if isinstance(item, Failure):
                sent.error = item.error
            else:
                sent.payload = item.payload
            if sent.committed is not None:
                assert sent.committed[0] <= self.server.engine.published, "it is not durable yet"
            self.answered.append(sent)


class Requests:
    """Makes requests. Only the connection that began a transaction writes in it."""

    def __init__(self, source: random.Random, server: MemoryServer) -> None:
        self.source = source
        self.server = server
        self.executed: dict[bytes, tuple[Any, ...]] = {}
        self.begun: list[bytes] = []
        self.committing: dict[bytes, list[list[Any]]] = {}

    def writes(self) -> list[list[Any]]:
        source = self.source
        key, stream = source.choice(KEYS), source.choice(STREAMS)
        event = [None, "T", source.randbytes(2), b""]
        choices: list[list[list[Any]]] = [
            [],
            [["put", key, source.randbytes(3)]],
            [["delete", key]],
            [["add", b"n", 1]],
            [["append", stream, -1, [event]]],
            [["append", stream, source.randint(0, 4), [event, event]], ["add", b"n", 1]],
            [["append", stream, 0, [[key * 16, "T", b"same", b""]]]],
        ]
        return source.choice(choices)

    def execute(self) -> tuple[Any, ...]:
        """An execute that was not sent before."""
        source = self.source
        new = self.server.new_id()
        conditions = [["value", source.choice(KEYS), None]] if source.random() < 0.3 else []
        reads = [["get", source.choice(KEYS)]] if source.random() < 0.3 else []
        self.executed[new] = new, conditions, reads, self.writes()
        return "execute", *self.executed[new]

    def one(self, own: list[bytes]) -> tuple[Any, ...]:
        """A request for a connection that has begun the transactions *own*."""
        source = self.source
        new = self.server.new_id()
        mine = source.choice([*own[-2:], new])
        anyone = source.choice([*self.begun[-5:], *list(self.executed)[-5:], new])
        kind = source.choice(
            ["begin", "get", "get", "scan", "write", "commit", "commit", "ping", "outside"]
            + [source.choice(["rollback", "resolve", "status"]), "again"]
            + ["execute"] * 4
        )
        if kind == "begin":
            own.append(new)
            self.begun.append(new)
            return "begin", new, source.choice(["snapshot", "serializable"])
        if kind == "again" and self.executed:
            return "execute", *self.executed[source.choice(list(self.executed)[-9:])]
        if kind in ("execute", "again"):
            return self.execute()
        requests: dict[str, tuple[Any, ...]] = {
            "get": ("get", mine, source.choice(KEYS)),
            "scan": ("scan", mine, b"", None),
            "write": ("write", mine, self.writes()),
            "commit": ("commit", mine, self.committing.setdefault(mine, self.writes())),
            "rollback": ("rollback", mine),
            "ping": ("ping",),
            "outside": ("get", None, b"n"),
            "status": ("status", source.choice([mine, anyone])),
            "resolve": ("status", source.choice([mine, anyone]), True),
        }
        return requests[kind]


def check_order(connection: Connection) -> None:
    """Check that each request was answered, and those of each transaction in order."""
    assert not connection.unanswered
    for transaction in {sent.transaction for sent in connection.sent} - {None}:
        sent = [one for one in connection.sent if one.transaction == transaction]
        came = [one for one in connection.answered if one.transaction == transaction]
        assert [*map(id, came)] == [*map(id, sent)]


@dataclass
class Truth:
    """The model: it applies the commits one after the other.

    Attributes:
        states: the keys and their values at each commit.
        versions: the version of each stream at the newest commit.
    """

    states: list[dict[bytes, Any]] = field(default_factory=lambda: [{}])
    versions: dict[str, int] = field(default_factory=dict)
    ids: set[tuple[str, bytes]] = field(default_factory=set)

    def apply(self, writes: Sequence[list[Any]]) -> None:
        state = dict(self.states[-1])
        for write in writes:
            match write:
                case ["put", key, value]:
                    state[key] = value
                case ["delete", key]:
                    state.pop(key, None)
                case ["add", key, by]:
                    state[key] = state.get(key, 0) + by
                case ["append", stream, expect, events]:
                    given = events[0][0]
                    if (stream, given) in self.ids:
                        continue
                    version = self.versions.get(stream, 0)
                    assert expect in (-1, version), "a commit with a wrong expected version"
                    self.versions[stream] = version + len(events)
                    if given is not None:
                        self.ids.add((stream, given))
        self.states.append(state)


def check_outcomes(sent: list[Sent], executed: dict[bytes, Any], log: list[bytes]) -> None:
    """Check that each id commits once, with the same answers, and that reads equal the model."""
    assert len({*log}) == len(log), "an id committed twice"
    numbers = {transaction: number for number, transaction in enumerate(log, start=1)}
    answers: dict[tuple[bool, bytes | None], Any] = {}
    for one in sent:
        assert not (one.tells_of_fence and one.transaction in numbers), (
            "a fenced transaction committed"
        )
        committed = one.committed
        if committed is not None and one.transaction in numbers:
            # If the events existed already, the answer names the commit that appended them. A
            # status request has no writes, so its answer names the transaction's own commit.
            by = one.operation == "status", one.transaction
            assert committed == answers.setdefault(by, committed)
            assert committed[0] <= numbers[one.transaction]
    writes = {transaction: request[3] for transaction, request in executed.items()}
    for transaction in {*log} - {*executed}:
        writes[transaction] = writes_of(transaction, sent)
    truth = Truth()
    for transaction in log:
        truth.apply(writes[transaction])
    check_reads(sent, numbers, truth)


def writes_of(transaction: bytes, sent: list[Sent]) -> list[list[Any]]:
    """The writes of a transaction that was begun, up to its first commit."""
    writes: list[list[Any]] = []
    for one in sent:
        if one.transaction == transaction and one.error is None:
            if one.operation in ("write", "commit"):
                writes += one.arguments[1]
            if one.operation == "commit":
                return writes
    raise AssertionError("it was not committed")


def check_reads(sent: list[Sent], numbers: dict[bytes, int], truth: Truth) -> None:
    """Check that each read returned the state at its commit, with the transaction's own writes."""
    views: dict[bytes, tuple[int, str]] = {}
    own: dict[bytes, dict[bytes, Any]] = {}
    for one in sent:
        transaction = one.transaction
        if one.error is not None or transaction is None:
            continue
        match one.operation, one.arguments:
            case "begin", [_, isolation]:
                views[transaction], own[transaction] = (one.payload[0], isolation), {}
            case "write", [_, writes]:
                for name, key, *value in writes:
                    if name in ("put", "delete"):
                        own[transaction][key] = value[0] if value else None
            case "get", [_, key]:
                view, isolation = views[transaction]
                mine = own[transaction]
                expected = mine[key] if key in mine else truth.states[view].get(key)
                assert one.payload == expected
                if isolation == "serializable" and transaction in numbers and key not in mine:
                    assert truth.states[numbers[transaction] - 1].get(key) == expected
            case "execute", [_, conditions, reads, _] if transaction in numbers:
                before = truth.states[numbers[transaction] - 1]
                assert all(before.get(key) == value for _, key, value in conditions)
                assert one.payload[1] == [before.get(key) for _, key in reads]


def check_counter(connection: Connection) -> None:
    """Check that reads outside transactions never return an older state than the read before."""
    outside = [
        one for one in connection.answered if one.operation == "get" and one.transaction is None
    ]
    counts = [0 if one.payload is None else msgpack.unpackb(one.payload) for one in outside]
    assert counts == sorted(counts)


async def act(source: random.Random, server: MemoryServer, nursery: trio.Nursery) -> int:
    """Do one random run and check it; return the number of commits."""
    requests = Requests(source, server)
    connections = [Connection(await server.connect(), server) for _ in range(3)]
    for connection in connections:
        nursery.start_soon(connection.collect)
    for _ in range(40):
        for disk in (server.disk, server.checkpoint_disk):
            source.choice([disk.hold, disk.release, disk.release])()
        server.database.now += source.randrange(2_000_000)
        for connection in source.sample(connections, source.randint(1, 3)):
            await connection.send(
                [requests.one(connection.own) for _ in range(source.randint(1, 9))]
            )
        if source.random() < 0.2:
            hasty = Connection(await server.connect(), server)
            await hasty.send([requests.execute() for _ in range(source.randint(1, 9))])
            if source.random() < 0.5:
                await wait_all_tasks_blocked()
            await hasty.client.close()
        if source.random() < 0.7:
            await wait_all_tasks_blocked()
    server.disk.release()
    server.checkpoint_disk.release()
    await wait_all_tasks_blocked()
    for connection in connections:
        check_order(connection)
        check_counter(connection)
    sent = [one for connection in connections for one in connection.answered]
    log = [entry[1] for entry in server.engine.looking.read_commits(0, 10_000)]
    check_outcomes(sent, requests.executed, log)
    return len(log)


@pytest.mark.parametrize("seed", range(8))
async def test_every_request_is_answered_once_in_order_and_as_the_log_says(seed: int) -> None:
    async with serving(SETTINGS) as server, trio.open_nursery() as nursery:
        assert await act(random.Random(seed), server, nursery) > 0
        nursery.cancel_scope.cancel()
