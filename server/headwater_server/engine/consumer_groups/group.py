"""A consumer group at work: who has which event, until when, and who gets the next.

    read ahead --> ready --> leased to a member --ack----> done
                    ^  ^            |-------nack---> waits for its time, or is parked
                    |  '------------|--- time is over, or the member died: it is a suspect
                    '---- on disk <-'

Order. A stream is in one of these places, so one event of it is with one member at a time, and
the next is handed out once what became of it is published.

Whom. A stream goes to the member that had it last, if that one has credit, and else to the one
with the most. So work moves to whoever can take it, as members come, go, and fall silent.

Suspects. When a member dies, any of its events may be why. Each is tried again alone: with a
member that has nothing else, and gets nothing else until it is settled. So one that kills its
consumers is counted for itself, and does not get its neighbours parked.

All of this is in memory and lasts as long as a member is joined; what must last longer is in
GroupProgress. Times are microseconds: `now` of a clock that never goes back, and the engine's
clock for what is stored.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from headwater_protocol.errors import DeliveryLost, ReadOnly
from headwater_protocol.limits import PAGE_SIZE_MAX
from headwater_server.engine.consumer_groups.host import Host, Turn
from headwater_server.engine.consumer_groups.progress import PARKED_MAX, GroupProgress
from headwater_server.engine.consumer_groups.records import Definition
from headwater_server.engine.consumer_groups.schedule import RETRY_US_MAX, GroupSchedule
from headwater_server.engine.consumer_groups.streams import Lease, Member, StreamProgress, Trial
from headwater_server.engine.settings import SECOND_US
from headwater_server.engine.state.layers import State

DELIVERIES_PER_TURN_MAX: Final = 256
"""Deliveries that are handed out before others get their turn."""

RECORDED_AFTER_US: Final = SECOND_US
"""An attempt that takes longer is counted on the disk while it lasts. So an event that takes the
server down with its consumer is counted too, and one that takes no time costs no write."""

COMPACT_SETTLED_MAX: Final = 1024
"""Events that are settled before progress is folded, however busy the group is."""

COMPACT_POSITIONS_MAX: Final = 4096
"""Positions that an idle group reads past, because nothing fits, before that is written."""

COMPACT_AFTER_US: Final = SECOND_US
"""How long progress may go unfolded once something was settled."""

_MS_US: Final = 1000


class ConsumerGroup:
    """A group that has members. `turn` does what there is to do.

    Attributes:
        members: a dict for a set, in the order in which they joined.
        progress: what is done, and what is read ahead.
        lost: leases that were taken back, whose members are to be told.
    """

    def __init__(self, host: Host, state: State, definition: Definition) -> None:
        self.definition = definition
        self.members: dict[Member, None] = {}
        self.progress = GroupProgress(state, state.last_commit, definition)
        self._settings = definition.settings
        self._host = host
        self._leases: dict[int, Lease] = {}
        self._schedule = GroupSchedule(host.wall_clock, hold=self.progress.hold)
        self._unrecorded: deque[Lease] = deque()
        self.lost: list[Lease] = []
        self._round = 0
        self._compacted_at = 0
        # What it was read from may not be durable yet.
        self._begins_at = host.sequence
        self._begun = False

    # Members.

    def join(self, owner: object, credit: int, takes: Callable[[], bool]) -> Member:
        """A new member."""
        member = Member(owner, credit, takes)
        self.members[member] = None
        return member

    def take_over(self, old: "ConsumerGroup") -> None:
        """Take the members of a group whose definition was changed; what they have is lost."""
        for member in old.members:
            old.return_leases(member)
            member.caught_up_at = -1
            self.members[member] = None
        self.lost += old.lost

    def leave(self, member: Member, *, died: bool) -> None:
        """Forget a member: what it has goes to others.

        If it died, each of its deliveries counts as an attempt that failed; if it says that it
        leaves, none does.
        """
        del self.members[member]
        if died:
            for lease in list(member.leases.values()):
                self._fail(lease, "the consumer's connection was lost", quarantined=True)
            self._flush()
        else:
            self.return_leases(member)

    def return_leases(self, member: Member) -> None:
        """Take back what a member has, as if it never had it."""
        for lease in reversed(list(member.leases.values())):
            self._end(lease)
            self.lost.append(lease)
            stream = lease.stream
            stream.trial_of(lease.position).count -= 1
            if lease.recorded:
                self._change(stream, lease.position)
            else:
                self._schedule.make_ready(stream, first=True)
        self._flush()

    # What members say.

    def find(self, position: int, token: int) -> Lease:
        """The lease that a token stands for.

        Raises:
            DeliveryLost: it was settled, or taken back, or never given for this event.
        """
        lease = self._leases.get(token)
        if lease is None:
            raise DeliveryLost(
                f"group {self.definition.name!r}: the delivery of event {position} is not with "
                "this consumer any more: it was settled before, its lease ran out, or its "
                "connection was lost; the event is or was delivered to another"
            )
        if lease.position != position:
            raise DeliveryLost(
                f"group {self.definition.name!r}: the token is of a delivery of event "
                f"{lease.position}, not of event {position}"
            )
        return lease

    def acknowledged(self, lease: Lease, sequence: int) -> None:
        """An acknowledgement was committed, and is durable with a sequence number."""
        self._end(lease)
        stream = lease.stream
        self.progress.done(stream, lease.position)
        self._schedule.await_sync(stream, sequence)

    def nack(
        self, leases: Sequence[Lease], *, delay_us: int | None, reason: str, park: bool
    ) -> int:
        """Give events back, to be tried again after a pause, or parked; when that is durable.

        Raises:
            ReadOnly: it cannot be written now, and is when it can be.
        """
        for lease in leases:
            if park:
                self._end(lease)
                self._park(lease.stream, lease.position, reason)
            else:
                self._fail(lease, reason, quarantined=False, delay_us=delay_us)
        return self._write_changes()

    def replay(self, positions: Sequence[tuple[int, str]]) -> None:
        """Parked events were given back, on the disk: try them again."""
        for position, name in positions:
            stream = self.progress.stream(name)
            self.progress.replay(stream, position)
            self._schedule.place(stream)
        self._round += 1

    def discard(self, positions: Sequence[tuple[int, str]]) -> None:
        """Parked events were forgotten, on the disk: what they held up goes on."""
        for position, name in positions:
            stream = self.progress.stream(name)
            self.progress.discard(stream, position)
            self._schedule.place(stream)
        self._round += 1

    # A turn.

    def turn(self, now: int) -> Turn:
        """Do what there is to do: take back, read ahead, hand out, fold."""
        turn = Turn()
        if self._host.durable_sequence < self._begins_at:
            return turn
        if not self._begun:
            self._begun = True
            self._compacted_at = now
            for stream in list(self.progress.streams.values()):
                self._schedule.place(stream, now)
        self._schedule.release(self._host.durable_sequence, now)
        self._expire(now)
        self._record_long_attempts(now)
        self._flush()
        found, turn.more = self.progress.read_ahead(self._host.reader())
        for stream in found:
            self._schedule.place(stream, now)
        self._hand_out(now, turn)
        self._flush()
        self._compact_if_due(now)
        for lease in self.lost:
            turn.lost.setdefault(lease.member, []).append(lease.token)
        self.lost.clear()
        turn.position = self.progress.read_to
        if self.is_idle:
            turn.caught_up = [m for m in self.members if m.caught_up_at != self._round]
            for member in turn.caught_up:
                member.caught_up_at = self._round
        return turn

    @property
    def is_idle(self) -> bool:
        """Whether everything that was published is done, parked, or held behind what is."""
        return not (
            self._leases
            or self._schedule.busy
            or self.progress.read_to < self._host.reader().position
        )

    def next_time(self, now: int) -> int | None:
        """When there will be something to do, if nobody says anything until then."""
        times: list[int] = []
        if self._schedule.next_retry is not None:
            times.append(self._schedule.next_retry)
        for lease in self._leases.values():
            times.append(lease.deadline)
            break
        if self._unrecorded:
            times.append(self._unrecorded[0].given + RECORDED_AFTER_US)
        if self.progress.settled:
            times.append(self._compacted_at + COMPACT_AFTER_US)
        if self._schedule.unwritten or self.progress.unwritten:
            times.append(now + SECOND_US)
        return min(times, default=None)

    def close(self) -> None:
        """Nobody is joined any more: write what is worth keeping."""
        try:
            if self.progress.unwritten:
                self.progress.flush(self._host.write)
            self.progress.compact(self._host.write)
        except ReadOnly:
            # Then it is read again from where it was folded last; entries tell what is done.
            pass

    def figures(self) -> dict[str, Any]:
        """What `group_info` tells of a group that is at work."""
        return {
            "position": self.progress.position,
            "members": len(self.members),
            "in_flight": len(self._leases),
            "retrying": self._schedule.retrying,
            "parked": self.progress.parked_count,
        }

    # What is written.

    def _change(self, stream: StreamProgress, position: int) -> None:
        """Write the attempts of a stream's next event; until then it waits."""
        self.progress.note(stream, position)
        self._schedule.await_write(stream)

    def _flush(self) -> None:
        if not self._schedule.unwritten and not self.progress.unwritten:
            return
        try:
            self._write_changes()
        except ReadOnly:
            # What changed waits in memory, and its streams with it.
            pass

    def _write_changes(self) -> int:
        sequence = self.progress.flush(self._host.write)
        self._schedule.written(sequence)
        return sequence

    # Leases.

    def _end(self, lease: Lease) -> None:
        del self._leases[lease.token]
        del lease.member.leases[lease.token]
        lease.stream.lease = None
        if lease.member.alone == lease.token:
            lease.member.alone = 0

    def _expire(self, now: int) -> None:
        while self._leases:
            # They all last equally long, so the oldest is the first to end.
            lease = next(iter(self._leases.values()))
            if lease.deadline > now:
                return
            self.lost.append(lease)
            lasted = f"not settled within {self._settings.lease_ms} ms"
            self._fail(lease, lasted, quarantined=True)

    def _record_long_attempts(self, now: int) -> None:
        while self._unrecorded and self._unrecorded[0].given + RECORDED_AFTER_US <= now:
            lease = self._unrecorded.popleft()
            if lease.token in self._leases:
                lease.recorded = True
                self.progress.note(lease.stream, lease.position)

    def _fail(
        self,
        lease: Lease,
        reason: str,
        *,
        quarantined: bool,
        delay_us: int | None = None,
    ) -> None:
        """An attempt has failed: try again later, or park."""
        self._end(lease)
        stream = lease.stream
        trial = stream.trial_of(lease.position)
        trial.reason = reason
        if self._is_last(trial):
            self._park(stream, lease.position, reason)
            return
        if delay_us is None:
            # Who died may have died of anything: the first time, nobody waits.
            delay_us = self._pause(trial.count - 1 if quarantined else trial.count)
        trial.pause(delay_us, self._host.wall_clock())
        stream.quarantined = quarantined
        self._change(stream, lease.position)

    def _is_last(self, trial: Trial) -> bool:
        attempts_max = self._settings.attempts_max
        return bool(attempts_max) and trial.count >= attempts_max

    def _pause(self, failures: int) -> int:
        if failures <= 0:
            return 0
        return min(self._settings.retry_ms * _MS_US << min(failures - 1, 32), RETRY_US_MAX)

    def _park(self, stream: StreamProgress, position: int, reason: str) -> None:
        if self.progress.parked_count >= PARKED_MAX:
            trial = stream.trial_of(position)
            trial.reason = f"not parked, for {PARKED_MAX} others are: {reason}"
            trial.pause(RETRY_US_MAX, self._host.wall_clock())
            self._change(stream, position)
            return
        self.progress.park(stream, position, reason, self._host.wall_clock())
        self._schedule.await_write(stream)

    # Handing out.

    def _hand_out(self, now: int, turn: Turn) -> None:
        size = count = 0
        while self._schedule.ready or self._schedule.quarantined:
            if count >= DELIVERIES_PER_TURN_MAX or size >= PAGE_SIZE_MAX:
                turn.more = True
                return
            chosen = self._choose()
            if chosen is None:
                return
            stream, member = chosen
            count += 1
            stream.waits = False
            if stream.head() is None and stream.behind:
                self.progress.refill(stream, self._host.reader())
            head = stream.head()
            if head is None or head[1].due(now, self._host.wall_clock()) > now:
                # Nothing yet, or it is a replay's turn whose pause is not over.
                self._schedule.place(stream, now)
                continue
            stored = self._fetch(stream, *head)
            if stored is not None:
                size += len(stored)
                self._lease(stream, member, head, now, stored, turn)

    def _choose(self) -> tuple[StreamProgress, Member] | None:
        """The next stream and the member that gets it; None: nobody can take any."""
        able = [m for m in self.members if m.credit > 0 and not m.alone and m.takes()]
        if not able:
            return None
        if self._schedule.quarantined:
            # One member is set free for them: it gets nothing until it has nothing. Not the one
            # that let it lapse, if there is another.
            last = self._schedule.quarantined[0].member
            reserved = min(able, key=lambda member: (len(member.leases), member is last))
            if not reserved.leases:
                return self._schedule.quarantined.popleft(), reserved
            able.remove(reserved)
        if not able or not self._schedule.ready:
            return None
        stream = self._schedule.ready.popleft()
        if stream.member in able:
            assert stream.member is not None
            return stream, stream.member
        return stream, max(able, key=lambda member: (member.credit, -len(member.leases)))

    def _fetch(self, stream: StreamProgress, position: int, trial: Trial) -> bytes | None:
        """The event to be delivered, or None: it is not to be."""
        if self._is_last(trial):
            # It was under way for the last time when the server ended.
            self._park(stream, position, trial.reason or "the server ended during its last attempt")
            return None
        stored = self._host.event(position)
        if stored is None:
            self.progress.drop(stream, position)
            self._schedule.await_write(stream)
        return stored

    def _lease(
        self,
        stream: StreamProgress,
        member: Member,
        head: tuple[int, Trial],
        now: int,
        stored: bytes,
        turn: Turn,
    ) -> None:
        position, trial = head
        trial.count += 1
        trial.pause(0, 0)
        lease = Lease(self._host.new_token(), stream, position, member, now)
        lease.deadline = now + self._settings.lease_ms * _MS_US
        self._leases[lease.token] = member.leases[lease.token] = stream.lease = lease
        self._unrecorded.append(lease)
        if stream.quarantined:
            member.alone = lease.token
        stream.member = member
        member.credit -= 1
        self._round += 1
        turn.deliveries.setdefault(member, []).append((lease.token, trial.count, stored))

    # The low watermark.

    def _compact_if_due(self, now: int) -> None:
        progress = self.progress
        if progress.settled:
            due = (
                progress.settled >= COMPACT_SETTLED_MAX
                or now - self._compacted_at >= COMPACT_AFTER_US
            )
        else:
            due = (
                progress.read_to - progress.low_watermark >= COMPACT_POSITIONS_MAX
                and not self._leases
            )
        if not due:
            return
        # Also if it fails: it is tried again after a while, and not at once.
        self._compacted_at = now
        if not progress.unwritten:
            try:
                progress.compact(self._host.write)
            except ReadOnly:
                pass  # It says no less than before; entries tell what is done.
