"""The state of one stream in a consumer group, and the lease on its next event.

    done ... | parked | to be tried again | queue: read ahead | behind: not read yet
                        ^ the next one is here, or at the head of the queue

Only one event of a stream is leased at a time, which keeps the order within the stream. An event
that is acknowledged is done. One that is nacked or lost becomes the next event again. One that is
parked is set aside; the group's settings decide whether later events wait for it.
"""

from bisect import insort
from collections import deque
from collections.abc import Callable
from typing import Final

from headwater_server.engine.consumer_groups.records import ReplayEntry, StreamEntry

QUEUE_MAX: Final = 64
"""Positions of one stream that are read ahead. Later ones are looked up in the stream's own index
once the queue is empty, so a busy stream does not fill the group's window."""


class Trial:
    """How often an event was tried, and why it failed.

    Attributes:
        count: deliveries, including the current one.
        retry_at: the earliest time of the next, in microseconds since 1970; 0: any time.
        pause_us: the length of the pause that ends at `retry_at`.
        reason: why the last delivery failed.
    """

    __slots__ = ("_due", "count", "pause_us", "reason", "retry_at")

    def __init__(
        self, count: int = 0, retry_at: int = 0, reason: str = "", pause_us: int = 0
    ) -> None:
        self.count = count
        self.retry_at = retry_at
        self.reason = reason
        self.pause_us = pause_us
        self._due: int | None = None

    def pause(self, pause_us: int, wall: int) -> None:
        """Delay the next attempt by a pause; *wall* is the time since 1970."""
        self.retry_at = wall + pause_us if pause_us else 0
        self.pause_us = pause_us
        self._due = None

    def due(self, now: int, wall: int) -> int:
        """When the pause ends, by the monotonic clock of *now*.

        A stored time can only be compared with the wall clock, so that is read once. It may have
        been set back since, so the rest is at most the length of the pause.
        """
        if not self.retry_at:
            return now
        if self._due is None:
            self._due = now + min(max(self.retry_at - wall, 0), self.pause_us)
        return self._due


class Member:
    """One consumer of a group.

    Attributes:
        owner: how the net side identifies it.
        credit: deliveries that may be sent to it before it grants more.
        takes: whether deliveries can be sent to it now.
        leases: its leases, by token.
        alone: the token of a quarantined delivery, during which it gets no other; 0: none.
        caught_up_at: the last round of the group of whose end it was told.
    """

    __slots__ = ("alone", "caught_up_at", "credit", "leases", "owner", "takes")

    def __init__(self, owner: object, credit: int, takes: Callable[[], bool]) -> None:
        self.owner = owner
        self.credit = credit
        self.takes = takes
        self.leases: dict[int, Lease] = {}
        self.alone = 0
        self.caught_up_at = -1


NEVER: Final = 1 << 62
"""The deadline of a lease that has not begun."""


class Lease:
    """An event that a member holds until a deadline, in microseconds of a monotonic clock.

    It begins when the delivery is sent. Before that, the attempt is recorded on the disk.
    """

    __slots__ = ("deadline", "member", "position", "stream", "token")

    def __init__(self, token: int, stream: "StreamProgress", position: int, member: Member) -> None:
        self.token = token
        self.stream = stream
        self.position = position
        self.member = member
        self.deadline = NEVER

    @property
    def is_sent(self) -> bool:
        """Whether the member has the delivery."""
        return self.deadline != NEVER


class StreamProgress:
    """How far a group is with one stream.

    Attributes:
        after: every event up to this position is done or parked.
        read_to: every event up to this position is done, parked, or in the queue.
        queue: positions that were read and are not done.
        behind: the group may have read past events after `read_to`.
        trial: of the head of the queue.
        tried: the position of the trial, as it was stored; 0: it has none, or is not known.
        replays: positions that were parked and will be tried again, in order, with their trials.
        parked: positions that are parked, in order.
        entry: the stream has a stored entry, which overrides the low watermark.
        lease: the lease on the next event, if a member has it.
        waits: the stream waits for a sync, a time or a member.
        quarantined: the member that last had the next event died or fell silent.
        member: the member that had the last event.
    """

    __slots__ = (
        "after",
        "behind",
        "entry",
        "lease",
        "member",
        "name",
        "parked",
        "queue",
        "read_to",
        "replays",
        "quarantined",
        "trial",
        "tried",
        "waits",
    )

    def __init__(self, name: str, after: int) -> None:
        self.name = name
        self.after = after
        self.read_to = after
        self.queue: deque[int] = deque()
        self.behind = False
        self.trial = Trial()
        self.tried = 0
        self.replays: list[tuple[int, Trial]] = []
        self.parked: list[int] = []
        self.entry = False
        self.lease: Lease | None = None
        self.waits = False
        self.quarantined = False
        self.member: Member | None = None

    def take(self, position: int, *, held: bool) -> bool:
        """Queue an event that the group has read, unless it is done; return whether it did."""
        if position <= self.read_to or self.behind:
            return False
        if held or len(self.queue) >= QUEUE_MAX:
            self.behind = True
            return False
        self.extend([position])
        self.read_to = position
        return True

    def extend(self, positions: list[int]) -> None:
        """Queue events that were read."""
        if positions and not self.queue and self.tried:
            if self.tried != positions[0]:
                # The event that was tried is gone. The next one begins with no attempt.
                self.trial = Trial()
                self.quarantined = any(trial.count for _, trial in self.replays)
            self.tried = 0
        self.queue.extend(positions)

    def is_held(self, *, hold: bool) -> bool:
        """Whether a parked event stops all deliveries of the stream."""
        if not hold or not self.parked:
            return False
        return not self.replays or self.parked[0] < self.replays[0][0]

    def head(self) -> tuple[int, Trial] | None:
        """Position and trial of the next event to deliver; None if it was not read yet."""
        if self.replays:
            return self.replays[0]
        return (self.queue[0], self.trial) if self.queue else None

    def trial_of(self, position: int) -> Trial:
        """The trial of an event that is leased or next."""
        for replayed, trial in self.replays:
            if replayed == position:
                return trial
        return self.trial

    def is_replay(self, position: int) -> bool:
        """Whether the event was parked and is tried again."""
        return any(replayed == position for replayed, _ in self.replays)

    @property
    def has_more(self) -> bool:
        """Whether any of its events is neither done nor parked."""
        return bool(self.replays or self.queue or self.behind)

    @property
    def undone(self) -> int:
        """The first position that is not done, ignoring replays; 0 if all that were read are done.

        Exact if it is in the queue, else a lower bound.
        """
        if self.queue:
            return self.queue[0]
        return self.after + 1 if self.behind else 0

    def as_entry(self) -> StreamEntry:
        """The entry to be stored."""
        trial = self.trial
        tried = (self.queue[0] if self.queue else self.tried) if trial.count else 0
        return StreamEntry(
            self.after, trial.count, trial.retry_at, trial.reason, trial.pause_us, tried
        )

    def as_replay(self, position: int) -> ReplayEntry:
        """The entry of a replayed event."""
        trial = self.trial_of(position)
        return ReplayEntry(self.name, trial.count, trial.retry_at, trial.reason, trial.pause_us)

    def settle(self, position: int) -> bool:
        """Count an event as done or parked; return whether it was the head of the queue."""
        self.quarantined = False
        if self.is_replay(position):
            self.replays = [replay for replay in self.replays if replay[0] != position]
            return False
        assert self.queue[0] == position, "the events of a stream are settled in order"
        self.after = self.queue.popleft()
        self.trial = Trial()
        return True

    def add_parked(self, position: int) -> None:
        """Add a parked event."""
        insort(self.parked, position)

    def replay(self, position: int) -> None:
        """Try a parked event again, in its order."""
        self.parked.remove(position)
        insort(self.replays, (position, Trial()), key=lambda replay: replay[0])
