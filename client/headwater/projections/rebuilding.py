"""Rebuilding: a new read model is built beside the one that readers see, and then replaces it.

    head: build 1 <-- readers                 head: build 2 <-- readers
          build 1 goes on                           build 1: its keys are removed
          build 2 from the first event on --level-->  build 2 goes on

The new build is level when it has processed all of its events up to the position of the old build.
Then one transaction names it in the head and retires the old build, whose followers notice that
their build is gone. So readers see the complete old build, and then the complete new one. A rebuild
that is interrupted continues where it stopped.

A build with more parked streams than the current one does not replace it: most likely, the new
handler is wrong. Nor is a build made if streams were truncated, because it would lack what the
current one has of the events that are gone.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from headwater.errors import InvalidArgument, RebuildRefused
from headwater.projections.follower import Follower, PositionMismatch, Projection, Superseded
from headwater.projections.host import Host
from headwater.projections.releasing import Release
from headwater.projections.state import (
    Build,
    Head,
    ParkedStream,
    Progress,
    ProjectionTransaction,
    build_key,
    head_key,
    model_key,
    parked_key,
)
from headwater.reads.listing import StreamPages, newest
from headwater_protocol.operations import SNAPSHOT

TRUNCATED_TOLD_MAX: Final = 100
"""Truncated streams that a refused rebuild names. One is enough to refuse it."""

REMOVED_KEYS_MAX: Final = 1000
"""Keys to remove in one transaction: enough to be fast, few enough not to block others."""


async def opened(host: Host, projection: Projection) -> Build | None:
    """The build that this handler has to follow. None: a newer version is running.

    Raises:
        InvalidArgument: the build has the version of the handler, but another filter.
    """

    async def begin(tx: ProjectionTransaction) -> Head:
        head = await tx.head(projection.name)
        if head is None:
            head = Head(Build(1, projection.version, projection.wanted))
            tx.write_record(head_key(projection.name), head.record())
            tx.write_record(build_key(projection.name, 1), Progress().record())
        return head

    head: Head = await Follower(host, projection, 0).run(begin)
    for number in head.retired:
        await remove_build(host, projection, number)
    if head.build.version > projection.version:
        return None
    if head.build.version < projection.version:
        return await rebuilt(host, projection)
    _check_filter(projection, head.build)
    return head.build


def _check_filter(projection: Projection, build: Build) -> None:
    if dict(build.wanted) != dict(projection.wanted):
        raise InvalidArgument(
            f"projection {projection.name}: it was built from the events {dict(build.wanted)}, not "
            f"{dict(projection.wanted)}; give it a higher version= to rebuild it"
        )


async def rebuilt(
    host: Host,
    projection: Projection,
    *,
    even_if_parked: bool = False,
    even_if_truncated: bool = False,
) -> Build | None:
    """Make a new build, and replace the current one. None: there is a build of a newer version.

    Args:
        host: the database.
        projection: with the handler for the new build.
        even_if_parked: replace the build even if the new one has more parked streams.
        even_if_truncated: make a new build even if it cannot see all events of the current one.

    Raises:
        RebuildRefused: events failed in the new build that did not fail before, or streams of the
            projection were truncated.
    """
    if not even_if_truncated:
        await _check_truncated(host, projection)
    head: Head = await Follower(host, projection, 0).run(_begin_rebuild, projection)
    build = head.next
    for number in head.retired:
        await remove_build(host, projection, number)
    if build is None:
        return None
    follower = Follower(host, projection, build.number)
    await retry_all(follower)

    async def level() -> bool:
        refused = await follower.run(_switch, projection.name, build, even_if_parked)
        if refused:
            raise RebuildRefused(
                f"projection {projection.name}: {len(refused)} streams are parked in build "
                f"{build.number}, the first because of {refused[0].reason}; readers keep the "
                "build before it. Fix the handler and rebuild again",
                details={"parked": [[one.stream, one.position, one.reason] for one in refused]},
            )
        return refused is not None

    while True:
        try:
            await follower.follow(level)
            break
        except PositionMismatch:
            continue
        except Superseded:
            # Another process has finished this rebuild, or has started another one.
            return await opened(host, projection)
    head = await Follower(host, projection, 0).run(_head, projection.name)
    for number in head.retired:
        await remove_build(host, projection, number)
    return build


async def retry_all(follower: Follower) -> None:
    """Retry the parked streams of a build, each from the event that failed."""

    async def parked(tx: ProjectionTransaction) -> dict[str, ParkedStream]:
        return await tx.parked(follower.projection.name, follower.build)

    for stream in await follower.run(parked):
        await Release(follower, stream).run()


async def _head(tx: ProjectionTransaction, name: str) -> Head:
    head = await tx.head(name)
    if head is None:
        raise Superseded
    return head


async def _check_truncated(host: Host, projection: Projection) -> None:
    """Refuse a new build that would be made of fewer events than the current one.

    A build of this version that was begun before goes on: it was told to.

    Raises:
        RebuildRefused: streams that the filter can select were truncated.
    """
    name = projection.name

    async def current(tx: ProjectionTransaction) -> tuple[Head | None, Progress | None]:
        head = await tx.head(name)
        return head, None if head is None else await tx.progress(name, head.build.number)

    head, progress = await Follower(host, projection, 0).run(current, isolation=SNAPSHOT)
    if head is None or progress is None or progress.time == 0:
        return  # The current build has seen no event.
    if head.next is not None and head.next.version == projection.version:
        return
    truncated: list[list[Any]] = []
    wanted = projection.wanted
    prefixes = [wanted[key] for key in ("stream", "category", "prefix") if key in wanted]
    async for info in StreamPages(
        host.channel.at_leader.read, max(prefixes, key=len, default=""), newest
    ):
        if info.first > info.begins and _is_selected(info.stream, wanted):
            truncated.append([info.stream, info.first, info.begins])
            if len(truncated) == TRUNCATED_TOLD_MAX:
                break
    if truncated:
        raise RebuildRefused(
            f"projection {name}: stream {truncated[0][0]} begins at version {truncated[0][2]}, and "
            f"its first event is {truncated[0][1]} now ({len(truncated)} such streams"
            f"{' or more' if len(truncated) == TRUNCATED_TOLD_MAX else ''}); a new build would "
            "lack what the current one made of the events before. Readers keep the current build. "
            "If the model can do without, call rebuild(name, even_if_truncated=True)",
            details={"truncated": truncated},
        )


def _is_selected(stream: str, wanted: Mapping[str, Any]) -> bool:
    """Whether a filter can select events of a stream."""
    return (
        wanted.get("stream", stream) == stream
        and wanted.get("category", stream.partition("-")[0]) == stream.partition("-")[0]
        and stream.startswith(wanted.get("prefix", ""))
    )


async def _begin_rebuild(tx: ProjectionTransaction, projection: Projection) -> Head:
    """Add the next build to the head, unless a build of this version is already being made."""
    name = projection.name
    head = await tx.head(name)
    if head is None:
        raise InvalidArgument(f"projection {name}: it never ran, so there is nothing to rebuild")
    if max(head.build.version, head.next.version if head.next else 0) > projection.version:
        return replace(head, next=None)
    if head.next is not None and (head.next.version, dict(head.next.wanted)) == (
        projection.version,
        dict(projection.wanted),
    ):
        return head
    retired = head.retired if head.next is None else (*head.retired, head.next.number)
    if head.next is not None:
        tx.delete(build_key(name, head.next.number))
    build = Build(head.last + 1, projection.version, projection.wanted)
    head = replace(head, next=build, last=build.number, retired=retired)
    tx.write_record(head_key(name), head.record())
    tx.write_record(build_key(name, build.number), Progress().record())
    return head


async def _switch(
    tx: ProjectionTransaction, name: str, build: Build, even_if_parked: bool
) -> list[ParkedStream] | None:
    """Make a build the current one, and return [].

    If it is not level yet, return None. If it has too many parked streams, return these.
    """
    head = await _head(tx, name)
    if head.build.number == build.number:
        return []
    if head.next is None or head.next.number != build.number:
        raise Superseded
    new = await tx.progress(name, build.number)
    old = await tx.progress(name, head.build.number)
    if new is None:
        raise Superseded
    if old is not None and new.position < old.position:
        if await tx.events(build.wanted, new.position, old.position, 1):
            return None
    if not even_if_parked and new.parked:
        parked = await tx.parked(name, build.number)
        if len(parked) > len(await tx.parked(name, head.build.number)):
            return [*parked.values()]
    tx.delete(build_key(name, head.build.number))
    switched = replace(head, build=build, next=None, retired=(*head.retired, head.build.number))
    tx.write_record(head_key(name), switched.record())
    return []


async def remove_build(host: Host, projection: Projection, number: int) -> None:
    """Remove the keys of a retired build, some at a time, and then its number from the head."""
    follower = Follower(host, projection, number)
    # First the parked streams: a release ends when the key of its stream is gone, and then writes
    # nothing more into the model.
    for prefix in (parked_key(projection.name, number), model_key(projection.name, number)):
        while await follower.run(_remove_some, prefix):
            pass
    await follower.run(_forget_build, projection.name, number)


async def _remove_some(tx: ProjectionTransaction, prefix: Any) -> bool:
    keys = await tx.keys(prefix, REMOVED_KEYS_MAX)
    tx.remove(keys)
    return len(keys) > 0


async def _forget_build(tx: ProjectionTransaction, name: str, number: int) -> None:
    head = await tx.head(name)
    if head is not None and number in head.retired:
        retired = tuple(other for other in head.retired if other != number)
        tx.write_record(head_key(name), replace(head, retired=retired).record())
