"""What a consumer group has done, what it has read ahead, and how that gets to the disk.

    done            | read ahead: at most WINDOW_MAX positions | not read
    ----------------+------------------------------------------+--------->  positions
              low watermark                                         read_to

The log is read once, in the order of positions, and only positions are kept of it. A stream that
cannot follow (it is held, or has more than QUEUE_MAX events ahead) is left behind, and read from
its own index later, so nobody waits for it.

The low watermark moves when progress is folded: to the first event that is not done and whose stream has
no entry. Entries that say no more than the low watermark are deleted in the same commit. An
acknowledgement writes an entry, so between two folds the entries grow with the streams that were
worked on; beyond ENTRIES_MAX the streams that keep the low watermark back get an entry too, and the low watermark
moves up to where the log was read.
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
)
from headwater_server.engine.consumer_groups.streams import QUEUE_MAX, StreamProgress, Trial
from headwater_server.engine.format.events import decode_event
from headwater_server.engine.reads.filters import EventFilter
from headwater_server.engine.reads.reading import Reader
from headwater_server.engine.state.layers import State

WINDOW_MAX: Final = 4096
"""Positions that a group reads ahead. Each takes about a hundred bytes, and that many streams
can be at work at once."""

READ_MAX: Final = 512
"""Events that are read ahead in one turn: a page of them takes a few milliseconds."""

ENTRIES_MAX: Final = 8192
"""Entries of streams beyond which the low watermark is moved up at any price."""

PARKED_MAX: Final = 100_000
"""Parked events of a group. With so many the fault is not theirs: those that fail now are tried
on, with the longest pause, until some were replayed or discarded."""

Write = Callable[[list[bytes | None]], int]
"""Commits key, value, …; the sequence number at which it is durable."""


def stored_position(state: State, view: int, definition: Definition) -> int:
    """The position of a group that nobody has joined, see GroupProgress.position."""
    low_watermark = read_low_watermark(state, view, definition.number)
    # Only entries below the low watermark can say that something is left there.
    entries = read_streams(state, view, definition.number)
    if all(entry.after >= low_watermark for _, entry in entries):
        return low_watermark
    return GroupProgress(state, view, definition).position


class GroupProgress:
    """The streams of an active group.

    Attributes:
        streams: those of which the low watermark does not say everything, by name.
        low_watermark: the stored one.
        read_to: every event up to it was read.
        pending: positions in all queues.
        parked_count: parked events.
        settled: events that were done or parked since the last fold.
    """

    def __init__(self, state: State, view: int, definition: Definition) -> None:
        self.definition = definition
        self.hold = definition.settings.parked_stream == HOLD
        self.streams: dict[str, StreamProgress] = {}
        self.low_watermark = self.read_to = read_low_watermark(state, view, definition.number)
        self.pending = 0
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
            stream.entry = True
            self._entries += 1
            # Why it failed is not kept: it may be why the last consumer died.
            stream.quarantined = entry.attempts > 0
            # Of what lies between its entry and the low watermark, nothing is in the log ahead.
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

    def stream(self, name: str) -> StreamProgress:
        """The progress of a stream; one that nothing was known of is where the low watermark is."""
        stream = self.streams.get(name)
        if stream is None:
            stream = self.streams[name] = StreamProgress(name, self.read_to)
        return stream

    # Reading ahead.

    def read_ahead(self, reader: Reader) -> tuple[list[StreamProgress], bool]:
        """Read on in the log; the streams that have something new, and whether there is more."""
        room = WINDOW_MAX - self.pending
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

    def refill(self, stream: StreamProgress, reader: Reader) -> None:
        """Read a page of what a stream that is behind has next; it may bring nothing yet."""
        limit = QUEUE_MAX if self.pending < WINDOW_MAX else 1
        wanted: EventFilter = replace(self.definition.wanted, stream=stream.name)
        page = reader.read_all(stream.read_to, wanted, limit, False)
        positions = [decode_event(stored).position for stored in page.events]
        stream.queue.extend(positions)
        self.pending += len(positions)
        # If it is the last page, it goes beyond what the log's reader has passed.
        stream.read_to = page.position
        stream.behind = page.more

    # What becomes of an event.

    def done_writes(self, stream: StreamProgress, position: int) -> list[bytes | None]:
        """What says, once it is committed, that an event is done."""
        number = self.definition.number
        if stream.is_replay(position):
            return [replay_key(number, position), None]
        return [stream_key(number, stream.name), encode_entry(StreamEntry(position))]

    def done(self, stream: StreamProgress, position: int) -> None:
        """The writes of `done_writes` were committed."""
        for key in self.done_writes(stream, position)[::2]:
            assert key is not None
            # An attempt that could not be written yet must not overwrite that.
            self._outbox.pop(key, None)
        self._settle(stream, position)

    def _settle(self, stream: StreamProgress, position: int) -> None:
        if stream.settle(position):
            self.pending -= 1
            self._note_entry(stream)
        self.settled += 1

    def drop(self, stream: StreamProgress, position: int) -> None:
        """An event is not there any more: it counts as done."""
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
        """Try a parked event again. It was written."""
        stream.replay(position)
        self.parked_count -= 1

    def discard(self, stream: StreamProgress, position: int) -> None:
        """Forget a parked event. It was written."""
        stream.parked.remove(position)
        self.parked_count -= 1
        # What says no more than the low watermark may go with the next fold.
        self.settled += 1

    def _note_entry(self, stream: StreamProgress) -> None:
        if not stream.entry:
            stream.entry = True
            self._entries += 1

    def _put(self, writes: list[bytes | None]) -> None:
        for key, value in zip(writes[::2], writes[1::2], strict=True):
            assert key is not None
            self._outbox[key] = value

    # Getting it to the disk.

    @property
    def unwritten(self) -> bool:
        """Whether something waits to be written."""
        return bool(self._outbox)

    def flush(self, write: Write) -> int:
        """Write what waits for it; the sequence number at which it is durable.

        Raises:
            ReadOnly: it cannot be written now, and waits on.
        """
        flat: list[bytes | None] = []
        for key, value in self._outbox.items():
            flat += (key, value)
        sequence = write(flat)
        self._outbox.clear()
        return sequence

    @property
    def position(self) -> int:
        """Every event up to it is done or parked, or is held behind one that is.

        Not the low watermark, which leaves out the streams that have an entry.
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
        """Move the low watermark, and delete entries that say no more than it.

        Raises:
            ReadOnly: it cannot be written now.
        """
        number = self.definition.number
        # Who is behind is not waited for, and if there are too many entries, nobody is.
        everybody = self._entries > ENTRIES_MAX
        # A dict for a set: what is written is in the same order every time.
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
        """Whether the low watermark says all that the stream's entry would."""
        return (
            not stream.behind
            and stream.after <= low_watermark
            and not (stream.queue and stream.queue[0] <= low_watermark)
            and stream.trial.count == 0
        )
