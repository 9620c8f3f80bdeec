"""The savers: LangGraph's methods, each a program on a blocking or an asyncio database."""

import asyncio
import random
import threading
from abc import abstractmethod
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from typing import Any, TypeVar

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
)
from langgraph.checkpoint.headwater.layout import Layout
from langgraph.checkpoint.headwater.programs import Program, adrive, drive
from langgraph.checkpoint.headwater.reading import CHECKPOINTS_A_REQUEST
from langgraph.checkpoint.headwater.writing import STRATEGIES, Writing
from langgraph.checkpoint.serde.base import SerializerProtocol

import headwater

T = TypeVar("T")


class _Saver(BaseCheckpointSaver[str]):
    """What both savers have: the methods that block, and the versions of channels."""

    _database: Any

    def __init__(
        self, database: Any, *, prefix: str = "langgraph", serde: SerializerProtocol | None = None
    ) -> None:
        super().__init__(serde=serde)
        if not isinstance(database.options.codec, headwater.MsgpackCodec):
            raise ValueError("the database must have the default codec, MsgpackCodec")
        self._database = database
        self._layout = Layout(prefix)

    @abstractmethod
    def _do(self, program: Program[T]) -> T:
        """Perform a program, and wait for it."""

    @property
    def programs(self) -> Writing:
        """The programs, with the serializer that this saver has now."""
        return Writing(self._layout, self.serde, self._database.batch)

    def get_next_version(self, current: str | int | None, channel: None) -> str:  # noqa: ARG002
        """The next version of a channel. It sorts after the current one as text.

        The random part tells versions of two branches apart that have the same number.
        """
        number = int(str(current).split(".", 1)[0]) if current is not None else 0
        return f"{number + 1:032}.{random.random():016}"

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        return self._do(self.programs.get_tuple(config))

    def list(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002 - LangGraph's name
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        programs = self.programs
        rows = self._do(programs.rows(config, filter, before, limit))
        for start in range(0, len(rows), CHECKPOINTS_A_REQUEST):
            yield from self._do(programs.tuples(rows[start : start + CHECKPOINTS_A_REQUEST]))

    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        return self._do(self.programs.put(config, checkpoint, metadata, new_versions))

    def put_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        self._do(self.programs.put_writes(config, writes, task_id, task_path))

    def delete_thread(self, thread_id: str) -> None:
        self._do(self.programs.delete_thread(str(thread_id)))

    def delete_for_runs(self, run_ids: Sequence[str]) -> None:
        self._do(self.programs.delete_for_runs(run_ids))

    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        self._do(self.programs.copy_thread(str(source_thread_id), str(target_thread_id)))

    def prune(
        self, thread_ids: Sequence[str], *, strategy: str = "keep_latest", keep: int = 1
    ) -> None:
        """Delete threads, or all but the newest checkpoints of each of their namespaces.

        Channels that are stored as deltas are rebuilt from older checkpoints, so those stay.

        Args:
            thread_ids: the threads.
            strategy: "keep_latest" or "delete".
            keep: how many checkpoints of a namespace "keep_latest" keeps.
        """
        self._do(self.programs.prune(_checked(thread_ids, strategy, keep), strategy, keep))

    def prune_older(
        self, age: timedelta, *, thread_ids: Sequence[str] | None = None, keep: int = 1
    ) -> int:
        """Delete checkpoints above an age. Returns how many.

        Args:
            age: measured by the times in the checkpoints, which their writers took.
            thread_ids: the threads; all if None.
            keep: the number of newest checkpoints of each namespace that stay, whatever their age.
        """
        threads = None if thread_ids is None else _checked(thread_ids, "keep_latest", keep)
        return self._do(self.programs.prune_older(age, threads, keep))


class HeadwaterSaver(_Saver):
    """Checkpoints through a blocking database. Any number of threads may share it.

    Args:
        database: an entered `headwater.connect_blocking(…)`.
        prefix: the first member of all keys. Savers with other prefixes see nothing of this one.
        serde: serializes values; the default is LangGraph's. EncryptedSerializer encrypts.
    """

    @classmethod
    @contextmanager
    def from_conn_string(
        cls, conn_string: str, *, serde: SerializerProtocol | None = None, **options: Any
    ) -> Iterator["HeadwaterSaver"]:
        """A saver with a database of its own, for a block.

        Args:
            conn_string: headwater://user:password@host:port.
            serde: the serializer.
            options: `prefix`, and options of `headwater.connect_blocking`.
        """
        prefix = options.pop("prefix", "langgraph")
        with headwater.connect_blocking(conn_string, **options) as database:
            yield cls(database, prefix=prefix, serde=serde)

    def _do(self, program: Program[T]) -> T:
        return drive(self._database, program)

    def setup(self) -> None:
        """Do nothing. Other savers make their tables here."""


class AsyncHeadwaterSaver(_Saver):
    """Checkpoints through a database of asyncio. Tasks share its one connection.

    LangGraph calls the methods without `a` from synchronous nodes, in other threads; they run on
    the event loop of the saver.

    Args:
        database: an entered `headwater.connect(…)`.
        prefix: the first member of all keys. Savers with other prefixes see nothing of this one.
        serde: serializes values; the default is LangGraph's. EncryptedSerializer encrypts.
    """

    def __init__(
        self,
        database: headwater.Database,
        *,
        prefix: str = "langgraph",
        serde: SerializerProtocol | None = None,
    ) -> None:
        super().__init__(database, prefix=prefix, serde=serde)
        self.loop = asyncio.get_running_loop()
        self._home = threading.get_ident()

    @classmethod
    @asynccontextmanager
    async def from_conn_string(
        cls, conn_string: str, *, serde: SerializerProtocol | None = None, **options: Any
    ) -> AsyncIterator["AsyncHeadwaterSaver"]:
        """A saver with a database of its own, for a block.

        Args:
            conn_string: headwater://user:password@host:port.
            serde: the serializer.
            options: `prefix`, and options of `headwater.connect`.
        """
        prefix = options.pop("prefix", "langgraph")
        async with headwater.connect(conn_string, **options) as database:
            yield cls(database, prefix=prefix, serde=serde)

    async def _ado(self, program: Program[T]) -> T:
        return await adrive(self._database, program)

    def _do(self, program: Program[T]) -> T:
        if threading.get_ident() == self._home:
            raise asyncio.InvalidStateError(
                "a method that blocks, called in the thread of the event loop; use the one with a"
            )
        return asyncio.run_coroutine_threadsafe(self._ado(program), self.loop).result()

    async def setup(self) -> None:
        """Do nothing. Other savers make their tables here."""

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        return await self._ado(self.programs.get_tuple(config))

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002 - LangGraph's name
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        programs = self.programs
        rows = await self._ado(programs.rows(config, filter, before, limit))
        for start in range(0, len(rows), CHECKPOINTS_A_REQUEST):
            part = rows[start : start + CHECKPOINTS_A_REQUEST]
            for each in await self._ado(programs.tuples(part)):
                yield each

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        return await self._ado(self.programs.put(config, checkpoint, metadata, new_versions))

    async def aput_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        await self._ado(self.programs.put_writes(config, writes, task_id, task_path))

    async def adelete_thread(self, thread_id: str) -> None:
        await self._ado(self.programs.delete_thread(str(thread_id)))

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        await self._ado(self.programs.delete_for_runs(run_ids))

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        await self._ado(self.programs.copy_thread(str(source_thread_id), str(target_thread_id)))

    async def aprune(
        self, thread_ids: Sequence[str], *, strategy: str = "keep_latest", keep: int = 1
    ) -> None:
        """Like HeadwaterSaver.prune."""
        threads = _checked(thread_ids, strategy, keep)
        await self._ado(self.programs.prune(threads, strategy, keep))

    async def aprune_older(
        self, age: timedelta, *, thread_ids: Sequence[str] | None = None, keep: int = 1
    ) -> int:
        """Like HeadwaterSaver.prune_older."""
        threads = None if thread_ids is None else _checked(thread_ids, "keep_latest", keep)
        return await self._ado(self.programs.prune_older(age, threads, keep))


def _checked(thread_ids: Sequence[str], strategy: str, keep: int) -> list[str]:
    if isinstance(thread_ids, str):
        raise TypeError("thread_ids: expected a list of thread ids, got a str")
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy: {strategy!r}; it is one of {', '.join(STRATEGIES)}")
    if keep < 0:
        raise ValueError(f"keep: {keep}; the minimum is 0")
    return [str(each) for each in thread_ids]
