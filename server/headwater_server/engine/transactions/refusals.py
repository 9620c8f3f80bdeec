"""Refusals: counts of them, and the last conflicts, so that somebody can ask why.

The error of a conflict says what it was about and which commit won. This memory also has the other
side: when the refused transaction began, what it had read, and what it wanted to write. It has
names and keys, never values, is bounded, and does not outlast the process.

What the winners wrote is not kept. explaining.py looks it up when somebody asks.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from headwater_protocol.errors import Conflict, HeadwaterError
from headwater_protocol.limits import CONFLICTS_LISTED_MAX
from headwater_server.engine.format import keyspaces
from headwater_server.engine.state.layers import State
from headwater_server.engine.transactions.transaction import ReadSet, Transaction
from headwater_server.engine.transactions.write_buffer import WriteBuffer

SUBJECTS_KEPT: Final = 20
"""Keys, ranges, streams and queries that are kept of what each has read, and of what it wanted to
write, and its conflicts. So all of them hold some MB at most, and usually 100 KB."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A transaction that was refused for a conflict.

    Attributes:
        code, message, conflicts: of its error; the conflicts are the first ones.
        user: the number of the user; 0 without users.
        connection: the address, user and client; None for a transaction in one request.
        isolation: None for a transaction in one request.
        began: the commit of its read view; None for a transaction in one request.
        newest: the newest commit when it was refused.
        time: when it was refused, in microseconds of the log's clock.
        read, wrote: what it had read, and what it wanted to write: kinds of subjects and the first
            of each, with `count` for how many there were.
    """

    transaction: bytes
    code: str
    message: str
    conflicts: list[dict[str, Any]]
    user: int
    connection: str | None
    isolation: str | None
    began: int | None
    newest: int
    time: int
    read: dict[str, Any]
    wrote: dict[str, Any]


class Refusals:
    """Counts the transactions that were refused, and remembers the last ones with a conflict.

    Attributes:
        codes: how many were refused since the start, by error code.
        kinds: how many conflicts they had, by kind.
    """

    def __init__(self, state: State) -> None:
        self.codes: dict[str, int] = {}
        self.kinds: dict[str, int] = {}
        self.state = state
        self._refused: dict[bytes, Refused] = {}

    def count(self, error: HeadwaterError) -> None:
        """Count a refused transaction, whether it was refused now or before."""
        self.codes[error.code] = self.codes.get(error.code, 0) + 1
        if isinstance(error, Conflict):
            for conflict in error.details.get("conflicts", ()):
                kind = conflict["kind"]
                self.kinds[kind] = self.kinds.get(kind, 0) + 1

    def note_opened(self, error: HeadwaterError, opened: Transaction, time: int) -> None:
        """Remember a transaction that was opened before, if it was refused for a conflict."""
        self.note(error, opened.id, opened.user, opened.buffer, time, opened)

    def note(
        self,
        error: HeadwaterError,
        transaction: bytes,
        user: int,
        buffer: WriteBuffer,
        time: int,
        opened: Transaction | None = None,
    ) -> None:
        """Remember a transaction of one request, if it was refused for a conflict."""
        if not isinstance(error, Conflict):
            return
        # A transaction that is sent again moves to the end.
        self._refused.pop(transaction, None)
        if len(self._refused) >= CONFLICTS_LISTED_MAX:
            del self._refused[next(iter(self._refused))]
        self._refused[transaction] = Refused(
            transaction=transaction,
            code=error.code,
            message=error.message,
            conflicts=error.details.get("conflicts", [])[:SUBJECTS_KEPT],
            user=user,
            connection=None if opened is None else str(opened.owner),
            isolation=None if opened is None else opened.isolation,
            began=None if opened is None else opened.view,
            newest=self.state.last_commit,
            time=time,
            read=_read(None if opened is None else opened.read_set),
            wrote=_wrote(buffer),
        )

    def newest(self) -> list[Refused]:
        """The remembered transactions, the newest first."""
        return list(reversed(self._refused.values()))

    def find(self, transaction: bytes) -> Refused | None:
        """A remembered transaction."""
        return self._refused.get(transaction)


def _first(subjects: Iterable[Any]) -> list[Any]:
    return list(islice(subjects, SUBJECTS_KEPT))


def _read(reads: ReadSet | None) -> dict[str, Any]:
    if reads is None:
        return {"count": 0}
    return {
        "keys": _user_keys(reads.keys),
        "ranges": [[first[1:], last[1:]] for first, last in _first(reads.ranges)],
        "streams": _first(reads.streams),
        "queries": [query.as_wire() for query in _first((*reads.queries, *reads.pages))],
        "count": len(reads),
    }


def _wrote(buffer: WriteBuffer) -> dict[str, Any]:
    streams = dict.fromkeys(append.stream for append in buffer.appends)
    snapshots = dict.fromkeys(snapshot.stream for snapshot in buffer.snapshots)
    return {
        "keys": _user_keys(buffer.entries),
        "ranges": [[first[1:], last[1:]] for first, last in _first(buffer.ranges)],
        "streams": _first(streams),
        "snapshots": _first(snapshots),
        "events": sum(len(append.events) for append in buffer.appends),
        "count": len(buffer.entries) + len(buffer.ranges) + len(streams),
    }


def _user_keys(keys: Iterable[bytes]) -> list[bytes]:
    return [key[1:] for key in _first(key for key in keys if key.startswith(keyspaces.USER))]
