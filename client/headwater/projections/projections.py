"""Projections: read models that follow the events, each event taking effect exactly once.

    @db.projection("balances", category="account")
    async def balances(tx, event):
        tx.model.add((event.stream,), event.data["amount"])

    async with db.run_projections():            # here, or in as many processes as one likes
        done = await db.append(...)
        await db.wait_for("balances", done.last_position)
        await db.model("balances").get(("account-ann",))

Beside this module: `follower` handles the events, `rebuilding` makes a model anew, and `state` has
the keys in which all this is stored.
"""

import inspect
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar

from headwater.errors import CommitUnknown, HeadwaterError, InvalidArgument, ProjectionBehind
from headwater.projections.follower import (
    Follower,
    Handler,
    PositionMismatch,
    Projection,
    Superseded,
    log,
)
from headwater.projections.host import Host
from headwater.projections.rebuilding import REMOVED_KEYS_MAX, opened, rebuilt
from headwater.projections.state import (
    RECORDS,
    Head,
    ParkedStream,
    Progress,
    ProjectionTransaction,
)
from headwater.reads.key_ranges import key_range
from headwater.reads.pages import KeyPages
from headwater.reads.query import Query, event_filter
from headwater.transport.backoff import PAUSE_FIRST, PAUSE_MAX, Backoff
from headwater.transport.tasks import beside
from headwater_protocol.keys import KeyTuple
from headwater_protocol.operations import NAME, POSITION, SNAPSHOT

BATCH_SIZE_DEFAULT: Final = 500
"""Events in one transaction at most: a commit costs little on each, and a conflict repeats few."""

BATCH_SECONDS_DEFAULT: Final = 1.0
"""Seconds after which a transaction takes no further event: long ones are in others' way."""

ATTEMPTS_DEFAULT: Final = 3
"""How often an event is tried: some errors are of the moment."""

LOOK_AHEAD_SECONDS: Final = 2.0
"""Between looks whether a projection may advance over events that do not concern it."""

WAIT_PAUSE_FIRST: Final = 0.002
"""Seconds until wait_for looks again: about the time that a batch takes."""

WAIT_PAUSE_MAX: Final = 0.1
"""Seconds between its looks at most."""

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class ProjectionStatus:
    """How a projection is.

    Attributes:
        name: of the projection.
        build, version: of the model that readers see.
        position: all events up to here were dealt with.
        lag_events: events in the log after the position, whether they concern it or not; 0 if
            none of them does.
        lag_seconds: age of the first event that concerns it and was not dealt with; 0: none.
        parked: how many streams are parked.
        next_build: the number of a build that is being made beside it, or None.
        next_position: how far that one is.
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
    """The projections of a database: `db.projections`."""

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
    ) -> Projection:
        """Define a projection; see Database.projection."""
        place = f"projection {name!r:.80}"
        NAME(name, f"{place}: name")
        if name in self._defined:
            raise InvalidArgument(f"{place}: it is defined already")
        for what, number, least in (
            ("version", version, 1),
            ("batch_size", batch_size, 1),
            ("attempts", attempts, 1),
        ):
            if number < least:
                raise InvalidArgument(f"{place}: {what}: {number}; at least {least} is needed")
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
        )
        self._defined[name] = projection
        return projection

    def defined(self, *names: str) -> list[Projection]:
        """Those of these names; without a name, all.

        Raises:
            InvalidArgument: one is not defined here, or none is.
        """
        for name in names:
            if name not in self._defined:
                raise InvalidArgument(
                    f"projection {name!r:.80} is not defined here; there are "
                    f"{', '.join(sorted(self._defined)) or 'none'}"
                )
        if not self._defined:
            raise InvalidArgument("no projections are defined; @db.projection(name) does")
        return [self._defined[name] for name in names or self._defined]

    def run(self, *names: str) -> AbstractAsyncContextManager[None]:
        """Run projections as long as a block runs; see Database.run_projections."""
        host = self._host()
        return beside([partial(work, host) for work in works(self.defined(*names))])

    # How they are.

    async def names(self) -> list[str]:
        """The names of all projections that ever ran on this database."""
        first, last = key_range(("$projection",), None, None)
        pages = KeyPages(
            self._host().channel.fetch, RECORDS, first, last, reverse=False, limit=None
        )
        return [str(key[1]) async for key, _ in pages if len(key) == 2]

    async def status(self, name: str) -> ProjectionStatus:
        """How a projection is.

        Raises:
            InvalidArgument: it never ran on this database.
        """
        status: ProjectionStatus = await self._read(name, self._status)
        return status

    async def _status(
        self, tx: ProjectionTransaction, head: Head, progress: Progress
    ) -> ProjectionStatus:
        following = None if head.next is None else await tx.progress(tx.name, head.next.number)
        _, rows = await tx.events(head.build.wanted, progress.position, 1)
        events, seconds = 0, 0.0
        if rows:
            newest = [event async for event in tx.read_all(reverse=True, limit=1)]
            events = newest[0].position - progress.position
            _, now = await self._host().channel.read("ping")
            seconds = max(0.0, (now - rows[0][4]) / 1_000_000)
        return ProjectionStatus(
            tx.name,
            head.build.number,
            head.build.version,
            progress.position,
            events,
            seconds,
            progress.parked,
            None if head.next is None else head.next.number,
            None if following is None else following.position,
        )

    async def wait_for(self, name: str, position: int, *, timeout: float = 30.0) -> None:  # noqa: ASYNC109
        """Return when a projection has dealt with all up to a position; see Database.wait_for."""
        POSITION(position, "wait_for: position")
        NAME(name, "wait_for: name")
        runtime = self._host().channel.runtime
        until = runtime.now() + timeout
        backoff = Backoff(WAIT_PAUSE_FIRST, WAIT_PAUSE_MAX)
        while not (reached := await self._transaction(name, self._reached, position))[0]:
            pause = backoff.next()
            if runtime.now() + pause >= until:
                raise ProjectionBehind(
                    f"projection {name} "
                    + ("never ran" if reached[1] is None else f"is at position {reached[1]}")
                    + f"; {position} was waited for, for {timeout:g} s"
                )
            await runtime.sleep(pause)

    async def _reached(self, tx: ProjectionTransaction, position: int) -> tuple[bool, int | None]:
        """Whether nothing is left to do up to a position; how far it is."""
        head = await tx.head(tx.name)
        progress = None if head is None else await tx.progress(tx.name, head.build.number)
        if head is None or progress is None:
            return False, None
        if progress.position >= position:
            return True, progress.position
        # What is left may be of no concern to it.
        looked, rows = await tx.events(head.build.wanted, progress.position, 1)
        left = rows[0][0] <= position if rows else looked < position
        return not left, progress.position

    # What failed.

    async def parked(self, name: str) -> list[ParkedStream]:
        """The parked streams of a projection, with the reason of each."""
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
        """Handle what parked streams hold, in order, from the event that failed.

        Args:
            name: of the projection, which must be defined here.
            stream: only this one; None: all.

        Returns:
            Those that failed again, and stay parked.
        """
        return await self._release(name, stream, skip=False)

    async def skip(self, name: str, stream: str) -> list[ParkedStream]:
        """Leave out the event that failed, for good, and handle those of its stream behind it.

        Returns:
            The stream, if a later event failed.
        """
        return await self._release(name, stream, skip=True)

    async def _release(self, name: str, stream: str | None, *, skip: bool) -> list[ParkedStream]:
        (projection,) = self.defined(name)
        build = await self._read(name, self._build)
        if build.version != projection.version:
            raise InvalidArgument(
                f"projection {name}: the handler is of version {projection.version}, the build "
                f"of {build.version}"
            )
        parked = {one.stream for one in await self.parked(name)}
        if stream is not None and stream not in parked:
            raise InvalidArgument(f"projection {name}: stream {stream!r:.80} is not parked")
        follower = Follower(self._host(), projection, build.number)
        chosen = parked if stream is None else {stream}
        for one in sorted(chosen):
            await follower.release(one, skip=skip)
        return [one for one in await self.parked(name) if one.stream in chosen]

    async def _build(self, tx: ProjectionTransaction, head: Head, progress: Progress) -> Any:  # noqa: ARG002
        return head.build

    # Making anew, and removing.

    async def rebuild(self, name: str, *, even_if_parked: bool = False) -> None:
        """Make the model anew beside the one that readers see, and put it in its place.

        It returns when that is done. What a handler writes to keys of its own, and not to
        `tx.model`, is written a second time; so keep in the model what is to be rebuilt.

        Args:
            name: of the projection, which must be defined here.
            even_if_parked: put it in its place even if events failed that did not fail before.

        Raises:
            RebuildRefused: events failed that did not fail before; readers see the old model.
        """
        (projection,) = self.defined(name)
        build = await rebuilt(self._host(), projection, even_if_parked=even_if_parked)
        if build is None:
            raise InvalidArgument(
                f"projection {name}: the handler is of version {projection.version}, and a build "
                "of a later one is there"
            )

    async def remove(self, name: str) -> None:
        """Remove a projection with its model. It must not be running.

        Raises:
            InvalidArgument: there is nothing of it: it never ran on this database.
        """
        NAME(name, "projection: name")
        prefixes: list[KeyTuple] = [("$projection", name), ("$parked", name), ("$model", name)]
        is_found = False
        for prefix in prefixes:
            # A removal that was broken off has left some of it.
            while await self._transaction(name, _remove_some, prefix):
                is_found = True
        if not is_found:
            raise InvalidArgument(f"projection {name!r:.80} never ran on this database")

    # Transactions.

    async def _read(
        self, name: str, function: Callable[[ProjectionTransaction, Head, Progress], Awaitable[Any]]
    ) -> Any:
        """What *function* says of the current build, all at one commit."""

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
    """A projection that is only looked at."""


async def _remove_some(tx: ProjectionTransaction, prefix: KeyTuple) -> bool:
    keys = await tx.keys(prefix, REMOVED_KEYS_MAX)
    tx.remove(keys)
    return len(keys) > 0


def check_handler(name: str, handler: Callable[..., Any], *, waits: bool) -> None:
    """Refuse a handler of the other face.

    Raises:
        InvalidArgument: it is a plain function where a coroutine's is needed, or the reverse.
    """
    if inspect.isfunction(handler) and inspect.iscoroutinefunction(handler) != waits:
        raise InvalidArgument(
            f"projection {name!r:.80}: the handler of "
            + ("trio and asyncio is an `async def`" if waits else "a blocking database is a `def`")
        )


# What runs, each on a database: that of the application, or a thread's own.


def works(projections: Sequence[Projection]) -> list[Callable[[Host], Awaitable[None]]]:
    """What has to run for some projections."""

    async def all_ahead(host: Host) -> None:
        await look_ahead_for_ever(host, projections)

    return [all_ahead, *(partial(_kept, projection) for projection in projections)]


async def _kept(projection: Projection, host: Host) -> None:
    await keep(host, projection)


async def keep(host: Host, projection: Projection) -> None:
    """Keep a projection level, for ever, whatever becomes of the connection.

    It ends if a newer version of the handler is at work elsewhere.

    Raises:
        HeadwaterError: one that time does not mend.
    """
    runtime = host.channel.runtime
    backoff = Backoff(PAUSE_FIRST, PAUSE_MAX)
    while True:
        try:
            build = await opened(host, projection)
            if build is None:
                log.warning(
                    "projection %s: version %s ends, a later one is at work",
                    projection.name,
                    projection.version,
                )
                return
            backoff.reset()
            await Follower(host, projection, build.number).follow()
        except (Superseded, PositionMismatch):
            pass  # Another process put another build there, or a backup was restored.
        except HeadwaterError as error:
            if not error.retryable and not isinstance(error, CommitUnknown):
                raise
            log.warning("projection %s: %s; it goes on", projection.name, error)
        await runtime.sleep(backoff.next())


async def look_ahead_for_ever(host: Host, projections: Sequence[Projection]) -> None:
    """Let projections advance over what does not concern them, now and then."""
    runtime = host.channel.runtime
    while True:
        await runtime.sleep(LOOK_AHEAD_SECONDS)
        for projection in projections:
            try:
                await look_ahead(host, projection)
            except Superseded:
                pass  # It was replaced meanwhile.
            except HeadwaterError as error:
                if not error.retryable and not isinstance(error, CommitUnknown):
                    raise


async def look_ahead(host: Host, projection: Projection) -> None:
    """Let one advance over what does not concern it."""

    async def read(tx: ProjectionTransaction) -> Head | None:
        return await tx.head(projection.name)

    head = await Follower(host, projection, 0).run(read)
    if head is not None and head.build.version == projection.version:
        await Follower(host, projection, head.build.number).look_ahead()
