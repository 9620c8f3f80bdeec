"""Feeds of keys: every change of a range, commit by commit, with the old value and the new."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from headwater.codecs.codec import Codec, decode_with
from headwater.errors import HeadwaterError
from headwater.feeds.subscription import Item, Subscription
from headwater.records import CaughtUp, FellBehind
from headwater.transactions.writes import key_range
from headwater.transport.channel import Channel
from headwater.transport.connection import Link
from headwater_protocol.keys import Key, KeyTuple, decode_key
from headwater_protocol.numbers import CommitNumber, Position


@dataclass(frozen=True, slots=True)
class KeyRange:
    """Keys from *start* to before *end*; None: from the first, to the last."""

    start: Key | None = None
    end: Key | None = None


def range_of(keys: Key | KeyRange) -> tuple[bytes, bytes | None]:
    """The encoded range of a prefix or a KeyRange."""
    if isinstance(keys, KeyRange):
        return key_range(None, keys.start, keys.end)
    return key_range(keys, None, None)


@dataclass(frozen=True, slots=True)
class KeyChange:
    """What a commit did to a key.

    Attributes:
        old, new: the value before and after; None if the key was, or is, absent.
        existed, exists: whether it was there before, and is after.
    """

    key: KeyTuple
    old: Any
    new: Any
    existed: bool
    exists: bool


@dataclass(frozen=True, slots=True)
class Changes:
    """All changes of one commit in the range, in order of key."""

    commit: CommitNumber
    changes: Sequence[KeyChange]

    @property
    def position(self) -> Position:
        """The commit: a feed's place is one, where a subscription's is a position."""
        return Position(self.commit)


class KeyFeed(Subscription):
    """Made by `db.subscribe(keys=…)`; used like any subscription.

    It gives Changes, CaughtUp and FellBehind, whose `position` is a commit. It ends with
    HistoryGone if it falls behind the history window.
    """

    def __init__(
        self,
        channel: Channel,
        codec: Codec,
        *,
        wanted: tuple[bytes, bytes | None],
        after: int,
        window: int,
    ) -> None:
        super().__init__(channel, codec, after=after, wanted={}, window=window)
        self._range = wanted
        self._partial: list[list[Any]] = []

    def deliver(self, payload: list[Any]) -> None:
        """A push came."""
        match payload:
            case ["changes", [*commits]]:
                for commit, entries, more in commits:
                    self._partial += _joined(self._partial, entries)
                    if not more:
                        self._queue.append(["changes", commit, self._partial])
                        self._received = commit
                        self._partial = []
                self._notice()
            case _:
                super().deliver(payload)

    async def _subscribe(self, link: Link) -> int:
        # What came of a commit that was cut off comes again with the rest.
        self._partial = []
        return await link.subscribe(
            self, *self._range, self._received, self._window, operation="subscribe_keys"
        )

    def _item(self, payload: list[Any]) -> Item:
        if payload[0] != "changes":
            kind = CaughtUp if payload[0] == "caught_up" else FellBehind
            return kind(Position(payload[1]))
        _, commit, entries = payload
        self._last_size = len(entries)
        return Changes(CommitNumber(commit), tuple(map(self._change, entries)))

    def _change(self, entry: list[Any]) -> KeyChange:
        data, old, new = entry
        key = decode_key(data)
        values = (self._value(key, old), self._value(key, new))
        return KeyChange(key, *values, existed=old is not None, exists=new is not None)

    def _value(self, key: KeyTuple, data: bytes | None) -> Any:
        if data is None:
            return None
        try:
            return self._codec.decode(data)
        except HeadwaterError:
            return decode_with(self._codec, data, f"value of {key!r:.80}")


def _joined(before: list[list[Any]], entries: list[list[Any]]) -> list[list[Any]]:
    """Entries of three members: one that came in two parts is put together."""
    if all(len(entry) == 3 for entry in entries):
        return entries
    joined: list[list[Any]] = []
    for entry in entries:
        last = joined[-1] if joined else before[-1] if before else None
        if len(entry) == 3:
            joined.append(entry)
        elif last is not None and len(last) == 2:
            last.append(entry[1])
        else:
            joined.append(entry)
    return joined
