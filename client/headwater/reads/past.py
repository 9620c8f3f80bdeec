"""Reads of the past, at a commit of the history window."""

from datetime import datetime
from typing import Any

from headwater.codecs.codec import Codec
from headwater.errors import InvalidArgument
from headwater.reads.history import History
from headwater.reads.listing import CategoryInfo, CategoryPages, StreamInfo, StreamPages
from headwater.reads.pages import Pages, SnapshotPages
from headwater.reads.reads import Reads
from headwater.records import StoredSnapshot, microseconds_of
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
        self._channel = channel
        self._codec = codec
        self._commit = None if commit is None else CommitNumber(commit)
        self._time = None if time is None else microseconds_of(time, "at: time")

    async def commit(self) -> CommitNumber:
        """The commit that is read. For a time: the newest commit at that time."""
        if self._commit is None:
            commit: CommitNumber = await self._channel.read("commit_at", self._time)
            self._commit = commit
        return self._commit

    def streams(self, *, prefix: str = "") -> Pages[StreamInfo]:
        """Iterate over the streams whose names begin with *prefix*, in order of name."""
        return StreamPages(self._channel.read, prefix, self.commit)

    def categories(self) -> Pages[CategoryInfo]:
        """Iterate over the categories, in order of name."""
        return CategoryPages(self._channel.read, self.commit)

    def snapshots(self) -> Pages[StoredSnapshot]:
        """Iterate over all stored snapshots, in no particular order."""
        return SnapshotPages(self._channel.read, self._codec, self.commit)

    async def _ask(self, name: str, *arguments: Any) -> Any:
        return await self._channel.read(name, *arguments)

    async def _look(self, name: str, *arguments: Any) -> Any:
        return await self._channel.read(name, *arguments, await self.commit())

    async def _fetch(self, name: str, *arguments: Any, at_commit: int | None = None) -> Any:  # noqa: ARG002
        commit = self._commit
        if commit is None:
            commit = await self.commit()
        # The commit is the last argument, so Reads passes all optional ones before it.
        return await self._channel.read(name, None, *arguments, commit)
