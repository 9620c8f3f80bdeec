"""Events as the server sends them, decoded into RecordedEvent."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from headwater.codecs.codec import Codec, decode_with
from headwater.records import RecordedEvent, time_of


def recorded_event(fields: Sequence[Any], codec: Codec) -> RecordedEvent:
    """Decode an event that the server sent, with data and metadata as bytes.

    An event of an older server has nine members, and no tags.
    """
    position, stream, version, commit, time, identity, kind, data, metadata, *rest = fields
    try:
        return RecordedEvent(
            position,
            stream,
            version,
            commit,
            time_of(time),
            UUID(bytes=identity),
            kind,
            None if data is None else codec.decode(data),
            codec.decode(metadata) if metadata else None,
            tuple(rest[0]) if rest else (),
            data is None,
        )
    except Exception:
        # Decode again, part by part, for an error that names the event and the part.
        if data is not None:
            decode_with(codec, data, f"event {version} of {stream}: data")
        if metadata:
            decode_with(codec, metadata, f"event {version} of {stream}: metadata")
        raise


def from_stored(events: Sequence[RecordedEvent], codec: Codec) -> Sequence[RecordedEvent]:
    """Apply the `from_stored` of the codec, if it has one."""
    revive = getattr(codec, "from_stored", None)
    return events if revive is None else [revive(event) for event in events]
