"""Comparing a source with what was imported from it, event by event."""

from collections.abc import Callable
from itertools import islice

from headwater.blocking.database import BlockingDatabase
from headwater.errors import InvalidArgument
from headwater.imports.positions import progress_of, runs
from headwater.imports.source import Source, SourceEvent
from headwater.records import RecordedEvent
from headwater.transactions.batch import Batch


def verify(
    db: BlockingDatabase,
    source: Source,
    *,
    name: str,
    on_progress: Callable[[int], object] | None = None,
) -> int:
    """Compare each event of a source with its import. Returns their number.

    Stream, version, id, type, data, metadata and tags are compared. Erased events and events that
    retention hides are not there to be compared, so verify right after the import.

    Raises:
        InvalidArgument: an event differs or is missing; the message says which and in what. Or the
            import did not reach its end.
    """
    progress = progress_of(db, name)
    if progress is None or not progress.finished:
        raise InvalidArgument(f"import: {name!r} did not reach its end; run it again")
    events = source.events()
    count = 0
    for olds, first_new in runs(db, name):
        expected = list(islice(events, len(olds)))
        if [each.position for each in expected] != olds:
            raise InvalidArgument(
                f"import: the source has not the positions that were imported, {olds[0]} to "
                f"{olds[-1]}"
            )
        stored = _read(db, source, first_new, len(olds))
        if len(stored) != len(olds):
            raise InvalidArgument(
                f"import: events {first_new} to {first_new + len(olds) - 1}: only {len(stored)} of "
                f"{len(olds)} can be read"
            )
        for offset, (one, other) in enumerate(zip(expected, stored, strict=True)):
            _compare(one, other, first_new + offset)
        count += len(olds)
        if on_progress is not None:
            on_progress(count)
    rest = next(events, None)
    if rest is not None:
        raise InvalidArgument(
            f"import: position {rest.position} of the source was not imported; run it again"
        )
    if count != progress.events:
        raise InvalidArgument(f"import: {count} events, but {progress.events} were written")
    return count


def _read(db: BlockingDatabase, source: Source, first: int, count: int) -> list[RecordedEvent]:
    """The events at *count* positions, decoded as the source encodes them."""
    found: list[RecordedEvent] = []
    after, end = first - 1, first + count - 1
    while after < end:
        batch = db.batch() if source.codec is None else Batch(source.codec)
        batch.read_all(after=after, limit=end - after)
        (page,) = db.execute(batch).results
        found += [event for event in page if event.position <= end]
        if not page.more or not page:
            break
        after = page[-1].position
    return found


def _compare(one: SourceEvent, other: RecordedEvent, position: int) -> None:
    pairs = {
        "position": (position, other.position),
        "stream": (one.stream, other.stream),
        "version": (one.version or other.version, other.version),
        "id": (one.id, other.id),
        "type": (one.type, other.type),
        "data": (one.data, other.data),
        "metadata": (one.metadata, other.metadata),
        "tags": (one.tags, tuple(other.tags)),
    }
    for what, (expected, found) in pairs.items():
        if expected != found:
            raise InvalidArgument(
                f"import: position {one.position}, now {position}: {what} differs: "
                f"{expected!r:.200} there, {found!r:.200} here"
            )
