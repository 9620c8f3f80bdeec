"""Projections: read models that follow the events. Each event takes effect exactly once.

    @db.projection("balances", category="account")
    async def balances(tx, event):
        tx.model.add((event.stream,), event.data["amount"])

    async with db.run_projections():            # here, or in any number of processes
        done = await db.append(...)
        await db.wait_for("balances", done.last_position)
        await db.model("balances").get(("account-ann",))

The other modules of this room: `runners` is what runs in the background, `follower` handles the
events, `failures` says what counts as a failure, `releasing` goes on with parked streams,
`rebuilding` builds a model again, and `state` has the keys in which all this is stored.
"""

import inspect
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar

from headwater.errors import InvalidArgument, ProjectionBehind
from headwater.projections.follower import (
    Follower,
    Handler,
    Projection,
    Superseded,
)
from headwater.projections.host import Host
from headwater.projections.rebuilding import REMOVED_KEYS_MAX, rebuilt
from headwater.projections.releasing import Release
from headwater.projections.runners import works
from headwater.projections.state import (
    RECORDS,
    Head,
    ParkedStream,
    Progress,
    ProjectionTransaction,
    skipped_key,
)
from headwater.reads.key_ranges import key_range
from headwater.reads.pages import KeyPages
from headwater.reads.query import Query, event_filter
from headwater.records import Committed, Committing, position_of
from headwater.transport.backoff import Backoff
from headwater.transport.tasks import beside
from headwater_protocol.keys import KeyTuple
from headwater_protocol.operations import NAME, POSITION, SNAPSHOT

BATCH_SIZE_DEFAULT: Final = 500
"""The most events in one transaction: a commit costs little for each, a conflict repeats few."""

BATCH_SECONDS_DEFAULT: Final = 1.0
"""Seconds after which a transaction takes no further event, because long ones block others."""

ATTEMPTS_DEFAULT: Final = 3
"""How often an event is tried, because some errors are temporary."""

WAIT_PAUSE_FIRST: Final = 0.002
"""The first pause of wait_for in seconds: about as long as a batch takes."""

WAIT_PAUSE_MAX: Final = 0.1
"""The longest pause of wait_for, in seconds."""

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class ProjectionStatus:
    """The status of a projection.

    Attributes:
        name: of the projection.
        build, version: of the model that readers see.
        position: all events up to here were processed.
        lag_events: the number of events in the log after the position, of any kind. 0 if the
            projection handles none of them.
        lag_seconds: the age of the first unprocessed event that the projection handles. 0: none.
        parked: the number of parked streams.
        next_build: the number of the build that is being made beside it, or None.
        next_position: the position of that build.
    """

    name: str
    build: int
    version: int
    position: int
    lag_events: int
    lag_seconds: float
    parked: int
    next_build: int | None = None
    next_position: int | None = None


class Projections:
    """The projections of a database. Made by `db.projections`."""

    def __init__(self, host: Callable[[], Host]) -> None:
        # A function, since projections may be defined before the database is connected.
        self._host = host
        self._defined: dict[str, Projection] = {}

    # Defining and running.

    def define(
        self,
        name: str,
        handler: Handler,
        *,
        version: int = 1,
        stream: str | None = None,
        category: str | None = None,
        prefix: str | None = None,
        types: Sequence[str] | None = None,
        tags: Sequence[str] | None = None,
        query: Query | None = None,
        batched: bool = False,
        batch_size: int = BATCH_SIZE_DEFAULT,
        batch_seconds: float = BATCH_SECONDS_DEFAULT,
        attempts: int = ATTEMPTS_DEFAULT,
        effects: Handler | None = None,
    ) -> Projection:
        """Define a projection; see Database.projection."""
        place = f"projection {name!r:.80}"
        NAME(name, f"{place}: name")
        if name in self._defined:
            raise InvalidArgument(f"{place}: it is already defined")
        for what, number, least in (
            ("version", version, 1),
            ("batch_size", batch_size, 1),
            ("attempts", attempts, 1),
        ):
            if number < least:
                raise InvalidArgument(f"{place}: {what}: {number}; the minimum is {least}")
        if not batch_seconds > 0:
            raise InvalidArgument(f"{place}: batch_seconds: {batch_seconds}; it must be above 0")
        projection = Projection(
            name=name,
            handler=handler,
            wanted=event_filter(
                place,
                stream=stream,
                category=category,
                prefix=prefix,
                types=types,
                tags=tags,
                query=query,
            ),
            version=version,
            batched=batched,
            batch_size=batch_size,
            batch_seconds=batch_seconds,
            attempts=attempts,
            effects=effects,
        )
        self._defined[name] = projection
        return projection

    def defined(self, *names: str) -> list[Projection]:
        """The projections of these names. Without names: all that are defined here.

        Raises:
            InvalidArgument: one of them is not defined here, or there are none at all.
        """
        for name in names:
            if name not in self._defined:
                raise InvalidArgument(
                    f"projection {name!r:.80} is not defined here; defined are: "
                    f"{', '.join(sorted(self._defined)) or 'none'}"
                )
        if not self._defined:
            raise InvalidArgument("no projections are defined; use @db.projection(name)")
        return [self._defined[name] for name in names or self._defined]

    def run(self, *names: str) -> AbstractAsyncContextManager[None]:
        """Run projections while a block runs; see Database.run_projections."""
        host = self._host()
        return beside([partial(work, host) for work in works(self.defined(*names))])

    # Status.

    async def names(self) -> list[str]:
        """The names of all projections that ever ran on this database."""
        first, last = key_range(("$projection",), None, None)
        pages = KeyPages(
            self._host().channel.at_leader.fetch, RECORDS, first, last, reverse=False, limit=None
        )
        return [str(key[1]) async for key, _ in pages if len(key) == 2]

    async def status(self, name: str) -> ProjectionStatus:
        """The position of a projection, its lag, and the number of its parked streams.

        Raises:
            InvalidArgument: the projection never ran on this database.
        """
        status: ProjectionStatus = await self._read(name, self._status)
        return status

    async def _status(
        self, tx: ProjectionTransaction, head: Head, progress: Progress
    ) -> ProjectionStatus:
        following = None if head.next is None else await tx.progress(tx.name, head.next.number)
        newest = await tx.newest_position()
        rows = await tx.events(head.build.wanted, progress.position, newest, 1)
        events, seconds = 0, 0.0
        if rows:
            events = newest - progress.position
            _, now, *_ = await self._host().channel.read("ping")
            seconds = max(0.0, (now - rows[0][4]) / 1_000_000)
        return ProjectionStatus(
            tx.name,
            head.build.number,
            head.build.version,
            progress.position,
            events,
            seconds,
            len(await tx.parked(tx.name, head.build.number)) if progress.parked else 0,
            None if head.next is None else head.next.number,
            None if following is None else following.position,
        )

    async def wait_for(
        self,
        name: str,
        position: int | Committed | Committing | None,
        *,
        timeout: float = 30.0,  # noqa: ASYNC109
    ) -> None:
        """Wait until a projection has processed all events up to a position, or those of a commit.

        Args:
            name: of the projection. It may run in another process.
            position: of any event, also of one that the projection does not handle; or what a
                commit returned. If it appended no events, there is nothing to wait for.
            timeout: in seconds.

        Raises:
            ProjectionBehind: the projection had not reached the position in time.
        """
        NAME(name, "wait_for: name")
        reaching = position_of(position)
        if reaching is None:
            return
        POSITION(reaching, "wait_for: position")
        runtime = self._host().channel.runtime
        until = runtime.now() + timeout
        backoff = Backoff(WAIT_PAUSE_FIRST, WAIT_PAUSE_MAX)
        while not (reached := await self._transaction(name, self._reached, reaching))[0]:
            pause = backoff.next()
            if runtime.now() + pause >= until:
                raise ProjectionBehind(
                    f"projection {name} "
                    + ("never ran" if reached[1] is None else f"is at position {reached[1]}")
                    + f"; it did not reach {reaching} within {timeout:g} s"
                )
            await runtime.sleep(pause)

    async def _reached(self, tx: ProjectionTransaction, position: int) -> tuple[bool, int | None]:
        """Whether all events up to a position are processed; and the position of the projection."""
        head = await tx.head(tx.name)
        progress = None if head is None else await tx.progress(tx.name, head.build.number)
        if head is None or progress is None:
            return False, None
        if progress.position >= position:
            return True, progress.position
        # The projection may not handle any of the remaining events.
        looked, rows = await tx.search(head.build.wanted, progress.position)
        left = rows[0][0] <= position if rows else looked < position
        return not left, progress.position

    # Parked streams.

    async def parked(self, name: str) -> list[ParkedStream]:
        """The parked streams of a projection, each with the reason."""
        parked: list[ParkedStream] = await self._read(name, self._parked)
        return parked

    async def _parked(
        self,
        tx: ProjectionTransaction,
        head: Head,
        progress: Progress,  # noqa: ARG002
    ) -> list[ParkedStream]:
        return [*(await tx.parked(tx.name, head.build.number)).values()]

    async def retry(self, name: str, stream: str | None = None) -> list[ParkedStream]:
        """Handle the events of parked streams again, in order, from the event that failed.

        Args:
            name: of the projection, which must be defined here.
            stream: only this stream. None: all parked streams.

        Returns:
            The streams that failed again, and stay parked.
        """
        return await self._release(name, stream, skip=False)

    async def skip(self, name: str, stream: str) -> list[ParkedStream]:
        """Skip the event that failed for good, and handle the later events of its stream.

        Later builds leave the event out too.

        Returns:
            The stream, if a later event failed.
        """
        return await self._release(name, stream, skip=True)

    async def _release(self, name: str, stream: str | None, *, skip: bool) -> list[ParkedStream]:
        (projection,) = self.defined(name)
        build = await self._read(name, self._build)
        if build.version != projection.version:
            raise InvalidArgument(
                f"projection {name}: the handler has version {projection.version}, but the build "
                f"has version {build.version}"
            )
        parked = {one.stream for one in await self.parked(name)}
        if stream is not None and stream not in parked:
            raise InvalidArgument(f"projection {name}: stream {stream!r:.80} is not parked")
        follower = Follower(self._host(), projection, build.number)
        chosen = parked if stream is None else {stream}
        for one in sorted(chosen):
            release = Release(follower, one)
            if skip:
                await release.skip()
            try:
                await release.run()
            except Superseded:
                # A rebuild has finished meanwhile; it has tried the stream again by itself.
                break
        return [one for one in await self.parked(name) if one.stream in chosen]

    async def _build(self, tx: ProjectionTransaction, head: Head, progress: Progress) -> Any:  # noqa: ARG002
        return head.build

    # Rebuilding, and removing.

    async def rebuild(
        self, name: str, *, even_if_parked: bool = False, even_if_truncated: bool = False
    ) -> None:
        """Build the model again beside the one that readers see, and then replace that one.

        Returns when the new model is in place. Only `tx.model` is rebuilt: what a handler writes to
        other keys is written a second time.

        Args:
            name: of the projection, which must be defined here.
            even_if_parked: replace the model even if events failed that did not fail before.
            even_if_truncated: build the model even if streams were truncated, of the events that
                are left.

        Raises:
            RebuildRefused: events failed that did not fail before, or streams that the projection
                follows were truncated. Readers see the old model.
        """
        (projection,) = self.defined(name)
        build = await rebuilt(
            self._host(),
            projection,
            even_if_parked=even_if_parked,
            even_if_truncated=even_if_truncated,
        )
        if build is None:
            raise InvalidArgument(
                f"projection {name}: the handler has version {projection.version}, but there is a "
                "build of a later version"
            )

    async def remove(self, name: str) -> None:
        """Remove a projection and its model. It must not be running.

        Raises:
            InvalidArgument: the projection never ran on this database.
        """
        NAME(name, "projection: name")
        prefixes: list[KeyTuple] = [("$projection", name), ("$parked", name), ("$model", name)]
        prefixes.append(skipped_key(name))
        is_found = False
        for prefix in prefixes:
            # An interrupted removal may have left some of the keys.
            while await self._transaction(name, _remove_some, prefix):
                is_found = True
        if not is_found:
            raise InvalidArgument(f"projection {name!r:.80} never ran on this database")

    # Transactions.

    async def _read(
        self, name: str, function: Callable[[ProjectionTransaction, Head, Progress], Awaitable[Any]]
    ) -> Any:
        """Call *function* with the head and progress of the current build, at one commit."""

        async def read(tx: ProjectionTransaction) -> Any:
            head = await tx.head(name)
            progress = None if head is None else await tx.progress(name, head.build.number)
            if head is None or progress is None:
                raise InvalidArgument(f"projection {name!r:.80} never ran on this database")
            return await function(tx, head, progress)

        NAME(name, "projection: name")
        return await self._transaction(name, read)

    async def _transaction(
        self, name: str, function: Callable[..., Awaitable[Any]], *arguments: Any
    ) -> Any:
        projection = Projection(
            name=name,
            handler=_handles_nothing,
            wanted={},
            version=1,
            batched=False,
            batch_size=1,
            batch_seconds=1.0,
            attempts=1,
        )
        follower = Follower(self._host(), projection, 0)
        return await follower.run(function, *arguments, isolation=SNAPSHOT)


async def _handles_nothing(tx: ProjectionTransaction, given: Any) -> None:
    """The handler of a projection that is only read."""


async def _remove_some(tx: ProjectionTransaction, prefix: KeyTuple) -> bool:
    keys = await tx.keys(prefix, REMOVED_KEYS_MAX)
    tx.remove(keys)
    return len(keys) > 0


def check_handler(name: str, handler: Callable[..., Any], *, waits: bool) -> None:
    """Check that a handler is an `async def` if it has to wait, and a `def` otherwise.

    Raises:
        InvalidArgument: it is the other kind.
    """
    if inspect.isfunction(handler) and inspect.iscoroutinefunction(handler) != waits:
        raise InvalidArgument(
            f"projection {name!r:.80}: the handler of "
            + (
                "trio and asyncio must be an `async def`"
                if waits
                else "a blocking database must be a `def`"
            )
        )
