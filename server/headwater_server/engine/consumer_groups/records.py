"""Consumer groups as they are stored: ordinary keys, with versions and a history.

    04 "g" name                       ->  [number, filter, lease_ms, attempts_max, retry_ms, parked]
    04 "f" number(8)                  ->  low watermark(8)
    04 "s" number(8) stream           ->  [after, attempts, retry_at, reason, pause]
    04 "p" number(8) position(8)      ->  [stream, attempts, reason, time]
    04 "r" number(8) position(8)      ->  [stream, attempts, retry_at, reason, pause]

A group's number is that of the commit that created it, so a group that is deleted and made anew
under the same name finds nothing of the old one.

What is done is told by one number, the low watermark, and by one entry for each stream that the low watermark
does not speak for:

    a stream without an entry     its events up to the low watermark are done
    a stream with one             its events up to `after` are done, and no later one, whatever
                                  the low watermark is: above it for a stream that is ahead, below it
                                  for one that waits for a retry, or behind a parked event

`attempts`, `retry_at` (microseconds since 1970), `reason` and `pause` (microseconds) are of the
event after `after`. By `retry_at` alone a pause would last for days after the clock was set back,
so its length stands beside it; entries of earlier versions have no `pause`. A parked event ("p")
is done as far as the low watermark and the entries go, and so is one that was parked and is to be tried
again ("r"). So the state of a group is as large as what is unfinished in it, and not as what it
has done.
"""

from dataclasses import dataclass, fields
from struct import Struct
from typing import Any, Final, NamedTuple

import msgpack

from headwater_protocol.limits import RETRY_MS_MAX
from headwater_server.engine.format.keyspaces import GROUPS
from headwater_server.engine.reads.filters import EventFilter
from headwater_server.engine.state.layers import State

HOLD: Final = "hold"
"""Later events of a stream wait until its parked event was replayed or discarded."""

CONTINUE: Final = "continue"
"""Later events of a stream go on past its parked events."""

_DEFINITION: Final = GROUPS + b"g"
_LOW_WATERMARK: Final = GROUPS + b"f"
_STREAM: Final = GROUPS + b"s"
_PARKED: Final = GROUPS + b"p"
_REPLAY: Final = GROUPS + b"r"

PAUSE_US_MAX: Final = RETRY_MS_MAX * 1000
"""The longest pause that there can be; that of entries which do not say how long theirs is."""

_number = Struct(">Q").pack
_NUMBER_SIZE: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSettings:
    """How a group treats its members and what fails.

    Attributes:
        lease_ms: how long a member may take for a delivery before another one gets it.
        attempts_max: deliveries of an event after which it is parked; 0: it never is.
        retry_ms: the pause after a first failed delivery; doubled by each further one.
        parked_stream: what becomes of a stream one of whose events is parked: HOLD, CONTINUE.
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
    """What a group is: its name, its number, which events it is about, its settings."""

    name: str
    number: int
    wanted: EventFilter
    settings: GroupSettings


class StreamEntry(NamedTuple):
    """How far a stream is, and how often its next event was tried."""

    after: int
    attempts: int = 0
    retry_at: int = 0
    reason: str = ""
    pause_us: int = 0


class ParkedEntry(NamedTuple):
    """An event that was set aside: of which stream, after how many attempts, why and when."""

    stream: str
    attempts: int
    reason: str
    time: int


class ReplayEntry(NamedTuple):
    """An event that was parked and is to be tried again."""

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
    """Take a definition apart."""
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
        (key[len(start) :].decode(), StreamEntry(*_with_pause(value)))
        for key, value in state.scan(start, _end(start), view)
    ]


def read_parked(
    state: State, view: int, number: int, after: int, limit: int
) -> list[tuple[int, ParkedEntry]]:
    """The parked events of a group at a commit, from after a position on, at most *limit*."""
    found: list[tuple[int, ParkedEntry]] = []
    for key, value in state.scan(
        parked_key(number, after + 1), _end(_PARKED + _number(number)), view
    ):
        if len(found) == limit:
            break
        found.append((_position_of(key), ParkedEntry(*msgpack.unpackb(value)[:4])))
    return found


def read_replays(state: State, view: int, number: int) -> list[tuple[int, ReplayEntry]]:
    """The events of a group that are to be tried again, at a commit, in order."""
    start = _REPLAY + _number(number)
    return [
        (_position_of(key), ReplayEntry(*_with_pause(value)))
        for key, value in state.scan(start, _end(start), view)
    ]


def state_keys(state: State, view: int, number: int) -> list[bytes]:
    """Every key of a group but its definition."""
    keys: list[bytes] = []
    for kind in (_LOW_WATERMARK, _STREAM, _PARKED, _REPLAY):
        start = kind + _number(number)
        keys += [key for key, _ in state.scan(start, _end(start), view)]
    return keys


def stream_keys(state: State, view: int, number: int) -> list[bytes]:
    """The keys of the entries of a group's streams."""
    start = _STREAM + _number(number)
    return [key for key, _ in state.scan(start, _end(start), view)]


def problem_of(key: bytes, value: bytes, last_position: int) -> str | None:
    """What is wrong with a stored key of this space and its value, or None."""
    kind = key[: len(_DEFINITION)]
    try:
        if kind == _DEFINITION:
            decode_definition(key[len(_DEFINITION) :].decode(), value)
            return None
        if kind == _LOW_WATERMARK:
            position = int.from_bytes(value, "big")
        elif kind == _STREAM:
            key[len(kind) + _NUMBER_SIZE :].decode()
            position = StreamEntry(*_with_pause(value)).after
        elif kind == _PARKED:
            ParkedEntry(*msgpack.unpackb(value)[:4])
            position = _position_of(key)
        elif kind == _REPLAY:
            ReplayEntry(*_with_pause(value))
            position = _position_of(key)
        else:
            return "its kind is unknown"
        if position > last_position:
            return f"it speaks of position {position}; the last is {last_position}"
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


def _with_pause(value: bytes) -> list[Any]:
    """The members of an entry; those of earlier versions do not say how long their pause is."""
    members: list[Any] = msgpack.unpackb(value)[:5]
    return [*members, PAUSE_US_MAX] if len(members) == 4 else members


def _position_of(key: bytes) -> int:
    return int.from_bytes(key[-_NUMBER_SIZE:], "big")


def _end(prefix: bytes) -> bytes:
    """The first key after all that begin with a prefix, which does not end in ff bytes alone."""
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes([stripped[-1] + 1])


def _pack(members: list[Any]) -> bytes:
    packed: bytes = msgpack.packb(members)
    return packed
