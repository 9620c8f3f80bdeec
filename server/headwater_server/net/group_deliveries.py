"""Consumer groups on the wire: members join, deliveries go out, time passes.

    session --join, leave, credit--> GroupDeliveries --turn--> engine.groups
            <-deliveries, lost, caught_up--'   ^ ^ ^
                                 published ----' | '---- a member said something
                                   lease or pause is over

One task drives all groups, a turn each in turn. It sleeps until something is published, a member
says something, or the first lease or pause is over. Whoever wakes it sets a flag first, and it
looks at the flag before it sleeps, so no wake-up is lost in between.
"""

from functools import partial
from typing import TYPE_CHECKING, Any, Final

import structlog
import trio

from headwater_protocol.errors import HeadwaterError, InternalError, InvalidArgument, TooMany
from headwater_protocol.frames import join_frame
from headwater_protocol.limits import DELIVERIES_MAX
from headwater_protocol.messages import array_header, encode
from headwater_server.engine.consumer_groups.host import Turn
from headwater_server.engine.consumer_groups.streams import Member
from headwater_server.engine.engine import Engine
from headwater_server.net.failures import Failures
from headwater_server.net.group_commit import GroupCommit

if TYPE_CHECKING:
    from headwater_server.net.session import Session

_log = structlog.get_logger(__name__)

_DELIVERIES_PUSH: Final = b"\x02\x92\xaadeliveries"
"""What is between the request id and the deliveries in a push."""

_SECOND_US: Final = 1_000_000


class Membership:
    """A member of a group, on a connection."""

    __slots__ = ("group", "head", "member", "request_id", "session")

    def __init__(self, session: "Session", request_id: int, group: str) -> None:
        self.session = session
        self.request_id = request_id
        self.group = group
        self.head = b"\x93" + encode(request_id)
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
    ) -> None:
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
        """Microseconds of the clock by which leases run."""
        return int(trio.current_time() * _SECOND_US)

    def join(self, session: "Session", request_id: int, name: str, credit: int) -> None:
        """Make a session a member of a group.

        Raises:
            NoSuchGroup, TooMany.
        """
        if len(session.memberships) >= self._per_session_max:
            raise TooMany(
                f"{len(session.memberships)} memberships on this connection; "
                f"allowed are {self._per_session_max}"
            )
        membership = Membership(session, request_id, name)
        takes = partial(_takes, session)
        _, membership.member = self._groups.join(name, membership, credit, takes)
        session.memberships[request_id] = membership
        self.count += 1
        self.wake()

    def grant(self, membership: Membership, deliveries: int) -> None:
        """Allow a member that many more deliveries.

        Raises:
            InvalidArgument: it would be more than a member may hold.
        """
        credit = membership.member.credit + deliveries
        if credit > DELIVERIES_MAX:
            raise InvalidArgument(f"credit: {credit} deliveries; allowed are {DELIVERIES_MAX}")
        membership.member.credit = credit
        self.wake()

    def leave(self, membership: Membership, *, died: bool = False) -> None:
        """End a membership; nothing of it is pushed any more."""
        del membership.session.memberships[membership.request_id]
        self.count -= 1
        self._groups.leave(membership.group, membership.member, died=died)
        self.wake()

    def close_session(self, session: "Session") -> None:
        """The connection is gone, and its members with it."""
        for membership in list(session.memberships.values()):
            self.leave(membership, died=True)

    def end(self, membership: Membership, error: HeadwaterError) -> None:
        """Tell a member that nothing more will come, and why."""
        session = membership.session
        self.leave(membership)
        session.send(session.connection.push(membership.request_id, ["ended", error.as_payload()]))

    def end_members(self, members: list[Member], error: HeadwaterError) -> None:
        """Tell members of a group that is not there any more."""
        for member in members:
            assert isinstance(member.owner, Membership)
            self.end(member.owner, error)

    # What happens.

    def published(self) -> None:
        """Something was published: there may be events, and acknowledgements are durable."""
        if self._groups.active:
            self.wake()

    def wake(self) -> None:
        """Let the task look what there is to do, and what is to be written be written."""
        self._awake = True
        self._idle.unpark()

    async def run(self) -> None:
        """Drive the groups until cancelled."""
        while True:
            if not self._awake:
                await self._sleep()
            self._awake = False
            for name in list(self._groups.active):
                if name in self._groups.active and self._try_turn(name):
                    self._awake = True
            # Groups write attempts and positions of their own accord.
            self._group_commit.wake()
            await trio.lowlevel.checkpoint()

    async def _sleep(self) -> None:
        due = self._groups.next_time(self.now())
        if due is None:
            await self._idle.park()
            return
        # Rounded up: a lease must be over when we wake.
        with trio.move_on_at((due + 1) / _SECOND_US):
            await self._idle.park()

    def _try_turn(self, name: str) -> bool:
        """Do what there is to do for a group; whether there is more at once."""
        try:
            turn = self._groups.turn(name, self.now())
            self._send(turn)
        except HeadwaterError as error:
            _log.error("a consumer group failed", group=name, error=str(error))
            self._end_group(name, error)
            return False
        except Exception as error:
            self._end_group(
                name, InternalError("the consumer group failed in the server; its log says more")
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

    def _send(self, turn: Turn) -> None:
        for member, lost in turn.lost.items():
            self._push(member, ["lost", lost])
        for member, deliveries in turn.deliveries.items():
            membership = member.owner
            assert isinstance(membership, Membership)
            parts: list[bytes] = []
            for token, attempt, stored in deliveries:
                parts += (b"\x93", encode(token), encode(attempt), stored)
            membership.session.send(
                join_frame(membership.head, _DELIVERIES_PUSH, array_header(len(deliveries)), *parts)
            )
        for member in turn.caught_up:
            self._push(member, ["caught_up", turn.position])

    @staticmethod
    def _push(member: Member, payload: list[Any]) -> None:
        membership = member.owner
        assert isinstance(membership, Membership)
        session = membership.session
        if session.memberships.get(membership.request_id) is membership:
            session.send(session.connection.push(membership.request_id, payload))


def _takes(session: "Session") -> bool:
    """Whether deliveries can be sent to a session now."""
    return not session.output_blocked
