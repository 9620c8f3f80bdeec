"""Pages of keys without their values, and of the distinct beginnings of keys."""

from collections.abc import Iterator
from typing import Any

from headwater.codecs.keys_and_values import key_of
from headwater.errors import InvalidArgument
from headwater.reads.pages import Fetch, Pages
from headwater_protocol.keys import Key, KeyTuple, encode_key, prefix_range
from headwater_protocol.numbers import CommitNumber
from headwater_protocol.operations import NAME as TEXT


class KeyNamePages(Pages[KeyTuple]):
    """The keys of a range without their values, at the commit of the first page; see `moved`."""

    def __init__(
        self, fetch: Fetch, first: bytes, last: bytes | None, *, reverse: bool, limit: int | None
    ) -> None:
        super().__init__(limit)
        self._fetch = fetch
        self._range = first, last
        self._reverse = reverse

    async def _page(self, size: int) -> tuple[int, Iterator[KeyTuple], bool]:
        first, last = self._range

        async def ask(commit: CommitNumber | None) -> Any:
            return await self._fetch(
                "scan_keys", first, last, size, self._reverse, at_commit=commit
            )

        _, keys, rest = await self._ask_as_of(ask)
        if rest is not None:
            self._range = (first, rest) if self._reverse else (rest, last)
        return len(keys), map(key_of, keys), rest is not None


class PrefixPages(Pages[Any]):
    """The distinct beginnings of keys behind a prefix: tuples, or strs if there is a delimiter."""

    def __init__(
        self, fetch: Fetch, prefix: Key, delimiter: str | None, *, limit: int | None
    ) -> None:
        super().__init__(limit)
        members = prefix if isinstance(prefix, tuple) else (prefix,)
        shared = encode_key(members) if members else b""
        self._skipped = 0
        if delimiter is None:
            first, last = prefix_range(members)
            # The key that equals the prefix has no further member.
            first = first + b"\0" if first else first
            self._delimiter = None
        else:
            TEXT(delimiter, "prefixes: delimiter")
            if not members or not isinstance(members[-1], str):
                raise InvalidArgument(
                    f"prefixes: a delimiter {delimiter!r:.40} needs a prefix that ends with a str"
                )
            # Without the byte that ends the str: the beginning of the keys that go on.
            first = shared = shared[:-1]
            last = shared + b"\xff"
            self._delimiter = delimiter.encode().replace(b"\0", b"\0\xff")
            self._skipped = len(encode_key(members[:-1])) if len(members) > 1 else 0
        self._shared_size = len(shared)
        self._fetch = fetch
        self._range: tuple[bytes, bytes | None] = first, last if members else None

    async def _page(self, size: int) -> tuple[int, Iterator[Any], bool]:
        first, last = self._range

        async def ask(commit: CommitNumber | None) -> Any:
            return await self._fetch(
                "scan_prefixes",
                first,
                last,
                self._shared_size,
                self._delimiter,
                size,
                at_commit=commit,
            )

        _, found, rest = await self._ask_as_of(ask)
        if rest is not None:
            self._range = rest, last
        decoded = map(key_of, found) if self._delimiter is None else map(self._text_of, found)
        return len(found), decoded, rest is not None

    def _text_of(self, beginning: bytes) -> str:
        # Behind the code of the type; a whole str ends with a zero byte.
        text = beginning[self._skipped + 1 :]
        if not beginning.endswith(self._delimiter or b""):
            text = text[:-1]
        return text.replace(b"\0\xff", b"\0").decode()
