"""Consumer groups as they are stored: ordinary keys, with versions and a history.

    04 "g" name                       ->  [number, filter, lease_ms, attempts_max, retry_ms, parked]
    04 "f" number(8)                  ->  low watermark(8)
    04 "s" number(8) stream           ->  [after, attempts, retry_at, reason, pause, tried]
    04 "p" number(8) position(8)      ->  [stream, attempts, reason, time]
    04 "r" number(8) position(8)      ->  [stream, attempts, retry_at, reason, pause]

A group's number is the number of the commit that created it. So a group that is deleted and
created again under the same name does not see the old one's state.

One number, the low watermark, says what is done, together with an entry for each exception:

    a stream without an entry     its events up to the low watermark are done
    a stream with an entry        its events up to `after` are done and no later ones. `after` is
                                  above the low watermark if the stream is ahead, and below it if
                                  the stream waits for a retry or behind a parked event

`attempts`, `retry_at` (microseconds since 1970), `reason` and `pause` (microseconds) belong to the
event at `tried`, the first after `after`. If that event is truncated, the next one starts with zero
attempts. `pause` is the length of the pause: with `retry_at` alone, a pause would last for days
after the clock was set back. Entries of earlier versions have no `pause` or no `tried`.

The low watermark and the entries count a parked event ("p") as done, and also one that was parked
and will be tried again ("r"). So the size of a group's state depends on its unfinished events and
not on the finished ones.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from struct import Struct
from typing import Any, Final, NamedTuple

import msgpack

from headwater_protocol.limits import RETRY_MS_MAX
from headwater_server.engine.format.keyspaces import GROUPS
from headwater_server.engine.reads.filters import EventFilter
from headwater_server.engine.state.layers import State

HOLD: Final = "hold"
"""Later events of a stream wait until its parked event is replayed or discarded."""

CONTINUE: Final = "continue"
"""Later events of a stream are delivered although one is parked."""

_DEFINITION: Final = GROUPS + b"g"
_LOW_WATERMARK: Final = GROUPS + b"f"
_STREAM: Final = GROUPS + b"s"
_PARKED: Final = GROUPS + b"p"
_REPLAY: Final = GROUPS + b"r"

PAUSE_US_MAX: Final = RETRY_MS_MAX * 1000
"""The longest possible pause, assumed for entries that have no `pause`."""

_number = Struct(">Q").pack
_NUMBER_SIZE: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSettings:
    """The settings of a group for leases, retries and parked events.

    Attributes:
        lease_ms: how long a member may hold a delivery before another member gets it.
        attempts_max: deliveries after which an event is parked; 0: never.
        retry_ms: the pause after the first failed delivery; each further failure doubles it.
        parked_stream: HOLD or CONTINUE the later events in the stream of a parked event.
    """

    lease_ms: int = 30_000
    attempts_max: int = 10
    retry_ms: int = 1_000
    parked_stream: str = HOLD

    def as_wire(self) -> dict[str, Any]:
        """The settings by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True, slots=True)
class Definition:
    """A group's name, its number, the filter of its events, and its settings."""

    name: str
    number: int
    wanted: EventFilter
    settings: GroupSettings


class StreamEntry(NamedTuple):
    """The progress of a group in a stream, and the attempts of the next event."""

    after: int
    attempts: int = 0
    retry_at: int = 0
    reason: str = ""
    pause_us: int = 0
    tried: int = 0


class ParkedEntry(NamedTuple):
    """An event that was parked: its stream, after how many attempts, why, and when."""

    stream: str
    attempts: int
    reason: str
    time: int


class ReplayEntry(NamedTuple):
    """An event that was parked and will be tried again."""

    stream: str
    attempts: int = 0
    retry_at: int = 0
    reason: str = ""
    pause_us: int = 0


def definition_key(name: str) -> bytes:
    """The key of a group's definition."""
    return _DEFINITION + name.encode()


def encode_definition(definition: Definition) -> bytes:
    """The value of a group's definition."""
    settings = definition.settings
    return _pack(
        [
            definition.number,
            definition.wanted.as_wire(),
            settings.lease_ms,
            settings.attempts_max,
            settings.retry_ms,
            settings.parked_stream,
        ]
    )


def decode_definition(name: str, value: bytes) -> Definition:
    """Decode a group's definition."""
    number, wanted, lease_ms, attempts_max, retry_ms, parked_stream, *_ = msgpack.unpackb(value)
    settings = GroupSettings(
        lease_ms=lease_ms, attempts_max=attempts_max, retry_ms=retry_ms, parked_stream=parked_stream
    )
    return Definition(name, number, EventFilter.from_wire(wanted), settings)


def low_watermark_key(number: int) -> bytes:
    """The key of a group's low watermark."""
    return _LOW_WATERMARK + _number(number)


def encode_low_watermark(position: int) -> bytes:
    """The value of a low watermark."""
    return _number(position)


def stream_key(number: int, stream: str) -> bytes:
    """The key of a stream's entry."""
    return _STREAM + _number(number) + stream.encode()


def parked_key(number: int, position: int) -> bytes:
    """The key of a parked event."""
    return _PARKED + _number(number) + _number(position)


def replay_key(number: int, position: int) -> bytes:
    """The key of an event that is tried again after it was parked."""
    return _REPLAY + _number(number) + _number(position)


def encode_entry(entry: StreamEntry | ParkedEntry | ReplayEntry) -> bytes:
    """The value of an entry."""
    return _pack(list(entry))


# Reading them.


def find_definition(state: State, view: int, name: str) -> Definition | None:
    """The definition of a group at a commit, or None."""
    stored = state.get(definition_key(name), view)
    return None if stored is None else decode_definition(name, stored)


def list_definitions(state: State, view: int) -> list[Definition]:
    """All groups at a commit, in the order of their names' UTF-8 bytes."""
    found = state.scan(_DEFINITION, _end(_DEFINITION), view)
    return [decode_definition(key[len(_DEFINITION) :].decode(), value) for key, value in found]


def read_low_watermark(state: State, view: int, number: int) -> int:
    """The low watermark of a group at a commit."""
    stored = state.get(low_watermark_key(number), view)
    return 0 if stored is None else int.from_bytes(stored, "big")


def read_streams(state: State, view: int, number: int) -> list[tuple[str, StreamEntry]]:
    """The entries of a group's streams at a commit."""
    start = _STREAM + _number(number)
    return [
        (key[len(start) :].decode(), StreamEntry(*_with_pause(value, 6)))
        for key, value in state.scan(start, _end(start), view)
    ]


def read_entries(
    state: State, view: int, number: int, streams: Iterable[str]
) -> Iterator[tuple[bytes, bytes]]:
    """The entries that may have a reason: of these streams, and of parked or replayed events."""
    for stream in streams:
        key = stream_key(number, stream)
        value = state.get(key, view)
        if value is not None:
            yield key, value
    for kind in (_PARKED, _REPLAY):
        start = kind + _number(number)
        yield from state.scan(start, _end(start), view)


def read_parked(
    state: State, view: int, number: int, after: int, limit: int
) -> list[tuple[int, ParkedEntry]]:
    """The parked events of a group after a position, as of a commit, at most *limit*."""
    found: list[tuple[int, ParkedEntry]] = []
    for key, value in state.scan(
        parked_key(number, after + 1), _end(_PARKED + _number(number)), view
    ):
        if len(found) == limit:
            break
        found.append((_position_of(key), ParkedEntry(*msgpack.unpackb(value)[:4])))
    return found


def read_replays(state: State, view: int, number: int) -> list[tuple[int, ReplayEntry]]:
    """The parked events of a group that will be tried again, as of a commit, in order."""
    start = _REPLAY + _number(number)
    return [
        (_position_of(key), ReplayEntry(*_with_pause(value, 5)))
        for key, value in state.scan(start, _end(start), view)
    ]


def state_keys(state: State, view: int, number: int) -> list[bytes]:
    """Every key of a group except its definition."""
    keys: list[bytes] = []
    for kind in (_LOW_WATERMARK, _STREAM, _PARKED, _REPLAY):
        start = kind + _number(number)
        keys += [key for key, _ in state.scan(start, _end(start), view)]
    return keys


def keys_after(state: State, view: int, number: int, position: int) -> list[bytes]:
    """The keys of a group that are invalid once it restarts after a position.

    These are the entries of all streams, and of parked events after the position, because those
    events are delivered again in the order of their streams.
    """
    streams = _STREAM + _number(number)
    keys = [key for key, _ in state.scan(streams, _end(streams), view)]
    for kind in (_PARKED, _REPLAY):
        start = kind + _number(number)
        keys += [key for key, _ in state.scan(start + _number(position + 1), _end(start), view)]
    return keys


def without_reason(key: bytes, value: bytes, positions: set[int]) -> bytes:
    """Remove the reason from an entry of one of these events; return other entries unchanged."""
    kind = key[: len(_DEFINITION)]
    entry: StreamEntry | ParkedEntry | ReplayEntry
    if kind == _PARKED and _position_of(key) in positions:
        entry = ParkedEntry(*msgpack.unpackb(value)[:4])
    elif kind == _REPLAY and _position_of(key) in positions:
        entry = ReplayEntry(*_with_pause(value, 5))
    elif kind == _STREAM and StreamEntry(*_with_pause(value, 6)).tried in positions:
        entry = StreamEntry(*_with_pause(value, 6))
    else:
        return value
    return encode_entry(entry._replace(reason=""))


def problem_of(key: bytes, value: bytes, last_position: int) -> str | None:
    """The problem of a stored key of a consumer group and its value, or None."""
    kind = key[: len(_DEFINITION)]
    try:
        if kind == _DEFINITION:
            decode_definition(key[len(_DEFINITION) :].decode(), value)
            return None
        if kind == _LOW_WATERMARK:
            position = int.from_bytes(value, "big")
        elif kind == _STREAM:
            key[len(kind) + _NUMBER_SIZE :].decode()
            position = StreamEntry(*_with_pause(value, 6)).after
        elif kind == _PARKED:
            ParkedEntry(*msgpack.unpackb(value)[:4])
            position = _position_of(key)
        elif kind == _REPLAY:
            ReplayEntry(*_with_pause(value, 5))
            position = _position_of(key)
        else:
            return "its kind is unknown"
        if position > last_position:
            return f"it refers to position {position}; the last is {last_position}"
    except (ValueError, TypeError, KeyError, msgpack.UnpackException) as error:
        return f"it cannot be read: {error}"
    return None


def number_in_definition(key: bytes, value: bytes) -> int | None:
    """The number of the group that this key defines; None if it defines none."""
    if not key.startswith(_DEFINITION):
        return None
    try:
        return int(msgpack.unpackb(value)[0])
    except (ValueError, TypeError, LookupError, msgpack.UnpackException):
        return None


def _with_pause(value: bytes, count: int) -> list[Any]:
    """The first members of an entry. Entries of earlier versions lack the length of the pause."""
    members: list[Any] = msgpack.unpackb(value)[:count]
    return [*members, PAUSE_US_MAX] if len(members) == 4 else members


def _position_of(key: bytes) -> int:
    return int.from_bytes(key[-_NUMBER_SIZE:], "big")


def _end(prefix: bytes) -> bytes:
    """The first key after all those with a prefix; the prefix must not be ff bytes alone."""
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes([stripped[-1] + 1])


def _pack(members: list[Any]) -> bytes:
    packed: bytes = msgpack.packb(members)
    return packed
