"""One piece of an archive: a file with consecutive entries of a log.

    0            256                                        256 + size
    +------------+----------+----------+---- … ----+
    |   header   |  entry   |  entry   |           |     entries byte for byte as in the log
    +------------+----------+----------+---- … ----+

    header   magic 8 | format u32 | timeline u32 | database id 16 | first index u64 |
             last index u64 | epoch u64 | hash before 16 | hash of the last entry 16 |
             commit before u64 | its transaction 16 | last commit u64 | its transaction 16 |
             first time u64 | last time u64 | size u64 | SHA-256 of the entries 32 | zeros |
             crc32 u32 of all before it

A piece never changes. It gets its name only once it is durable, so a name means that the piece is
complete. It never ends inside a record.

    00000000000000000001-00000000000000000812.log     a whole piece
    00000000000000000813-00000000000000000829.part    a small one; several are merged into a whole

The header says which commits are in the piece, so a reader finds a commit or a time by reading
headers. The transaction of the commit before the first tells apart two histories in which commits
have the same numbers.
"""

import hashlib
import re
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from headwater_protocol.errors import DamagedFile, FormatTooNew
from headwater_protocol.limits import MIB
from headwater_server.storage.files.file_system import FileSystem, join
from headwater_server.storage.log.log_segment import unpack_entry
from headwater_server.storage.wal.entry import hash_of, unpack
from headwater_server.storage.wal.interface import WalEntry

HEADER_SIZE: Final = 256
FORMAT: Final = 1
WHOLE: Final = ".log"
PART: Final = ".part"
TEMPORARY: Final = ".tmp"

PIECE_SIZE: Final = 16 * MIB
"""Bytes of entries at which a piece is whole: those of a segment of the log. A piece goes on to the
end of its last record, and it is read into memory as a whole."""

PIECE_SIZE_MAX: Final = 256 * MIB
"""Bytes of entries of the largest piece that is read: far above a piece with the largest record. A
wrong size in a header must not cost us memory."""

_MAGIC: Final = b"HEADWARC"
_HEADER: Final = struct.Struct(">8sII16sQQQ16s16sQ16sQ16sQQQ32s")
_CRC: Final = struct.Struct(">I")
_PADDING: Final = bytes(HEADER_SIZE - _HEADER.size - _CRC.size)
_LENGTH: Final = struct.Struct(">I")
_NAME: Final = re.compile(r"(\d{20})-(\d{20})(\.log|\.part)")
_ENTRY_HEADER_SIZE: Final = 16
_EMPTY_ENTRY_SIZE: Final = 72


@dataclass(frozen=True, slots=True)
class Span:
    """The commits in consecutive entries.

    Attributes:
        before: the newest commit before these entries, 0 if there is none.
        before_id: its transaction; zeros if it is unknown, or if there is no such commit.
        last: the newest commit in these entries or before them.
        last_id: its transaction; likewise.
        first_time, last_time: of the first and the last record, in microseconds; both are the time
            of the record before if there is none.
    """

    before: int
    before_id: bytes
    last: int
    last_id: bytes
    first_time: int
    last_time: int


@dataclass(frozen=True, slots=True)
class PieceHeader:
    """What the header of a piece says.

    Attributes:
        database_id: 16 bytes.
        timeline: the number of the history that it belongs to.
        first, last: the indexes of its first and last entry.
        epoch: that of the last entry.
        hash_before: the hash that the first entry says the one before it has.
        hash: the hash of the last entry.
        span: the commits in it.
        size: bytes of its entries.
        digest: the SHA-256 of its entries.
    """

    database_id: bytes
    timeline: int
    first: int
    last: int
    epoch: int
    hash_before: bytes
    hash: bytes
    span: Span
    size: int
    digest: bytes

    def pack(self) -> bytes:
        """The header's bytes."""
        span = self.span
        block = (
            _HEADER.pack(
                _MAGIC,
                FORMAT,
                self.timeline,
                self.database_id,
                self.first,
                self.last,
                self.epoch,
                self.hash_before,
                self.hash,
                span.before,
                span.before_id,
                span.last,
                span.last_id,
                span.first_time,
                span.last_time,
                self.size,
                self.digest,
            )
            + _PADDING
        )
        return block + _CRC.pack(zlib.crc32(block))


@dataclass(frozen=True, slots=True)
class PieceName:
    """What the name of a piece says: its indexes, and whether it is whole."""

    first: int
    last: int
    whole: bool

    def __str__(self) -> str:
        return f"{self.first:020d}-{self.last:020d}{WHOLE if self.whole else PART}"

    @staticmethod
    def parse(name: str) -> "PieceName | None":
        """The parts of a name; None if it is not that of a piece."""
        found = _NAME.fullmatch(name)
        if found is None:
            return None
        return PieceName(int(found[1]), int(found[2]), found[3] == WHOLE)


def damaged(path: str, offset: int, what: str) -> DamagedFile:
    """The error for a piece that is not what was written."""
    return DamagedFile(
        f"{path} at offset {offset}: {what}", details={"file": path, "offset": offset}
    )


def unpacked(packed: Sequence[bytes], after: int, hash_before: bytes | None) -> list[WalEntry]:
    """Unpack entries, and check that they follow each other.

    Args:
        packed: the entries, with checksums that were verified.
        after: the index before the first.
        hash_before: the hash of the entry before the first; None if it is not known.

    Raises:
        ValueError: they do not; the message says why.
    """
    entries: list[WalEntry] = []
    before = hash_before
    for each in packed:
        entry = unpack(each)
        if entry is None:
            raise ValueError(f"no entry of a log in place of entry {after + 1}")
        if entry.index != after + 1:
            raise ValueError(f"entry {entry.index} follows entry {after}")
        if before is not None and entry.previous_hash != before:
            raise ValueError(f"entry {entry.index} does not carry the hash of the one before it")
        entries.append(entry)
        after = entry.index
        before = hash_of(each)
    return entries


def ends_inside_record(packed: bytes) -> bool:
    """Whether the record of a packed entry continues in the next one."""
    entry = unpack(packed)
    return entry is not None and entry.continued


def header_of(
    packed: Sequence[bytes],
    entries: Sequence[WalEntry],
    span: Span,
    *,
    database_id: bytes,
    timeline: int,
) -> PieceHeader:
    """The header of the piece with these entries, which `unpacked` has checked."""
    assert entries
    assert not entries[-1].continued, "a piece never ends inside a record"
    digest = hashlib.sha256(usedforsecurity=False)
    for each in packed:
        digest.update(each)
    return PieceHeader(
        database_id,
        timeline,
        entries[0].index,
        entries[-1].index,
        entries[-1].epoch,
        entries[0].previous_hash,
        hash_of(packed[-1]),
        span,
        sum(map(len, packed)),
        digest.digest(),
    )


def write_piece(
    file_system: FileSystem,
    directory: str,
    header: PieceHeader,
    packed: Iterable[bytes],
    *,
    whole: bool,
) -> PieceName:
    """Write a piece; it is durable under its name on return.

    A failed attempt leaves a temporary file, which the next one replaces. Its bytes are never
    synced again, since a second sync may report success for pages that were lost.

    Raises:
        DiskFull, OSError: there is no such piece.
    """
    name = PieceName(header.first, header.last, whole)
    temporary = join(directory, f"{name}{TEMPORARY}")
    if file_system.exists(temporary):
        file_system.remove(temporary)
    file = file_system.create(temporary)
    try:
        file.write_at(0, header.pack())
        at = HEADER_SIZE
        for chunk in _chunks(packed):
            file.write_at(at, chunk)
            at += len(chunk)
        file.sync()
    finally:
        file.close()
    file_system.rename(temporary, join(directory, str(name)))
    file_system.sync_directory(directory)
    return name


def _chunks(packed: Iterable[bytes]) -> Iterator[bytes]:
    """Join small entries, so that a write is not one entry."""
    waiting: list[bytes] = []
    size = 0
    for each in packed:
        waiting.append(each)
        size += len(each)
        if size >= MIB:
            yield b"".join(waiting)
            waiting.clear()
            size = 0
    if waiting:
        yield b"".join(waiting)


def read_header(file_system: FileSystem, path: str, *, database_id: bytes) -> PieceHeader:
    """The header of a piece, which must agree with its name.

    Raises:
        DamagedFile: it is not what was written, or of another database.
        FormatTooNew: a newer version wrote it.
        OSError: it is missing, or the disk failed.
    """
    file = file_system.open(path, writable=False)
    try:
        block = file.read_at(0, HEADER_SIZE)
        size = file.size()
    finally:
        file.close()
    return _parse(block, size, path, database_id)


def _parse(block: bytes, file_size: int, path: str, database_id: bytes) -> PieceHeader:
    if len(block) < HEADER_SIZE:
        raise damaged(path, len(block), "the file ends inside the header")
    if zlib.crc32(block[: -_CRC.size]) != _CRC.unpack_from(block, HEADER_SIZE - _CRC.size)[0]:
        raise damaged(path, 0, "the header fails its checksum")
    magic, form, timeline, owner, first, last, epoch, before, newest, *rest = _HEADER.unpack_from(
        block
    )
    *members, size, digest = rest
    if magic != _MAGIC:
        raise damaged(path, 0, f"not a piece of an archive: it begins with {magic!r}")
    if form > FORMAT:
        raise FormatTooNew(f"{path} has format {form}; this version reads up to {FORMAT}")
    if owner != database_id:
        raise damaged(path, 0, f"it belongs to the database {owner.hex()}")
    name = PieceName.parse(path.rpartition("/")[2])
    if name is None or (name.first, name.last) != (first, last) or not 0 < first <= last:
        raise damaged(path, 0, f"the header is of entries {first} to {last}")
    if file_size != HEADER_SIZE + size or size > PIECE_SIZE_MAX:
        what = f"a file of {file_size} bytes in place of {HEADER_SIZE + size}"
        raise damaged(path, min(file_size, HEADER_SIZE + size), what)
    return PieceHeader(
        owner, timeline, first, last, epoch, before, newest, Span(*members), size, digest
    )


def read_piece(
    file_system: FileSystem, path: str, *, database_id: bytes
) -> tuple[PieceHeader, list[bytes], list[WalEntry]]:
    """A piece with its entries, packed and unpacked. Everything is verified before it is returned.

    Raises:
        DamagedFile: something is not what was written.
        FormatTooNew: a newer version wrote it.
        OSError: it is missing, or the disk failed.
    """
    file = file_system.open(path, writable=False)
    try:
        header = _parse(file.read_at(0, HEADER_SIZE), file.size(), path, database_id)
        data = file.read_at(HEADER_SIZE, header.size)
    finally:
        file.close()
    if hashlib.sha256(data, usedforsecurity=False).digest() != header.digest:
        at = _first_bad(data, header.first)
        raise damaged(path, HEADER_SIZE + at, "the entries fail their digest")
    packed = list(_cut(data, header.first))
    if sum(map(len, packed)) != len(data):
        raise damaged(path, HEADER_SIZE, f"entries {header.first} to {header.last} do not fit")
    try:
        entries = unpacked(packed, header.first - 1, header.hash_before)
    except ValueError as error:
        raise damaged(path, HEADER_SIZE, str(error)) from error
    if not entries or entries[-1].index != header.last or hash_of(packed[-1]) != header.hash:
        raise damaged(path, HEADER_SIZE, f"it does not end with entry {header.last}")
    return header, packed, entries


def _cut(data: bytes, index: int) -> Iterator[bytes]:
    """The sound entries from the beginning of some bytes on."""
    at = 0
    while at + _EMPTY_ENTRY_SIZE <= len(data) and unpack_entry(data, at, index) is not None:
        size = _ENTRY_HEADER_SIZE + (_LENGTH.unpack_from(data, at)[0] + 7 & ~7)
        yield data[at : at + size]
        at += size
        index += 1


def _first_bad(data: bytes, index: int) -> int:
    """Where the first entry begins that fails its own checksum; 0 if none does."""
    at = sum(map(len, _cut(data, index)))
    return at if at < len(data) else 0
