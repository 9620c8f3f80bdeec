"""How far an import has come, and the table of old positions to new ones.

    ("$import", name)                     how far it has come
    ("$import", name, "run", first)       [old positions, first new position] of consecutive events

The events of one transaction have consecutive positions. A transaction does not know them before it
has committed. So it stores a run with the id of its first event instead, and the next request puts
the position there, and joins runs. After an interruption the event is looked up by its id.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Final
from uuid import UUID

from headwater.blocking.database import BlockingDatabase
from headwater.codecs.codec import MsgpackCodec
from headwater.errors import InvalidArgument
from headwater.transactions.batch import Batch
from headwater_protocol.keys import KeyTuple, encode_key
from headwater_protocol.operations import NAME

SPACE: Final = "$import"

_CODEC: Final = MsgpackCodec()
"""Of progress and runs, whatever the codec of the events is."""


@dataclass(frozen=True, slots=True)
class Progress:
    """What an import has written.

    Attributes:
        position: the last old position that was written.
        events: their number.
        later: how many of them have a later time than in the source.
        time: of the last commit in microseconds, if times are kept.
        finished: whether the end of the source was reached.
    """

    position: int = 0
    events: int = 0
    later: int = 0
    time: int = 0
    finished: bool = False

    def row(self) -> dict[str, Any]:
        """The value of the key."""
        return asdict(self)


def progress_key(name: str) -> KeyTuple:
    """The key of an import's progress.

    Raises:
        InvalidArgument: the name is empty or too long.
    """
    NAME(name, "import: name")
    return SPACE, name


def progress_of(db: BlockingDatabase, name: str) -> Progress | None:
    """The progress of an import, or None if it did not begin."""
    batch = Batch(_CODEC)
    batch.get(progress_key(name))
    (row,) = db.execute(batch).results
    return None if row is None else Progress(**row)


def require_progress(batch: Batch, name: str, progress: Progress | None) -> None:
    """Require that the import has come exactly this far; None: that it did not begin."""
    data = None if progress is None else _CODEC.encode(progress.row())
    batch._require(["value", encode_key(progress_key(name)), data])  # noqa: SLF001


def put_progress(batch: Batch, name: str, progress: Progress) -> None:
    """Store how far an import has come."""
    _put(batch, progress_key(name), progress.row())


def put_run(batch: Batch, name: str, olds: list[int], first: int | UUID) -> None:
    """Store where the events of a transaction are: a position, or the id of the first event."""
    _put(batch, _run_key(name, olds), [olds, first])


def join_runs(db: BlockingDatabase, name: str, known: list[tuple[list[int], int]]) -> None:
    """Put positions into runs that were stored with ids, and join consecutive ones."""
    batch = Batch(_CODEC)
    joined: list[tuple[list[int], int]] = []
    for olds, first in known:
        batch.delete(_run_key(name, olds))
        if joined and first == joined[-1][1] + len(joined[-1][0]):
            joined[-1][0].extend(olds)
        else:
            joined.append(([*olds], first))
    for olds, first in joined:
        put_run(batch, name, olds, first)
    db.execute(batch)


def complete_runs(db: BlockingDatabase, name: str) -> None:
    """After an interruption: look up the positions of runs that were stored with ids."""
    known = []
    for olds, first in _stored_runs(db, name):
        if isinstance(first, UUID):
            event = db.find_event(first)
            if event is None:
                raise InvalidArgument(f"import {name!r}: event {first}, which it wrote, is gone")
            known.append((olds, int(event.position)))
    if known:
        join_runs(db, name, known)


def _run_key(name: str, olds: list[int]) -> KeyTuple:
    return SPACE, name, "run", olds[0]


def _put(batch: Batch, key: KeyTuple, value: Any) -> None:
    encoded, data = encode_key(key), _CODEC.encode(value)
    batch._keep(["put", encoded, data], len(encoded) + len(data))  # noqa: SLF001


def runs(db: BlockingDatabase, name: str) -> Iterator[tuple[list[int], int]]:
    """The old positions of consecutive events, and the first new one, in order."""
    for olds, first in _stored_runs(db, name):
        if isinstance(first, UUID):
            raise InvalidArgument(f"import: {name!r} was interrupted; run it again")
        yield olds, first


def _stored_runs(db: BlockingDatabase, name: str) -> Iterator[tuple[list[int], int | UUID]]:
    start: int = 0
    while True:
        batch = Batch(_CODEC)
        batch.scan(start=(SPACE, name, "run", start), end=(SPACE, name, "runs"))
        (page,) = db.execute(batch).results
        for _, (olds, first) in page:
            yield olds, first
        if not page.more:
            return
        start = page[-1][0][3] + 1


def positions(db: BlockingDatabase, name: str) -> Iterator[tuple[int, int]]:
    """The table of an import: pairs of old and new positions, in order.

    Raises:
        InvalidArgument: there is no import of this name, or it did not reach its end.
    """
    _finished(db, name)
    for olds, first_new in runs(db, name):
        for offset, old in enumerate(olds):
            yield old, first_new + offset


def position_of(db: BlockingDatabase, name: str, old: int) -> int | None:
    """The new position of the last event up to an old one, as a checkpoint needs it.

    None if no event of the import was at or before the old position. Whoever had processed the
    source up to *old* continues here behind the position that is returned.

    Raises:
        InvalidArgument: there is no import of this name, or it did not reach its end.
    """
    _finished(db, name)
    batch = Batch(_CODEC)
    batch.scan(start=(SPACE, name, "run"), end=(SPACE, name, "run", old + 1), reverse=True, limit=1)
    (page,) = db.execute(batch).results
    for _, (olds, first) in page:
        last: int = first + sum(each <= old for each in olds) - 1
        return last
    return None


def _finished(db: BlockingDatabase, name: str) -> Progress:
    progress = progress_of(db, name)
    if progress is None:
        raise InvalidArgument(f"import: there is no import {name!r}")
    if not progress.finished:
        raise InvalidArgument(f"import: {name!r} did not reach its end; run it again")
    return progress
