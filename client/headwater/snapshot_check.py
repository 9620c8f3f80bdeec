"""Checking snapshots: each against a replay of the events that it stands for.

A snapshot is a cache of what the events come to. It is wrong if the code changed and its schema
did not, if evolve looks at something else than the state and the event, or if it was damaged.
Loading would then go on from it. This finds out.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Literal

from headwater.codec import Codec, RawCodec, decode_with, encode_with
from headwater.database import Database
from headwater.pages import SnapshotPages
from headwater.records import StoredSnapshot
from headwater.repository import Repository

Verdict = Literal["equal", "differs", "unreadable", "gone"]


@dataclass(frozen=True, slots=True)
class Checked:
    """What became of one snapshot.

    Attributes:
        verdict: "equal"; "differs"; "unreadable": it cannot be decoded, so loading passes over
            it; "gone": it differs, but the stream's first events were truncated or deleted, so
            nothing can be held against it.
        kept, replayed: the state in the snapshot, and the one that the events come to, as plain
            data. None if it is unreadable.
    """

    stream: str
    version: int
    verdict: Verdict
    kept: Any = None
    replayed: Any = None


async def check_snapshots(
    db: Database, repository: Repository[Any], *, prefix: str = ""
) -> AsyncIterator[Checked]:
    """Hold every snapshot of a repository's name and schema against a replay.

    Args:
        db: where they are stored.
        repository: whose they are.
        prefix: only of streams whose names begin so.
    """
    codec = db._codec  # noqa: SLF001
    waiting: list[StoredSnapshot] = []
    # They come a stream after the other, so each stream is replayed once.
    async for snapshot in SnapshotPages(db._channel.read, RawCodec()):  # noqa: SLF001
        if (snapshot.name, snapshot.schema) != (repository.name, repository.schema):
            continue
        if not snapshot.stream.startswith(prefix):
            continue
        if waiting and waiting[0].stream != snapshot.stream:
            async for checked in _check_stream(db, repository, codec, waiting):
                yield checked
            waiting = []
        waiting.append(snapshot)
    if waiting:
        async for checked in _check_stream(db, repository, codec, waiting):
            yield checked


async def _check_stream(
    db: Database,
    repository: Repository[Any],
    codec: Codec,
    snapshots: list[StoredSnapshot],
) -> AsyncIterator[Checked]:
    stream = snapshots[0].stream
    state = repository.initial()
    events = db.read(stream)
    first = version = 0
    for snapshot in sorted(snapshots, key=lambda snapshot: snapshot.version):
        while version < snapshot.version:
            event = await anext(events, None)
            if event is None:
                break
            first = first or event.version
            version = event.version
            state = repository.evolve(state, event)
        checked = _compare(repository, codec, snapshot, state)
        if checked.verdict == "differs" and (first != 1 or version != snapshot.version):
            checked = Checked(stream, snapshot.version, "gone", checked.kept, checked.replayed)
        yield checked


def _compare(
    repository: Repository[Any], codec: Codec, snapshot: StoredSnapshot, state: Any
) -> Checked:
    stream, version = snapshot.stream, snapshot.version
    place = f"snapshot {version} of {stream}"
    try:
        kept = decode_with(codec, snapshot.state, place)
        repository.load_state(kept)
    except Exception:
        return Checked(stream, version, "unreadable")
    encoded = encode_with(codec, repository.dump_state(state), place)
    replayed = decode_with(codec, encoded, place)
    # The bytes settle it for values that do not equal themselves, such as NaN.
    equal = kept == replayed or snapshot.state == encoded
    return Checked(stream, version, "equal" if equal else "differs", kept, replayed)
