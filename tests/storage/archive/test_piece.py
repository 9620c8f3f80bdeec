"""A piece of an archive gives back exactly the entries that were written, or is refused by name."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater_protocol.errors import DamagedFile, FormatTooNew, HeadwaterError
from headwater_server.storage.archive.piece import (
    HEADER_SIZE,
    PieceName,
    Span,
    ends_inside_record,
    header_of,
    read_header,
    read_piece,
    unpacked,
    write_piece,
)
from headwater_server.storage.wal.entry import CHAIN_START, ChainEnd, pack
from headwater_server.storage.wal.interface import Body, Epoch, WalIndex, cut_into_bodies
from headwater_server.testing.memory_files import MemoryFileSystem

DATABASE = bytes(range(16))
SPAN = Span(4, b"4" * 16, 9, b"9" * 16, 1000, 2000)


def packed_entries(count: int, source: random.Random) -> list[bytes]:
    entries: list[bytes] = []
    end: ChainEnd = CHAIN_START
    for _ in range(count):
        bodies = cut_into_bodies([source.randbytes(source.randrange(1, 200))], 1000)
        for body in bodies:
            entry, end = pack(body, end, Epoch(1), source.randbytes(16), WalIndex(0))
            entries.append(entry)
    return entries


def written(count: int = 20, seed: int = 1) -> tuple[MemoryFileSystem, str, list[bytes]]:
    files = MemoryFileSystem(random.Random(seed))
    files.make_directory("t")
    packed = packed_entries(count, random.Random(seed))
    entries = unpacked(packed, 0, None)
    header = header_of(packed, entries, SPAN, database_id=DATABASE, timeline=3)
    name = write_piece(files, "t", header, packed, whole=True)
    return files, f"t/{name}", packed


def test_a_piece_gives_back_its_entries_byte_for_byte_after_a_power_loss() -> None:
    files, path, packed = written()
    header, found, entries = read_piece(files.crash(), path, database_id=DATABASE)
    assert found == packed
    assert [entry.index for entry in entries] == list(range(1, 21))
    assert header == read_header(files, path, database_id=DATABASE)
    assert (header.first, header.last, header.timeline) == (1, 20, 3)
    assert header.span == SPAN
    assert header.size == sum(map(len, packed))


def test_names_of_pieces_tell_their_entries() -> None:
    for name in (PieceName(1, 812, whole=True), PieceName(813, 829, whole=False)):
        assert PieceName.parse(str(name)) == name
    for foreign in ("OWNER", "1-2.log", f"{PieceName(1, 2, whole=True)}.tmp", "x"):
        assert PieceName.parse(foreign) is None


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_piece_with_any_changed_bytes_is_refused_and_named(data: st.DataObject) -> None:
    files, path, _ = written(6)
    file = files.open(path)
    content = bytearray(file.read_at(0, file.size()))
    kind = data.draw(st.sampled_from(["flip", "cut", "extend", "swap", "zero"]))
    at = data.draw(st.integers(0, len(content) - 1))
    if kind == "flip":
        content[at] ^= 1 << data.draw(st.integers(0, 7))
    elif kind == "cut":
        del content[at:]
    elif kind == "extend":
        content += bytes(data.draw(st.integers(1, 100)))
    elif kind == "swap":
        half = HEADER_SIZE + (len(content) - HEADER_SIZE) // 2
        content[HEADER_SIZE:] = content[half:] + content[HEADER_SIZE:half]
    else:
        before = bytes(content)
        size = data.draw(st.integers(1, 64))
        content[at : at + size] = bytes(len(content[at : at + size]))
        if content == before:
            content[at] ^= 1
    file.truncate(0)
    file.write_at(0, bytes(content))
    with pytest.raises(HeadwaterError) as raised:
        read_piece(files, path, database_id=DATABASE)
    assert isinstance(raised.value, DamagedFile | FormatTooNew)
    assert path in raised.value.message


def test_a_piece_under_the_name_of_another_or_of_another_database_is_refused() -> None:
    files, path, _ = written()
    with pytest.raises(DamagedFile, match="belongs to the database"):
        read_piece(files, path, database_id=bytes(16))
    other = f"t/{PieceName(2, 20, whole=True)}"
    files.rename(path, other)
    with pytest.raises(DamagedFile, match="the header is of entries 1 to 20"):
        read_piece(files, other, database_id=DATABASE)


def test_entries_that_do_not_follow_each_other_make_no_piece() -> None:
    packed = packed_entries(5, random.Random(1))
    assert len(unpacked(packed, 0, None)) == 5
    with pytest.raises(ValueError, match="entry 3 follows entry 1"):
        unpacked([packed[0], *packed[2:]], 0, None)
    with pytest.raises(ValueError, match="hash of the one before"):
        unpacked(packed[1:], 1, b"x" * 16)
    other = packed_entries(5, random.Random(2))
    with pytest.raises(ValueError, match="hash of the one before"):
        unpacked([packed[0], other[1]], 0, None)


def test_a_record_that_goes_on_in_the_next_entry_does_not_end_a_piece() -> None:
    bodies = [Body([b"\0\0\0\1x"], continued=True), Body([b"\0\0\0\1y"], resumed=True)]
    first, end = pack(bodies[0], CHAIN_START, Epoch(1), bytes(16), WalIndex(0))
    second, _ = pack(bodies[1], end, Epoch(1), bytes(16), WalIndex(0))
    assert ends_inside_record(first)
    assert not ends_inside_record(second)
