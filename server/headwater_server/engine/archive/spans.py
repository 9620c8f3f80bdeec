"""Finds the range of commits in a sequence of log entries."""

from collections.abc import Sequence

from headwater_server.engine.format.planned import COMMIT
from headwater_server.engine.format.records import RecordHead, head_of
from headwater_server.storage.archive.piece import Span
from headwater_server.storage.wal.interface import WalEntry, records_by_entry

NO_ID = bytes(16)
"""Stands for the transaction id of a commit if it is unknown."""


def span_of(entries: Sequence[WalEntry], before: Span) -> Span:
    """The span of entries that follow *before*. Their last record must be complete."""
    first: RecordHead | None = None
    newest: Sequence[bytes] = ()
    last: RecordHead | None = None
    for _, completed in records_by_entry(entries):
        if first is None:
            first = head_of(completed[0])
        newest = completed
        # Nearly always the last record is a commit, so this reads one head.
        last = next(filter(_is_commit, map(head_of, reversed(completed))), last)
    if first is None:
        time = before.last_time
        return Span(before.last, before.last_id, before.last, before.last_id, time, time)
    return Span(
        before.last,
        before.last_id,
        before.last if last is None else last.commit,
        before.last_id if last is None else last.transaction,
        first.time,
        head_of(newest[-1]).time,
    )


def just_before(span: Span) -> Span:
    """The span that ends where another begins."""
    return Span(
        span.before,
        span.before_id,
        span.before,
        span.before_id,
        span.first_time,
        span.first_time,
    )


def first_commit(entries: Sequence[WalEntry]) -> RecordHead | None:
    """The first commit in some entries; None if there is none."""
    for _, completed in records_by_entry(entries):
        for head in map(head_of, completed):
            if _is_commit(head):
                return head
    return None


def _is_commit(head: RecordHead) -> bool:
    return head.kind == COMMIT
