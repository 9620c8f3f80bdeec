"""Events as the server sends them, decoded into RecordedEvent."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from headwater.codecs.codec import Codec, decode_with
from headwater.records import RecordedEvent, time_of


def recorded_event(fields: Sequence[Any], codec: Codec) -> RecordedEvent:
    """An event out of its place on the wire, with data and metadata as bytes.

    One that an older server kept has nine members: no tags.
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
        # Once more, slowly, to say which event and which part of it.
        if data is not None:
            decode_with(codec, data, f"event {version} of {stream}: data")
        if metadata:
            decode_with(codec, metadata, f"event {version} of {stream}: metadata")
        raise


def from_stored(events: Sequence[RecordedEvent], codec: Codec) -> Sequence[RecordedEvent]:
    """Decoded events as the codec has them, if it looks at more than bytes."""
    revive = getattr(codec, "from_stored", None)
    return events if revive is None else [revive(event) for event in events]
