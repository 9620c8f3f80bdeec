"""Rights: what the grants of a user allow, merged so that a request is checked fast.

A right is refused, never narrowed: a scan that would leave the granted keys is an error, and not a
shorter answer. What a request wants must lie within a single grant, except for ranges of keys,
where adjacent and overlapping grants are merged first.
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from typing import Any, Final

from headwater_protocol.errors import PermissionDenied, shown
from headwater_protocol.grants import STREAM_KINDS, Grant
from headwater_server.engine.format.events import category_of

_AFTER_ALL: Final = b"\xff"
"""Greater than every key."""


_WRITING: Final = frozenset({"write", "append", "manage", "erase", "group"})
"""Rights with which a transaction can have writes."""


class _Keys:
    """Ranges of keys, merged and in order.

    Attributes:
        every: whether they include all keys.
    """

    __slots__ = ("_ends", "_starts", "every")

    def __init__(self, prefixes: Iterable[bytes]) -> None:
        self._starts: list[bytes] = []
        self._ends: list[bytes] = []
        # No key has a member that begins with ff, so this ends the range of a prefix.
        for start, end in sorted((each, each + _AFTER_ALL) for each in prefixes):
            if self._ends and start <= self._ends[-1]:
                self._ends[-1] = max(self._ends[-1], end)
            else:
                self._starts.append(start)
                self._ends.append(end)
        self.every = self._starts[:1] == [b""]

    def has(self, start: bytes, end: bytes) -> bool:
        """Whether one of the ranges includes all keys from *start* to before *end*."""
        place = bisect_right(self._starts, start) - 1
        return place >= 0 and end <= self._ends[place]

    def has_key(self, key: bytes) -> bool:
        """Whether one of the ranges includes *key*."""
        if self.every:
            return True
        if len(self._starts) == 1:
            # The usual case: no search is needed.
            return self._starts[0] <= key < self._ends[0]
        place = bisect_right(self._starts, key) - 1
        return place >= 0 and key < self._ends[place]


class _Streams:
    """Sets of streams: all of them, or those of some names, categories and prefixes."""

    __slots__ = ("_categories", "_names", "_prefixes", "every")

    def __init__(self, grants: Iterable[Grant]) -> None:
        known = list(grants)
        self.every = any(grant.on == "streams" for grant in known)
        self._names = frozenset(grant.name for grant in known if grant.on == "stream")
        self._categories = frozenset(grant.name for grant in known if grant.on == "category")
        self._prefixes = tuple(grant.name for grant in known if grant.on == "prefix")

    def has(self, stream: str) -> bool:
        """Whether the stream is in one of the sets."""
        return (
            self.every
            or stream in self._names
            or category_of(stream) in self._categories
            or stream.startswith(self._prefixes)
        )

    def has_category(self, category: str) -> bool:
        """Whether all streams of a category are in one of the sets."""
        # The stream that is named like its category begins with every prefix that fits.
        return self.every or category in self._categories or category.startswith(self._prefixes)

    def has_prefix(self, prefix: str) -> bool:
        """Whether all streams whose names begin with *prefix* are in one of the sets."""
        if self.every or prefix.startswith(self._prefixes):
            return True
        category, dash, _ = prefix.partition("-")
        return bool(dash) and category in self._categories


class Rights:
    """What a user who is restricted may do. Each method raises PermissionDenied if it may not."""

    __slots__ = (
        "_admin",
        "_every_group",
        "_groups",
        "_keys",
        "_readable",
        "_streams",
        "_whole",
        "_writable",
        "grants",
    )

    def __init__(self, grants: Iterable[Grant]) -> None:
        self.grants = frozenset(grants)
        self._whole = frozenset(grant.right for grant in self.grants if not grant.on)
        self._admin = "admin" in self._whole
        self._keys: dict[str, _Keys] = {}
        self._streams: dict[str, _Streams] = {}
        for right in ("read", "write"):
            mine = [grant for grant in self.grants if grant.right == right and grant.on == "keys"]
            self._keys[right] = _Keys(grant.key for grant in mine)
        every = _Keys((b"",))
        self._readable = every if self._admin else self._keys["read"]
        self._writable = every if self._admin else self._keys["write"]
        for right in ("read", "append", "manage", "erase"):
            self._streams[right] = _Streams(
                grant
                for grant in self.grants
                if grant.right == right and (grant.on == "streams" or grant.on in STREAM_KINDS)
            )
        self._groups = frozenset(grant.name for grant in self.grants if grant.on == "group")
        self._every_group = "" in self._groups

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Rights) and self.grants == other.grants

    def __hash__(self) -> int:
        return hash(self.grants)

    @property
    def is_admin(self) -> bool:
        """Whether everything is allowed."""
        return self._admin

    def can_read_key(self, key: bytes) -> bool:
        """Whether a key may be read."""
        return self._readable.has_key(key)

    def can_write_key(self, key: bytes) -> bool:
        """Whether a key may be written."""
        return self._writable.has_key(key)

    def need_key(self, right: str, key: bytes) -> None:
        """Need a right on a key."""
        if not (self._admin or self._keys[right].has_key(key)):
            raise denied(f"{right}:keys", f"the key {shown(key)}")

    def need_keys(self, right: str, start: bytes, end: bytes | None) -> None:
        """Need a right on the keys from *start* to before *end*; None: to the last key."""
        if self._admin or self._keys[right].has(start, _AFTER_ALL if end is None else end):
            return
        told = "the last" if end is None else shown(end)
        raise denied(f"{right}:keys", f"the keys from {shown(start)} to {told}")

    def need_stream(self, right: str, stream: str) -> None:
        """Need a right on a stream."""
        if not (self._streams[right].has(stream) or self._admin):
            raise denied(f"{right}:stream", f"the stream {shown(stream)}")

    def reads_stream(self, stream: str) -> bool:
        """Whether a stream may be read."""
        return self._admin or self._streams["read"].has(stream)

    def need_filter(self, right: str, wanted: Mapping[str, Any]) -> None:
        """Need a right on all streams from which a filter takes events."""
        streams = self._streams[right]
        if self._admin or streams.every:
            return
        # The members of a filter narrow each other, so one that is granted is enough.
        if "stream" in wanted and streams.has(wanted["stream"]):
            return
        if "category" in wanted and streams.has_category(wanted["category"]):
            return
        if "prefix" in wanted and streams.has_prefix(wanted["prefix"]):
            return
        named = [f"{kind} {shown(wanted[kind])}" for kind in STREAM_KINDS if kind in wanted]
        what = "the streams of " + ", ".join(named) if named else "all streams"
        raise denied(f"{right}:streams", what)

    def need_group(self, name: str) -> None:
        """Need the right on a consumer group."""
        if not (self._every_group or name in self._groups or self._admin):
            raise denied("group", f"the consumer group {shown(name)}")

    def need_every_group(self) -> None:
        """Need the right on all consumer groups."""
        if not (self._every_group or self._admin):
            raise denied("group", "all consumer groups")

    def need_any_write(self) -> None:
        """Need a right with which a transaction can have writes."""
        if not (self._admin or any(grant.right in _WRITING for grant in self.grants)):
            raise denied("write", "aborting a transaction")

    def need_everything_readable(self) -> None:
        """Need the right to read all keys and all streams."""
        self.need_keys("read", b"", None)
        self.need_filter("read", {})

    def need(self, right: str) -> None:
        """Need a right on the whole database: admin, backup or replicate."""
        if not (self._admin or right in self._whole):
            raise denied(right, "this")


def denied(right: str, what: str) -> PermissionDenied:
    """The error of a missing right. *right* is as in the text of a grant."""
    return PermissionDenied(f"{what} needs the right {right}", details={"right": right})
