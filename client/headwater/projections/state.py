"""The state of projections: ordinary keys, which ordinary transactions change.

    ("$projection", name)                  the head: the build that readers see, and the next
    ("$projection", name, build)           the progress of a build
    ("$parked", name, build, stream)       a stream with a failed event
    ("$parked", name, build, stream, "held")    the number of its later events, which wait
    ("$model", name, build, …)             the read model that a build writes
    ("$skipped", name, position)           an event that no build handles

A build is a read model made from the first event on. Builds are numbered 1, 2, 3 …; a new build
stands beside the one that readers see until the head names it. The values are msgpack maps,
whichever codec the application uses.

    head     {"build": [number, version, filter], "next": the same or nil, "last": number,
              "retired": [number, …]}
    build    {"position": 41, "time": microseconds, "parked": 1, "parkings": 3}
    parked   {"position": 17, "version": 3, "type": "Deposited", "reason": "…", "attempts": 3,
              "since": microseconds}
    held     12
    skipped  {"stream": "…", "version": 3, "type": "Deposited", "since": microseconds}
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any, Final

from headwater.codecs.codec import Codec, MsgpackCodec, decode_with
from headwater.errors import HeadwaterError, TransactionGone
from headwater.projections.failures import EventFailed, Row
from headwater.projections.models import Model
from headwater.reads.key_ranges import key_range
from headwater.reads.pages import KeyPages
from headwater.records import Committed, RecordedEvent, time_of
from headwater.transactions.transaction import Isolation, Transaction
from headwater.transport.channel import Channel
from headwater_protocol.keys import KeyTuple, encode_key
from headwater_protocol.operations import SERIALIZABLE

RECORDS: Final = MsgpackCodec()
"""The codec of the values of these keys."""


def head_key(name: str) -> KeyTuple:
    """The key of the head of a projection."""
    return ("$projection", name)


def build_key(name: str, build: int) -> KeyTuple:
    """The key of the progress of a build."""
    return ("$projection", name, build)


def parked_key(name: str, build: int, *stream: str) -> KeyTuple:
    """The key of a parked stream of a build. Without a stream: the prefix of all of them."""
    return ("$parked", name, build, *stream)


def held_key(name: str, build: int, stream: str) -> KeyTuple:
    """The key of the number of events that a parked stream holds."""
    return ("$parked", name, build, stream, "held")


def skipped_key(name: str, *position: int) -> KeyTuple:
    """The key of a skipped event. Without a position: the prefix of all of them."""
    return ("$skipped", name, *position)


def model_key(name: str, build: int) -> KeyTuple:
    """The prefix of the read model of a build."""
    return ("$model", name, build)


@dataclass(frozen=True, slots=True)
class Build:
    """A read model, made from the first event on.

    Attributes:
        number: of the build.
        version: of the handler that makes it.
        wanted: the filter of its events, in the form of the protocol.
    """

    number: int
    version: int
    wanted: Mapping[str, Any]

    def record(self) -> list[Any]:
        """As it is stored."""
        return [self.number, self.version, dict(self.wanted)]


@dataclass(frozen=True, slots=True)
class Head:
    """The builds of a projection.

    Attributes:
        build: the one that readers see.
        next: the one that is being made beside it, or None.
        last: the highest number that was used.
        retired: builds whose keys are still to be removed.
    """

    build: Build
    next: Build | None = None
    last: int = 1
    retired: tuple[int, ...] = ()

    def record(self) -> dict[str, Any]:
        """As it is stored."""
        return {
            "build": self.build.record(),
            "next": None if self.next is None else self.next.record(),
            "last": self.last,
            "retired": list(self.retired),
        }


def head_of(record: Mapping[str, Any]) -> Head:
    """Make a head of its record."""
    following = record["next"]
    return Head(
        Build(*record["build"]),
        None if following is None else Build(*following),
        record["last"],
        tuple(record["retired"]),
    )


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of a build.

    Attributes:
        position: all events up to here were processed: handled, held, or skipped by the filter.
        time: of the last event that matched the filter, in microseconds. 0: none yet.
        parked: how many streams were ever parked. Some may be released by now.
        parkings: increases when a stream is parked, and when an event is skipped that this build
            has not reached yet.
    """

    position: int = 0
    time: int = 0
    parked: int = 0
    parkings: int = 0

    def record(self) -> dict[str, Any]:
        """As it is stored."""
        return asdict(self)

    def with_parking(self) -> "Progress":
        """This progress with one more parked stream."""
        return replace(self, parked=self.parked + 1, parkings=self.parkings + 1)

    def with_skip(self) -> "Progress":
        """This progress with a change that makes followers read the skipped events again."""
        return replace(self, parkings=self.parkings + 1)


@dataclass(frozen=True, slots=True)
class ParkedStream:
    """A stream with a failed event.

    Attributes:
        stream: its name.
        position: of the event that failed. No event of the stream from there on was handled.
        version, type: of that event.
        reason: the error, and where it was raised.
        attempts: how often the event was tried.
        since: when it failed last, in microseconds.
        held: the number of later events of the stream, which wait.
    """

    stream: str
    position: int
    version: int
    type: str
    reason: str
    attempts: int
    since: int
    held: int = 0

    @property
    def time(self) -> datetime:
        """When it failed last."""
        return time_of(self.since)

    def record(self) -> dict[str, Any]:
        """As it is stored. The stream is part of the key, and `held` has a key of its own."""
        members = asdict(self)
        del members["stream"], members["held"]
        return members


class ProjectionTransaction(Transaction):
    """A transaction in which a handler runs.

    Attributes:
        name: of the projection.
        build: the number of the build that the handler works for.
        model: the read model of that build.
        handled: whether the handler was called.
        broken: the last error of a read.
    """

    def __init__(
        self,
        channel: Channel,
        codec: Codec,
        name: str,
        build: int,
        *,
        isolation: Isolation = SERIALIZABLE,
    ) -> None:
        super().__init__(channel, codec, isolation=isolation)
        self.name = name
        self.build = build
        self.model = Model(self, model_key(name, build))
        self.handled = False
        self.broken: HeadwaterError | None = None

    async def commit(self) -> Committed | None:
        """Commit.

        Raises:
            EventFailed: the transaction was ended by the server, because the handler was too slow.
        """
        try:
            return await super().commit()
        except TransactionGone as error:
            if self.handled:
                raise EventFailed(None, error) from error
            raise

    async def _fetch(self, name: str, *arguments: Any, at_commit: int | None = None) -> Any:
        try:
            return await super()._fetch(name, *arguments, at_commit=at_commit)
        except HeadwaterError as error:
            self.broken = error
            raise

    async def seen_before(self, event: RecordedEvent) -> bool:
        """Whether another build of the projection has dealt with an event.

        So a rebuild can leave out what a handler does beside its model:
        `if not await tx.seen_before(event)`.
        Of all builds, one sees False. An event that is parked or held in the other build has not
        been dealt with.

        Args:
            event: the event that is being handled.
        """
        head = await self.head(self.name)
        others = () if head is None else (head.build, head.next)
        for other in others:
            if other is None or other.number == self.build:
                continue
            progress = await self.progress(self.name, other.number)
            if progress is None or progress.position < event.position:
                continue
            parked = None
            if progress.parked:
                parked = await self.parked_stream(self.name, other.number, event.stream)
            if parked is None or parked.position > event.position:
                return True
        return False

    async def head(self, name: str) -> Head | None:
        """The head of a projection, or None if it never ran."""
        record = await self.read_record(head_key(name))
        return None if record is None else head_of(record)

    async def progress(self, name: str, build: int) -> Progress | None:
        """The progress of a build, or None if there is no such build (any more)."""
        record = await self.read_record(build_key(name, build))
        return None if record is None else Progress(**record)

    async def parked(self, name: str, build: int) -> dict[str, ParkedStream]:
        """The parked streams of a build."""
        first, last = key_range(parked_key(name, build), None, None)
        pages = KeyPages(self._fetch, RECORDS, first, last, reverse=False, limit=None)
        found: dict[str, ParkedStream] = {}
        async for key, record in pages:
            stream = str(key[3])
            # The key of `held` directly follows that of its stream.
            if len(key) == 4:
                found[stream] = ParkedStream(stream=stream, **record)
            elif stream in found:
                found[stream] = replace(found[stream], held=record)
        return found

    async def parked_stream(self, name: str, build: int, stream: str) -> ParkedStream | None:
        """One parked stream of a build, without the number of events that it holds."""
        record = await self.read_record(parked_key(name, build, stream))
        return None if record is None else ParkedStream(stream=stream, **record)

    async def skipped(self, name: str) -> frozenset[int]:
        """The positions of the events that no build of a projection handles."""
        first, last = key_range(skipped_key(name), None, None)
        pages = KeyPages(self._fetch, RECORDS, first, last, reverse=False, limit=None)
        return frozenset([int(str(key[2])) async for key, _ in pages])

    async def search(self, wanted: Mapping[str, Any], after: int) -> tuple[int, list[Row]]:
        """The position up to which the server searched, and the row that it found, if any.

        It looks at a bounded number of events. So it may find none although one follows.
        """
        _, position, rows, *_ = await self._fetch("read_all", after, dict(wanted), 1, False)
        return position, rows

    async def events(
        self, wanted: Mapping[str, Any], after: int, upto: int, limit: int
    ) -> list[Row]:
        """The rows after a position and up to another one that match a filter.

        There are at least *limit*, if as many match.
        """
        found: list[Row] = []
        more = True
        while more and after < upto and len(found) < limit:
            # Each page ends further on, so this ends.
            _, after, rows, more = await self._fetch("read_all", after, dict(wanted), limit, False)
            found += [row for row in rows if row[0] <= upto]
        return found

    async def keys(self, prefix: KeyTuple, limit: int) -> list[bytes]:
        """The first keys under a prefix, encoded."""
        first, last = key_range(prefix, None, None)
        _, items, _ = await self._fetch("scan", first, last, limit, False)
        return list(items[::2])

    def remove(self, keys: list[bytes]) -> None:
        """Delete encoded keys."""
        for key in keys:
            self._keep(["delete", key], len(key))

    async def read_record(self, key: KeyTuple) -> Any:
        """Read a key of this module. Returns None if it is absent."""
        data = await self._fetch("get", encode_key(key))
        return None if data is None else decode_with(RECORDS, data, f"value of {key!r:.80}")

    def write_record(self, key: KeyTuple, record: Any) -> None:
        """Set a key of this module."""
        encoded, data = encode_key(key), RECORDS.encode(record)
        self._keep(["put", encoded, data], len(encoded) + len(data))
