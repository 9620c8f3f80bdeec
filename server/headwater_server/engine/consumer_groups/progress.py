"""The progress of a consumer group: what is done, what was read ahead, and how it is stored.

    done            | read ahead: at most `window` positions   | not read
    ----------------+------------------------------------------+--------->  positions
              low watermark                                         read_to

A group reads the log once, in order, and keeps only the positions. A stream that cannot keep up
(it is held, or has more than QUEUE_MAX events queued) falls behind. The group reads on without it,
and reads that stream from its own index later.

Compaction moves the low watermark up to the first event that is not done and whose stream has no
entry. In the same commit it deletes entries that add nothing to the low watermark. Each
acknowledgement writes an entry, so between two compactions there is one for every stream worked
on. Beyond ENTRIES_MAX, compaction also writes entries for the streams that hold the low watermark
back, and moves it up to where the log was read.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from headwater_server.engine.consumer_groups.records import (
    HOLD,
    Definition,
    ParkedEntry,
    StreamEntry,
    encode_entry,
    encode_low_watermark,
    low_watermark_key,
    parked_key,
    read_low_watermark,
    read_parked,
    read_replays,
    read_streams,
    replay_key,
    stream_key,
    without_reason,
)
from headwater_server.engine.consumer_groups.streams import QUEUE_MAX, StreamProgress, Trial
from headwater_server.engine.format.events import decode_event
from headwater_server.engine.reads.filters import EventFilter
from headwater_server.engine.reads.reading import Reader
from headwater_server.engine.state.layers import State

WINDOW_MAX: Final = 4096
"""Positions that a group reads ahead, about a hundred bytes each. It also bounds how many streams
are worked on at the same time."""

WINDOWS_MAX: Final = 65_536
"""Positions that all groups together read ahead. The nearer they are to it, the smaller the windows
get. A position of a stream of its own takes a kilobyte, so this is 64 MiB."""

WINDOW_MIN: Final = 16
"""Positions that a group reads ahead, however many groups there are."""

_GROUP_SIZE: Final = 8_000
_STREAM_SIZE: Final = 800
_POSITION_SIZE: Final = 100
"""Bytes of a group in memory, of each of its streams, and of a position that waits or is parked."""

READ_MAX: Final = 512
"""Events read ahead in one turn. Reading that many takes a few milliseconds."""

ENTRIES_MAX: Final = 8192
"""Entries of streams above which compaction writes more entries to move the low watermark up."""

PARKED_MAX: Final = 100_000
"""Parked events of a group. If there are more, the events are hardly to blame. Further failures
are then retried with the longest pause, until parked events are replayed or discarded."""

Write = Callable[[list[bytes | None]], int]
"""Commits key, value, …; returns the sequence number at which this is durable."""


def window_of(pending: int, left: int) -> int:
    """Positions that a group may read ahead that has *pending*; *left*: of WINDOWS_MAX."""
    return max(WINDOW_MIN, min(WINDOW_MAX, pending + left // 8))


def stored_position(state: State, view: int, definition: Definition) -> int:
    """The position of a group without members; see GroupProgress.position."""
    low_watermark = read_low_watermark(state, view, definition.number)
    # Below the low watermark, only a stream with an entry can have unfinished events.
    entries = read_streams(state, view, definition.number)
    if all(entry.after >= low_watermark for _, entry in entries):
        return low_watermark
    return GroupProgress(state, view, definition).position


class GroupProgress:
    """The streams of an active group.

    Attributes:
        streams: the streams whose state the low watermark alone does not describe, by name.
        low_watermark: as it is stored.
        read_to: every event up to it was read.
        pending: positions in all queues.
        parked_count: parked events.
        settled: events that were done or parked since the last compaction.
        window: positions that it may read ahead.
    """

    def __init__(self, state: State, view: int, definition: Definition) -> None:
        self.definition = definition
        self.hold = definition.settings.parked_stream == HOLD
        self.streams: dict[str, StreamProgress] = {}
        self.low_watermark = self.read_to = read_low_watermark(state, view, definition.number)
        self.pending = 0
        self.window = WINDOW_MAX
        self.parked_count = 0
        self.settled = 0
        self._entries = 0
        self._outbox: dict[bytes, bytes | None] = {}
        self._load(state, view)

    def _load(self, state: State, view: int) -> None:
        number = self.definition.number
        for name, entry in read_streams(state, view, number):
            stream = self.streams[name] = StreamProgress(name, entry.after)
            stream.trial = Trial(entry.attempts, entry.retry_at, entry.reason, entry.pause_us)
            stream.tried = entry.tried
            stream.entry = True
            self._entries += 1
            # The entry does not say whether its consumer died, so assume that it did.
            stream.quarantined = entry.attempts > 0
            # Reading ahead begins at the low watermark and would miss the events before it.
            stream.behind = entry.after < self.low_watermark
        for position, parked in read_parked(state, view, number, 0, PARKED_MAX):
            self.stream(parked.stream).add_parked(position)
            self.parked_count += 1
        for position, entry_of_replay in read_replays(state, view, number):
            name, attempts, retry_at, reason, pause_us = entry_of_replay
            trial = Trial(attempts, retry_at, reason, pause_us)
            stream = self.stream(name)
            stream.replays.append((position, trial))
            stream.quarantined = stream.quarantined or attempts > 0

    @property
    def held_size(self) -> int:
        """About the bytes that it takes in memory."""
        positions = self.pending + self.parked_count
        return _GROUP_SIZE + _STREAM_SIZE * len(self.streams) + _POSITION_SIZE * positions

    def stream(self, name: str) -> StreamProgress:
        """The progress of a stream; a stream that is new begins where the group has read to."""
        stream = self.streams.get(name)
        if stream is None:
            stream = self.streams[name] = StreamProgress(name, self.read_to)
        return stream

    # Reading ahead.

    def read_ahead(self, reader: Reader) -> tuple[list[StreamProgress], bool]:
        """Read on in the log; return the streams with new events, and whether there is more."""
        room = self.window - self.pending
        if room <= 0 or self.read_to >= reader.position:
            return [], False
        found: dict[StreamProgress, None] = {}
        page = reader.read_all(self.read_to, self.definition.wanted, min(room, READ_MAX), False)
        for stored in page.events:
            event = decode_event(stored)
            stream = self.streams.get(event.stream)
            if stream is None:
                stream = StreamProgress(event.stream, event.position - 1)
                self.streams[event.stream] = stream
            if stream.take(event.position, held=stream.is_held(hold=self.hold)):
                self.pending += 1
            found[stream] = None
        self.read_to = page.position
        return list(found), page.more

    def pass_to(self, position: int) -> None:
        """Count everything up to a position as read: no event matches that was not read."""
        self.read_to = max(self.read_to, position)

    def refill(self, stream: StreamProgress, reader: Reader) -> None:
        """Read the next page of a stream that is behind; the page may be empty."""
        limit = QUEUE_MAX if self.pending < self.window else 1
        wanted: EventFilter = replace(self.definition.wanted, stream=stream.name)
        page = reader.read_all(stream.read_to, wanted, limit, False)
        positions = [decode_event(stored).position for stored in page.events]
        stream.extend(positions)
        self.pending += len(positions)
        # The last page may reach beyond the position to which the group has read.
        stream.read_to = page.position
        stream.behind = page.more

    # The outcome of an event.

    def done_writes(self, stream: StreamProgress, position: int) -> list[bytes | None]:
        """The writes that record, once committed, that an event is done."""
        number = self.definition.number
        if stream.is_replay(position):
            return [replay_key(number, position), None]
        return [stream_key(number, stream.name), encode_entry(StreamEntry(position))]

    def done(self, stream: StreamProgress, position: int) -> None:
        """The writes of `done_writes` were committed."""
        for key in self.done_writes(stream, position)[::2]:
            assert key is not None
            # An older entry that is still in the outbox must not overwrite this one.
            self._outbox.pop(key, None)
        self._settle(stream, position)

    def _settle(self, stream: StreamProgress, position: int) -> None:
        if stream.settle(position):
            self.pending -= 1
            self._note_entry(stream)
        self.settled += 1

    def drop(self, stream: StreamProgress, position: int) -> None:
        """Count an event that was removed as done."""
        self._put(self.done_writes(stream, position))
        self._settle(stream, position)

    def note(self, stream: StreamProgress, position: int) -> None:
        """Write the attempts of a stream's next event."""
        number = self.definition.number
        if stream.is_replay(position):
            self._put([replay_key(number, position), encode_entry(stream.as_replay(position))])
            return
        self._put([stream_key(number, stream.name), encode_entry(stream.as_entry())])
        self._note_entry(stream)

    def park(self, stream: StreamProgress, position: int, reason: str, time: int) -> None:
        """Set an event aside."""
        number = self.definition.number
        attempts = stream.trial_of(position).count
        parked = ParkedEntry(stream.name, attempts, reason, time)
        self._put(
            [
                *self.done_writes(stream, position),
                parked_key(number, position),
                encode_entry(parked),
            ]
        )
        self._settle(stream, position)
        stream.add_parked(position)
        self.parked_count += 1

    def replay(self, stream: StreamProgress, position: int) -> None:
        """Try a parked event again, after this was committed."""
        stream.replay(position)
        self.parked_count -= 1

    def discard(self, stream: StreamProgress, position: int) -> None:
        """Forget a parked event, after this was committed."""
        stream.parked.remove(position)
        self.parked_count -= 1
        # The next compaction may then delete the stream's entry.
        self.settled += 1

    def forget_hidden(self, stream: StreamProgress, position: int) -> None:
        """Count a parked event as done, because it can no longer be read."""
        self._put([parked_key(self.definition.number, position), None])
        self.discard(stream, position)

    def forget_reasons(self, positions: set[int]) -> None:
        """Forget why these events failed, also in what is still to be written."""
        for stream in self.streams.values():
            if stream.queue and stream.queue[0] in positions:
                stream.trial.reason = ""
            for position, trial in stream.replays:
                if position in positions:
                    trial.reason = ""
        for key, value in self._outbox.items():
            if value is not None:
                self._outbox[key] = without_reason(key, value, positions)

    def _note_entry(self, stream: StreamProgress) -> None:
        if not stream.entry:
            stream.entry = True
            self._entries += 1

    def _put(self, writes: list[bytes | None]) -> None:
        for key, value in zip(writes[::2], writes[1::2], strict=True):
            assert key is not None
            self._outbox[key] = value

    # Writing.

    @property
    def unwritten(self) -> bool:
        """Whether something waits to be written."""
        return bool(self._outbox)

    def flush(self, write: Write) -> int:
        """Write the outbox; return the sequence number at which it is durable.

        Raises:
            ReadOnly: nothing can be written now; the outbox is kept.
        """
        flat: list[bytes | None] = []
        for key, value in self._outbox.items():
            flat += (key, value)
        sequence = write(flat)
        self._outbox.clear()
        return sequence

    @property
    def position(self) -> int:
        """Every event up to it is done or parked, or is held behind a parked one.

        This differs from the low watermark, which ignores streams that have an entry.
        """
        undone = [
            stream.undone
            for stream in self.streams.values()
            if stream.undone and not stream.is_held(hold=self.hold)
        ]
        return min(self.read_to, min(undone, default=self.read_to + 1) - 1)

    def _low_watermark_beside(self, aside: Mapping[StreamProgress, None]) -> int:
        low_watermark = self.read_to
        for stream in self.streams.values():
            undone = stream.undone
            if undone and undone <= low_watermark and not stream.entry and stream not in aside:
                low_watermark = undone - 1
        return max(low_watermark, self.low_watermark)

    def compact(self, write: Write) -> None:
        """Move the low watermark up, and delete the entries that it makes redundant.

        Raises:
            ReadOnly: nothing can be written now.
        """
        number = self.definition.number
        # Streams that are behind get an entry, so that they do not hold the low watermark back.
        # If there are too many entries, all streams with unfinished events get one.
        everybody = self._entries > ENTRIES_MAX
        # A dict as a set: the order of writes must be deterministic.
        aside = {
            stream: None
            for stream in self.streams.values()
            if not stream.entry and (stream.behind or (everybody and stream.undone))
        }
        writes: list[bytes | None] = []
        for stream in aside:
            writes += (stream_key(number, stream.name), encode_entry(stream.as_entry()))
        low_watermark = self._low_watermark_beside(aside)
        covered = [
            stream for stream in self.streams.values() if self._is_covered(stream, low_watermark)
        ]
        for stream in covered:
            if stream.entry:
                writes += (stream_key(number, stream.name), None)
        if low_watermark != self.low_watermark:
            writes += (low_watermark_key(number), encode_low_watermark(low_watermark))
        if writes:
            write(writes)
        self.low_watermark = low_watermark
        for stream in aside:
            self._note_entry(stream)
        for stream in covered:
            self._entries -= stream.entry
            stream.entry = False
            if not (stream.has_more or stream.parked or stream.lease or stream.waits):
                del self.streams[stream.name]
        self.settled = 0

    @staticmethod
    def _is_covered(stream: StreamProgress, low_watermark: int) -> bool:
        """Whether the low watermark makes the stream's entry redundant."""
        return (
            not stream.behind
            and stream.after <= low_watermark
            and not (stream.queue and stream.queue[0] <= low_watermark)
            and stream.trial.count == 0
        )
