"""Reads and writes whole segments of the commit log, for a repair, which cannot open the log."""

import itertools
from collections.abc import Iterable, Iterator
from typing import Final

from headwater_server.storage.commits.commit_log import DIGITS, SUFFIX
from headwater_server.storage.commits.commit_records import (
    RECORD_SIZE,
    CommitRecord,
    pack_header,
    pack_records,
    unpack_header,
    unpack_record,
)
from headwater_server.storage.files.file_system import File, FileSystem, join

_CHUNK_RECORDS: Final = 16384
"""Records read or written in one call: 1 MiB."""


def segment_files(file_system: FileSystem, directory: str) -> list[tuple[int, str]]:
    """The first commit and the path of each segment, from the file names alone."""
    found = []
    for name in file_system.list(directory):
        stem = name.removesuffix(SUFFIX)
        if stem != name and stem.isdigit() and len(stem) == DIGITS:
            found.append((int(stem), join(directory, name)))
    return found


def segment_path(directory: str, first: int) -> str:
    """The path of the segment that begins with a commit."""
    return join(directory, f"{first:0{DIGITS}d}{SUFFIX}")


def read_capacity(file: File) -> int:
    """The capacity of a segment in records; 0 if its header is damaged."""
    return unpack_header(file.read_at(0, RECORD_SIZE))


def sound_records(file: File, first: int) -> Iterator[CommitRecord]:
    """The records of a segment that are sound and in their places."""
    for begin in range(1, file.size() // RECORD_SIZE, _CHUNK_RECORDS):
        data = file.read_at(begin * RECORD_SIZE, _CHUNK_RECORDS * RECORD_SIZE)
        for place in range(len(data) // RECORD_SIZE):
            record = unpack_record(data, place * RECORD_SIZE)
            if record is not None and record.commit == first + begin - 1 + place:
                yield record


def write_segment(
    file_system: FileSystem,
    path: str,
    first: int,
    capacity: int,
    records: Iterable[CommitRecord],
    *,
    database_id: bytes,
) -> None:
    """Write a whole segment to *path* and sync it; the caller makes its name durable."""
    file = file_system.create(path)
    try:
        file.write_at(0, pack_header(first, capacity, database_id))
        rest = iter(records)
        at = RECORD_SIZE
        while chunk := list(itertools.islice(rest, _CHUNK_RECORDS)):
            file.write_at(at, pack_records(chunk))
            at += RECORD_SIZE * len(chunk)
        file.sync()
    finally:
        file.close()
