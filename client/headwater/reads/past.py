"""Reads of the past, at a commit of the history window."""

from datetime import datetime
from typing import Any

from headwater.codecs.codec import Codec
from headwater.errors import InvalidArgument
from headwater.reads.history import History
from headwater.reads.reads import Reads
from headwater.records import microseconds_of
from headwater.transport.channel import Channel
from headwater_protocol.numbers import CommitNumber
from headwater_protocol.operations import COMMIT


class Past(Reads, History):
    """The database as it was at one commit. Made by `db.at(commit=)` or `db.at(time=)`.

    Its reads raise HistoryGone if the commit is older than the history window, and NoSuchCommit if
    it does not exist yet.
    """

    def __init__(
        self, channel: Channel, codec: Codec, *, commit: int | None, time: datetime | None
    ) -> None:
        if (commit is None) == (time is None):
            raise InvalidArgument("at: give either commit= or time=")
        if commit is not None:
            COMMIT(commit, "at: commit")
        self._opened_channel = channel
        self._codec = codec
        self._commit = None if commit is None else CommitNumber(commit)
        self._time = None if time is None else microseconds_of(time, "at: time")

    async def commit(self) -> CommitNumber:
        """The commit that is read. For a time: the newest commit at that time."""
        if self._commit is None:
            commit: CommitNumber = await self._channel.read("commit_at", self._time)
            self._commit = commit
        return self._commit

    @property
    def _channel(self) -> Channel:
        return self._opened_channel

    async def _looked_at(self) -> int | None:
        return await self.commit()

    async def _ask(self, name: str, *arguments: Any) -> Any:
        return await self._channel.read(name, *arguments)

    async def _fetch(self, name: str, *arguments: Any, at_commit: int | None = None) -> Any:  # noqa: ARG002
        commit = self._commit
        if commit is None:
            commit = await self.commit()
        # The commit is the last argument, so Reads passes all optional ones before it.
        return await self._channel.read(name, None, *arguments, commit)
