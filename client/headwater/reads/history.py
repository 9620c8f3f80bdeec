"""Looking into a database: an event by its id, histories, listings.

The same calls on the database and on the past: `db.find_event(…)`,
`db.at(commit=7).find_event(…)`.
"""

from abc import ABC, abstractmethod
from typing import Any
from uuid import UUID

from headwater.codecs.codec import Codec
from headwater.codecs.events import recorded_event
from headwater.errors import InvalidArgument
from headwater.reads.history_pages import (
    Branch,
    BranchPages,
    DescribedPages,
    DescribedStream,
    KeyVersion,
    KeyVersionPages,
    SnapshotInfo,
    SnapshotInfoPages,
    StreamEntry,
    StreamEntryPages,
)
from headwater.reads.listing import CategoryInfo, CategoryPages, StreamInfo, StreamPages
from headwater.reads.pages import Pages, SnapshotPages
from headwater.records import RecordedEvent, StoredSnapshot
from headwater.transport.channel import Channel
from headwater_protocol.keys import Key
from headwater_protocol.limits import BRANCH_COUNT_MAX
from headwater_protocol.operations import STREAM


class History(ABC):
    """What happened, when, and by whom."""

    _codec: Codec

    @property
    @abstractmethod
    def _channel(self) -> Channel:
        """The channel to the server."""

    @abstractmethod
    async def _looked_at(self) -> int | None:
        """The commit to look at. None: the newest."""

    async def _look(self, name: str, *arguments: Any, at_commit: int | None = None) -> Any:
        """Send a request whose last argument is the commit to look at."""
        at = await self._looked_at() if at_commit is None else at_commit
        return await self._channel.read(name, *arguments, at)

    async def find_event(self, event: UUID) -> RecordedEvent | None:
        """The event with this id, in any stream. None: there is none, or it is hidden.

        Ids are unique in a stream only. If several streams have events with the id, it is the one
        that was appended last. An erased event is found too, without its data.

        Args:
            event: its id, as in `RecordedEvent.id`.

        Raises:
            NoSuchEvent: there is none, but events of a version of Headwater without an index of ids
                were not searched. details["indexed_after"] is the position of the last of them.
            PermissionDenied: the user may not read all streams, and may not read this event, or
                there is none.
        """
        _, row = await self._look("find_event", id_bytes(event, "find_event"))
        return None if row is None else recorded_event(row, self._codec)

    # Histories.

    def history(self, key: Key, *, limit: int | None = None) -> Pages[KeyVersion]:
        """Iterate over the commits that wrote a key, the newest first: who, when, from, to.

        It goes back as far as commits can be read. The version that was the value at the beginning
        of the history window is the last one, however old it is.

        Args:
            key: the key.
            limit: the maximum number of versions.
        """
        return KeyVersionPages(self._look, self._codec, key, limit=limit)

    def stream_history(self, stream: str, *, limit: int | None = None) -> Pages[StreamEntry]:
        """Iterate over the events of a stream, the newest first, with who appended them.

        Args:
            stream: its name.
            limit: the maximum number of events.
        """
        STREAM(stream, "stream_history: stream")
        return StreamEntryPages(self._look, self._codec, stream, limit=limit)

    # Listings.

    def branches(
        self, prefix: Key = (), *, count: int = 100, limit: int | None = None
    ) -> Pages[Branch]:
        """Iterate over the distinct beginnings of keys behind a prefix: a level of a tree.

        Each costs a seek and the keys that are counted, however many keys lie under it.

        Args:
            prefix: a tuple that the keys begin with. The empty tuple: of all keys.
            count: how many keys to count in each, at most 1000.
            limit: the maximum number of beginnings.
        """
        if not 1 <= count <= BRANCH_COUNT_MAX:
            raise InvalidArgument(f"branches: count: {count}; allowed are 1 to {BRANCH_COUNT_MAX}")
        return BranchPages(self._look, prefix, count=count, limit=limit)

    def snapshots_of(self, stream: str) -> Pages[SnapshotInfo]:
        """Iterate over the snapshots of a stream, without their states, by name and version."""
        STREAM(stream, "snapshots_of: stream")
        return SnapshotInfoPages(self._look, stream)

    def snapshots(self) -> Pages[StoredSnapshot]:
        """Iterate over all stored snapshots, in no particular order."""
        return SnapshotPages(self._channel.read, self._codec, self._looked_at)

    def streams(self, *, prefix: str = "") -> Pages[StreamInfo]:
        """Iterate over the streams whose names begin with *prefix*, in order of name."""
        return StreamPages(self._channel.read, prefix, self._looked_at)

    def described_streams(self, *, prefix: str = "") -> Pages[DescribedStream]:
        """Iterate over the same streams, each with its newest event. It takes longer."""
        return DescribedPages(self._look, prefix)

    def categories(self) -> Pages[CategoryInfo]:
        """Iterate over the categories, in order of name."""
        return CategoryPages(self._channel.read, self._looked_at)


def id_bytes(event: UUID, place: str) -> bytes:
    """The bytes of an event's id.

    Raises:
        InvalidArgument: it is no UUID.
    """
    if not isinstance(event, UUID):
        raise InvalidArgument(f"{place}: expected the UUID of an event, got {event!r:.60}")
    return event.bytes
