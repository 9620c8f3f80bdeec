"""Consumer groups on the wire: members, their deliveries and their timeouts.

    session --join, leave, credit--> GroupDeliveries --turn--> engine.groups
            <-deliveries, lost, caught_up--'   ^ ^ ^
                                 published ----' | '---- a member said something
                                   lease or pause is over

One task drives all groups, one turn for each. It sleeps until a publish, a request of a member, or
the end of the first lease or pause. A waker sets a flag first, and the task checks the flag before
it sleeps, so no wake-up is lost.
"""

from functools import partial
from typing import Any, Final

import structlog
import trio

from headwater_protocol.errors import HeadwaterError, InternalError, InvalidArgument, TooMany
from headwater_protocol.limits import DELIVERIES_MAX
from headwater_protocol.messages import array_header, encode
from headwater_server.engine.consumer_groups.host import Turn as GroupTurn
from headwater_server.engine.consumer_groups.streams import Member
from headwater_server.engine.engine import Engine
from headwater_server.net.failures import Failures
from headwater_server.net.push.feeds import Channel, Subscriber
from headwater_server.net.tasks.group_commit import GroupCommit
from headwater_server.net.turns import Turn

_log = structlog.get_logger(__name__)

_DELIVERIES_PUSH: Final = b"\x02\x92\xaadeliveries"
"""The bytes between the request id and the deliveries in a push."""

_SECOND_US: Final = 1_000_000


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
        self._awake = False
        self._idle = trio.lowlevel.ParkingLot()
        self.count = 0

    # What sessions ask for.

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
        self.wake()

    def resume(self, _membership: Membership, /) -> None:
        """There is room in the output again: deliver."""
        self.wake()

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
        """Wake the task to deliver events and write progress.

        Call it after each publish: there may be events, and acknowledgements are durable.
        """
        self._awake = True
        self._idle.unpark()

    async def run(self) -> None:
        """Drive the groups until cancelled."""
        while True:
            if not self._awake:
                await self._sleep()
            self._awake = False
            self._turn.begin()
            for name in list(self._groups.active):
                if self._turn.over:
                    await trio.lowlevel.checkpoint()
                    self._turn.begin()
                if name in self._groups.active and self._try_turn(name):
                    self._awake = True
            # A turn may have written attempts and positions.
            self._group_commit.wake()
            await trio.lowlevel.checkpoint()

    async def _sleep(self) -> None:
        due = self._groups.next_time(self.now())
        if due is None:
            await self._idle.park()
            return
        # Round up: the lease must be over when we wake.
        with trio.move_on_at((due + 1) / _SECOND_US):
            await self._idle.park()

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
