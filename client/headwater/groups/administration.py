"""Administration of consumer groups: `db.groups`. To consume, use `db.join`."""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from headwater.codecs.codec import Codec
from headwater.codecs.events import recorded_event
from headwater.errors import GroupExists, InvalidArgument
from headwater.reads.pages import Pages
from headwater.reads.query import Query, event_filter
from headwater.records import RecordedEvent, time_of
from headwater.transport.channel import Channel
from headwater_protocol.limits import DELIVERIES_MAX
from headwater_protocol.numbers import Position
from headwater_protocol.vocabulary.groups import NAME, POSITION, SETTINGS

_MS: float = 1000


@dataclass(frozen=True, slots=True)
class GroupSummary:
    """A consumer group in a list.

    Attributes:
        name: of the group.
        position, waiting: as in GroupInfo. If many groups have parked events, not all of those that
            wait behind them are counted.
        members: the number of consumers.
    """

    name: str
    position: Position
    members: int
    waiting: int = 0


@dataclass(frozen=True, slots=True)
class GroupInfo:
    """The settings and the state of a consumer group.

    Attributes:
        name: of the group.
        filter: which events it delivers, by the names of the arguments of `create`.
        lease: seconds that a consumer may take for a delivery.
        attempts: deliveries of an event after which it is parked. 0: never.
        retry_delay: seconds of the pause after the first failed delivery.
        parked_stream: "hold" or "continue".
        position: every event of the group up to this position is done, is parked, or waits behind a
            parked event of its stream.
        newest: the newest position of the database.
        members: the number of consumers.
        in_flight: the number of deliveries that consumers hold.
        retrying: the number of events that wait for their next attempt.
        parked: the number of parked events.
        waiting: the number of events that wait behind parked events of their streams. At most 1,000
            are counted, of 200 streams.
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
    waiting: int = 0

    @property
    def lag(self) -> int:
        """The number of positions from that of the group to the newest."""
        return self.newest - self.position


@dataclass(frozen=True, slots=True)
class ParkedEvent:
    """An event that a group has set aside.

    Attributes:
        position: of the event.
        attempts: how often it was delivered.
        reason: why it was parked.
        time: when it was parked.
        event: None if it can no longer be read.
    """

    position: Position
    attempts: int
    reason: str
    time: datetime
    event: RecordedEvent | None


class ParkedPages(Pages[ParkedEvent]):
    """The parked events of a group."""

    def __init__(
        self,
        fetch: Callable[..., Awaitable[Any]],
        codec: Codec,
        group: str,
        limit: int | None,
        commit: int | None,
    ) -> None:
        super().__init__(limit)
        self._past = () if commit is None else (commit,)
        self._fetch = fetch
        self._codec = codec
        self._group = group
        self._after = 0

    async def _page(self, size: int) -> tuple[int, Iterator[ParkedEvent], bool]:
        rows, more = await self._fetch("group_parked", self._group, self._after, size, *self._past)
        if rows:
            self._after = rows[-1][0]
        return len(rows), map(self._parked, rows), more

    def _parked(self, row: Sequence[Any]) -> ParkedEvent:
        position, attempts, reason, time, stored, *_ = row
        event = None if stored is None else recorded_event(stored, self._codec)
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
        """Create a group. Returns the position after which it begins.

        Args:
            name: its name.
            after: a position, exclusive. 0: from the first event. None: only new events.
            stream, category, prefix, types, tags, query: which events, as for read_all.
            lease: seconds that a consumer may take for a delivery. The default is 30.
            attempts: deliveries after which an event is parked. The default is 10. 0: never.
            retry_delay: seconds of the pause after the first failed delivery. The default is 1.
                Each further pause is twice as long, up to a minute.
            parked_stream: "hold", the default: later events of a stream wait until its parked
                event is replayed or discarded. "continue": they are delivered.

        Raises:
            GroupExists: there is a group of this name, and another call has created it.
            CommitUnknown: no answer came for `retry_timeout` seconds. `db.status(error.transaction,
                resolve=True)` tells whether the group was created. The other methods raise it too.
            ConnectionLost: no server was found. Nothing was done.
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

    async def ensure(
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
    ) -> bool:
        """Create a group, or give one that exists this filter and these settings.

        So each process of a service can call it at its start. If nothing has changed, nothing is
        written. A group that exists keeps its position.

        Args:
            name: of the group.
            after: where a new group begins, as for `create`.
            stream, category, prefix, types, tags, query: which events. Without any of them, all.
            lease, attempts, retry_delay, parked_stream: as for `create`. None: keep the value.

        Returns:
            Whether it was created.
        """
        settings = _settings("groups.ensure", lease, attempts, retry_delay, parked_stream)
        wanted = event_filter(
            "groups.ensure",
            stream=stream,
            category=category,
            prefix=prefix,
            types=types,
            tags=tags,
            query=query,
        )
        if after is not None:
            POSITION(after, "groups.ensure: after")
        NAME(name, "groups.ensure: name")
        try:
            await self._ask("group_create", name, wanted, after, settings)
        except GroupExists:
            there = await self._channel().read("group_info", name)
            if there["filter"] == wanted and there.items() >= settings.items():
                return False
            changed = None if there["filter"] == wanted else wanted
            await self._ask("group_update", name, changed, None, settings)
            return False
        return True

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
        """Change settings of a group. Consumers stay, but their deliveries are delivered again.

        Args:
            name: of the group.
            after: start again after this position. None: keep the position.
            stream, category, prefix, types, tags, query: the new filter. Without any of them, the
                filter stays.
            everything: remove the filter.
            lease, attempts, retry_delay, parked_stream: as for create. None: keep the value.

        Raises:
            NoSuchGroup: there is no group of this name.
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
            raise InvalidArgument("groups.update: give either everything=True or a filter")
        settings = _settings("groups.update", lease, attempts, retry_delay, parked_stream)
        await self._ask(
            "group_update", name, wanted if wanted or everything else None, after, settings
        )

    async def delete(self, name: str) -> None:
        """Delete a group and its parked events. Its consumers receive NoSuchGroup.

        Raises:
            NoSuchGroup: there is no group of this name.
        """
        NAME(name, "groups.delete: name")
        await self._ask("group_delete", name)

    async def list(self, *, commit: int | None = None) -> Summaries:
        """All groups, in order of name.

        Args:
            commit: of the history window: as they were then, without members. None: now.
        """
        rows = await self._channel().read("group_list", *_past(commit))
        return [GroupSummary(*row[:4]) for row in rows]

    async def info(self, name: str, *, commit: int | None = None) -> GroupInfo:
        """The settings and the state of a group.

        Args:
            name: of the group.
            commit: of the history window: what was stored then. Who was a member, and what was in
                flight, is not stored, so both are 0. None: now.

        Raises:
            NoSuchGroup: there is no group of this name.
        """
        NAME(name, "groups.info: name")
        figures = await self._channel().read("group_info", name, *_past(commit))
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
            waiting=figures.get("waiting", 0),
        )

    def parked(
        self, name: str, *, limit: int | None = None, commit: int | None = None
    ) -> Pages[ParkedEvent]:
        """Iterate over the parked events of a group, in order of position.

        Args:
            name: of the group.
            limit: the maximum number of events.
            commit: of the history window: those that were parked then. None: now.
        """
        NAME(name, "groups.parked: name")
        _past(commit)
        return ParkedPages(self._channel().read, self._codec, name, limit, commit)

    async def replay(self, name: str, positions: Sequence[int] | None = None) -> int:
        """Deliver parked events again, in order, before later ones of their streams.

        Args:
            name: of the group.
            positions: of the events. None: all.

        Returns:
            The number of these events.

        Raises:
            NoSuchGroup: there is no group of this name.
            InvalidArgument: one of the events is not parked. Nothing was done.
        """
        return await self._unpark("replay", name, positions)

    async def discard(self, name: str, positions: Sequence[int] | None = None) -> int:
        """Discard parked events: they count as done.

        Args:
            name: of the group.
            positions: of the events. None: all.

        Returns:
            The number of these events.

        Raises:
            NoSuchGroup: there is no group of this name.
            InvalidArgument: one of the events is not parked. Nothing was done.
        """
        return await self._unpark("discard", name, positions)

    async def _unpark(self, word: str, name: str, positions: Sequence[int] | None) -> int:
        NAME(name, f"groups.{word}: name")
        if positions is None:
            [done] = await self._ask(f"group_{word}", name, None)
            return int(done)
        count = 0
        chosen = sorted(positions)
        for start in range(0, len(chosen), DELIVERIES_MAX):
            part = chosen[start : start + DELIVERIES_MAX]
            [done] = await self._ask(f"group_{word}", name, part)
            count += int(done)
        return count

    async def _ask(self, name: str, *arguments: Any) -> Any:
        return await self._channel().administer(name, *arguments)


def _past(commit: int | None) -> tuple[int, ...]:
    """The argument for a past commit, which older servers do not know."""
    if commit is None:
        return ()
    POSITION(commit, "groups: commit")
    return (commit,)


def _settings(
    place: str,
    lease: float | None,
    attempts: int | None,
    retry_delay: float | None,
    parked_stream: str | None,
) -> dict[str, Any]:
    """The given settings, in the form of the protocol."""
    members = {
        "lease_ms": None if lease is None else round(lease * _MS),
        "attempts_max": attempts,
        "retry_ms": None if retry_delay is None else round(retry_delay * _MS),
        "parked_stream": parked_stream,
    }
    settings = {name: member for name, member in members.items() if member is not None}
    SETTINGS(settings, place)
    return settings
