"""Handlers that run again and write nothing: what they would have written is recorded.

    events of the past --> handler --writes--> Recording (in memory)
                             '-- reads: what was recorded, else the database as of a commit

A handler gets an ordinary transaction of a projection. Its writes go into a Recording instead of
to the server, so a projection can be tried on the events of the past, by any code, beside the real
one. It costs nothing when the projection itself runs.
"""

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from headwater.codecs.codec import Codec, MsgpackCodec, decode_with
from headwater.errors import HeadwaterError, InvalidArgument, NotANumber, TooLarge, Undecodable
from headwater.projections.state import ProjectionTransaction
from headwater.reads.past import Past

RECORDED_SIZE_MAX: Final = 512 * 1024 * 1024
"""Bytes of keys and values of a recording, which is in memory."""

RANGE_KEYS_MAX: Final = 100_000
"""Keys of the database that a deletion of a range covers, as in a transaction."""

ENTRY_SIZE: Final = 200
"""Bytes that a recorded key takes beside its key and value, about."""

_NUMBERS: Final = MsgpackCodec()


class Change(NamedTuple):
    """How an event changed a key. None: the key was, or is, absent."""

    before: bytes | None
    after: bytes | None


@dataclass(slots=True)
class Recording:
    """What handlers have written: keys with their values, None for a deleted key.

    Attributes:
        values: by encoded key.
        unrecorded: writes that a recording does not keep, such as appends, by their name.
        outside: reads of what is not in the recording, by their name.
        watched: a key of which every change is kept.
        changes: those changes, with the place that `at` had.
        at: the place of what is written now, such as the position of an event.
    """

    values: dict[bytes, bytes | None] = field(default_factory=dict)
    unrecorded: Counter[str] = field(default_factory=Counter)
    outside: Counter[str] = field(default_factory=Counter)
    watched: bytes | None = None
    changes: list[tuple[int, Change]] = field(default_factory=list)
    at: int = 0
    _undo: list[tuple[bytes, bool, bytes | None]] = field(default_factory=list)
    _kept: int = 0
    _size: int = 0
    _sorted: list[bytes] | None = None

    def write(self, key: bytes, value: bytes | None, before: bytes | None) -> None:
        """Set or delete a key, which had the value *before*."""
        if key == self.watched and before != value:
            self.changes.append((self.at, Change(before, value)))
        old = self.values.get(key)
        self._undo.append((key, key in self.values, old))
        if key not in self.values:
            self._size += len(key) + ENTRY_SIZE
            self._sorted = None
        self._size += len(value or b"") - len(old or b"")
        if self._size > RECORDED_SIZE_MAX:
            raise TooLarge(
                f"the handler has written more than {RECORDED_SIZE_MAX} bytes, the most that a "
                "recording keeps in memory"
            )
        self.values[key] = value

    def keep(self) -> None:
        """Keep what was written: the handler has ended well."""
        self._undo.clear()
        self._kept = len(self.changes)

    def undo(self) -> None:
        """Undo what was written since `keep`, as a transaction that is rolled back."""
        for key, there, old in reversed(self._undo):
            self.values[key] = old
            if not there:
                del self.values[key]
                self._sorted = None
        self._undo.clear()
        del self.changes[self._kept :]

    def between(self, first: bytes, last: bytes | None) -> list[bytes]:
        """The recorded keys of a range, in order."""
        if self._sorted is None:
            self._sorted = sorted(self.values)
        end = len(self._sorted) if last is None else bisect_left(self._sorted, last)
        return self._sorted[bisect_left(self._sorted, first) : end]


class RecordingTransaction(ProjectionTransaction):
    """The transaction of a handler that is recorded.

    Args:
        past: the database that reads see below what was recorded; with the bytes as values.
        codec: of the application.
        name, build: of the projection, and of the build whose model the handler writes.
        recording: where the writes go.
        hides: the prefix of keys that are not in the past for this handler: its own model, if it is
            made from the first event on.
    """

    def __init__(
        self,
        past: Past,
        codec: Codec,
        name: str,
        build: int,
        recording: Recording,
        hides: bytes | None,
    ) -> None:
        super().__init__(past._channel, codec, name, build)  # noqa: SLF001
        self._past = past
        self._recording = recording
        self._hides = hides
        self._waiting: list[list[Any]] = []

    def _keep(self, write: list[Any], size: int) -> None:  # noqa: ARG002
        # Applied later, since an add may have to read the key first.
        self._waiting.append(write)

    async def _fetch(self, name: str, *arguments: Any, at_commit: int | None = None) -> Any:  # noqa: ARG002
        await self.apply_waiting()
        match name:
            case "get":
                return await self._value(arguments[0])
            case "get_many":
                commit = await self._past.commit()
                return commit, [await self._value(key) for key in arguments[0]]
            case "scan":
                return await self._scan(*arguments)
        self._recording.outside[name] += 1
        if name.startswith(("get", "scan", "count")):
            raise InvalidArgument(
                f"{name}: a handler that is recorded may read keys with get, get_many and scan"
            )
        return await self._below(name, *arguments)

    async def _below(self, name: str, *arguments: Any) -> Any:
        """Read the database. An error of it is not one of the handler."""
        try:
            return await self._past._fetch(name, *arguments)  # noqa: SLF001
        except HeadwaterError as error:
            self.broken = error
            raise

    async def _ask(self, name: str, *arguments: Any) -> Any:
        return await self._past._ask(name, *arguments)  # noqa: SLF001

    async def commit(self) -> None:
        """Not for handlers: nothing is committed."""
        raise InvalidArgument("a handler that is recorded cannot commit")

    def keep(self) -> None:
        """Keep the writes of a handler that ended well."""
        self._recording.keep()

    def forget(self) -> None:
        """Drop the writes of a handler that failed."""
        self._waiting = []
        self._recording.undo()
        self.broken = None

    async def apply_waiting(self) -> None:
        """Apply the writes that are waiting, in order."""
        waiting, self._waiting = self._waiting, []
        for write in waiting:
            await self._apply(write)

    async def _apply(self, write: list[Any]) -> None:
        match write:
            case ["put", key, value]:
                self._recording.write(key, value, await self._before(key))
            case ["delete", key]:
                self._recording.write(key, None, await self._before(key))
            case ["delete_range", first, last]:
                for key in await self._keys(first, last):
                    self._recording.write(key, None, await self._before(key))
            case ["add" | "min" | "max" as word, key, number]:
                before = await self._value(key)
                self._recording.write(key, _computed(word, before, number), before)
            case _:
                self._recording.unrecorded[str(write[0])] += 1

    async def _before(self, key: bytes) -> bytes | None:
        """The value before a write. Only that of a watched key is needed."""
        return await self._value(key) if key == self._recording.watched else None

    async def _value(self, key: bytes) -> bytes | None:
        if key in self._recording.values:
            return self._recording.values[key]
        if self._is_hidden(key):
            return None
        self._recording.outside["get"] += 1
        found: bytes | None = await self._below("get", key)
        return found

    def _is_hidden(self, key: bytes) -> bool:
        return self._hides is not None and key.startswith(self._hides)

    async def _scan(
        self, first: bytes, last: bytes | None, limit: int, reverse: bool
    ) -> tuple[int, list[bytes], bool]:
        """A page of a range: what the database has there, under what was recorded."""
        commit = await self._past.commit()
        items: list[bytes] = []
        more = False
        if not (self._is_hidden(first) and last is not None):
            self._recording.outside["scan"] += 1
            _, items, more = await self._below("scan", first, last, limit, reverse)
        found: dict[bytes, bytes | None] = dict(zip(items[::2], items[1::2], strict=True))
        found = {key: value for key, value in found.items() if not self._is_hidden(key)}
        # Keys beyond the page of the database belong to a later page.
        if more and items and not reverse:
            own = [key for key in self._recording.between(first, last) if key <= items[-2]]
        elif more and items:
            own = [key for key in self._recording.between(first, last) if key >= items[-2]]
        else:
            own = self._recording.between(first, last)
        found |= {key: self._recording.values[key] for key in own}
        pairs = [
            (key, value)
            for key, value in sorted(found.items(), reverse=reverse)
            if value is not None
        ]
        flat = [part for pair in pairs[:limit] for part in pair]
        if more and not flat:
            # Everything on this page was deleted: look at the next one.
            following = (first, items[-2]) if reverse else (items[-2] + b"\0", last)
            return await self._scan(*following, limit, reverse)
        return commit, flat, more or len(pairs) > limit

    async def _keys(self, first: bytes, last: bytes | None) -> list[bytes]:
        _, items, more = await self._scan(first, last, RANGE_KEYS_MAX, False)
        if more:
            raise TooLarge(f"delete_range: more than {RANGE_KEYS_MAX} keys")
        return items[::2]


def _computed(word: str, before: bytes | None, number: float) -> bytes:
    """The value after an atomic operation, as the server computes it."""
    if before is None:
        return _NUMBERS.encode(number)
    try:
        held = decode_with(_NUMBERS, before, "value")
    except Undecodable:
        held = None
    if isinstance(held, bool) or not isinstance(held, int | float):
        raise NotANumber(f"{word}: the key does not hold a number")
    result = (
        held + number
        if word == "add"
        else min(held, number)
        if word == "min"
        else max(held, number)
    )
    return _NUMBERS.encode(result)
