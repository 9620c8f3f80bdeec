"""A stream as a consumer group sees it, and who has an event of it.

    done ... | parked | to be tried again | queue: read ahead | behind: not read yet
                        ^ the next one is here, or at the head of the queue

One event of a stream is with one member at a time, so the order within the stream is kept
whatever becomes of it: acknowledged, it is done; nacked or lost, it is the next one again; parked,
it is set aside, and what comes after waits or not, as the group is set.
"""

from bisect import insort
from collections import deque
from collections.abc import Callable
from typing import Final

from headwater_server.engine.consumer_groups.records import ReplayEntry, StreamEntry

QUEUE_MAX: Final = 64
"""Positions of one stream that are read ahead. What comes later is looked up in the stream's own
index when the queue is empty, so one busy stream does not fill the window of all."""


class Trial:
    """How often an event was tried, and what came of it.

    Attributes:
        count: deliveries, the present one included.
        retry_at: not before this time, in microseconds since 1970; 0: at any time.
        pause_us: how long the pause is that ends then.
        reason: why the last one failed.
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
        """Try it again after a pause; *wall* is the time since 1970."""
        self.retry_at = wall + pause_us if pause_us else 0
        self.pause_us = pause_us
        self._due = None

    def due(self, now: int, wall: int) -> int:
        """When the pause is over, by the clock of *now*, which never goes back.

        The wall clock is looked at once: what was stored can only be compared with that. It may
        have been set back or forward since, so the rest is at most the length of the pause.
        """
        if not self.retry_at:
            return now
        if self._due is None:
            self._due = now + min(max(self.retry_at - wall, 0), self.pause_us)
        return self._due


class Member:
    """One consumer of a group.

    Attributes:
        owner: what the net side knows it by.
        credit: deliveries that may be handed to it before it grants more.
        takes: whether deliveries can be sent to it now.
        leases: what it has, by token.
        alone: the token of a delivery beside which it gets no other; 0: none.
        caught_up_at: which round of the group's it was told the end of.
    """

    __slots__ = ("alone", "caught_up_at", "credit", "leases", "owner", "takes")

    def __init__(self, owner: object, credit: int, takes: Callable[[], bool]) -> None:
        self.owner = owner
        self.credit = credit
        self.takes = takes
        self.leases: dict[int, Lease] = {}
        self.alone = 0
        self.caught_up_at = -1


class Lease:
    """An event that is with a member until a time, in microseconds of a clock that never goes back.

    Attributes:
        recorded: the attempt is counted on the disk already.
    """

    __slots__ = ("deadline", "given", "member", "position", "recorded", "stream", "token")

    def __init__(
        self, token: int, stream: "StreamProgress", position: int, member: Member, given: int
    ) -> None:
        self.token = token
        self.stream = stream
        self.position = position
        self.member = member
        self.given = given
        self.deadline = given
        self.recorded = False


class StreamProgress:
    """How far a group is with one stream.

    Attributes:
        after: every event up to it is done, or parked.
        read_to: every event up to it is done, parked, or in the queue.
        queue: positions that were read and are not done.
        behind: there may be events after `read_to` that the group has read past.
        trial: of the head of the queue.
        replays: positions that were parked and are tried again, in order, with their trials.
        parked: positions that are parked, in order.
        entry: the stream has an entry on the disk, so the low watermark does not speak for it.
        lease: who has the next event.
        waits: it waits for something: a sync, a time, a member.
        quarantined: the next event was with a member that died or fell silent.
        member: who had the last event.
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
        "waits",
    )

    def __init__(self, name: str, after: int) -> None:
        self.name = name
        self.after = after
        self.read_to = after
        self.queue: deque[int] = deque()
        self.behind = False
        self.trial = Trial()
        self.replays: list[tuple[int, Trial]] = []
        self.parked: list[int] = []
        self.entry = False
        self.lease: Lease | None = None
        self.waits = False
        self.quarantined = False
        self.member: Member | None = None

    def take(self, position: int, *, held: bool) -> bool:
        """Queue an event that the group has read, unless it is done; whether it was queued."""
        if position <= self.read_to or self.behind:
            return False
        if held or len(self.queue) >= QUEUE_MAX:
            self.behind = True
            return False
        self.queue.append(position)
        self.read_to = position
        return True

    def is_held(self, *, hold: bool) -> bool:
        """Whether nothing of it may be delivered because of a parked event."""
        if not hold or not self.parked:
            return False
        return not self.replays or self.parked[0] < self.replays[0][0]

    def head(self) -> tuple[int, Trial] | None:
        """The position of the event to be delivered next and its trial; None: it is not read."""
        if self.replays:
            return self.replays[0]
        return (self.queue[0], self.trial) if self.queue else None

    def trial_of(self, position: int) -> Trial:
        """The trial of an event that is with a member, or next."""
        for replayed, trial in self.replays:
            if replayed == position:
                return trial
        return self.trial

    def is_replay(self, position: int) -> bool:
        """Whether the event was parked and is tried again."""
        return any(replayed == position for replayed, _ in self.replays)

    @property
    def has_more(self) -> bool:
        """Whether something of it is not done, and not parked."""
        return bool(self.replays or self.queue or self.behind)

    @property
    def undone(self) -> int:
        """The first position that is not done as far as the low watermark goes; 0: all are that were read.

        Exact if the queue has it, else a bound below it.
        """
        if self.queue:
            return self.queue[0]
        return self.after + 1 if self.behind else 0

    def as_entry(self) -> StreamEntry:
        """The entry to be stored."""
        # Between `after` and the head there is no event of the stream that the group wants.
        trial = self.trial
        return StreamEntry(self.after, trial.count, trial.retry_at, trial.reason, trial.pause_us)

    def as_replay(self, position: int) -> ReplayEntry:
        """The entry of an event that is tried again."""
        trial = self.trial_of(position)
        return ReplayEntry(self.name, trial.count, trial.retry_at, trial.reason, trial.pause_us)

    def settle(self, position: int) -> bool:
        """An event is done, or set aside; whether it was the head of the queue."""
        self.quarantined = False
        if self.is_replay(position):
            self.replays = [replay for replay in self.replays if replay[0] != position]
            return False
        assert self.queue[0] == position, "the events of a stream are settled in order"
        self.after = self.queue.popleft()
        self.trial = Trial()
        return True

    def add_parked(self, position: int) -> None:
        """Note a parked event."""
        insort(self.parked, position)

    def replay(self, position: int) -> None:
        """Try a parked event again, in its order."""
        self.parked.remove(position)
        insort(self.replays, (position, Trial()), key=lambda replay: replay[0])
