"""The part of `check` that compares the indexes of events with the events.

    stream   account-ann   versions 1, 2, 3 -> positions 4, 9, 12       sums: sums.py
    category account       positions 4, 5, 9, 12
    type     Opened        positions 4, 5
    tag      branch:7      positions 4, 12

Heads and postings are read by name, and events by position. Both are added to sums. Names are only
compared one by one where the sums differ.
"""

from array import array
from collections.abc import Callable, Iterator
from itertools import groupby
from typing import Final

from headwater_protocol.errors import DamagedFile, HistoryGone
from headwater_protocol.numbers import CommitNumber
from headwater_server.engine.check.findings import Counter, Finding, Kind, Report
from headwater_server.engine.check.logs import CheckedEvent, EventReader, is_given
from headwater_server.engine.check.sums import DIFFERING_MAX, Sums
from headwater_server.engine.format import keyspaces
from headwater_server.engine.format.event_ids import (
    FIRST_EVENT,
    META_EVENT_IDS,
    POSITIONS_MAX,
    bucket_key,
    given_key,
    parse_first_events,
    parse_given,
    parse_indexed,
)
from headwater_server.engine.format.events import StoredEvent, category_of, decode_event
from headwater_server.engine.format.index_keys import (
    CATEGORY,
    EVENT_ID,
    POSTINGS,
    STREAM,
    TAG,
    TYPE,
    IndexHead,
    event_id_key,
    first_position,
    parse_event_id_key,
    parse_head,
    parse_latest,
    parse_number,
)
from headwater_server.engine.format.stored_rules import decode_rule
from headwater_server.engine.state import postings
from headwater_server.engine.state.stored_state import StoredState
from headwater_server.storage.commits.commit_records import CommitRecord
from headwater_server.storage.store.interface import Family

KINDS: Final = {STREAM: "stream", CATEGORY: "category", TYPE: "type", TAG: "tag"}
REBUILD: Final = "the index is rebuilt from the events; nothing is lost"

_EVENT_IDS_CHUNK: Final = 1024


class IndexCheck:
    """Collects all events, then the whole index, and compares them."""

    def __init__(self, state: StoredState, reader: EventReader, report: Report) -> None:
        self._state = state
        self._store = state.store
        self._reader = reader
        self._report = report
        self._sums = {kind: Sums() for kind in KINDS}
        self._ids = Sums()
        self._indexed = parse_indexed(self._store.get(Family.INDEX, META_EVENT_IDS))
        self._last_first_event = (b"", 0)
        self._bucket_key = b""
        self._bucket: set[tuple[bytes, int]] = set()

    # Events.

    def add_event(self, checked: CheckedEvent) -> None:
        """Add an event."""
        event = checked.event
        stream, position = event.stream, event.position
        category = category_of(stream)
        sums = self._sums
        sums[STREAM].add_left(stream, (stream, event.version, position))
        sums[CATEGORY].add_left(category, (category, position))
        sums[TYPE].add_left(event.type, (event.type, position))
        for tag in event.tags:
            sums[TAG].add_left(tag, (tag, position))
        if checked.is_given:
            self._ids.add_left(event.id, (event.id, position))
        elif checked.record is not None:
            self._check_first_event(checked.record)

    def _check_first_event(self, record: CommitRecord) -> None:
        """Check that the derived ids of a commit's events can be found."""
        known = record.transaction, record.first_position
        indexed = self._indexed
        if known == self._last_first_event or indexed is None:
            return
        self._last_first_event = known
        if not indexed.after < record.first_position <= indexed.upto:
            return
        key = bucket_key(record.transaction)
        if key != self._bucket_key:
            entry = self._store.get(Family.INDEX, key)
            self._bucket_key = key
            self._bucket = set(parse_first_events(key, entry or b""))
        own = self._store.get(Family.INDEX, FIRST_EVENT + record.transaction)
        if known not in self._bucket and (own is None or parse_number(own) != known[1]):
            self._wrong_id(
                f"the events of commit {record.commit} cannot be found by their ids: transaction "
                f"{record.transaction.hex()} is not in the index"
            )

    # The index.

    def check(self, counter: Counter) -> None:
        """Read the index and compare it with the events that were added."""
        for kind in KINDS:
            used = 0
            for name, head in self._heads(kind):
                used += self._check_name(kind, name, head)
                counter.add(1)
            there = self._count(POSTINGS[kind])
            if there != used:
                self._wrong(f"{there - used} postings belong to no {KINDS[kind]}")
            self._compare(kind, counter)
        self._check_event_ids(counter)

    def _heads(self, kind: bytes) -> Iterator[tuple[str, IndexHead]]:
        for key, entry in self._store.scan(Family.INDEX, kind, _end_of(kind)):
            try:
                yield key[1:].decode(), parse_head(entry)
            except (ValueError, ArithmeticError) as error:
                self._wrong(f"the head of {KINDS[kind]} {key[1:]!r}: {error}")

    def _count(self, kind: bytes) -> int:
        return sum(1 for _ in self._store.scan(Family.INDEX, kind, _end_of(kind)))

    def _check_name(self, kind: bytes, name: str, head: IndexHead) -> int:
        """Check the positions of a name and add them to the sums; return its count of postings."""
        sums = self._sums[kind]
        applied = self._state.applied_position
        damaged, removed = self._reader.damaged, self._reader.removed
        last = count = used = 0
        for positions in self._positions(kind, name, head):
            used += 1
            for position in positions:
                count += 1
                if position <= last:
                    self._wrong(f"{KINDS[kind]} {name!r}: position {position} follows {last}")
                last = position
                # Later positions belong to an unfinished checkpoint.
                if position > applied:
                    continue
                if position in damaged:
                    self._tell_damaged(kind, name, count, position)
                    continue
                if position in removed:
                    if kind == STREAM and not self._is_hidden(name, count, head.version):
                        self._wrong(
                            f"stream {name!r}: version {count}, at position {position}, was "
                            "removed, and no retention rule hides it"
                        )
                    continue
                if kind == STREAM:
                    sums.add_right(name, (name, count, position))
                else:
                    sums.add_right(name, (name, position))
                if count == 1 and position != first_position(kind, head.id):
                    self._wrong(
                        f"{KINDS[kind]} {name!r}: its id is {head.id}, and its first event is at "
                        f"position {position}"
                    )
        if (count, last) != (head.version, head.last_position):
            self._wrong(
                f"{KINDS[kind]} {name!r}: {head.version} events up to position "
                f"{head.last_position} by its head, {count} up to {last} by its postings"
            )
        return used - 1

    def _is_hidden(self, stream: str, version: int, newest: int) -> bool:
        """Whether a rule hides a version, or may hide it: the age of events is not known here."""
        entry = self._store.get(Family.LATEST, keyspaces.retention_key(stream))
        rule = decode_rule(None if entry is None else parse_latest(entry).value)
        kept = newest - rule.count_max if rule.count_max else 0
        return version < rule.before or version <= kept or rule.age_us_max > 0

    def _positions(self, kind: bytes, name: str, head: IndexHead) -> Iterator["array[int]"]:
        if len(head.tail) < head.version:
            version = 1
            for first, positions in postings.all_postings(self._store, kind, head.id):
                expected = version if kind == STREAM else positions[0] if positions else 0
                if first != expected:
                    self._wrong(
                        f"{KINDS[kind]} {name!r}: a posting begins with {first} instead of "
                        f"{expected}"
                    )
                version += len(positions)
                yield positions
        yield head.tail

    def _tell_damaged(self, kind: bytes, name: str, version: int, position: int) -> None:
        if kind == STREAM:
            self._report.notes.append(
                f"the damaged event at position {position} is version {version} of stream {name!r}"
            )

    # Where sums differ.

    def _compare(self, kind: bytes, counter: Counter) -> None:
        differing = self._sums[kind].differing
        if not differing:
            return
        if len(differing) > DIFFERING_MAX:
            sums = self._sums[kind]
            self._wrong(
                f"the index of events by {KINDS[kind]} does not agree with the events: "
                f"{sums.left} events, {sums.right} in the index, {len(differing)} buckets differ"
            )
            return
        names_of = _NAMES[kind]
        found: dict[str, list[tuple[int, int]]] = {}
        for checked in self._reader.read(counter, quiet=True):
            event = checked.event
            for name in names_of(event):
                if Sums.bucket(name) in differing:
                    found.setdefault(name, []).append((event.position, event.version))
        for name, head in self._heads(kind):
            if Sums.bucket(name) in differing:
                self._compare_name(kind, name, head, found.pop(name, []))
        for name, events in found.items():
            self._wrong(
                f"{KINDS[kind]} {name!r} is not in the index; it has {len(events)} events, the "
                f"first at position {events[0][0]}"
            )

    def _compare_name(
        self, kind: bytes, name: str, head: IndexHead, events: list[tuple[int, int]]
    ) -> None:
        applied = self._state.applied_position
        indexed: dict[int, int] = {}
        count = 0
        for positions in self._positions(kind, name, head):
            for position in positions:
                count += 1
                if position <= applied and not self._is_gone(position):
                    indexed[position] = count
        there = dict(events)
        for position in sorted(indexed.keys() | there.keys()):
            if position not in indexed:
                what = f"the event at position {position} is not in the index"
            elif position not in there:
                what = f"the index has position {position}, whose event is of another"
            elif kind == STREAM and indexed[position] != there[position]:
                what = (
                    f"the event at position {position} has version {there[position]}, by the "
                    f"index it is {indexed[position]}"
                )
            else:
                continue
            self._wrong(f"{KINDS[kind]} {name!r}: {what}")

    # Event ids.

    def _check_event_ids(self, counter: Counter) -> None:
        entries = self._store.scan(Family.INDEX, EVENT_ID, _end_of(EVENT_ID))
        for stream_id, group in groupby(entries, lambda entry: parse_event_id_key(entry[0])[0]):
            members = [(parse_event_id_key(key)[1], parse_number(entry)) for key, entry in group]
            counter.add(len(members))
            if stream_id > self._state.applied_position or self._is_gone(stream_id):
                continue
            head = None
            if stream_id > 0:
                with self._report.told(Kind.EVENT_IDS, "state/", REBUILD):
                    stream = decode_event(self._state.events([stream_id])[0]).stream
                    head = postings.read_head(self._store, STREAM, stream)
            if head is None or head.id != stream_id:
                self._wrong_id(
                    f"{len(members)} event ids of stream {stream_id}, which does not exist"
                )
                continue
            for start in range(0, len(members), _EVENT_IDS_CHUNK):
                self._check_ids_of(stream, head, members[start : start + _EVENT_IDS_CHUNK])
        if differing := self._ids.differing:
            self._find_missing_ids(differing, counter)

    def _check_ids_of(self, stream: str, head: IndexHead, members: list[tuple[bytes, int]]) -> None:
        applied = self._state.applied_position
        for event_id, version in members:
            if not 1 <= version <= head.version:
                self._wrong_id(
                    f"stream {stream!r}: event id {event_id.hex()} has version {version}"
                )
                continue
            try:
                position = postings.positions_of_versions(self._store, head, version, version)[0]
                if position > applied or self._is_gone(position):
                    continue
                event = decode_event(self._state.events([position])[0])
            except DamagedFile:
                # Damage of the index or of the event was reported already.
                continue
            if event.id != event_id:
                self._wrong_id(
                    f"stream {stream!r}: event id {event_id.hex()} leads to version {version}, "
                    f"whose id is {event.id.hex()}"
                )
                continue
            try:
                record = self._state.commit_log.read(CommitNumber(event.commit))
            except (HistoryGone, DamagedFile):
                continue
            if is_given(event, record):
                self._ids.add_right(event_id, (event_id, position))
                self._check_given(event)

    def _check_given(self, event: StoredEvent) -> None:
        indexed = self._indexed
        if indexed is None or not indexed.after < event.position <= indexed.upto:
            return
        positions = parse_given(self._store.get(Family.INDEX, given_key(event.id)))
        # Of an id that many streams have, only the newest positions are there.
        if event.position not in positions and len(positions) < POSITIONS_MAX:
            self._wrong_id(
                f"the event at position {event.position} cannot be found by its id, "
                f"{event.id.hex()}"
            )

    def _is_gone(self, position: int) -> bool:
        return position in self._reader.damaged or position in self._reader.removed

    def _find_missing_ids(self, differing: set[int], counter: Counter) -> None:
        for checked in self._reader.read(counter, quiet=True):
            event = checked.event
            if not checked.is_given or Sums.bucket(event.id) not in differing:
                continue
            head = postings.read_head(self._store, STREAM, event.stream)
            key = event_id_key(head.id if head else 0, event.id)
            indexed = parse_number(self._store.get(Family.INDEX, key))
            # A later event may have reused the id of a hidden one.
            if indexed > event.version and self._is_hidden(event.stream, event.version, indexed):
                continue
            if indexed != event.version:
                self._wrong_id(
                    f"stream {event.stream!r}: the id of version {event.version}, "
                    f"{event.id.hex()}, is not in the index"
                )

    def _wrong(self, what: str) -> None:
        self._report.add(Finding(Kind.INDEX, "state/", None, what, REBUILD))

    def _wrong_id(self, what: str) -> None:
        self._report.add(Finding(Kind.EVENT_IDS, "state/", None, what, REBUILD))


_NAMES: Final[dict[bytes, Callable[[StoredEvent], tuple[str, ...]]]] = {
    STREAM: lambda event: (event.stream,),
    CATEGORY: lambda event: (category_of(event.stream),),
    TYPE: lambda event: (event.type,),
    TAG: lambda event: event.tags,
}


def _end_of(kind: bytes) -> bytes:
    return bytes([kind[0] + 1])
