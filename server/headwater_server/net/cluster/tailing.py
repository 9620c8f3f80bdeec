"""Takes the entries of other nodes from the stream, and those that the stream lacks from a node.

    stream  -->  checked, in the copy, durable  -->  applied
    peer    -->  the same; if the stream has a gap or was trimmed beyond this node

An entry is accepted only behind the one that it names by its hash, wherever it comes from.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Final

import structlog

from headwater_protocol.errors import DamagedFile, HeadwaterError
from headwater_protocol.limits import KIB, MIB
from headwater_server.engine.engine import Engine
from headwater_server.net.replication.applying import Applying
from headwater_server.net.replication.bootstrap import entries_of
from headwater_server.net.replication.upstream import Upstream
from headwater_server.net.threads.worker_thread import RunBlocking
from headwater_server.storage.errors import Truncated
from headwater_server.storage.jetstream.log import JetStreamCursor, JetStreamLog
from headwater_server.storage.wal.interface import WalEntry, WalIndex

_log = structlog.get_logger(__name__)

BATCH_SIZE: Final = 1 * MIB
"""Bytes of entries that are taken at once, and held in memory."""

PEER_SIZE: Final = 256 * KIB
"""Bytes of entries that another node is asked for at once."""


class Tailing:
    """A follower's reading."""

    def __init__(
        self,
        engine: Engine,
        stream: JetStreamLog,
        applying: Applying,
        run_blocking: RunBlocking,
        *,
        node: str,
        upstream: Callable[[str], Upstream],
    ) -> None:
        """*upstream* makes the way to the node at an address."""
        self._engine = engine
        self._stream = stream
        self._applying = applying
        self._run_blocking = run_blocking
        self._node = node
        self._upstream = upstream
        self._cursor: JetStreamCursor | None = None

    async def apply(self) -> None:
        """Apply what was taken and not applied yet."""
        await self._applying.run_logged()

    async def take(self) -> bool:
        """Take, keep and apply the next entries; return whether there were any.

        Raises:
            Unavailable: no answer.
            Truncated, DamagedFile: the stream lacks the next entry.
            Diverged: the stream has other entries than this node.
            DiskFull.
        """
        cursor, self._cursor = self._cursor, None
        if cursor is None:
            cursor = self._stream.cursor(self._engine.log_reader.last_index)
        new = await self._run_blocking(partial(self._take, cursor))
        self._cursor = cursor
        if new is None:
            return False
        self._applying.waiting.extend(new)
        await self._applying.run()
        return True

    def _take(self, cursor: JetStreamCursor) -> list[WalEntry] | None:
        entries = cursor.take(BATCH_SIZE)
        roll_at = self._engine.rewriting.roll_at
        if not entries and roll_at is None:
            return None
        new = self._engine.applier.ingest(entries, roll_at=roll_at)
        return new if entries else None

    async def check_end(self) -> None:
        """Compare the end of this node's copy with the stream.

        Raises:
            Unavailable: no answer.
            Truncated, DamagedFile: the stream does not have that entry.
            Diverged: it has another one.
        """
        await self._run_blocking(self._check_end)

    def _check_end(self) -> None:
        state = self._stream.refresh()
        last = self._engine.log_reader.last_index
        if not state.first <= last <= state.last:
            if last + 1 < state.first:
                raise Truncated(last + 1, state.first)
            return
        cursor = self._stream.cursor(WalIndex(last - 1))
        # The copy knows it: it compares the hash.
        self._engine.applier.ingest(cursor.take(1), roll_at=None)

    async def take_from(self, address: str) -> int:
        """Take what another node has behind this one's end; return how many entries.

        Raises:
            HeadwaterError: it does not answer, or does not have them either.
            Diverged: it has other entries.
        """
        self._cursor = None
        count = 0
        async with self._upstream(address).connect() as link:
            while True:
                after = self._engine.log_reader.last_index
                answer: Any = await link.ask("log_read", self._node, after, PEER_SIZE, 0)
                entries = entries_of(answer)[0]
                if not entries:
                    return count
                new = await self._run_blocking(
                    partial(self._engine.applier.ingest, entries, roll_at=None)
                )
                if not new:
                    raise DamagedFile(f"{address} sent entries that are here already")
                count += len(new)
                self._applying.waiting.extend(new)
                await self._applying.run()

    async def mend(self, addresses: list[str]) -> bool:
        """Take the next entries from the first node that has them; return whether one had."""
        for address in addresses:
            try:
                count = await self.take_from(address)
            except HeadwaterError as error:
                _log.warning("a node cannot help", address=address, reason=error.message)
                continue
            if count:
                _log.warning("entries were taken from another node", address=address, count=count)
                return True
        return False
