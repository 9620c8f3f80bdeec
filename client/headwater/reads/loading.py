"""Loading: a snapshot of a stream and the events after it, from the answer of the server."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from headwater.codecs.codec import Codec, decode_with
from headwater.codecs.events import event_views
from headwater.errors import Undecodable
from headwater.records import Loaded, Snapshot
from headwater_protocol.numbers import StreamVersion


class Found(NamedTuple):
    """What the server found, and the version of a snapshot that could not be decoded.

    Such a snapshot is left out, and all events too, since those before it were not sent.
    """

    loaded: Loaded
    unreadable: int | None


def loaded_from(codec: Codec, stream: str, answer: Sequence[Any]) -> Found:
    """The answer of the server, decoded."""
    commit, version, stored, rows, more, begins, *_ = answer
    snapshot = unreadable = None
    if stored is not None:
        try:
            state = decode_with(codec, stored[1], f"snapshot of {stream}")
            snapshot = Snapshot(stored[0], state)
        except Undecodable:
            # The events in the answer are only those after it.
            rows, more, unreadable = [], version > 0, stored[0]
    if version < begins:
        # The stream was deleted: no version can be expected of it.
        version = StreamVersion(0)
    events = [*map(event_views(codec), rows)]
    return Found(Loaded(version, snapshot, events, begins, commit, more), unreadable)
