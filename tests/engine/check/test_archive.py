"""A check of an archive finds every damaged or missing byte, and changes nothing."""

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater_protocol.errors import InvalidArgument
from headwater_server.engine.check.archive import check_archive
from headwater_server.storage.archive.directory import ArchiveDirectory
from headwater_server.storage.archive.piece import header_of, read_piece, write_piece
from headwater_server.testing.memory_files import MemoryFileSystem
from tests.engine.archive.archived import Archived

DIRECTORY = "archive/timeline-0001"
CHANGING = {"create", "write", "rename", "remove", "make_directory", "hard_link", "truncate"}


def sound() -> Archived:
    archived = Archived(seed=3)
    archived.work(40, archive_every=3)
    archived.archive()
    return archived


def test_a_sound_archive_is_clean_and_is_not_written_to() -> None:
    archived = sound()
    calls: list[str] = []
    archived.files.faults.before = lambda call: calls.append(call.operation)
    report = check_archive(archived.files, "archive")
    assert not report.findings
    assert not CHANGING & {*calls}
    (timeline,) = report.timelines
    assert (timeline.first, timeline.parent) == (1, None)
    assert (timeline.span.before, timeline.span.last) == (0, 40)
    assert report.pieces == len(archived.files.list(DIRECTORY))
    with pytest.raises(InvalidArgument, match="there is no archive at data"):
        check_archive(archived.files, "data")


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_any_changed_bit_and_any_missing_piece_is_found_and_named(data: st.DataObject) -> None:
    files: MemoryFileSystem = sound().files
    names = files.list(DIRECTORY)
    if data.draw(st.booleans()):
        name = data.draw(st.sampled_from(names))
        file = files.open(f"{DIRECTORY}/{name}")
        at = data.draw(st.integers(0, file.size() - 1))
        file.write_at(at, bytes([file.read_at(at, 1)[0] ^ (1 << data.draw(st.integers(0, 7)))]))
        (finding,) = check_archive(files, "archive").findings
        assert name in finding
    else:
        # The first and the last one cannot be missed: an archive may begin and end anywhere.
        name = data.draw(st.sampled_from(names[1:-1]))
        files.remove(f"{DIRECTORY}/{name}")
        (finding,) = check_archive(files, "archive").findings
        assert "are missing" in finding


@pytest.mark.parametrize("seed", range(3))
def test_a_header_that_lies_about_the_commits_is_found_although_all_sums_fit(seed: int) -> None:
    draw = random.Random(seed)
    archived = sound()
    archive = ArchiveDirectory.look_at(archived.files, "archive")
    piece = draw.choice(archive.pieces(1))
    path = archive.path_of(1, piece)
    header, packed, entries = read_piece(archived.files, path, database_id=archive.database_id)
    lies = (
        replace(header.span, last=header.span.last + 1),
        replace(header.span, before=header.span.before + 1),
        replace(header.span, last_id=b"x" * 16),
        replace(header.span, first_time=header.span.first_time - 1),
    )
    for lie in lies:
        archived.files.remove(path)
        made = header_of(
            packed, entries, lie, database_id=archive.database_id, timeline=header.timeline
        )
        write_piece(archived.files, DIRECTORY, made, packed, whole=piece.whole)
        assert any(str(piece) in each for each in check_archive(archived.files, "archive").findings)
