"""Runners: what runs in the background to keep projections up to date, until it is cancelled.

    a runner for each projection    follows its current build, across lost connections
    one for all                     lets projections skip events that they do not handle

Each is given a host: that of the application, or of a thread.
"""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final

from headwater.errors import CommitUnknown, HeadwaterError
from headwater.projections.failures import Failures, log
from headwater.projections.follower import Follower, PositionMismatch, Projection, Superseded
from headwater.projections.host import Host
from headwater.projections.rebuilding import opened
from headwater.projections.state import Head, ProjectionTransaction
from headwater.transport.backoff import PAUSE_FIRST, PAUSE_MAX, Backoff

LOOK_AHEAD_SECONDS: Final = 2.0
"""Seconds between checks whether a projection can skip events that it does not handle."""


def works(projections: Sequence[Projection]) -> list[Callable[[Host], Awaitable[None]]]:
    """The background tasks of some projections."""

    async def all_ahead(host: Host) -> None:
        await look_ahead_for_ever(host, projections)

    return [all_ahead, *(partial(_kept, projection) for projection in projections)]


async def _kept(projection: Projection, host: Host) -> None:
    await keep(host, projection)


async def keep(host: Host, projection: Projection) -> None:
    """Keep a projection up to date, across lost connections.

    Returns only if a newer version of the handler runs elsewhere.

    Raises:
        HeadwaterError: an error that retrying cannot cure.
    """
    runtime = host.channel.runtime
    backoff = Backoff(PAUSE_FIRST, PAUSE_MAX)
    failures = Failures()
    while True:
        try:
            build = await opened(host, projection)
            if build is None:
                log.warning(
                    "projection %s: version %s stops, because a later version is running",
                    projection.name,
                    projection.version,
                )
                return
            backoff.reset()
            await Follower(host, projection, build.number, failures).follow()
        except (Superseded, PositionMismatch):
            pass  # Another process replaced the build, or a backup was restored.
        except HeadwaterError as error:
            if not error.retryable and not isinstance(error, CommitUnknown):
                raise
            log.warning("projection %s: %s; retrying", projection.name, error)
        await runtime.sleep(backoff.next())


async def look_ahead_for_ever(host: Host, projections: Sequence[Projection]) -> None:
    """Let projections skip events that they do not handle, every LOOK_AHEAD_SECONDS."""
    runtime = host.channel.runtime
    while True:
        await runtime.sleep(LOOK_AHEAD_SECONDS)
        for projection in projections:
            try:
                await look_ahead(host, projection)
            except Superseded:
                pass  # The build was replaced meanwhile.
            except HeadwaterError as error:
                if not error.retryable and not isinstance(error, CommitUnknown):
                    raise


async def look_ahead(host: Host, projection: Projection) -> None:
    """Let a projection skip events that it does not handle."""

    async def read(tx: ProjectionTransaction) -> Head | None:
        return await tx.head(projection.name)

    head = await Follower(host, projection, 0).run(read)
    if head is not None and head.build.version == projection.version:
        await Follower(host, projection, head.build.number).look_ahead()
