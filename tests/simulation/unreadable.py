"""Events that the codec of the clients cannot decode, as if another program had written them.

Such an event must harm nobody else: all reads, subscriptions, groups and projections hand it out
between its neighbours, and only its data raises an error, which names the event. The history has
its element all the same, so the checkers require that it is at its place.
"""

from typing import Any, Final

import headwater

MARK: Final = "!"
"""The first letter of elements whose events cannot be decoded."""

_NO_MSGPACK: Final = b"\xc1"


class Codec(headwater.MsgpackCodec):
    """The codec of all clients: it encodes marked elements as bytes that it cannot decode."""

    def encode(self, value: Any) -> bytes:
        if isinstance(value, str) and value.startswith(MARK):
            return _NO_MSGPACK + value.encode()
        return super().encode(value)


def is_unreadable(element: str) -> bool:
    """Whether the event of an element cannot be decoded."""
    return element.startswith(MARK)


def element_of(event: headwater.RecordedEvent) -> str:
    """The element of an event that is not erased. If it is not as it must be, a text that says so.

    That text is no element, so the checkers report the read that returned it.
    """
    try:
        element = str(event.data)
    except headwater.Undecodable as error:
        stored = bytes(event._row[7])
        place = {"stream": event.stream, "version": event.version, "position": event.position}
        if not place.items() <= error.details.items():
            return f"the error of {place} says {error.details}"
        return stored.removeprefix(_NO_MSGPACK).decode()
    return f"decoded: {element}" if is_unreadable(element) else element
