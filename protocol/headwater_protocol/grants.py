"""Grants: what a user may do, as it is on the wire and as text.

    on the wire                                     as text
    ["keys", "read", <the start of the keys>]       read:keys:orders
    ["streams", "append", {"category": "order"}]    append:category:order
    ["streams", "erase", {}]                        erase:streams
    ["group", "mailer"]                             group:mailer
    ["admin"]                                       admin

A grant names a right and what it is for. The rights on keys are read and write. The rights on
streams are read, append, manage (truncate, delete, retention) and erase. A group's right is to
consume from it and to administrate it. The others concern the whole database: admin includes every
right.
"""

import json
from dataclasses import dataclass
from typing import Any, Final

from headwater_protocol import limits
from headwater_protocol.errors import HeadwaterError, InvalidArgument, shown
from headwater_protocol.fields import (
    Argument,
    Binary,
    Choice,
    ListOf,
    MapOf,
    Nullable,
    Record,
    Tagged,
    Text,
)
from headwater_protocol.keys import Key, decode_key, encode_key

KEY_RIGHTS: Final = ("read", "write")
STREAM_RIGHTS: Final = ("read", "append", "manage", "erase")
WHOLE_RIGHTS: Final = ("admin", "backup", "replicate")
STREAM_KINDS: Final = ("stream", "category", "prefix")

_STREAM: Final = Text(1, limits.STREAM_NAME_SIZE_MAX)
_GROUP: Final = Text(1, limits.NAME_SIZE_MAX)


class _Streams(MapOf):
    """The filter of a grant on streams: at most one member, since members only narrow it."""

    def __call__(self, value: Any, place: str) -> None:
        MapOf.__call__(self, value, place)
        if len(value) > 1:
            raise InvalidArgument(
                f"{place}: {shown(value)}: a grant names one stream, one category or one prefix"
            )


GRANT: Final = Tagged(
    {
        "keys": Record(
            (
                Argument("right", Choice(KEY_RIGHTS)),
                Argument(
                    "prefix", Binary(0, limits.KEY_SIZE_MAX), why="of the keys; empty: all keys"
                ),
            )
        ),
        "streams": Record(
            (
                Argument("right", Choice(STREAM_RIGHTS)),
                Argument(
                    "streams",
                    _Streams(dict.fromkeys(STREAM_KINDS, _STREAM)),
                    why="one stream, a category, or a prefix of names; empty: all streams",
                ),
            )
        ),
        "group": Record((Argument("name", Nullable(_GROUP), why="nil: every consumer group"),)),
        "admin": Record(()),
        "backup": Record(()),
        "replicate": Record(()),
    }
)
GRANTS: Final = ListOf(GRANT, limits.GRANTS_MAX)
ROLES: Final = ListOf(Text(1, limits.NAME_SIZE_MAX), limits.ROLES_MAX, unique=True)


@dataclass(frozen=True, slots=True, order=True)
class Grant:
    """A right, and what it is for. Make one with the functions below, or with `parse`.

    Attributes:
        right: "read", "write", "append", "manage", "erase", "group", "admin", "backup" or
            "replicate".
        on: "keys", "streams" (all of them), "stream", "category", "prefix" or "group". Empty if
            the right concerns the whole database.
        name: of the stream, category, prefix or group. Empty for all.
        key: the first members of the keys, in encoded form. Empty for all keys.
    """

    right: str
    on: str = ""
    name: str = ""
    key: bytes = b""

    def as_wire(self) -> list[Any]:
        """The grant in the form of a request."""
        if self.on == "keys":
            return ["keys", self.right, self.key]
        if self.on == "streams":
            return ["streams", self.right, {}]
        if self.on in STREAM_KINDS:
            return ["streams", self.right, {self.on: self.name}]
        if self.right == "group":
            return ["group", self.name or None]
        return [self.right]

    @staticmethod
    def from_wire(wire: list[Any]) -> "Grant":
        """The grant of a request, which was checked with GRANT."""
        kind = wire[0]
        if kind == "keys":
            return Grant(wire[1], "keys", key=wire[2])
        if kind == "streams":
            for on, name in wire[2].items():
                return Grant(wire[1], on, name)
            return Grant(wire[1], "streams")
        if kind == "group":
            return Grant("group", "group", wire[1] or "")
        return Grant(kind)

    def __str__(self) -> str:
        """The text that `parse` reads."""
        if self.on == "keys":
            return f"{self.right}:keys" + (f":{_key_text(self.key)}" if self.key else "")
        if self.on == "streams":
            return f"{self.right}:streams"
        if self.on in STREAM_KINDS:
            return f"{self.right}:{self.on}:{self.name}"
        return f"group:{self.name}" if self.name else self.right

    @staticmethod
    def parse(text: str) -> "Grant":
        """The grant of a text such as "read:keys:orders" or "append:category:order".

        The prefix of keys is the first member of a tuple, as text, or a JSON array of its first
        members.

        Raises:
            InvalidArgument, TooLarge: the text is no grant.
        """
        right, _, rest = text.partition(":")
        on, _, name = rest.partition(":")
        if right == "group":
            grant = group_grant(rest or None)
        elif on == "keys":
            grant = keys_grant(right, _key_of(name))
        elif on in STREAM_KINDS and name:
            grant = Grant(right, on, name)
        elif rest in ("streams", ""):
            grant = Grant(right, rest)
        else:
            raise InvalidArgument(
                f"{shown(text)} is no grant; write, for example, read:keys:orders"
            )
        GRANT(grant.as_wire(), f"grant {shown(text)}")
        return grant


def keys_grant(right: str, prefix: Key = ()) -> Grant:
    """A right on the keys that begin with the members of *prefix*; () means all keys."""
    grant = Grant(right, "keys", key=encode_key(prefix) if prefix else b"")
    GRANT(grant.as_wire(), "grant")
    return grant


def streams_grant(
    right: str, *, stream: str | None = None, category: str | None = None, prefix: str | None = None
) -> Grant:
    """A right on one stream, on a category, on a prefix of names, or on all streams."""
    given = {"stream": stream, "category": category, "prefix": prefix}
    wire = ["streams", right, {on: name for on, name in given.items() if name is not None}]
    GRANT(wire, "grant")
    return Grant.from_wire(wire)


def group_grant(name: str | None = None) -> Grant:
    """The right to consume from a consumer group and to administrate it; None: all groups."""
    GRANT(["group", name], "grant")
    return Grant("group", "group", name or "")


def _key_text(key: bytes) -> str:
    try:
        members = decode_key(key)
    except HeadwaterError:
        return f"0x{key.hex()}"
    if len(members) == 1 and isinstance(members[0], str) and not _is_special(members[0]):
        return members[0]
    if all(member is None or type(member) in (str, int, bool) for member in members):
        return json.dumps(members, ensure_ascii=False)
    return f"0x{key.hex()}"


def _is_special(text: str) -> bool:
    return not text or text.startswith(("[", "0x"))


def _key_of(text: str) -> Key:
    if not text:
        return ()
    try:
        if text.startswith("0x"):
            return decode_key(bytes.fromhex(text[2:]))
        if text.startswith("["):
            members = json.loads(text)
            return tuple(members)
    except ValueError as error:
        raise InvalidArgument(f"{shown(text)} is no prefix of keys: {error}") from error
    return (text,)


BUILT_IN_ROLES: Final[dict[str, tuple[Grant, ...]]] = {
    "reader": (Grant("read", "keys"), Grant("read", "streams")),
    "writer": (
        Grant("read", "keys"),
        Grant("read", "streams"),
        Grant("write", "keys"),
        Grant("append", "streams"),
        Grant("group", "group"),
    ),
    "admin": (Grant("admin"),),
}
"""Roles that every database has. They cannot be changed."""
