"""A consumer group with members: its leases, and which member gets the next event.

    read ahead --> ready --> leased to a member --ack----> done
                    ^  ^            |-------nack---> pauses, or is parked
                    |  '------------|--- lease ran out, or the member died: quarantined
                    '---- on disk <-'

Order. A stream is in one of these states. So only one of its events is with a member at a time,
and the next is delivered once the outcome of the previous one is published.

Assignment. A stream goes to the member that had it last, if that member has credit, and otherwise
to the member with the most credit. So work moves to those who can take it as members come, go and
fall silent.

Attempts. An attempt is written to disk before its delivery is sent, so it counts even if the
server dies together with the consumer. The attempts of a turn cost one write.

Quarantine. When a member dies, any of its events may have killed it. Each is then retried alone: by
a member that has no other delivery and gets none until this one is settled. So an event that kills
its consumers uses up its own attempts, and its neighbours are not parked with it.

All of this is in memory, and exists only while the group has members. GroupProgress stores what
must survive them. Times are in microseconds: `now` is monotonic, and stored times come from the
engine's clock.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

from headwater_protocol.errors import DeliveryLost, ReadOnly
from headwater_protocol.limits import PAGE_SIZE_MAX
from headwater_server.engine.consumer_groups.hidden import HiddenEvents
from headwater_server.engine.consumer_groups.host import Host, Turn
from headwater_server.engine.consumer_groups.progress import PARKED_MAX, GroupProgress, Write
from headwater_server.engine.consumer_groups.records import Definition
from headwater_server.engine.consumer_groups.schedule import RETRY_US_MAX, GroupSchedule
from headwater_server.engine.consumer_groups.sending import Sending
from headwater_server.engine.consumer_groups.streams import Lease, Member, StreamProgress, Trial
from headwater_server.engine.reads.filters import EventFilter
from headwater_server.engine.settings import SECOND_US
from headwater_server.engine.state.layers import State

DELIVERIES_PER_TURN_MAX: Final = 256
"""Deliveries in one turn, so that other groups get their turn too."""

COMPACT_SETTLED_MAX: Final = 1024
"""Settled events after which progress is compacted, however busy the group is."""

COMPACT_POSITIONS_MAX: Final = 65_536
"""Positions without a matching event that an idle group passes before it stores its progress.
Storing costs a commit. A group that restarts has to search at most this many positions again."""

COMPACT_AFTER_US: Final = SECOND_US
"""The longest time between settling an event and compacting the progress."""

_MS_US: Final = 1000


class ConsumerGroup:
    """A group that has members. `turn` does all pending work.

    Attributes:
        members: a dict as an ordered set, in the order in which they joined.
        progress: what is done, and what is read ahead.
        lost: leases that were taken back, and whose members have not been notified yet.
        live: whether the group has read every published event. It is then notified of each new
            event that matches, and need not read the others.
    """

    def __init__(self, host: Host, state: State, definition: Definition) -> None:
        self.definition = definition
        self.members: dict[Member, None] = {}
        self.progress = GroupProgress(state, state.last_commit, definition)
        self._settings = definition.settings
        self._host = host
        self._leases: dict[int, Lease] = {}
        self._schedule = GroupSchedule(host.wall_clock, hold=self.progress.hold)
        self._sending = Sending()
        self._hidden = HiddenEvents(host, self.progress, self._schedule)
        self.lost: list[Lease] = []
        self._round = 0
        self._compacted_at = 0
        # Progress was read from the newest state, which may not be durable yet.
        self._begins_at = host.sequence
        self._begun = False
        self.live = False

    @property
    def wanted(self) -> EventFilter:
        """The filter of the group."""
        return self.definition.wanted

    @property
    def unsettled(self) -> bool:
        """Whether its next turn waits for something that is not durable yet."""
        waits = self._schedule.unsettled or self._sending.waits
        return waits or not self._begun or self.progress.unwritten

    def go_live(self) -> bool:
        """Rely on notifications of matching events, if all published events were read."""
        self.live = self._begun and self.progress.read_to >= self._host.reader().position
        return self.live

    def leave_live(self, position: int) -> None:
        """Read again, after a position up to which no further event matched."""
        if self.live:
            self.live = False
            self.progress.pass_to(position)

    # Members.

    def join(self, owner: object, credit: int, takes: Callable[[], bool]) -> Member:
        """Add a member."""
        member = Member(owner, credit, takes)
        self.members[member] = None
        return member

    def take_over(self, old: "ConsumerGroup") -> None:
        """Take over the members of a group whose definition was changed; their leases are lost."""
        for member in old.members:
            old.return_leases(member)
            member.caught_up_at = -1
            self.members[member] = None
        self.lost += old.lost

    def leave(self, member: Member, *, died: bool) -> None:
        """Remove a member; its deliveries go to others.

        If it died, each of its deliveries counts as a failed attempt. If it left by request, none
        does.
        """
        del self.members[member]
        if died:
            for lease in list(member.leases.values()):
                if lease.is_sent:
                    self._fail(lease, "the consumer's connection was lost", quarantined=True)
        self.return_leases(member)

    def return_leases(self, member: Member) -> None:
        """Take back a member's leases without counting the attempts."""
        for lease in reversed(list(member.leases.values())):
            self._end(lease)
            if lease.is_sent:
                self.lost.append(lease)
            lease.stream.trial_of(lease.position).count -= 1
            self._change(lease.stream, lease.position)
        self._flush()

    # Requests of members.

    def find(self, position: int, token: int) -> Lease:
        """The lease that a token identifies.

        Raises:
            DeliveryLost: the delivery was settled or taken back, or is of another event.
        """
        lease = self._leases.get(token)
        if lease is None:
            raise DeliveryLost(
                f"group {self.definition.name!r}: the delivery of event {position} is no "
                "longer with this consumer: it was settled before, its lease ran out, or its "
                "connection was lost; the event is or was delivered to another"
            )
        if lease.position != position:
            raise DeliveryLost(
                f"group {self.definition.name!r}: the token is of a delivery of event "
                f"{lease.position}, not of event {position}"
            )
        return lease

    def extend(self, lease: Lease, now: int) -> None:
        """Restart a lease. Does nothing if its delivery was not sent yet."""
        if lease.is_sent:
            lease.deadline = now + self._settings.lease_ms * _MS_US
            # To the end: the lease that ends first is in front.
            self._leases[lease.token] = self._leases.pop(lease.token)

    def acknowledged(self, lease: Lease, sequence: int) -> None:
        """An acknowledgement was committed; it is durable once *sequence* is."""
        self._end(lease)
        stream = lease.stream
        self.progress.done(stream, lease.position)
        self._schedule.await_sync(stream, sequence)

    def nack(
        self,
        leases: Sequence[Lease],
        *,
        delay_us: int | None,
        reason: str,
        park: bool,
        write: Write,
    ) -> int:
        """Return events, to be retried after a pause or parked; return the sequence number.

        Raises:
            ReadOnly: nothing can be written now; the change is kept and written later.
        """
        for lease in leases:
            if park:
                self._end(lease)
                self._park(lease.stream, lease.position, reason)
            else:
                self._fail(lease, reason, quarantined=False, delay_us=delay_us)
        return self._write_changes(write)

    def replay(self, positions: Sequence[tuple[int, str]]) -> None:
        """Retry parked events. The caller has stored the request to do so."""
        for position, name in positions:
            stream = self.progress.stream(name)
            self.progress.replay(stream, position)
            self._schedule.place(stream)
        self._round += 1

    def discard(self, positions: Sequence[tuple[int, str]]) -> None:
        """Forget parked events, and release the events behind them. The caller has stored this."""
        for position, name in positions:
            stream = self.progress.stream(name)
            self.progress.discard(stream, position)
            self._schedule.place(stream)
        self._round += 1

    # A turn.

    def turn(self, now: int) -> Turn:
        """Do all pending work: expire leases, read ahead, deliver, compact."""
        turn = Turn()
        if self._host.durable_sequence < self._begins_at:
            return turn
        if not self._begun:
            self._begun = True
            self._compacted_at = now
            for stream in list(self.progress.streams.values()):
                self._schedule.place(stream, now)
        self._schedule.release(self._host.durable_sequence, now)
        self._send(now, turn)
        self._expire(now)
        self._hidden.look(now)
        self._flush()
        self.progress.window = self._host.window(self.progress.pending)
        found, turn.more = self.progress.read_ahead(self._host.reader())
        for stream in found:
            self._hidden.release(stream)
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
        """Whether every published event is done, parked, or held behind a parked one."""
        return not (
            self._leases
            or self._schedule.busy
            or self.progress.read_to < self._host.reader().position
        )

    def next_time(self, now: int) -> int | None:
        """When the group will next have work to do if no request comes before."""
        if not self._begun:
            # Its first turn waits for a sync, not for a time.
            return None
        times: list[int] = []
        if self._schedule.next_retry is not None:
            times.append(self._schedule.next_retry)
        for lease in self._leases.values():
            if lease.is_sent:
                times.append(lease.deadline)
            break
        if self._hidden.next_time is not None:
            times.append(self._hidden.next_time)
        if self.progress.settled:
            times.append(self._compacted_at + COMPACT_AFTER_US)
        if self._schedule.unwritten or self.progress.unwritten:
            times.append(now + SECOND_US)
        return min(times, default=None)

    def close(self) -> None:
        """Store the progress of a group that has no members any more."""
        self.leave_live(self._host.reader().position)
        try:
            if self.progress.unwritten:
                self.progress.flush(self._host.write)
            self.progress.compact(self._host.write)
        except ReadOnly:
            # The group will start from the last compaction; the entries say what is done.
            pass

    def figures(self) -> dict[str, Any]:
        """What `group_info` reports of a group with members."""
        if self.live:
            self.progress.pass_to(self._host.reader().position)
        return {
            "position": self.progress.position,
            "members": len(self.members),
            "in_flight": len(self._leases),
            "retrying": self._schedule.retrying,
            "parked": self.progress.parked_count,
        }

    # Writing.

    def _change(self, stream: StreamProgress, position: int) -> None:
        """Write the attempts of a stream's next event; the stream waits until that is durable."""
        self.progress.note(stream, position)
        self._schedule.await_write(stream)

    def _flush(self) -> None:
        if not self._schedule.unwritten and not self.progress.unwritten:
            return
        try:
            self._write_changes(self._host.write)
        except ReadOnly:
            # The changes stay in memory, and their streams wait for them.
            pass

    def _write_changes(self, write: Write) -> int:
        sequence = self.progress.flush(write)
        self._schedule.written(sequence)
        self._sending.written(sequence)
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
            # All leases last equally long, so the oldest ends first.
            lease = next(iter(self._leases.values()))
            if lease.deadline > now:
                return
            self.lost.append(lease)
            lasted = f"not settled within {self._settings.lease_ms} ms"
            self._fail(lease, lasted, quarantined=True)

    def _send(self, now: int, turn: Turn) -> None:
        """Send the deliveries whose attempts are durable. Their leases begin."""
        for lease, attempt, stored in self._sending.durable(self._host.durable_sequence):
            if lease.token in self._leases:
                lease.deadline = now + self._settings.lease_ms * _MS_US
                turn.deliveries.setdefault(lease.member, []).append((lease.token, attempt, stored))

    def _fail(
        self,
        lease: Lease,
        reason: str,
        *,
        quarantined: bool,
        delay_us: int | None = None,
    ) -> None:
        """Count a failed attempt: retry the event later, or park it."""
        self._end(lease)
        stream = lease.stream
        trial = stream.trial_of(lease.position)
        trial.reason = reason
        if self._is_last(trial):
            self._park(stream, lease.position, reason)
            return
        if delay_us is None:
            # A member may die for any reason, so the first retry comes without a pause.
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
        first = self._settings.retry_ms * _MS_US
        return min(first << min(failures - 1, 32), max(first, RETRY_US_MAX))

    def _park(self, stream: StreamProgress, position: int, reason: str) -> None:
        if self.progress.parked_count >= PARKED_MAX:
            trial = stream.trial_of(position)
            trial.reason = f"not parked, because {PARKED_MAX} others are: {reason}"
            trial.pause(RETRY_US_MAX, self._host.wall_clock())
            self._change(stream, position)
            return
        self.progress.park(stream, position, reason, self._host.wall_clock())
        self._schedule.await_write(stream)

    # Delivering.

    def _hand_out(self, now: int, turn: Turn) -> None:
        size = count = 0
        while self._schedule.ready or self._schedule.quarantined:
            if self._sending.size >= PAGE_SIZE_MAX:
                return  # There is another turn when these are durable.
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
                # Nothing was read yet, or the next event is a replay that still pauses.
                self._schedule.place(stream, now)
                continue
            stored = self._fetch(stream, *head)
            if stored is not None:
                size += len(stored)
                self._lease(stream, member, head, stored)

    def _choose(self) -> tuple[StreamProgress, Member] | None:
        """The next stream and the member that gets it; None if no member can take one."""
        able = [m for m in self.members if m.credit > 0 and not m.alone and m.takes()]
        if not able:
            return None
        if self._schedule.quarantined:
            # Reserve the member with the fewest leases: it gets nothing new until it has none.
            # Prefer one other than the member whose lease on the event has failed.
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
        """The event to deliver; None if it was parked or removed instead."""
        if self._is_last(trial):
            # The server ended during the last allowed attempt.
            self._park(stream, position, trial.reason or "the server ended during its last attempt")
            return None
        stored = self._host.event(position)
        if stored is None:
            self.progress.drop(stream, position)
            self._schedule.await_write(stream)
        return stored

    def _lease(
        self, stream: StreamProgress, member: Member, head: tuple[int, Trial], stored: bytes
    ) -> None:
        position, trial = head
        trial.count += 1
        trial.pause(0, 0)
        lease = Lease(self._host.new_token(), stream, position, member)
        self._leases[lease.token] = member.leases[lease.token] = stream.lease = lease
        if stream.quarantined:
            member.alone = lease.token
        stream.member = member
        member.credit -= 1
        self._round += 1
        self.progress.note(stream, position)
        self._sending.add(lease, trial.count, stored)

    # Compaction.

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
        # Set this even if compaction fails, so that the next try waits a while.
        self._compacted_at = now
        if not progress.unwritten:
            try:
                progress.compact(self._host.write)
            except ReadOnly:
                pass  # Nothing is lost: the low watermark stays, and the entries are stored.
