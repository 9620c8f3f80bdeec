"""Reads of keys: the same calls in a transaction, outside of one, and in the past."""

from abc import ABC, abstractmethod
from collections.abc import Coroutine, Iterable
from datetime import datetime
from typing import Any, Literal, overload

from headwater.codecs.codec import Codec
from headwater.codecs.keys_and_values import value_of
from headwater.errors import InvalidArgument
from headwater.reads.key_name_pages import KeyNamePages, PrefixPages
from headwater.reads.key_ranges import key_range
from headwater.reads.pages import ExpiryPages, KeyPages, Pages
from headwater.records import Entry, time_of
from headwater_protocol.keys import Key, KeyTuple, encode_key
from headwater_protocol.limits import GET_MANY_MAX


class KeyReads(ABC):
    """The reads of keys. Subclasses send the requests."""

    _codec: Codec

    @abstractmethod
    def _fetch(
        self, name: str, *arguments: Any, at_commit: int | None = None
    ) -> Coroutine[Any, Any, Any]:
        """Send a read, and return the payload of the answer."""

    async def get(self, key: Key, default: Any = None) -> Any:
        """The value of a key, or *default* if it is absent."""
        encoded = encode_key(key)
        data = await self._fetch("get", encoded)
        return default if data is None else value_of(self._codec, encoded, data)

    async def get_many(self, keys: Iterable[Key], default: Any = None) -> list[Any]:
        """The values of keys, in their order; *default* for those that are absent.

        All are of one commit. Few or small values take one round trip.
        """
        if isinstance(keys, str | bytes) or not isinstance(keys, Iterable):
            raise InvalidArgument(f"get_many: keys: expected several keys, got {keys!r:.60}")
        left = [encode_key(key) for key in keys]
        values: list[Any] = []
        commit: int | None = None
        while left:
            part = left[:GET_MANY_MAX]
            commit, found = await self._fetch("get_many", part, at_commit=commit)
            for encoded, data in zip(part, found, strict=False):
                values.append(default if data is None else value_of(self._codec, encoded, data))
            left = left[len(found) :]
        return values

    async def get_entry(self, key: Key) -> Entry | None:
        """The value of a key and the time at which it expires. None: the key is absent."""
        encoded = encode_key(key)
        found = await self._fetch("get_entry", encoded)
        return None if found is None else entry_of(self._codec, encoded, found)

    async def ttl(self, key: Key) -> float | None:
        """The seconds until a key expires. None: it does not expire, or is absent."""
        return seconds_left(await self._fetch("get_expiry", encode_key(key)))

    @overload
    def scan(
        self,
        prefix: Key | None = None,
        *,
        start: Key | None = None,
        end: Key | None = None,
        reverse: bool = False,
        limit: int | None = None,
        values: Literal[True] = True,
    ) -> Pages[tuple[KeyTuple, Any]]: ...
    @overload
    def scan(
        self,
        prefix: Key | None = None,
        *,
        start: Key | None = None,
        end: Key | None = None,
        reverse: bool = False,
        limit: int | None = None,
        values: Literal[False],
    ) -> Pages[KeyTuple]: ...
    @overload
    def scan(
        self,
        prefix: Key | None = None,
        *,
        start: Key | None = None,
        end: Key | None = None,
        reverse: bool = False,
        limit: int | None = None,
        values: bool,
    ) -> Pages[Any]: ...
    def scan(
        self,
        prefix: Key | None = None,
        *,
        start: Key | None = None,
        end: Key | None = None,
        reverse: bool = False,
        limit: int | None = None,
        values: bool = True,
    ) -> Pages[Any]:
        """Iterate over (key, value) in the order of keys.

        Args:
            prefix: a tuple that the keys begin with. Without prefix, start and end: all keys.
            start: the first key, inclusive.
            end: the last key, exclusive.
            reverse: start with the last key.
            limit: the maximum number of items.
            values: False: iterate over the keys alone. The values are not sent.
        """
        first, last = key_range(prefix, start, end)
        if not values:
            return KeyNamePages(self._fetch, first, last, reverse=reverse, limit=limit)
        return KeyPages(self._fetch, self._codec, first, last, reverse=reverse, limit=limit)

    async def count(
        self, prefix: Key | None = None, *, start: Key | None = None, end: Key | None = None
    ) -> int:
        """The number of keys that begin with *prefix*, or those from *start* to before *end*.

        It is of one commit, however long it takes.
        """
        first, last = key_range(prefix, start, end)
        total, commit, rest = 0, None, first
        while rest is not None:
            commit, count, rest = await self._fetch("count_keys", rest, last, at_commit=commit)
            total += count
        return total

    def prefixes(
        self, prefix: Key = (), delimiter: str | None = None, *, limit: int | None = None
    ) -> Pages[Any]:
        """Iterate over the distinct beginnings of the keys that begin with *prefix*, one longer.

        Each costs one seek, however many keys begin with it.

        Args:
            prefix: a tuple. The beginnings are tuples with one more member.
            delimiter: the last member of *prefix* is then the beginning of a str. The beginnings
                are strs: what the keys have there, up to and with the next delimiter, or all of it.
            limit: the maximum number of beginnings.
        """
        return PrefixPages(self._fetch, prefix, delimiter, limit=limit)

    def expiries(
        self,
        prefix: Key | None = None,
        *,
        start: Key | None = None,
        end: Key | None = None,
        reverse: bool = False,
        limit: int | None = None,
    ) -> Pages[tuple[KeyTuple, datetime]]:
        """Iterate over the keys that expire, each with its time, in the order of keys.

        Args:
            prefix, start, end, reverse, limit: which keys, as for `scan`.
        """
        first, last = key_range(prefix, start, end)
        return ExpiryPages(self._fetch, self._codec, first, last, reverse=reverse, limit=limit)


def entry_of(codec: Codec, encoded: bytes, found: list[Any]) -> Entry:
    """The entry in the answer of "get_entry"."""
    data, expires_at, _ = found
    return Entry(
        value_of(codec, encoded, data), None if expires_at is None else time_of(expires_at)
    )


def seconds_left(found: list[Any] | None) -> float | None:
    """The seconds until a key expires, from the answer of "get_expiry"."""
    if found is None or found[0] is None:
        return None
    left: int = found[0] - found[1]
    return max(left, 0) / 1_000_000
