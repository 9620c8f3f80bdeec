"""A planned record: all effects of a log record, with nothing left to look up.

    plan    reads the state, may raise, changes nothing          planning.py, replaying.py
    apply   changes the memtable, reads nothing, cannot fail     MemTable.apply

Commits, fences, ticks of the clock and the replay of the log all make planned records, and the same
function applies them. Applying reads only its arguments, so it cannot fail halfway.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from headwater_server.engine.format.events import StoredEvent
from headwater_server.storage.commits.commit_records import CommitRecord

COMMIT: Final = 1
ABORT: Final = 2
TICK: Final = 3

StreamRun = tuple[str, int, int, str, int]
"""Consecutive events of one stream and one type: the stream, its id, its version before them, the
type, and how many."""


class Planned:
    """A record before it is applied.

    Attributes:
        kind: COMMIT, ABORT or TICK.
        commit: the commit's number; 0 for the other kinds.
        transaction: 16 bytes; empty for a tick.
        time: microseconds, of the log's clock.
        user: the number of the user, 0 if there are no users.
        writes: flat: key, value or None, …. Keys of retention come last.
        has_retention: whether there are keys of retention.
        first_position: the position of the first event, or of the next event to come.
        events: stored events, in the order of positions; emptied when the record is applied.
        event_count: the number of events, also after the record is applied.
        event_ids: flat: place, id, …, for the ids that clients gave.
        runs: the events by stream and type.
        tags: the tags of events that have any, by the event's place.
        horizon, forget_before: set for a tick; see log_clock.py.
        record: the bytes to write to the log; empty if they were read from the log, or once they
            were passed to it.
        versions: the version of each stream that the transaction appended to.
        repeated: the first and last event of each append whose events were stored already; empty
            if the transaction has other writes than appends.
        failures: the expectations and conditions that do not hold; such a plan is not applied.
        impossible: whether one of them can never hold, because the transaction itself deletes the
            stream.
        settled: what to pass to the consumer groups once the commit is sequenced.
    """

    __slots__ = (
        "commit",
        "event_count",
        "event_ids",
        "events",
        "failures",
        "first_position",
        "forget_before",
        "has_retention",
        "horizon",
        "impossible",
        "kind",
        "record",
        "repeated",
        "runs",
        "settled",
        "tags",
        "time",
        "transaction",
        "user",
        "versions",
        "writes",
    )

    def __init__(
        self,
        kind: int,
        transaction: bytes,
        time: int,
        user: int,
        commit: int,
        first_position: int,
        writes: Sequence[bytes | None],
    ) -> None:
        self.kind = kind
        self.transaction = transaction
        self.time = time
        self.user = user
        self.commit = commit
        self.first_position = first_position
        self.writes = writes
        # Most commits have no events, so these begin as shared empty values.
        self.events: Sequence[bytes] = ()
        self.event_count = 0
        self.event_ids: Sequence[Any] = ()
        self.runs: Sequence[StreamRun] = ()
        self.tags: Mapping[int, Sequence[str]] | None = None
        self.versions: Mapping[str, int] | None = None
        self.repeated: Sequence[tuple[StoredEvent, StoredEvent]] = ()
        self.failures: Sequence[dict[str, Any]] = ()
        self.impossible = False
        self.settled: Any = None
        self.record = b""
        self.has_retention = False
        self.horizon = 0
        self.forget_before = 0

    def commit_record(self) -> CommitRecord:
        """The commit's record for the commit log."""
        return CommitRecord(
            self.commit,
            self.transaction,
            self.time,
            self.user,
            self.first_position,
            self.event_count,
        )
