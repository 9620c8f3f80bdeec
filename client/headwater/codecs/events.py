"""Events from the server, as RecordedEvents that are decoded on access.

One event that cannot be decoded must not hide other events. So every read returns events that are
not decoded yet, and accessing the data of the bad event raises the error.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from headwater.codecs.codec import Codec, decode_with
from headwater.errors import Undecodable
from headwater.records import RecordedEvent, event_of_row

Row = Sequence[Any]
"""An event in the form of the protocol."""


def event_views(codec: Codec) -> Callable[[Row], RecordedEvent]:
    """A function that makes a view of each row."""
    return partial(event_of_row, partial(_parts, codec))


def recorded_event(row: Row, codec: Codec) -> RecordedEvent:
    """A view of one event."""
    return event_of_row(partial(_parts, codec), row)


def _parts(
    codec: Codec, event: RecordedEvent, stored: bytes | None, more: bytes
) -> tuple[Any, Any]:
    """Decode data and metadata, and apply the `from_stored` of the codec, if it has one.

    Raises:
        Undecodable: its details have stream, version and position of the event.
    """
    try:
        data = None if stored is None else codec.decode(stored)
        metadata = codec.decode(more) if more else None
        revive = getattr(codec, "from_stored", None)
        if revive is None:
            return data, metadata
        revived = revive(event.with_parts(data, metadata))
        return revived.data, revived.metadata
    except MemoryError:
        raise
    except Exception as error:
        parts = {"data": stored, "metadata": more}
        raise _undecodable(codec, event, parts, error) from error


def _undecodable(
    codec: Codec, event: RecordedEvent, parts: dict[str, bytes | None], error: Exception
) -> Undecodable:
    place = f"event {event.version} of {event.stream}, at position {event.position}"
    message = f"{place}: {type(error).__name__}: {error}"
    if isinstance(error, Undecodable):
        message = error.message
    else:
        # Decode again, part by part, for a message that names the part.
        for name, data in parts.items():
            try:
                if data:
                    decode_with(codec, data, f"{place}: {name}")
            except Undecodable as failed:
                message = failed.message
                break
    details = {
        "stream": event.stream,
        "version": event.version,
        "position": event.position,
        "type": event.type,
    }
    return Undecodable(message, details=details)
