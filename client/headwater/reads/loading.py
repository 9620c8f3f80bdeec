"""Loading: a snapshot of a stream and the events after it, from the answer of the server."""

from collections.abc import Sequence
from typing import Any

from headwater.codecs.codec import Codec, decode_with
from headwater.codecs.events import event_views
from headwater.errors import Undecodable
from headwater.records import Loaded, Snapshot
from headwater_protocol.numbers import StreamVersion


def loaded_from(codec: Codec, stream: str, answer: Sequence[Any]) -> Loaded:
    """What the server found. A snapshot that cannot be decoded is left out, and all events too."""
    commit, version, stored, rows, more, begins, *_ = answer
    snapshot = None
    if stored is not None:
        try:
            state = decode_with(codec, stored[1], f"snapshot of {stream}")
            snapshot = Snapshot(stored[0], state)
        except Undecodable:
            # The events in the answer are only those after it.
            rows, more = [], version > 0
    if version < begins:
        # The stream was deleted: no version can be expected of it.
        version = StreamVersion(0)
    events = [*map(event_views(codec), rows)]
    return Loaded(version, snapshot, events, begins, commit, more)
