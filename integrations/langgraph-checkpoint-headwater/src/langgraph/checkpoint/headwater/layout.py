"""Which keys hold a thread's checkpoints, and how values of any size are stored.

    (prefix, "c", thread, namespace, checkpoint)                  a checkpoint without its values
    (prefix, "b", thread, namespace, channel, version)            the value of a channel
    (prefix, "w", thread, namespace, checkpoint, task, index)     a pending write
    (prefix, "r", run, thread, namespace, checkpoint)             the checkpoints of a run
    (prefix, "p", thread, namespace, token, number)               pieces of a large value

A value is stored as [kind, data], where kind is the serializer's. A value above PIECE_SIZE_MAX is
[kind, token, pieces], and its data is in pieces, which are written before it. A piece whose value
was never written belongs to nothing; it goes when its thread goes.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple
from uuid import uuid4

from langgraph.checkpoint.base import WRITES_IDX_MAP
from langgraph.checkpoint.serde.base import SerializerProtocol

PIECE_SIZE_MAX: Final = 4 * 2**20
"""Bytes. A request has at most 16 MiB and a value 8 MiB."""

EMPTY: Final = "empty"
"""The kind of a channel without a value."""

Key = tuple[Any, ...]
Row = tuple[Key, Any]


class Place(NamedTuple):
    """A thread and a checkpoint namespace."""

    thread: str
    namespace: str


@dataclass(frozen=True, slots=True)
class Layout:
    """Keys under a prefix, which keeps savers of one database apart."""

    prefix: str

    def checkpoints(self, *place: str) -> Key:
        """The key of a checkpoint, or the prefix of those of a thread or namespace."""
        return (self.prefix, "c", *place)

    def values(self, *place: Any) -> Key:
        """The key of a channel's value, or a prefix."""
        return (self.prefix, "b", *place)

    def writes(self, *place: Any) -> Key:
        """The key of a pending write, or a prefix."""
        return (self.prefix, "w", *place)

    def runs(self, *place: str) -> Key:
        """The key of a checkpoint in the index of runs, or a prefix."""
        return (self.prefix, "r", *place)

    def pieces(self, *place: Any) -> Key:
        """The key of a piece, or a prefix."""
        return (self.prefix, "p", *place)

    def of_thread(self, thread: str) -> Iterator[Key]:
        """The prefixes of all keys of a thread, but those of the index of runs.

        Checkpoints are last: if a deletion is cut off, the thread is still found.
        """
        for kind in ("w", "b", "p", "c"):
            yield (self.prefix, kind, thread)

    def stored(self, place: Place, serialized: tuple[str, bytes]) -> tuple[list[Any], list[Row]]:
        """A value in the form that its key holds, and its pieces."""
        kind, data = serialized
        if len(data) <= PIECE_SIZE_MAX:
            return [kind, data], []
        token = uuid4().hex
        pieces = [
            (self.pieces(*place, token, number), data[start : start + PIECE_SIZE_MAX])
            for number, start in enumerate(range(0, len(data), PIECE_SIZE_MAX))
        ]
        return [kind, token, len(pieces)], pieces


def token_of(stored: Sequence[Any]) -> str | None:
    """The token of a value that is stored in pieces."""
    token = stored[1]
    return token if isinstance(token, str) else None


def checkpoint_row(
    serde: SerializerProtocol, rest: Any, metadata: Any, parent: str | None
) -> list[Any]:
    """What the key of a checkpoint holds."""
    return [*serde.dumps_typed(rest), *serde.dumps_typed(metadata), parent]


def metadata_of(serde: SerializerProtocol, row: Sequence[Any]) -> dict[str, Any]:
    """The metadata of a checkpoint's row."""
    metadata: dict[str, Any] = serde.loads_typed((row[2], row[3]))
    return metadata


def rest_of(serde: SerializerProtocol, row: Sequence[Any]) -> dict[str, Any]:
    """The checkpoint of a row, without values of channels."""
    rest: dict[str, Any] = serde.loads_typed((row[0], row[1]))
    return rest


def write_index(channel: str, position: int) -> int:
    """The index of a pending write. Special channels have fixed negative ones and are replaced."""
    index: int = WRITES_IDX_MAP.get(channel, position)
    return index


def in_requests(rows: Iterable[Row], size_max: int = 2 * PIECE_SIZE_MAX) -> Iterator[list[Row]]:
    """Cut rows of values into lists that each fit into a request."""
    part: list[Row] = []
    size = 0
    for key, value in rows:
        row_size = size_of(value)
        if part and (size + row_size > size_max or len(part) >= 10_000):
            yield part
            part, size = [], 0
        part.append((key, value))
        size += row_size
    if part:
        yield part


def size_of(value: Any) -> int:
    """About how many bytes a stored value takes."""
    if isinstance(value, bytes | str):
        return len(value) + 64
    if isinstance(value, list):
        return sum(map(size_of, value))
    return 64
