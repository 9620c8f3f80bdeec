"""Consumer groups on the wire: members, their deliveries and their timeouts.

    session --join, leave, credit--> GroupDeliveries --turn--> engine.groups
            <-deliveries, lost, caught_up--'   ^ ^ ^
                   a matching event, or a sync -' | '---- a member said something
                                     lease or pause is over

One task gives the groups their turns. A group gets one only if there is a reason:

    a request, a settled delivery      the engine lists it in `touched`
    its writes became durable          it is unsettled: it gets a turn after each publish
    an event matches its filter        it is in the index of those that have read everything
    a lease or a pause ends            it is in the heap of times

So a commit costs nothing for groups that wait for events of other streams, however many there are.
A waker lists the group first, and the task looks at the list before it sleeps, so no wake-up is
lost.
"""

import heapq
from functools import partial
from typing import Any, Final

import structlog
import trio

from headwater_protocol.errors import HeadwaterError, InternalError, InvalidArgument, TooMany
from headwater_protocol.limits import DELIVERIES_MAX, PAGE_ITEMS_MAX
from headwater_protocol.messages import array_header, encode
from headwater_server.engine.consumer_groups.group import COMPACT_POSITIONS_MAX, ConsumerGroup
from headwater_server.engine.consumer_groups.host import Turn as GroupTurn
from headwater_server.engine.consumer_groups.streams import Member
from headwater_server.engine.engine import Engine
from headwater_server.engine.reads.filters import EVERYTHING
from headwater_server.net.failures import Failures
from headwater_server.net.push.channels import CHANNEL_SIZE, Channel, Subscriber
from headwater_server.net.push.live_index import LiveIndex
from headwater_server.net.tasks.group_commit import GroupCommit
from headwater_server.net.turns import Turn

_log = structlog.get_logger(__name__)

_DELIVERIES_PUSH: Final = b"\x02\x92\xaadeliveries"
"""The bytes between the request id and the deliveries in a push."""

_SECOND_US: Final = 1_000_000

_PLAN_S: Final = 0.002
"""Seconds until groups look again whether a long request is done."""


class Membership(Channel):
    """A member of a group, on a connection."""

    __slots__ = ("group", "member")

    def __init__(
        self, owner: "GroupDeliveries", session: Subscriber, request_id: int, group: str
    ) -> None:
        super().__init__(owner, session, request_id)
        self.group = group
        self.member: Member


class GroupDeliveries:
    """The members of all consumer groups of a server.

    Attributes:
        count: memberships, over all connections.
        turns: how many turns the groups were given.
    """

    def __init__(
        self,
        engine: Engine,
        group_commit: GroupCommit,
        failures: Failures,
        *,
        per_session_max: int,
        turn: Turn,
    ) -> None:
        self._turn = turn
        self._failures = failures
        self._engine = engine
        self._groups = engine.groups
        self._group_commit = group_commit
        self._per_session_max = per_session_max
        # Names of groups, in dicts as ordered sets: to be given a turn now, or after each publish.
        self._due: dict[str, None] = {}
        self._unsettled: dict[str, None] = {}
        self._live: dict[str, ConsumerGroup] = {}
        self._index: LiveIndex[ConsumerGroup] = LiveIndex()
        self._seen = engine.published_position
        self._compacted = self._seen
        # When groups have work to do without a reason from outside, and the same in order. A time
        # may be too early: then the group gets a turn for nothing, and a new time.
        self._times: dict[str, int] = {}
        self._times_in_order: list[tuple[int, str]] = []
        self._idle = trio.lowlevel.ParkingLot()
        self.count = 0
        self.turns = 0

    # What sessions ask for.

    @property
    def size(self) -> int:
        """About the bytes that the memberships take in memory."""
        return self.count * CHANNEL_SIZE

    def now(self) -> int:
        """Microseconds of the clock that measures leases."""
        return int(trio.current_time() * _SECOND_US)

    def join(self, session: Subscriber, request_id: int, name: str, credit: int) -> None:
        """Make a session a member of a group.

        Raises:
            NoSuchGroup, TooMany.
        """
        count = sum(isinstance(channel, Membership) for channel in session.feeds.values())
        if count >= self._per_session_max:
            raise TooMany(
                f"{count} memberships on this connection; allowed are {self._per_session_max}"
            )
        membership = Membership(self, session, request_id, name)
        takes = partial(_takes, session)
        _, membership.member = self._groups.join(name, membership, credit, takes)
        session.feeds[request_id] = membership
        self.count += 1
        self.wake()

    def grant(self, membership: Membership, credit: int, /) -> None:
        """Allow a member that many more deliveries.

        Raises:
            InvalidArgument: the credit would exceed what a member may have.
        """
        total = membership.member.credit + credit
        if total > DELIVERIES_MAX:
            raise InvalidArgument(f"credit: {total} deliveries; allowed are {DELIVERIES_MAX}")
        membership.member.credit = total
        self._touch(membership.group)

    def resume(self, membership: Membership, /) -> None:
        """There is room in the output again: deliver."""
        self._touch(membership.group)

    def close(self, membership: Membership, /) -> None:
        """End a membership, and push nothing more."""
        self._close(membership, died=False)

    def lost(self, membership: Membership, /) -> None:
        """Remove a member whose connection is gone."""
        self._close(membership, died=True)

    def _close(self, membership: Membership, *, died: bool) -> None:
        del membership.session.feeds[membership.request_id]
        self.count -= 1
        self._groups.leave(membership.group, membership.member, died=died)
        self.wake()

    def end(self, membership: Membership, error: HeadwaterError, /) -> None:
        """Tell a member that nothing more will come, and why."""
        self.close(membership)
        membership.push(["ended", error.as_payload()])

    def end_members(self, members: list[Member], error: HeadwaterError) -> None:
        """Tell members that their group has ended, and why."""
        for member in members:
            assert isinstance(member.owner, Membership)
            self.end(member.owner, error)

    # What happens.

    def wake(self) -> None:
        """Give the groups that a request has changed a turn."""
        touched = self._groups.touched
        for name in touched:
            self._make_due(name)
        touched.clear()
        self._idle.unpark()

    def published(self) -> None:
        """Give a turn to the groups for which the last publish is a reason."""
        newest = self._engine.published_position
        for name in self._unsettled:
            self._make_due(name)
        if newest != self._seen:
            for name in self._interested(newest):
                self._make_due(name)
            self._seen = newest
        if self._due or self._groups.touched:
            self.wake()

    def _interested(self, newest: int) -> list[str]:
        """The live groups that want any of the events since the last publish."""
        if not self._live:
            return []
        if newest - self._compacted >= COMPACT_POSITIONS_MAX:
            # They store how far they have come.
            self._compacted = newest
            return list(self._live)
        if newest - self._seen > PAGE_ITEMS_MAX:
            # Their own indexes find the events with less work.
            return list(self._live)
        names: list[str] = []
        position = self._seen
        while position < newest:
            try:
                page = self._engine.events_page(position, EVERYTHING, PAGE_ITEMS_MAX)
            except (OSError, HeadwaterError) as error:
                # Each group reads again on its own, and ends if that fails.
                _log.error("events for consumer groups could not be read", exc_info=error)
                return list(self._live)
            for filtered, _ in self._index.batches(page.events):
                names += (group.definition.name for group in filtered.members)
            position = page.position
        return names

    def _touch(self, name: str) -> None:
        self._make_due(name)
        self._idle.unpark()

    def _make_due(self, name: str) -> None:
        self._due[name] = None
        group = self._live.pop(name, None)
        if group is not None:
            self._index.remove(group)
            group.leave_live(self._seen)

    async def run(self) -> None:
        """Drive the groups until cancelled."""
        while True:
            if self._engine.sequencer.planning:
                # A turn may write, and would interrupt the plan.
                await trio.sleep(_PLAN_S)
                continue
            self._make_timed_due()
            if not self._due:
                await self._sleep()
                continue
            due, self._due = self._due, {}
            self._turn.begin()
            for name in due:
                if self._turn.over:
                    await trio.lowlevel.checkpoint()
                    self._turn.begin()
                self._give_turn(name)
            # A turn may have written attempts and positions.
            self._group_commit.wake()
            await trio.lowlevel.checkpoint()

    def _make_timed_due(self) -> None:
        now = self.now()
        times = self._times_in_order
        while times and times[0][0] <= now:
            time, name = heapq.heappop(times)
            if self._times.get(name) == time:
                del self._times[name]
                self._make_due(name)

    async def _sleep(self) -> None:
        if not self._times_in_order:
            await self._idle.park()
            return
        # Round up: the lease must be over when we wake.
        with trio.move_on_at((self._times_in_order[0][0] + 1) / _SECOND_US):
            await self._idle.park()

    def _give_turn(self, name: str) -> None:
        """Run one turn of a group, and note the reasons for its next one."""
        self._unsettled.pop(name, None)
        if name not in self._groups.active:
            return
        self.turns += 1
        more = self._try_turn(name)
        group = self._groups.active.get(name)
        if group is None:
            return
        if group.unsettled:
            self._unsettled[name] = None
        time = group.next_time(self.now())
        if time is not None and time < self._times.get(name, time + 1):
            self._times[name] = time
            heapq.heappush(self._times_in_order, (time, name))
        if more:
            self._due[name] = None
        elif name not in self._live and name not in self._due and group.go_live():
            self._live[name] = group
            self._index.add(group)

    def _try_turn(self, name: str) -> bool:
        """Run one turn of a group; return whether it has more to do now."""
        try:
            turn = self._groups.turn(name, self.now())
            self._send(turn)
        except HeadwaterError as error:
            _log.error("a consumer group failed", group=name, error=str(error))
            self._end_group(name, error)
            return False
        except Exception as error:
            self._end_group(
                name, InternalError("the consumer group failed in the server; see the server's log")
            )
            if not isinstance(error, OSError):
                self._failures.end_process(error, "a consumer group")
                return False
            _log.error("a consumer group failed", group=name, exc_info=error)
            return False
        return turn.more

    def _end_group(self, name: str, error: HeadwaterError) -> None:
        group = self._groups.active.get(name)
        if group is not None:
            self.end_members(list(group.members), error)

    def _send(self, turn: GroupTurn) -> None:
        for member, lost in turn.lost.items():
            self._push(member, ["lost", lost])
        for member, deliveries in turn.deliveries.items():
            membership = member.owner
            assert isinstance(membership, Membership)
            parts: list[bytes] = []
            for token, attempt, stored in deliveries:
                parts += (b"\x93", encode(token), encode(attempt), stored)
            body = b"".join((_DELIVERIES_PUSH, array_header(len(deliveries)), *parts))
            membership.session.send_shared(membership.head, body)
        for member in turn.caught_up:
            self._push(member, ["caught_up", turn.position])

    @staticmethod
    def _push(member: Member, payload: list[Any]) -> None:
        membership = member.owner
        assert isinstance(membership, Membership)
        if membership.is_open:
            membership.push(payload)


def _takes(session: Subscriber) -> bool:
    """Whether a session can take deliveries now."""
    return not session.output_blocked
