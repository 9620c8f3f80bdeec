"""A model of the database in plain dicts and lists, with a copy of the state for each commit.

    model = Model()
    running = ModelTransaction(model.states[view])
    running.write(["put", b"k", b"v"])             # as in a request
    running.read("get", b"k")                      # b"v"
    model.commit(running)                          # states[-1] is the new state

It is slow and obvious on purpose. A transaction records its reads and writes in `steps`, so that it
can be executed again on another state. The reads of a serializable one must return the same there.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgpack

from headwater_protocol.numbers import ANY, STREAM_EXISTS
from headwater_server.engine.reads.filters import EventFilter

SNAPSHOTS_KEPT = 2


class ModelEvent(NamedTuple):
    """The fields of an event that do not change at commit, as its position does."""

    stream: str
    version: int
    type: str
    data: bytes | None
    tags: tuple[str, ...] = ()


SnapshotKey = tuple[str, str, int]
"""Stream, name and schema of a snapshot."""


@dataclass(slots=True)
class PlainState:
    """The whole state at one commit."""

    keys: dict[bytes, bytes] = field(default_factory=dict)
    expiries: dict[bytes, int] = field(default_factory=dict)
    events: list[ModelEvent] = field(default_factory=list)
    snapshots: dict[SnapshotKey, dict[int, bytes]] = field(default_factory=dict)

    def copy(self) -> "PlainState":
        snapshots = {key: dict(versions) for key, versions in self.snapshots.items()}
        return PlainState(dict(self.keys), dict(self.expiries), list(self.events), snapshots)

    def scan(self, start: bytes, end: bytes | None, limit: int, reverse: bool) -> list[bytes]:
        found = [key for key in sorted(self.keys) if key >= start and (end is None or key < end)]
        if reverse:
            found.reverse()
        return [part for key in found[:limit] for part in (key, self.keys[key])]

    def version(self, stream: str) -> int:
        return sum(event.stream == stream for event in self.events)

    def stream(self, stream: str, after: int, limit: int, reverse: bool) -> list[ModelEvent]:
        events = [event for event in self.events if event.stream == stream]
        return _page(events, after, limit, reverse)

    def matching(self, after: int, wanted: EventFilter, limit: int, reverse: bool) -> list[int]:
        """Positions of events that match a filter."""
        found = [
            position
            for position, event in enumerate(self.events, 1)
            if (wanted.stream is None or event.stream == wanted.stream)
            and (wanted.category is None or event.stream.split("-")[0] == wanted.category)
            and (wanted.prefix is None or event.stream.startswith(wanted.prefix))
            and (not wanted.types or event.type in wanted.types)
            and ((position < after or after == 0) if reverse else position > after)
        ]
        return (found[::-1] if reverse else found)[:limit]

    def snapshot(
        self, stream: str, name: str, schema: int, below: int | None
    ) -> tuple[int, bytes] | None:
        usable = {
            version: state
            for version, state in self.snapshots.get((stream, name, schema), {}).items()
            if version <= self.version(stream) and (below is None or version < below)
        }
        return max(usable.items(), default=None)


def _page(events: list[Any], after: int, limit: int, reverse: bool) -> list[Any]:
    if not reverse:
        return events[after : after + limit]
    return (events if after == 0 else events[: after - 1])[::-1][:limit]


class ModelTransaction:
    """A transaction over one state; `now` is that state with its own writes on top."""

    def __init__(self, base: PlainState) -> None:
        self.base = base
        self.now = base.copy()
        self.steps: list[tuple[str, Any, Any]] = []
        self.touched: dict[bytes, None] = {}
        self.renewed: set[bytes] = set()  # whose time was moved, and nothing else
        self.puts: set[bytes] = set()
        self.ranges: list[tuple[bytes, bytes | None]] = []
        self.saved: list[tuple[SnapshotKey, int]] = []
        self.appends = 0
        self.failed: set[int] = set()

    # Reads.

    def read(self, name: str, *arguments: Any) -> Any:
        """The result of a read: the part that must be the same when it is repeated at commit."""
        match name, *arguments:
            case "get", key:
                return self.now.keys.get(key)
            case "expiry", key:
                return self.now.expiries.get(key)
            case "scan_expiries", start, end, limit, reverse:
                expiring = PlainState({key: b"%d" % at for key, at in self.now.expiries.items()})
                return expiring.scan(start, end, limit, reverse)
            case "scan", start, end, limit, reverse:
                return self.now.scan(start, end, limit, reverse)
            case "read_stream", stream, after, limit, reverse:
                events = self.now.stream(stream, after, limit, reverse)
                return self.now.version(stream), events
            case "read_all", after, wanted, limit, reverse:
                # Its own events get their positions at commit, so a query does not return them.
                return self.base.matching(after, wanted, limit, reverse)
            case "load", stream, snapshot_name, schema, below:
                snapshot = self.now.snapshot(stream, snapshot_name, schema, below)
                after = 0 if snapshot is None else snapshot[0]
                return (
                    self.now.version(stream),
                    snapshot,
                    self.now.stream(stream, after, 10**6, False),
                )
        raise AssertionError(name)

    def note_read(self, name: str, arguments: tuple[Any, ...], result: Any) -> None:
        self.steps.append((name, arguments, result))

    # Writes.

    def write(self, write: list[Any]) -> None:
        self.steps.append(("write", write, None))
        keys = self.now.keys
        match write:
            case ["put", key, value]:
                keys[key] = value
                self.now.expiries.pop(key, None)
                self._touch(key, blind=False)
            case ["expire", key, None, at]:
                if key in keys and at is not None:
                    self.now.expiries[key] = at
                elif at is None:
                    self.now.expiries.pop(key, None)
                if key not in self.touched:
                    self.renewed.add(key)
                self.touched[key] = None
            case ["delete", key]:
                keys.pop(key, None)
                self.now.expiries.pop(key, None)
                self._touch(key, blind=False)
            case ["add" | "min" | "max" as operation, key, number]:
                stored = keys.get(key)
                result = _applied(
                    operation, None if stored is None else msgpack.unpackb(stored), number
                )
                keys[key] = msgpack.packb(result)
                # On a value that the transaction wrote itself, the result is known, as for a put.
                self._touch(key, blind=key not in self.puts and not self._covers(key))
            case ["delete_range", start, end]:
                covered = [k for k in keys if k >= start and (end is None or k < end)]
                for key in covered:
                    del keys[key]
                    self.now.expiries.pop(key, None)
                for key in list(self.touched):
                    if key >= start and (end is None or key < end):
                        del self.touched[key]
                        self.puts.discard(key)
                self.ranges.append((start, end))
            case ["append", stream, expect, events]:
                self._append(stream, expect, events)
            case ["save_snapshot", stream, name, schema, version, state]:
                snapshot_key = (stream, name, schema)
                self.now.snapshots.setdefault(snapshot_key, {})[version] = state
                self.saved.append((snapshot_key, version))
            case unknown:
                raise AssertionError(unknown)

    def _touch(self, key: bytes, *, blind: bool) -> None:
        self.touched[key] = None
        self.renewed.discard(key)
        if not blind:
            self.puts.add(key)

    def _covers(self, key: bytes) -> bool:
        return any(key >= start and (end is None or key < end) for start, end in self.ranges)

    def _append(self, stream: str, expect: int, events: list[list[Any]]) -> None:
        version = self.now.version(stream)
        if not (expect in (ANY, version) or (expect == STREAM_EXISTS and version)):
            self.failed.add(self.appends)
        for _, event_type, data, _ in events:
            version += 1
            self.now.events.append(ModelEvent(stream, version, event_type, data))
        self.appends += 1

    # Commit.

    def keys_written(self) -> set[bytes]:
        return {key for key in self.base.keys if self._covers(key)} | self.touched.keys()

    def values_written(self) -> set[bytes]:
        return self.keys_written() - self.renewed

    def streams_written(self) -> set[str]:
        return {event.stream for event in self.now.events[len(self.base.events) :]}

    def pruned(self) -> PlainState:
        """The state after its commit: `now` without superseded snapshots."""
        for key in {key for key, _ in self.saved}:
            versions = self.now.snapshots[key]
            for version in sorted(versions, reverse=True)[SNAPSHOTS_KEPT:]:
                if (key, version) not in self.saved:
                    del versions[version]
        return self.now

    def again_on(self, state: PlainState, *, check_reads: bool) -> "ModelTransaction":
        """Execute it again on another state; if told, check that its reads return the same."""
        again = ModelTransaction(state)
        for name, arguments, result in self.steps:
            if name == "write":
                again.write(arguments)
            elif check_reads:
                found = again.read(name, *arguments)
                assert found == result, (
                    f"{name}{arguments} returned {result}; repeated at commit {found}"
                )
        return again


def _applied(operation: str, stored: int | None, number: int) -> int:
    if stored is None:
        return number
    match operation:
        case "add":
            return stored + number
        case "min":
            return min(stored, number)
        case _:
            return max(stored, number)


def _expire(state: PlainState, time: int) -> None:
    for key in [key for key, at in state.expiries.items() if at <= time]:
        del state.expiries[key], state.keys[key]


class Model:
    """A state for each commit. `states[0]` is empty."""

    def __init__(self) -> None:
        self.states = [PlainState()]
        self.transactions: list[bytes] = [b""]
        self.written: list[tuple[set[bytes], set[str]]] = [(set(), set())]
        self.values: list[set[bytes]] = [set()]

    @property
    def last_commit(self) -> int:
        return len(self.states) - 1

    def commit(
        self, identity: bytes, running: ModelTransaction, time: int, *, serializable: bool
    ) -> ModelTransaction:
        """Execute a transaction that has writes as the next commit."""
        again = running.again_on(self.states[-1], check_reads=serializable)
        assert not again.failed, (
            f"committed although the expected versions of appends {again.failed} are wrong"
        )
        state = again.pruned().copy()
        _expire(state, time)
        self.states.append(state)
        self.transactions.append(identity)
        self.written.append((again.keys_written(), again.streams_written()))
        self.values.append(again.values_written())
        return again

    def expired(self, time: int) -> set[bytes]:
        """The keys whose time has come."""
        return {key for key, at in self.states[-1].expiries.items() if at <= time}

    def expire(self, identity: bytes, time: int) -> None:
        """Delete the keys whose time has come, in a commit of their own."""
        self.written.append((self.expired(time), set()))
        self.values.append(self.expired(time))
        self.states.append(self.states[-1].copy())
        self.transactions.append(identity)
        _expire(self.states[-1], time)

    def forget_after(self, commit: int) -> None:
        """Remove the commits after this one, which a crash lost."""
        del self.states[commit + 1 :]
        del self.transactions[commit + 1 :]
        del self.written[commit + 1 :]
        del self.values[commit + 1 :]
