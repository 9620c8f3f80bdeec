"""The past: reads at a commit that was."""

from datetime import datetime
from typing import Any

from headwater.codecs.codec import Codec
from headwater.errors import InvalidArgument
from headwater.reads.listing import CategoryInfo, CategoryPages, StreamInfo, StreamPages
from headwater.reads.pages import Pages, SnapshotPages
from headwater.reads.reads import Reads
from headwater.records import StoredSnapshot, microseconds_of
from headwater.transport.channel import Channel
from headwater_protocol.numbers import CommitNumber
from headwater_protocol.operations import COMMIT


class Past(Reads):
    """Made by `db.at(commit=)` or `db.at(time=)`. All of its reads are of one commit.

    They raise HistoryGone if it is older than the history window, NoSuchCommit if it is yet to
    come.
    """

    def __init__(
        self, channel: Channel, codec: Codec, *, commit: int | None, time: datetime | None
    ) -> None:
        if (commit is None) == (time is None):
            raise InvalidArgument("at: give commit= or time=, one of them")
        if commit is not None:
            COMMIT(commit, "at: commit")
        self._channel = channel
        self._codec = codec
        self._commit = None if commit is None else CommitNumber(commit)
        self._time = None if time is None else microseconds_of(time, "at: time")

    async def commit(self) -> CommitNumber:
        """The commit that is read; of a time, the newest at that time."""
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
        """Iterate over every stored snapshot, in no order that means something."""
        return SnapshotPages(self._channel.read, self._codec, self.commit)

    async def _ask(self, name: str, *arguments: Any) -> Any:
        return await self._channel.read(name, *arguments)

    async def _fetch(self, name: str, *arguments: Any, at_commit: int | None = None) -> Any:  # noqa: ARG002
        commit = self._commit
        if commit is None:
            commit = await self.commit()
        # It is the last argument, so Reads leaves none out before it.
        return await self._channel.read(name, None, *arguments, commit)
