"""Placeholders for events that a dump lacks, so that the others keep positions and versions.

    dump    position   1    2    3    4    5    6    7         hidden when it was dumped: 1, 2, 4, 5
            event      .    .   a-3   .    .   b-1  c-1
    load              a-1  a-2  a-3  $removed  b-1  c-1        all placeholders are hidden again

Positions matter because projections remember them: with other positions they would skip events or
handle them again. A dump does not contain the stream of a hidden event. It contains the number of
hidden events at the beginning of each stream, and the position of its first visible event, which is
a deadline for its placeholders. So gaps are filled by earliest deadline first. This always
succeeds, because the original streams are a solution. The rest of the gaps belongs to deleted
streams.
"""

from collections.abc import Iterator
from heapq import heappop, heappush
from typing import Any, Final

from headwater.blocking.database import BlockingDatabase
from headwater.errors import WrongVersion
from headwater.records import Event
from headwater.transactions.batch import Batch
from headwater.transport.stepping import step
from headwater_protocol.limits import NUMBER_MAX
from headwater_protocol.numbers import NO_STREAM

REMOVED: Final = "$removed"
"""The type of the placeholders, and the stream of those that belong to no stream of the dump."""

REMOVED_AT_ONCE_MAX: Final = 10_000
"""The most placeholders in one transaction."""


def newest_position(db: BlockingDatabase) -> int:
    """The position of the newest event of a database, even if it is hidden."""
    position: int = step(db._core._channel.read("position_before", NUMBER_MAX))  # noqa: SLF001
    return position


class Removed:
    """The placeholders that are still to be written while a dump is loaded.

    Attributes:
        position: the newest position of the database.
        begins: the versions at which streams with hidden events begin.
    """

    def __init__(self, db: BlockingDatabase) -> None:
        self.position = newest_position(db)
        self.begins: dict[str, int] = {}
        self._deleted: set[str] = set()
        self._db = db
        self._dumped_position = 0
        self._deadlines: list[tuple[int, str]] = []
        self._unfilled: dict[str, tuple[int, dict[str, Any]]] = {}

    def expect(self, line: dict[str, Any]) -> None:
        """Take a `retention` line. If its placeholders exist already, hide them.

        A stream that has events behind them was loaded before, or is another one. Its retention is
        left alone: the rule of the dump could hide events that came since.
        """
        stream, first = line["retention"], line["first"]
        loaded = self._db.load(stream)
        version = max(loaded.version, loaded.begins - 1)
        self.begins[stream] = line.get("begins", 1)
        if version and not loaded.version:
            self._deleted.add(stream)
        if version > first - 1:
            return
        oldest = next(self._db.read(stream, limit=1), None)
        if oldest is not None and oldest.type != REMOVED:
            raise WrongVersion(
                f"stream {stream!r} has events of its own up to version {version}; in the dump its "
                f"first one has version {first}"
            )
        if version == first - 1:
            batch = self._db.batch()
            _set_retention(batch, line)
            self._db.execute(batch)
            return
        self._unfilled[stream] = (version, line)
        deadline = line.get("position")
        heappush(self._deadlines, (NUMBER_MAX if deadline is None else deadline, stream))

    def fill_to(self, position: int) -> None:
        """Fill the gap up to a position, before a line that is not an event."""
        self._fill_gap(position - self.position)

    def before(self, line: dict[str, Any]) -> None:
        """Fill the gap before the event of a line, and count the event."""
        self._dumped_position = line.get("position", self._dumped_position + 1)
        self._fill_gap(self._dumped_position - 1 - self.position)
        self._fill_stream(line["stream"])
        self.position = max(self.position, self._dumped_position)

    def finish(self, last: int) -> None:
        """Fill the gap after the last event."""
        self.fill_to(last)
        for stream in list(self._unfilled):
            self._fill_stream(stream)

    def _fill_gap(self, count: int) -> None:
        while count > 0:
            stream, wanted = next(self._earliest_deadline(), (REMOVED, count))
            part = min(count, wanted, REMOVED_AT_ONCE_MAX)
            self._append_placeholders(stream, part)
            count -= part

    def _earliest_deadline(self) -> Iterator[tuple[str, int]]:
        """The stream with the earliest deadline, and the number of its placeholders."""
        while self._deadlines:
            stream = self._deadlines[0][1]
            if stream in self._unfilled:
                version, line = self._unfilled[stream]
                yield stream, line["first"] - 1 - version
            heappop(self._deadlines)

    def _fill_stream(self, stream: str) -> None:
        while stream in self._unfilled:
            version, line = self._unfilled[stream]
            self._append_placeholders(stream, min(line["first"] - 1 - version, REMOVED_AT_ONCE_MAX))

    def _append_placeholders(self, stream: str, count: int) -> None:
        batch = self._db.batch()
        if stream == REMOVED:
            batch.append(stream, _placeholders(count))
            batch.delete_stream(stream)
        else:
            version, line = self._unfilled[stream]
            # The placeholders from before the stream was deleted and began again.
            former = min(count, max(0, line.get("begins", 1) - 1 - version))
            for part, is_former in ((former, True), (count - former, False)):
                if not part:
                    continue
                # A deleted stream has no version that could be expected.
                expect = NO_STREAM if stream in self._deleted else version
                batch.append(stream, _placeholders(part), expect=expect)
                self._deleted.discard(stream)
                version += part
                if is_former and version == line["begins"] - 1:
                    batch.delete_stream(stream)
                    self._deleted.add(stream)
                elif is_former:
                    batch.truncate(stream, before=version + 1)
            self._unfilled[stream] = (version, line)
            if version == line["first"] - 1:
                del self._unfilled[stream]
                _set_retention(batch, line)
        self._db.execute(batch)
        self.position += count


def _placeholders(count: int) -> list[Event]:
    return [Event(REMOVED, b"")] * count


def _set_retention(batch: Batch, line: dict[str, Any]) -> None:
    if line["first"] > 1:
        batch.truncate(line["retention"], before=line["first"])
    batch.set_retention(line["retention"], max_count=line["max_count"], max_age=line["max_age"])
