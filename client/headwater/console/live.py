"""What the script of the pages asks for: new commits as they come, and what a text may mean.

New commits are pushed as server-sent events. The console waits at the server for the next commit
(`wait_commit`), so a quiet database costs a request in 20 seconds, and a busy one at most
PUSHES_A_SECOND. The script closes the connection while its tab is hidden.
"""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

import anyio
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from headwater.console.addresses import address, key_address, key_from_address
from headwater.console.moments import commit_of
from headwater.console.sessions import Session
from headwater.console.words import clock, key_text, visible
from headwater.errors import CommitNotReached, HeadwaterError, NoSuchEvent, PermissionDenied
from headwater.records import RecordedEvent
from headwater_protocol.keys import KeyTuple
from headwater_protocol.limits import SLICES_MAX

PUSHES_A_SECOND: Final = 4
"""Pushes to a page, however many commits there are: more than that nobody reads."""

WAIT_S_MAX: Final = 20.0
"""Seconds without a commit after which a line is sent, so that a dead connection is noticed."""

LIVE_S_MAX: Final = 3600.0
"""Seconds after which a stream ends; the browser opens it again, and its session is checked."""

FOUND_MAX: Final = 8
"""Streams, and keys, that a search offers."""


async def live(request: Request, session: Session) -> Response:
    """New commits, as server-sent events with the number of the newest one."""
    after = _number(request, "after")

    async def events() -> AsyncIterator[str]:
        newest = after
        with anyio.move_on_after(LIVE_S_MAX):
            while True:
                try:
                    found = await session.db.wait_commit(newest + 1, timeout=WAIT_S_MAX)
                except CommitNotReached:
                    yield ": nothing new\n\n"
                    continue
                except HeadwaterError as error:
                    # The browser tries again by itself after `retry`.
                    yield f"retry: 2000\nevent: lost\ndata: {json.dumps(str(error))}\n\n"
                    return
                newest = max(found, newest + 1)
                yield f"data: {json.dumps({'commit': newest})}\n\n"
                # Commits that come in the meantime are in the next push.
                await anyio.sleep(1 / PUSHES_A_SECOND)

    return StreamingResponse(
        events(), media_type="text/event-stream", headers={"cache-control": "no-store"}
    )


async def track(request: Request, session: Session) -> Response:
    """The commits of the track in slices: for each mark the commit, its time and position.

    `axis=time` has slices of the same time, `axis=commits` of the same number of commits. `low` and
    `high` are the commits at the ends.
    """
    low, high = _number(request, "low"), _number(request, "high")
    slices = max(1, min(SLICES_MAX, _number(request, "n")))
    if not 0 < low < high:
        return JSONResponse({"marks": []})
    ends = await session.db.count_events(after=low, until=high, slices=1)
    if request.query_params.get("axis") == "time" and ends and ends[0].time < ends[-1].time:
        # The first commit belongs to the first slice, and the beginning is exclusive.
        since = ends[0].time - timedelta(microseconds=1)
        marks = await session.db.count_commits(since=since, until=ends[-1].time, slices=slices)
    else:
        marks = await session.db.count_events(after=low - 1, until=high, slices=slices)
    rows = [[one.commit, round(one.time.timestamp() * 1000), one.position] for one in marks]
    return JSONResponse({"marks": rows})


def _number(request: Request, name: str) -> int:
    text = request.query_params.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else 0


async def find(request: Request, session: Session) -> Response:
    """What a text may mean: a commit, a time, streams, keys, the id of an event."""
    text = request.query_params.get("q", "").strip()[:500]
    found: list[dict[str, str]] = []

    def offer(kind: str, name: str, where: str) -> None:
        found.append({"kind": kind, "name": name, "address": where})

    if text:
        for search in (_moments, _identities, _events, _streams, _keys):
            try:
                await search(session, text, offer)
            except (PermissionDenied, NoSuchEvent):
                # What the user may not read is not found.
                continue
    return JSONResponse({"found": found})


Offer = Callable[[str, str, str], None]


def event_address(event: RecordedEvent) -> str:
    """The address of an event, at no moment."""
    return address("/event", {"stream": event.stream, "version": event.version})


async def _moments(session: Session, text: str, offer: Offer) -> None:
    pong = await session.db.ping()
    try:
        commit = await commit_of(session.db, text, pong.commit, pong.time)
    except HeadwaterError:
        return
    if commit is not None:
        record = await anext(session.db.commits(after=commit - 1, limit=1), None)
        when = f", {clock(record.time)}" if record is not None else ""
        where = address("/commits", {"commit": commit, "at": commit})
        offer("Moment", f"commit {commit:,}{when}", where)


async def _events(session: Session, text: str, offer: Offer) -> None:
    if text.isascii() and text.isdigit() and len(text) < 19:
        event = await anext(session.db.read_all(after=int(text) - 1, limit=1), None)
        if event is not None and event.position == int(text):
            name = f"{visible(event.type)} at position {event.position:,}"
            offer("Event", name, event_address(event))


async def _identities(session: Session, text: str, offer: Offer) -> None:
    try:
        identity = UUID(text)
    except ValueError:
        return
    event = await session.db.find_event(identity)
    if event is not None:
        name = f"{visible(event.type)} of {visible(event.stream)}"
        offer("Event", name, event_address(event))


async def _streams(session: Session, text: str, offer: Offer) -> None:
    count = 0
    async for one in session.db.streams(prefix=text):
        offer("Stream", visible(one.stream), address("/stream", {"name": one.stream}))
        count += 1
        if count == FOUND_MAX:
            break


async def _keys(session: Session, text: str, offer: Offer) -> None:
    if text.startswith("["):
        try:
            key = key_from_address(text)
        except HeadwaterError:
            return
        offer("Key", key_text(key), address("/keys", {"key": key_address(key)}))
        return
    # The words of a text may be the first members of a key: `balance EV`.
    words: KeyTuple = tuple(text.split()[:8])
    async for key in session.db.scan(words, limit=FOUND_MAX, values=False):
        offer("Key", key_text(key), address("/keys", {"key": key_address(key)}))


ANSWERS: Final[dict[str, Callable[[Request, Session], Awaitable[Any]]]] = {
    "/live": live,
    "/find": find,
    "/track": track,
}
"""The answer of each address that only the script asks for."""
