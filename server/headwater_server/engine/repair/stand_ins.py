"""Stand-ins for lost events: what other files know of them, and "$damaged" for the rest."""

import bisect
import itertools
from collections.abc import Callable, Iterator

from headwater_server.engine.check.logs import LOST_TRANSACTION
from headwater_server.engine.format.events import (
    StoredEvent,
    decode_event,
    derive_event_id,
    encode_event,
)
from headwater_server.engine.format.index_keys import (
    EVENT_ID,
    NUMBER,
    STREAM,
    parse_event_id_key,
    parse_head,
    parse_number,
)
from headwater_server.engine.state.postings import all_postings
from headwater_server.storage.commits.commit_records import CommitRecord
from headwater_server.storage.store.interface import Family, StateStore

DAMAGED_TYPE = "$damaged"
"""Type of the event that replaces a lost one."""


class StandIns:
    """Replacements of lost events: copies from the write-ahead log, or markers."""

    def __init__(
        self,
        store: StateStore,
        lost: list[int],
        commit_of: Callable[[int], CommitRecord | None],
    ) -> None:
        self._store = store
        self._lost = set(lost)
        self._commit_of = commit_of
        self._restored: dict[int, bytes] = {}
        self._places: dict[int, tuple[str, int, int]] = {}

    def restore(self, position: int, stored: bytes) -> bool:
        """Take an event of the write-ahead log if it is lost in the event log."""
        if position not in self._lost or position in self._restored:
            return False
        self._restored[position] = stored
        return True

    def find_places(self, sound_events: Callable[[], Iterator[StoredEvent]]) -> None:
        """Find the streams and versions of events that could not be restored."""
        lost = self._lost - self._restored.keys()
        if not lost:
            return
        for key, entry in self._store.scan(Family.INDEX, STREAM, bytes([STREAM[0] + 1])):
            head = parse_head(entry)
            version = 0
            in_postings = len(head.tail) < head.version
            older = all_postings(self._store, STREAM, head.id) if in_postings else iter(())
            for run in itertools.chain((run for _, run in older), [head.tail]):
                for position in run:
                    version += 1
                    if position in lost:
                        self._places[position] = (key[1:].decode(), version, head.id)
        unknown = sorted(lost - self._places.keys())
        if unknown:
            self._guess_places(unknown, sound_events())

    def _guess_places(self, unknown: list[int], events: Iterator[StoredEvent]) -> None:
        """Assign events that are not in the index either to gaps in the versions of streams.

        This holds the newest version of every stream in memory.
        """
        newest: dict[str, tuple[int, int]] = {}
        free = list(unknown)
        for event in events:
            version, position = newest.get(event.stream, (0, 0))
            for missing in range(version + 1, event.version):
                # The true position is unknown; any lost one between the neighbours is valid.
                place = bisect.bisect_right(free, position)
                if place < len(free) and free[place] < event.position:
                    position = free.pop(place)
                    self._places[position] = (event.stream, missing, 0)
            newest[event.stream] = (event.version, event.position)

    def event(self, position: int, previous: bytes | None) -> tuple[bytes, bool]:
        """The replacement for a position, and whether the event's content is lost.

        *previous* is the event before it in the file; its commit is used if the commit log has no
        record for the position.
        """
        if position in self._restored:
            return self._restored[position], False
        record = self._commit_of(position)
        if record is not None:
            commit, time = record.commit, record.time
        elif previous is not None:
            before = decode_event(previous)
            commit, time = before.commit, before.time
        else:
            commit, time = 1, 0
        # As a last resort, use a new stream instead of inventing a version of an existing one.
        stream, version, stream_id = self._places.get(
            position, (f"{DAMAGED_TYPE}-{position}", 1, position)
        )
        event_id = self._event_id(stream_id, version)
        if event_id is None and record is not None and record.transaction != LOST_TRANSACTION:
            event_id = derive_event_id(record.transaction, position - record.first_position)
        stored = encode_event(
            position,
            stream,
            version,
            commit,
            time,
            event_id or position.to_bytes(16, "big"),
            DAMAGED_TYPE,
            b"",
            b"",
        )
        return stored, True

    def _event_id(self, stream_id: int, version: int) -> bytes | None:
        start, end = EVENT_ID + NUMBER.pack(stream_id), EVENT_ID + NUMBER.pack(stream_id + 1)
        for key, entry in self._store.scan(Family.INDEX, start, end):
            if parse_number(entry) == version:
                return parse_event_id_key(key)[1]
        return None
