"""Planted defects in fast paths and clocks."""

from collections.abc import Callable, Sequence
from typing import Any, Final

from headwater_server.engine.log_clock import LogClock
from headwater_server.engine.retention import rules
from headwater_server.engine.state.latest_cache import LatestCache
from headwater_server.engine.state.scan_cache import ScanCache
from headwater_server.engine.transactions import replaying
from headwater_server.net.drivers.plain_sockets import PlainSockets
from headwater_server.net.tasks.group_commit import GroupCommit
from headwater_server.net.threads.adaptive_fsync import AdaptiveFsync
from tests.simulation.determinism import replaced
from tests.simulation.planted import ISOLATION, LOSS, WRONG_READ, Mutant, nothing


def ignoring_failed_fsync(right: Any) -> Any:
    def end_turn(self: GroupCommit) -> None:
        engine: Any = self._engine
        make_durable = engine.make_durable

        def careless(group: Any) -> None:
            try:
                make_durable(group)
            except OSError:
                pass

        with replaced(engine, "make_durable", careless):
            right(self)

    return end_turn


def answering_too_early(right: Any) -> Any:
    def begin(self: GroupCommit, group: Any) -> None:
        right(self, group)
        taken, self._syncing = self._syncing, []
        for waiter in taken:
            waiter.owner.release(waiter)

    return begin


def without_fsync_on_the_event_loop(right: Any) -> Any:
    def timed(self: AdaptiveFsync, call: Callable[[], Any]) -> Any:
        return None if self.on_event_loop else right(self, call)

    return timed


def dropping_unsent_bytes(right: Any) -> Any:
    """A partial write to a full socket counts as a complete one."""

    def send(self: PlainSockets, connection: Any) -> None:
        session = connection.session
        if session.output_size and not session.closed and not connection.output_full:
            output = session.output()
            try:
                size = connection.socket.send(output)
            except OSError:
                size = 0
            session.sent(len(output) if size else 0)
        right(self, connection)

    return send


def keeping_the_first_entry(right: Any) -> Any:
    def put(self: LatestCache, key: bytes, entry: bytes, before: bytes | None) -> None:
        if before is None:
            right(self, key, entry, before)

    return put


def following_the_wall_clock(_: Any) -> Any:
    def now(self: LogClock) -> int:
        return self._wall()

    return now


def without_tags(right: Any) -> Any:
    def plan_events(state: Any, planned: Any, *rest: Any) -> None:
        right(state, planned, *rest)
        planned.tags = {}

    return plan_events


def without_expiry(_: Any) -> Any:
    def first_since(_state: Any, _stream: str, _head: Any, first: int, *_: Any) -> int:
        return first

    return first_since


def expiring_during_a_view(right: Any) -> Any:
    def first_version(state: Any, *rest: Any) -> int:
        first: int = right(state, *rest[:-1], state.time.time)
        return first

    return first_version


FAST_PATHS: Final[Sequence[Mutant]] = (
    Mutant(
        "a turn continues after a failed fsync",
        GroupCommit,
        "end_turn",
        ignoring_failed_fsync,
        LOSS,
        "sync errors",
    ),
    Mutant(
        "answers are sent when their group is taken",
        GroupCommit,
        "_begin",
        answering_too_early,
        LOSS,
        "crashes",
    ),
    Mutant(
        "fsync on the event loop does nothing",
        AdaptiveFsync,
        "timed",
        without_fsync_on_the_event_loop,
        LOSS,
        "crashes",
    ),
    Mutant(
        "unsent bytes of a full socket are lost",
        PlainSockets,
        "_send",
        dropping_unsent_bytes,
        "sent no frame",
        "calm",
    ),
    Mutant(
        "the scan cache outlives a checkpoint",
        ScanCache,
        "forget_all",
        nothing,
        WRONG_READ + "|" + ISOLATION,
        "calm",
    ),
    Mutant(
        "a replay forgets the tags",
        replaying,
        "_plan_events",
        without_tags,
        WRONG_READ + "|on condition of|not serializable|subscribed after|caught up",
        "crashes",
    ),
    Mutant(
        "events never expire",
        rules,
        "_first_since",
        without_expiry,
        WRONG_READ,
        "calm",
    ),
    Mutant(
        "events expire during a read view",
        rules,
        "first_version",
        expiring_during_a_view,
        WRONG_READ,
        "calm",
    ),
    Mutant(
        "a clock that is set back is followed",
        LogClock,
        "now",
        following_the_wall_clock,
        "has an earlier time",
        "calm",
    ),
    Mutant(
        "the latest cache keeps the first entry of a key",
        LatestCache,
        "put",
        keeping_the_first_entry,
        WRONG_READ + "|" + ISOLATION,
        "calm",
    ),
)
"""mutants.py runs these with its own."""
