"""A commit that stays readable for as long as a dump takes, also beyond the history window.

What an open transaction reads at is kept, and every connection may read it. A transaction has a
limit of age and one of idleness, so every few seconds a new one takes the place of the last.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import Final

from headwater.blocking.database import BlockingDatabase
from headwater.errors import HeadwaterError
from headwater.identifiers import new_transaction_id
from headwater.transport.stepping import step
from headwater_protocol.operations import SNAPSHOT

RENEWED_S: Final = 2.0
"""Seconds between two transactions: far below the limits that a server may reasonably have."""


@contextmanager
def held_commit(db: BlockingDatabase, commit: int) -> Iterator[None]:
    """Keep a commit readable while the block runs.

    *db* has a connection of its own, which a thread uses: the block may wait for whoever reads its
    output.
    """
    with db:
        held = _begin(db, commit)
        ended = Event()
        thread = Thread(target=_renew, args=(db, commit, held, ended), daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


def _begin(db: BlockingDatabase, commit: int) -> bytes:
    identity = new_transaction_id()
    step(db._core._channel.read("begin", identity, SNAPSHOT, True, commit))  # noqa: SLF001
    return identity


def _renew(db: BlockingDatabase, commit: int, held: bytes, ended: Event) -> None:
    while not ended.wait(RENEWED_S):
        try:
            following = _begin(db, commit)
            step(db._core._channel.read("rollback", held))  # noqa: SLF001
            held = following
        except HeadwaterError:
            # If the commit is lost by this, the dump's next read says so.
            continue
