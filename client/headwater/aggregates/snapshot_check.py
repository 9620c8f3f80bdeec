"""Checks snapshots: each is compared with a replay of the events that it replaces.

A snapshot is a cache of the state after some events. It is wrong if the code changed and its schema
did not, if evolve depends on anything but the state and the event, or if it was damaged. Loading
would continue from the wrong state; this check finds it.

    version      1    2    3    4    5    6    7    8    9
    events       '-- truncated --'    |-------------------|
    snapshots                  3           6         8
                               |           '- equal? -'
                               '- gone: it replaces hidden events; later ones are compared with it
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Literal

from headwater.aggregates.repository import Repository
from headwater.codecs.codec import Codec, RawCodec, decode_with, encode_with
from headwater.database import Database
from headwater.reads.pages import SnapshotPages
from headwater.records import StoredSnapshot

Verdict = Literal["equal", "differs", "unreadable", "gone", "missing"]


@dataclass(frozen=True, slots=True)
class Checked:
    """The result for one snapshot, or for a stream that lacks one.

    Attributes:
        stream: its name.
        version: of the snapshot, or of the stream that lacks one.
        verdict: "equal"; "differs"; "unreadable": it cannot be decoded, so loading ignores it;
            "gone": events before it were truncated, so it cannot be compared; "missing": the stream
            was truncated and has only snapshots of other schemas, so this code cannot load it.
        kept, replayed: the state in the snapshot, and the state after the events, as plain data.
            None if there is none.
    """

    stream: str
    version: int
    verdict: Verdict
    kept: Any = None
    replayed: Any = None


async def check_snapshots(
    db: Database, repository: Repository[Any], *, prefix: str = ""
) -> AsyncIterator[Checked]:
    """Compare all snapshots of a repository's name and schema with a replay.

    Args:
        db: the database.
        repository: the rules of the aggregates.
        prefix: only streams whose names begin with it.
    """
    waiting: list[StoredSnapshot] = []
    # Snapshots come stream by stream, so each stream is replayed once.
    async for snapshot in SnapshotPages(db._channel.read, RawCodec()):  # noqa: SLF001
        if snapshot.name != repository.name or not snapshot.stream.startswith(prefix):
            continue
        if waiting and waiting[0].stream != snapshot.stream:
            async for checked in _check_stream(db, repository, waiting):
                yield checked
            waiting = []
        waiting.append(snapshot)
    if waiting:
        async for checked in _check_stream(db, repository, waiting):
            yield checked


async def _check_stream(
    db: Database, repository: Repository[Any], stored: list[StoredSnapshot]
) -> AsyncIterator[Checked]:
    stream, codec = stored[0].stream, db._codec  # noqa: SLF001
    snapshots = [snapshot for snapshot in stored if snapshot.schema == repository.schema]
    # Of all names with this prefix, the name itself comes first.
    info = await anext(db.streams(prefix=stream), None)
    if info is None or info.stream != stream:
        return  # The stream and its snapshots were deleted meanwhile.
    if not snapshots:
        if info.first > info.begins and not await _has_summary(db, repository, stream):
            yield Checked(stream, info.version, "missing")
        return
    state, version, is_known = repository.initial(), info.begins - 1, True
    events = db.read(stream)
    event = await anext(events, None)
    for snapshot in sorted(snapshots, key=lambda snapshot: snapshot.version):
        while event is not None and event.version <= snapshot.version:
            is_known = is_known and event.version == version + 1
            if not is_known and repository.is_summary(event):
                state, is_known = repository.initial(), True
            if is_known:
                state = repository.replay(state, [event])
            version = event.version
            event = await anext(events, None)
        if is_known and version == snapshot.version:
            yield _compare(repository, codec, snapshot, state)
            continue
        try:
            kept = _decoded(codec, snapshot)
            state = repository.load_state(_decoded(codec, snapshot))
        except Exception:
            is_known = False
            yield Checked(stream, snapshot.version, "unreadable")
            continue
        # Later snapshots can be compared with this one, if all events in between are visible.
        version, is_known = snapshot.version, True
        yield Checked(stream, version, "gone", kept)


async def _has_summary(db: Database, repository: Repository[Any], stream: str) -> bool:
    if not repository.summaries:
        return False
    events = db.read(stream, types=sorted(repository.summaries))
    return any([repository.is_summary(event) async for event in events])


def _decoded(codec: Codec, snapshot: StoredSnapshot) -> Any:
    return decode_with(codec, snapshot.state, f"snapshot {snapshot.version} of {snapshot.stream}")


def _compare(
    repository: Repository[Any], codec: Codec, snapshot: StoredSnapshot, state: Any
) -> Checked:
    stream, version = snapshot.stream, snapshot.version
    try:
        kept = _decoded(codec, snapshot)
        repository.load_state(kept)
    except Exception:
        return Checked(stream, version, "unreadable")
    place = f"snapshot {version} of {stream}"
    encoded = encode_with(codec, repository.dump_state(state), place)
    replayed = decode_with(codec, encoded, place)
    # Comparing bytes helps with values that do not equal themselves, such as NaN.
    equal = kept == replayed or snapshot.state == encoded
    return Checked(stream, version, "equal" if equal else "differs", kept, replayed)
