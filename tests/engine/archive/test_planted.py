"""Planted defects of the archive: the worlds are clean without them, and find each of them."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pytest

from headwater_server.engine.archive import archiver, history
from headwater_server.engine.archive.archiver import Archiver
from headwater_server.engine.archive.history import Timeline
from headwater_server.storage.archive import piece
from headwater_server.storage.archive.directory import ArchiveDirectory
from headwater_server.storage.wal.readers import LogReaders
from tests.engine.archive.worlds import problem_of

WORLDS_MAX = 80
"""Worlds within which a defect must be found."""


class Mutant(NamedTuple):
    """A defect: the wrong behaviour that *make* builds of the right one takes its place."""

    name: str
    owner: Any
    attribute: str
    make: Callable[[Any], Any]


class _Unsynced:
    """A file system that does not sync what the archive writes."""

    def __init__(self, right: Any, *, files: bool, directories: bool) -> None:
        self._right = right
        self._files = files
        self._directories = directories

    def __getattr__(self, name: str) -> Any:
        return getattr(self._right, name)

    def create(self, path: str) -> Any:
        file = self._right.create(path)
        if self._files:
            file.sync = lambda: None
        return file

    def sync_directory(self, path: str) -> None:
        if not self._directories:
            self._right.sync_directory(path)


def unsynced(*, files: bool = False, directories: bool = False) -> Callable[[Any], Any]:
    def make(right: Any) -> Any:
        def write_piece(system: Any, *rest: Any, **named: Any) -> Any:
            return right(_Unsynced(system, files=files, directories=directories), *rest, **named)

        return write_piece

    return make


def merging_first_removes(right: Any) -> Any:
    def merge(self: Archiver, place: Any) -> None:
        parts = list(place.parts)
        right(self, place)
        # As if the whole piece were written after the parts are gone, and never got there.
        merged = place.directory.pieces(place.timeline)[-1]
        if len(parts) > 2 and merged.whole:
            place.directory.remove(place.timeline, merged)

    return merge


def one_commit_more(right: Any) -> Any:
    def upto(records: list[bytes], commit: int) -> Any:
        return right(records, commit + 1)

    return upto


def ignoring_the_hash(right: Any) -> Any:
    def continued(self: Archiver, directory: ArchiveDirectory) -> Any:
        for timeline in reversed(directory.timelines()):
            pieces = directory.pieces(timeline)
            header = piece.read_header(
                self._file_system,
                directory.path_of(timeline, pieces[-1]),
                database_id=self._database_id,
            )
            if header.last <= self._log.last_index:
                place = self._new_timeline(directory)
                place.timeline, place.index, place.span = timeline, header.last, header.span
                place.cursor = self._log.cursor(header.last)  # type: ignore[arg-type]
                return place
        return None

    return continued


def no_entries(right: Any) -> Any:
    def note(self: LogReaders, name: str, after: int) -> None:
        self.forget(name)

    return note


def forgetting_the_commit_before(right: Any) -> Any:
    def before(self: Archiver, entries: Sequence[Any], published: int) -> Any:
        return piece.Span(0, bytes(16), 0, bytes(16), 0, 0)

    return before


def skipping_a_piece(right: Any) -> Any:
    def place_of(self: Timeline, commit: int) -> int:
        return min(int(right(self, commit)) + 1, len(self.pieces) - 1)

    return place_of


MUTANTS = (
    Mutant("a piece is named before it is durable", archiver, "write_piece", unsynced(files=True)),
    Mutant("a piece's name is not durable", archiver, "write_piece", unsynced(directories=True)),
    Mutant("merging loses the merged piece", Archiver, "_merge", merging_first_removes),
    Mutant("a restore applies a commit too many", history, "_upto", one_commit_more),
    Mutant("a foreign timeline is continued", Archiver, "_continued", ignoring_the_hash),
    Mutant("the log is not kept for the archive", LogReaders, "note", no_entries),
    Mutant("the commit before is not noted", Archiver, "_before", forgetting_the_commit_before),
    Mutant("a replay begins a piece too late", Timeline, "place_of", skipping_a_piece),
)  # fmt: skip


@pytest.mark.parametrize("first", range(0, 24, 8))
def test_worlds_without_a_defect_have_no_problem(first: int) -> None:
    for seed in range(first, first + 8):
        assert problem_of(seed) is None, f"seed {seed}"


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_planted_defect_is_found(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    right = getattr(mutant.owner, mutant.attribute)
    monkeypatch.setattr(mutant.owner, mutant.attribute, mutant.make(right))
    found = (problem_of(seed) for seed in range(WORLDS_MAX))
    assert next(filter(None, found), None) is not None
