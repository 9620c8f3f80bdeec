"""Planted defects in the fast paths, most of which have a slow path beside them, and in clocks."""

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


def whatever_the_disk_says(right: Any) -> Any:
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


def once_it_is_taken(right: Any) -> Any:
    def begin(self: GroupCommit, group: Any) -> None:
        right(self, group)
        taken, self._syncing = self._syncing, []
        for waiter in taken:
            waiter.owner.release(waiter)

    return begin


def only_in_the_thread(right: Any) -> Any:
    def timed(self: AdaptiveFsync, call: Callable[[], Any]) -> Any:
        return None if self.on_event_loop else right(self, call)

    return timed


def all_of_it(right: Any) -> Any:
    """What a full socket takes a part of passes for sent."""

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


def the_first_one_stays(right: Any) -> Any:
    def put(self: LatestCache, key: bytes, entry: bytes, before: bytes | None) -> None:
        if before is None:
            right(self, key, entry, before)

    return put


def as_the_wall_says(_: Any) -> Any:
    def now(self: LogClock) -> int:
        return self._wall()

    return now


def without_tags(right: Any) -> Any:
    def plan_events(state: Any, planned: Any, *rest: Any) -> None:
        right(state, planned, *rest)
        planned.tags = {}

    return plan_events


def from_the_first(_: Any) -> Any:
    def first_since(_state: Any, _stream: str, _head: Any, first: int, *_: Any) -> int:
        return first

    return first_since


def at_each_read(right: Any) -> Any:
    def first_version(state: Any, *rest: Any) -> int:
        first: int = right(state, *rest[:-1], state.time.time)
        return first

    return first_version


FAST_PATHS: Final[Sequence[Mutant]] = (
    Mutant(
        "a turn goes on after an fsync that failed",
        GroupCommit,
        "end_turn",
        whatever_the_disk_says,
        LOSS,
        "sync errors",
    ),
    Mutant(
        "answers go out once their group is taken",
        GroupCommit,
        "_begin",
        once_it_is_taken,
        LOSS,
        "crashes",
    ),
    Mutant(
        "on the event loop nothing is synced",
        AdaptiveFsync,
        "timed",
        only_in_the_thread,
        LOSS,
        "crashes",
    ),
    Mutant(
        "what a socket did not take is never sent",
        PlainSockets,
        "_send",
        all_of_it,
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
        "events never grow old",
        rules,
        "_first_since",
        from_the_first,
        WRONG_READ,
        "calm",
    ),
    Mutant(
        "events grow old under the eyes of a view",
        rules,
        "first_version",
        at_each_read,
        WRONG_READ,
        "calm",
    ),
    Mutant(
        "a clock that is set back is believed",
        LogClock,
        "now",
        as_the_wall_says,
        "is of a time before",
        "calm",
    ),
    Mutant(
        "the latest cache keeps the first entry of a key",
        LatestCache,
        "put",
        the_first_one_stays,
        WRONG_READ + "|" + ISOLATION,
        "calm",
    ),
)
"""Of mutants.py, where they are hunted."""
