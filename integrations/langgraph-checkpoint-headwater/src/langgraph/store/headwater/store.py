"""The stores: LangGraph's operations on a blocking or an asyncio database."""

import asyncio
import concurrent.futures
import logging
import threading
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

from langgraph.checkpoint.headwater.programs import adrive, drive
from langgraph.store.base import BaseStore, Op, Result, TTLConfig
from langgraph.store.headwater.items import Items

import headwater

_log = logging.getLogger(__name__)

SWEEP_MINUTES_DEFAULT: Final = 5


class _Store(BaseStore):
    supports_ttl = True

    def __init__(
        self, database: Any, *, prefix: str = "langgraph store", ttl: TTLConfig | None = None
    ) -> None:
        super().__init__()
        if not isinstance(database.options.codec, headwater.MsgpackCodec):
            raise ValueError("the database must have the default codec, MsgpackCodec")
        self._database = database
        self.ttl_config = ttl
        self._items = Items(prefix, ttl, database.batch)

    def _interval_s(self, minutes: float | None) -> float:
        given = minutes or (self.ttl_config or {}).get("sweep_interval_minutes")
        return 60.0 * (given or SWEEP_MINUTES_DEFAULT)


class HeadwaterStore(_Store):
    """Items through a blocking database. Any number of threads may share it.

    Filters are evaluated here, over all items of the searched namespaces. There is no semantic
    search: `query` is ignored.

    Args:
        database: an entered `headwater.connect_blocking(…)`.
        prefix: the first member of all keys.
        ttl: how items expire. They go when the sweeper runs; with `omit_expired` they are hidden
            before.
    """

    def __init__(
        self,
        database: headwater.BlockingDatabase,
        *,
        prefix: str = "langgraph store",
        ttl: TTLConfig | None = None,
    ) -> None:
        super().__init__(database, prefix=prefix, ttl=ttl)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @classmethod
    @contextmanager
    def from_conn_string(
        cls, conn_string: str, *, ttl: TTLConfig | None = None, **options: Any
    ) -> Iterator["HeadwaterStore"]:
        """A store with a database of its own, for a block; its sweeper stops at the end.

        Args:
            conn_string: headwater://user:password@host:port.
            ttl: how items expire.
            options: `prefix`, and options of `headwater.connect_blocking`.
        """
        prefix = options.pop("prefix", "langgraph store")
        with headwater.connect_blocking(conn_string, **options) as database:
            store = cls(database, prefix=prefix, ttl=ttl)
            try:
                yield store
            finally:
                store.stop_ttl_sweeper()

    def setup(self) -> None:
        """Do nothing. Other stores make their tables here."""

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        return drive(self._database, self._items.do(ops))

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        return await asyncio.to_thread(self.batch, list(ops))

    def sweep_ttl(self) -> int:
        """Delete the items that have expired. Returns how many."""
        return drive(self._database, self._items.sweep())

    def start_ttl_sweeper(
        self, sweep_interval_minutes: float | None = None
    ) -> concurrent.futures.Future[None]:
        """Delete what has expired now and then, in a thread. Cancel the future to stop it."""
        future: concurrent.futures.Future[None] = concurrent.futures.Future()
        future.add_done_callback(lambda done: self._stop.set() if done.cancelled() else None)
        if self._thread is not None and self._thread.is_alive():
            return future
        self._stop.clear()
        interval = self._interval_s(sweep_interval_minutes)

        def sweep() -> None:
            while not self._stop.wait(interval):
                try:
                    self.sweep_ttl()
                except headwater.HeadwaterError:
                    _log.exception("expired items were not deleted; trying again later")
            if not future.cancelled():
                future.set_result(None)

        self._thread = threading.Thread(target=sweep, daemon=True, name="headwater-ttl-sweeper")
        self._thread.start()
        return future

    def stop_ttl_sweeper(self, timeout: float | None = None) -> bool:
        """Stop the sweeper. Returns whether it has ended within *timeout* seconds."""
        self._stop.set()
        if self._thread is None:
            return True
        self._thread.join(timeout)
        return not self._thread.is_alive()


class AsyncHeadwaterStore(_Store):
    """Items through a database of asyncio. Tasks share its one connection.

    The methods without `a` may be called from other threads; they run on the store's event loop.

    Args:
        database: an entered `headwater.connect(…)`.
        prefix: the first member of all keys.
        ttl: how items expire. They go when the sweeper runs; with `omit_expired` they are hidden
            before.
    """

    def __init__(
        self,
        database: headwater.Database,
        *,
        prefix: str = "langgraph store",
        ttl: TTLConfig | None = None,
    ) -> None:
        super().__init__(database, prefix=prefix, ttl=ttl)
        self.loop = asyncio.get_running_loop()
        self._home = threading.get_ident()
        self._sweeper: asyncio.Task[None] | None = None

    @classmethod
    @asynccontextmanager
    async def from_conn_string(
        cls, conn_string: str, *, ttl: TTLConfig | None = None, **options: Any
    ) -> AsyncIterator["AsyncHeadwaterStore"]:
        """A store with a database of its own, for a block; its sweeper stops at the end.

        Args:
            conn_string: headwater://user:password@host:port.
            ttl: how items expire.
            options: `prefix`, and options of `headwater.connect`.
        """
        prefix = options.pop("prefix", "langgraph store")
        async with headwater.connect(conn_string, **options) as database:
            store = cls(database, prefix=prefix, ttl=ttl)
            try:
                yield store
            finally:
                await store.stop_ttl_sweeper()

    async def setup(self) -> None:
        """Do nothing. Other stores make their tables here."""

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        return await adrive(self._database, self._items.do(ops))

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        if threading.get_ident() == self._home:
            raise asyncio.InvalidStateError(
                "a method that blocks, called in the thread of the event loop; use the one with a"
            )
        return asyncio.run_coroutine_threadsafe(self.abatch(ops), self.loop).result()

    async def sweep_ttl(self) -> int:
        """Delete the items that have expired. Returns how many."""
        return await adrive(self._database, self._items.sweep())

    async def start_ttl_sweeper(
        self, sweep_interval_minutes: float | None = None
    ) -> asyncio.Task[None]:
        """Delete what has expired now and then, in a task. Cancel the task to stop it."""
        if self._sweeper is None or self._sweeper.done():
            interval = self._interval_s(sweep_interval_minutes)
            self._sweeper = asyncio.create_task(self._sweep_often(interval))
        return self._sweeper

    async def _sweep_often(self, interval: float) -> None:
        while True:
            await asyncio.sleep(interval)
            try:
                await self.sweep_ttl()
            except headwater.HeadwaterError:
                _log.exception("expired items were not deleted; trying again later")

    async def stop_ttl_sweeper(self, timeout: float | None = None) -> bool:  # noqa: ASYNC109
        """Stop the sweeper. Returns whether it has ended within *timeout* seconds."""
        if self._sweeper is None:
            return True
        self._sweeper.cancel()
        done, _ = await asyncio.wait([self._sweeper], timeout=timeout)
        return bool(done)
