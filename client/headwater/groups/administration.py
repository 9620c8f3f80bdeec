"""Consumer groups, as `db.groups` administers them; `db.join` is where one consumes."""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from headwater.codecs.codec import Codec
from headwater.codecs.events import from_stored, recorded_event
from headwater.errors import InvalidArgument
from headwater.reads.pages import Pages
from headwater.reads.query import Query, event_filter
from headwater.records import RecordedEvent, time_of
from headwater.transport.channel import Channel
from headwater_protocol.group_operations import NAME, POSITION, SETTINGS
from headwater_protocol.limits import DELIVERIES_MAX
from headwater_protocol.numbers import Position

_MS: float = 1000


@dataclass(frozen=True, slots=True)
class GroupSummary:
    """A consumer group in a list: its position, and how many consumers it has now."""

    name: str
    position: Position
    members: int


@dataclass(frozen=True, slots=True)
class GroupInfo:
    """All about a consumer group.

    Attributes:
        filter: which events it is about, by the names of the arguments of `create`.
        lease: seconds that a consumer may take for a delivery.
        attempts: deliveries of an event after which it is parked; 0: it never is.
        retry_delay: seconds of the pause after a first failed delivery.
        parked_stream: "hold" or "continue".
        position: every event up to it that fits is done or parked, or waits behind a parked
            one of its stream.
        newest: the newest position of the database.
        members: consumers that are joined.
        in_flight: deliveries that are with them.
        retrying: events that wait for their next attempt.
        parked: events that are parked.
    """

    name: str
    filter: dict[str, Any]
    lease: float
    attempts: int
    retry_delay: float
    parked_stream: str
    position: Position
    newest: Position
    members: int
    in_flight: int
    retrying: int
    parked: int

    @property
    def lag(self) -> int:
        """Positions between the group's and the newest."""
        return self.newest - self.position


@dataclass(frozen=True, slots=True)
class ParkedEvent:
    """An event that a group has set aside: after how many attempts, why, and when.

    Attributes:
        event: None if it cannot be read any more.
    """

    position: Position
    attempts: int
    reason: str
    time: datetime
    event: RecordedEvent | None


class ParkedPages(Pages[ParkedEvent]):
    """The parked events of a group."""

    def __init__(
        self, fetch: Callable[..., Awaitable[Any]], codec: Codec, group: str, limit: int | None
    ) -> None:
        super().__init__(limit)
        self._fetch = fetch
        self._codec = codec
        self._group = group
        self._after = 0

    async def _page(self, size: int) -> tuple[int, Iterator[ParkedEvent], bool]:
        rows, more = await self._fetch("group_parked", self._group, self._after, size)
        if rows:
            self._after = rows[-1][0]
        return len(rows), map(self._parked, rows), more

    def _parked(self, row: Sequence[Any]) -> ParkedEvent:
        position, attempts, reason, time, stored, *_ = row
        event = None
        if stored is not None:
            (event,) = from_stored([recorded_event(stored, self._codec)], self._codec)
        return ParkedEvent(position, attempts, reason, time_of(time), event)


Summaries = list[GroupSummary]


class Groups:
    """The consumer groups of a database."""

    def __init__(self, channel: Callable[[], Channel], codec: Codec) -> None:
        self._channel = channel
        self._codec = codec

    async def create(
        self,
        name: str,
        *,
        after: int | None = 0,
        stream: str | None = None,
        category: str | None = None,
        prefix: str | None = None,
        types: Sequence[str] | None = None,
        tags: Sequence[str] | None = None,
        query: Query | None = None,
        lease: float | None = None,
        attempts: int | None = None,
        retry_delay: float | None = None,
        parked_stream: str | None = None,
    ) -> Position:
        """Make a group; the position that it begins after.

        Args:
            name: its name.
            after: a position, exclusive; 0: from the first event; None: from now on.
            stream, category, prefix, types, tags, query: which events, as for read_all.
            lease: seconds that a consumer may take for a delivery, 30 unless given.
            attempts: deliveries after which an event is parked, 10 unless given; 0: never.
            retry_delay: seconds of the pause after a first failed delivery, 1 unless given;
                each further one is twice as long, up to a minute.
            parked_stream: "hold", the default: later events of a stream wait until its parked
                event is replayed or discarded. "continue": they go on.

        Raises:
            GroupExists: there is one of this name.
            CommitUnknown, ConnectionLost: it may have been made. Ask again: if so, GroupExists
                says it.
        """
        NAME(name, "groups.create: name")
        wanted = event_filter(
            "groups.create",
            stream=stream,
            category=category,
            prefix=prefix,
            types=types,
            tags=tags,
            query=query,
        )
        settings = _settings("groups.create", lease, attempts, retry_delay, parked_stream)
        if after is not None:
            POSITION(after, "groups.create: after")
        [position] = await self._ask("group_create", name, wanted, after, settings)
        return Position(position)

    async def update(
        self,
        name: str,
        *,
        after: int | None = None,
        stream: str | None = None,
        category: str | None = None,
        prefix: str | None = None,
        types: Sequence[str] | None = None,
        tags: Sequence[str] | None = None,
        query: Query | None = None,
        everything: bool = False,
        lease: float | None = None,
        attempts: int | None = None,
        retry_delay: float | None = None,
        parked_stream: str | None = None,
    ) -> None:
        """Change what is given. Consumers stay joined, but what they have is delivered again.

        Args:
            name: of the group.
            after: begin anew after this position; None: go on.
            stream, category, prefix, types, tags, query: the new filter; without any it stays.
            everything: the new filter is none at all.
            lease, attempts, retry_delay, parked_stream: as for create.

        Raises:
            NoSuchGroup: there is none of this name.
        """
        NAME(name, "groups.update: name")
        wanted = event_filter(
            "groups.update",
            stream=stream,
            category=category,
            prefix=prefix,
            types=types,
            tags=tags,
            query=query,
        )
        if wanted and everything:
            raise InvalidArgument("groups.update: everything, or a filter, not both")
        settings = _settings("groups.update", lease, attempts, retry_delay, parked_stream)
        await self._ask(
            "group_update", name, wanted if wanted or everything else None, after, settings
        )

    async def delete(self, name: str) -> None:
        """Remove a group with what is parked in it; its consumers get NoSuchGroup.

        Raises:
            NoSuchGroup: there is none of this name.
        """
        NAME(name, "groups.delete: name")
        await self._ask("group_delete", name)

    async def list(self) -> Summaries:
        """The groups in order of name."""
        rows = await self._channel().read("group_list")
        return [GroupSummary(*row[:3]) for row in rows]

    async def info(self, name: str) -> GroupInfo:
        """All about a group.

        Raises:
            NoSuchGroup: there is none of this name.
        """
        NAME(name, "groups.info: name")
        figures = await self._channel().read("group_info", name)
        return GroupInfo(
            name=figures["name"],
            filter=figures["filter"],
            lease=figures["lease_ms"] / _MS,
            attempts=figures["attempts_max"],
            retry_delay=figures["retry_ms"] / _MS,
            parked_stream=figures["parked_stream"],
            position=figures["position"],
            newest=figures["newest"],
            members=figures["members"],
            in_flight=figures["in_flight"],
            retrying=figures["retrying"],
            parked=figures["parked"],
        )

    def parked(self, name: str, *, limit: int | None = None) -> Pages[ParkedEvent]:
        """Iterate over the parked events of a group, in order of position."""
        NAME(name, "groups.parked: name")
        return ParkedPages(self._channel().read, self._codec, name, limit)

    async def replay(self, name: str, positions: Sequence[int] | None = None) -> int:
        """Deliver parked events again, in order, before later ones of their streams.

        Args:
            name: of the group.
            positions: which; None: all.

        Raises:
            NoSuchGroup: there is none of this name.
            InvalidArgument: one of the events is not parked; nothing was done.
        """
        return await self._unpark("replay", name, positions)

    async def discard(self, name: str, positions: Sequence[int] | None = None) -> int:
        """Forget parked events: they count as done; how many it were.

        Raises:
            As replay.
        """
        return await self._unpark("discard", name, positions)

    async def _unpark(self, word: str, name: str, positions: Sequence[int] | None) -> int:
        NAME(name, f"groups.{word}: name")
        if positions is None:
            [done] = await self._ask(f"group_{word}", name)
            return int(done)
        count = 0
        chosen = sorted(positions)
        for start in range(0, len(chosen), DELIVERIES_MAX):
            part = chosen[start : start + DELIVERIES_MAX]
            [done] = await self._ask(f"group_{word}", name, part)
            count += int(done)
        return count

    async def _ask(self, name: str, *arguments: Any) -> Any:
        connection = await self._channel().connection()
        return await connection.ask(name, *arguments)


def _settings(
    place: str,
    lease: float | None,
    attempts: int | None,
    retry_delay: float | None,
    parked_stream: str | None,
) -> dict[str, Any]:
    """The settings that are given, as they travel."""
    members = {
        "lease_ms": None if lease is None else round(lease * _MS),
        "attempts_max": attempts,
        "retry_ms": None if retry_delay is None else round(retry_delay * _MS),
        "parked_stream": parked_stream,
    }
    settings = {name: member for name, member in members.items() if member is not None}
    SETTINGS(settings, place)
    return settings
