"""A consumer group driven by hand: members, turns, and a clock that is set.

group = Consuming(database)
ann = group.join()
group.turn()                        # what a turn of the server would do, with a sync
ann.has                             # the deliveries that it got and has not settled
group.ack(ann.has[0])               # in a transaction of its own, which is synced
"""

from dataclasses import dataclass, field
from typing import Any

from headwater_server.engine.consumer_groups.host import Turn
from headwater_server.engine.consumer_groups.records import GroupSettings
from headwater_server.engine.consumer_groups.streams import Member
from headwater_server.engine.format.events import decode_event
from headwater_server.engine.reads.filters import EventFilter
from tests.engine.database import Database

NAME = "mailer"


@dataclass(frozen=True)
class Delivered:
    """A delivery as a consumer sees it."""

    position: int
    token: int
    attempt: int
    stream: str
    data: bytes

    def __repr__(self) -> str:
        return f"{self.stream}@{self.position}#{self.attempt}"


@dataclass(eq=False)
class Consumer:
    """A member: `got` has all its deliveries, and `has` those that are not settled."""

    name: str
    group: str
    takes: bool = True
    has: list[Delivered] = field(default_factory=list)
    got: list[Delivered] = field(default_factory=list)
    caught_up: list[int] = field(default_factory=list)
    lost: list[int] = field(default_factory=list)
    member: Member = field(init=False)


class Consuming:
    """The groups of a database, with a clock of their own, in microseconds."""

    def __init__(self, database: Database, name: str = NAME) -> None:
        self.database = database
        self.name = name
        self.now = 1_000_000
        self.consumers: list[Consumer] = []

    @property
    def groups(self) -> Any:
        return self.database.engine.groups

    def create(
        self, *, after: int | None = 0, wanted: EventFilter | None = None, **settings: Any
    ) -> Any:
        settings.setdefault("retry_ms", 0)
        ticket = self.groups.create(
            self.name, wanted or EventFilter(), after, GroupSettings(**settings)
        )
        return self.database.settle(ticket)

    def join(self, credit: int = 100, name: str = "") -> Consumer:
        consumer = Consumer(name or f"consumer {len(self.consumers)}", self.name)
        _, consumer.member = self.groups.join(self.name, consumer, credit, lambda: consumer.takes)
        self.consumers.append(consumer)
        return consumer

    def leave(self, consumer: Consumer, *, died: bool = False) -> None:
        self.groups.leave(self.name, consumer.member, died=died)
        consumer.has.clear()
        self.database.sync()

    def append(self, stream: str, *data: bytes, kind: str = "Happened") -> list[int]:
        answer = self.database.execute(
            ["append", stream, -1, [[None, kind, one, b""] for one in data]]
        )
        return list(range(answer[2], answer[3] + 1))

    def pass_time(self, seconds: float) -> None:
        self.now += int(seconds * 1_000_000)
        self.database.now += int(seconds * 1_000_000)

    def turn(self) -> list[Delivered]:
        """Run turns and syncs until nothing more happens; return the deliveries in order."""
        delivered: list[Delivered] = []
        quiet = 0
        while quiet < 4:
            turn: Turn = self.groups.turn(self.name, self.now)
            new = self._take(turn)
            delivered += new
            quiet = 0 if new or turn.more else quiet + 1
            self.database.sync()
        return delivered

    def _take(self, turn: Turn) -> list[Delivered]:
        for member, tokens in turn.lost.items():
            consumer = _consumer(member)
            consumer.lost += tokens
            consumer.has = [one for one in consumer.has if one.token not in tokens]
        new: list[Delivered] = []
        for member, deliveries in turn.deliveries.items():
            consumer = _consumer(member)
            for token, attempt, stored in deliveries:
                event = decode_event(stored)
                one = Delivered(event.position, token, attempt, event.stream, event.data or b"")
                consumer.has.append(one)
                consumer.got.append(one)
                new.append(one)
        for member in turn.caught_up:
            _consumer(member).caught_up.append(turn.position)
        return new

    def ack(self, *deliveries: Delivered, writes: list[list[Any]] | None = None) -> list[Any]:
        """Acknowledge, in a transaction with other writes."""
        pairs = [[one.position, one.token] for one in deliveries]
        answer = self.database.execute(*(writes or []), ["ack", self.name, pairs])
        for one in deliveries:
            self._settled(one)
        return answer

    def nack(
        self,
        *deliveries: Delivered,
        delay_ms: int | None = None,
        reason: str = "",
        park: bool = False,
    ) -> None:
        pairs = [[one.position, one.token] for one in deliveries]
        self.database.settle(
            self.groups.nack(self.name, pairs, delay_ms=delay_ms, reason=reason, park=park)
        )
        for one in deliveries:
            self._settled(one)

    def _settled(self, one: Delivered) -> None:
        for consumer in self.consumers:
            if one in consumer.has:
                consumer.has.remove(one)
                consumer.member.credit += 1

    def drain(self) -> list[Delivered]:
        """Acknowledge every delivery until there is none."""
        done: list[Delivered] = []
        while True:
            self.turn()
            has = [one for consumer in self.consumers for one in consumer.has]
            if not has:
                return done
            for one in has:
                self.ack(one)
                done.append(one)

    def parked(self) -> list[tuple[int, str]]:
        """Positions and reasons of parked events."""
        return [
            (position, entry.reason) for position, entry in self.groups.parked(self.name, 0, 1000)
        ]

    def replay(self, *positions: int) -> int:
        return int(self.database.settle(self.groups.replay(self.name, positions or None))[0])

    def discard(self, *positions: int) -> int:
        return int(self.database.settle(self.groups.discard(self.name, positions or None))[0])

    @property
    def progress_streams(self) -> int:
        """Streams that the group keeps in memory."""
        return len(self.groups.active[self.name].progress.streams)

    def info(self) -> dict[str, Any]:
        figures: dict[str, Any] = self.groups.info(self.name)
        return figures

    def restart(self, database: Database) -> "Consuming":
        """The group in a reopened database, without members."""
        other = Consuming(database, self.name)
        other.now = 77
        return other


def _consumer(member: Member) -> Consumer:
    assert isinstance(member.owner, Consumer)
    return member.owner
