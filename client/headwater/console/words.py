"""Values, keys and times as text for people.

A name or a value may hold any character. Those that a page would not show, such as control
characters and marks that change the direction of text, are written as escapes, so that two
different names never look the same because of them. Escaping for HTML is the templates' work.
"""

import json
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from headwater.codecs.codec import Codec, decode_with
from headwater.errors import Undecodable
from headwater.tables.plain_json import plain_json
from headwater_protocol.keys import Key, KeyTuple

TEXT_MAX: Final = 400
"""Characters of a value in a list. More do not fit into a row, and make the page heavy."""

HEX_BYTES_MAX: Final = 1024
"""Bytes that are shown as hexadecimal digits. More tell a reader nothing."""

PRETTY_MAX: Final = 64 * 1024
"""Characters of pretty data on the page of an event. More would make the browser slow."""

_NAMED: Final = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Stored bytes that the codec cannot decode."""

    stored: bytes


def decoded(codec: Codec, stored: bytes | None) -> Any:
    """A stored value, decoded. None stays None; what cannot be decoded becomes Unreadable."""
    if stored is None or stored == b"":
        return None
    try:
        return decode_with(codec, stored, "value")
    except Undecodable:
        return Unreadable(stored)


def visible(text: str) -> str:
    """A text in which every character can be seen."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else _escape(each) for each in text)


def _escape(character: str) -> str:
    code = ord(character)
    return _NAMED.get(character) or (f"\\x{code:02x}" if code < 256 else f"\\u{{{code:x}}}")


def cut(text: str, size: int = TEXT_MAX) -> str:
    """The beginning of a text, with an ellipsis if it is longer than *size*."""
    return text if len(text) <= size else f"{text[:size]}…"


def number(value: float | None) -> str:
    """A number with thousands separated, and a real minus sign."""
    if value is None:
        return "–"
    text = f"{value:,}" if isinstance(value, int) else repr(value)
    return text.replace("-", "−")


def signed(value: float) -> str:
    """A difference, with its sign."""
    return f"+{number(value)}" if value > 0 else number(value) if value else "±0"


def shown(value: Any) -> str:
    """A value in one line."""
    match value:
        case bool():
            return "true" if value else "false"
        case None:
            return "null"
        case int() | float():
            return number(value)
        case str():
            return cut(visible(value))
        case Unreadable():
            return f"not decodable: {hexadecimal(value.stored, 24)}"
        case bytes():
            return f"0x{hexadecimal(value, 48)}"
        case datetime():
            return iso(value)
        case date() | UUID() | Decimal():
            return str(value)
    return cut(visible(plain_json(value)))


def raw(value: Any) -> str:
    """A member of event data as it is: numbers without separators."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return repr(value)
    return shown(value)


def members(value: Any) -> list[tuple[str, Any]]:
    """The members of a map by name; of anything else, itself without a name."""
    if isinstance(value, dict):
        return [(cut(visible(str(name)), 80), member) for name, member in value.items()]
    return [] if value is None else [("", value)]


def pretty(value: Any) -> str:
    """A value as indented JSON."""
    if isinstance(value, Unreadable):
        return hexadecimal(value.stored)
    text = json.dumps(json.loads(plain_json(value)), indent=2, ensure_ascii=False)
    lines = (visible(line) for line in text.split("\n"))
    return cut("\n".join(lines), PRETTY_MAX)


def hexadecimal(stored: bytes, count: int = HEX_BYTES_MAX) -> str:
    """Bytes as hexadecimal digits, at most *count* of them."""
    more = f" … {number(len(stored))} bytes" if len(stored) > count else ""
    return stored[:count].hex(" ") + more


def key_text(key: KeyTuple) -> str:
    """A key as a tuple in Python's notation."""
    inner = ", ".join(_member(each) for each in key)
    return f"({inner},)" if len(key) == 1 else f"({inner})"


def member_text(key: Key) -> str:
    """One member of a key, without quotes if that leaves no doubt."""
    if isinstance(key, str) and key and key.isprintable() and not key[0].isdigit():
        return key
    return _member(key)


def _member(key: Key) -> str:
    match key:
        case str():
            return '"' + visible(key.replace("\\", "\\\\").replace('"', '\\"')) + '"'
        case tuple():
            return key_text(key)
        case datetime():
            return iso(key)
        case bool() | None | bytes():
            return repr(key)
    return str(key)


def clock(time: datetime | None, *, precise: bool = True) -> str:
    """The time of day in UTC, with milliseconds or without."""
    if time is None:
        return "–"
    text = time.astimezone(UTC).strftime("%H:%M:%S.%f")
    return text[:12] if precise else text[:8]


def iso(time: datetime | None) -> str:
    """A time in full, in UTC."""
    if time is None:
        return "–"
    return time.astimezone(UTC).isoformat(sep=" ", timespec="milliseconds").replace("+00:00", "Z")


def span(length: timedelta | float | None) -> str:
    """A length of time in the two largest units that matter."""
    if length is None:
        return "–"
    seconds = length.total_seconds() if isinstance(length, timedelta) else float(length)
    seconds = abs(seconds)
    if seconds < 1:
        return f"{round(seconds * 1000)} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min {int(seconds % 60)} s"
    if seconds < 86400:
        return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60)} min"
    return f"{int(seconds // 86400)} d {int(seconds % 86400 // 3600)} h"


def size(count: float | None) -> str:
    """A number of bytes in a unit that fits."""
    if count is None:
        return "–"
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if amount >= 10 or unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"
