"""One segment of a log: its header block, its entries, and how they are read back.

    0              4096                                            size, if preallocated
    +--------------+---------+---------+---------+--------------------------------+
    | header block | entry i | entry   | entry   |  zeros                         |
    +--------------+---------+---------+---------+--------------------------------+

    header block   magic 8 | kind 8 | format u32 | 4096 u32 | first index u64 | size u64 |
                   database id 16 | attachment 64 | zeros | crc32 u32 of all before it
    entry          length u32 | crc32 u32 | index u64 | payload | zeros up to a multiple of 8

Numbers are big-endian. An entry's crc32 covers everything after it, including the zeros, and starts
from the length, so a change of any bit is detected. Indexes are dense and start at 1. So sixteen
zero bytes in place of an entry are the end of the log, never an entry.
"""

import struct
import sys
import zlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from headwater_protocol.errors import DamagedFile, FormatTooNew
from headwater_server.storage.files.file_system import File

SEGMENT_HEADER_SIZE: Final = 4096
"""A separate page, so that writing the first entries does not rewrite the header's sectors."""

ENTRY_HEADER_SIZE: Final = 16
ATTACHMENT_SIZE: Final = 64
FORMAT: Final = 1
READ_SIZE: Final = 1024 * 1024

_MAGIC: Final = b"HEADWATR"
_HEADER: Final = struct.Struct(">8s8sIIQQ16s64s")
_HEADERPADDING: Final = bytes(SEGMENT_HEADER_SIZE - _HEADER.size - 4)
_CRC: Final = struct.Struct(">I")
LENGTH_CRC: Final = struct.Struct(">II")
_INDEX: Final = struct.Struct(">Q")
_ENTRY: Final = struct.Struct(">IIQ")
PADDING: Final = tuple(bytes(-size % 8) for size in range(8))
_ZEROS: Final = bytes(READ_SIZE)


def damaged(path: str, offset: int, what: str) -> DamagedFile:
    """The error for bytes that differ from what was written; it names the file and the offset."""
    return DamagedFile(
        f"{path} at offset {offset}: {what}", details={"file": path, "offset": offset}
    )


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """The header of a segment.

    Attributes:
        kind: which log it belongs to, up to 8 ASCII bytes.
        first_index: index of its first entry, or of the next one if it has none.
        size: preallocated bytes of the file; 0 if the file grows.
        database_id: 16 bytes, to detect a segment of another database.
        attachment: data of the log's owner that is needed before the first entry.
    """

    kind: bytes
    first_index: int
    size: int
    database_id: bytes
    attachment: bytes = b""

    def pack(self) -> bytes:
        """The header block."""
        assert len(self.kind) <= 8
        assert len(self.database_id) == 16
        assert len(self.attachment) <= ATTACHMENT_SIZE
        block = (
            _HEADER.pack(
                _MAGIC,
                self.kind,
                FORMAT,
                SEGMENT_HEADER_SIZE,
                self.first_index,
                self.size,
                self.database_id,
                self.attachment,
            )
            + _HEADERPADDING
        )
        return block + _CRC.pack(zlib.crc32(block))

    @staticmethod
    def read(file: File, path: str) -> "SegmentHeader":
        """The header of a segment.

        Raises:
            DamagedFile: it differs from what was written.
            FormatTooNew: a newer version wrote it.
        """
        block = file.read_at(0, SEGMENT_HEADER_SIZE)
        if len(block) < SEGMENT_HEADER_SIZE:
            raise damaged(path, len(block), "the file ends inside the segment's header")
        (crc,) = _CRC.unpack_from(block, SEGMENT_HEADER_SIZE - 4)
        if zlib.crc32(block[:-4]) != crc:
            raise damaged(path, 0, "the segment's header fails its checksum")
        magic, kind, form, header_size, first, size, database_id, extra = _HEADER.unpack_from(block)
        if magic != _MAGIC:
            raise damaged(path, 0, f"not a segment of a log: it begins with {magic!r}")
        if form > FORMAT:
            raise FormatTooNew(f"{path} has format {form}; this version reads up to {FORMAT}")
        if header_size != SEGMENT_HEADER_SIZE or first < 1:
            raise damaged(path, 0, f"a header of {header_size} bytes, first index {first}")
        return SegmentHeader(kind.rstrip(b"\0"), first, size, database_id, extra)


def pack_entry(index: int, *parts: bytes) -> bytes:
    """An entry with the concatenation of *parts* as its payload, ready to write."""
    size = sum(map(len, parts))
    content = b"".join((_INDEX.pack(index), *parts, PADDING[size & 7]))
    return LENGTH_CRC.pack(size, zlib.crc32(content, size)) + content


def pack_entries(first_index: int, payloads: Sequence[bytes]) -> list[bytes]:
    """Entries with these payloads and indexes from *first_index* on: `pack_entry` in bulk."""
    pack_header = LENGTH_CRC.pack
    crc32 = zlib.crc32
    padding = PADDING
    # Pack all indexes together: one call, not one for each entry.
    indexes = struct.pack(f">{len(payloads)}Q", *range(first_index, first_index + len(payloads)))
    entries: list[bytes] = []
    at = 0
    for payload in payloads:
        size = len(payload)
        content = indexes[at : at + 8] + payload + padding[size & 7]
        entries.append(pack_header(size, crc32(content, size)) + content)
        at += 8
    return entries


def entry_size(payload_size: int) -> int:
    """Bytes of an entry with a payload of this size."""
    return ENTRY_HEADER_SIZE + (payload_size + 7 & ~7)


def entry_index(entry: bytes) -> int:
    """The index of a packed entry."""
    index: int = _INDEX.unpack_from(entry, 8)[0]
    return index


def entry_payload(entry: bytes) -> bytes:
    """The payload of a packed entry that was checked before."""
    return entry[ENTRY_HEADER_SIZE : ENTRY_HEADER_SIZE + _CRC.unpack_from(entry)[0]]


def unpack_entry(data: bytes, offset: int, index: int) -> bytes | None:
    """The payload of the entry at *offset* in *data*; None if it is not a sound entry *index*.

    The offset may be wrong, even negative; then the result is None.
    """
    if not 0 <= offset <= len(data) - ENTRY_HEADER_SIZE:
        return None
    length, crc, found = _ENTRY.unpack_from(data, offset)
    end = offset + entry_size(length)
    if found != index or end > len(data):
        return None
    if zlib.crc32(memoryview(data)[offset + 8 : end], length) != crc:
        return None
    start = offset + ENTRY_HEADER_SIZE
    return data[start : start + length]


def unpack_entries(data: bytes, first_index: int, count: int) -> list[bytes]:
    """The payloads of *count* consecutive entries; fewer if one is not sound."""
    unpack = _ENTRY.unpack_from
    crc32 = zlib.crc32
    payloads: list[bytes] = []
    at = 0
    end_max = len(data) - ENTRY_HEADER_SIZE
    for index in range(first_index, first_index + count):
        if at > end_max:
            break
        members = unpack(data, at)
        length: int = members[0]
        end = at + ENTRY_HEADER_SIZE + (length + 7 & ~7)
        # Copying so few bytes costs less than a view. If the data ends early, the checksum fails.
        content = data[at + 8 : end]
        if members[2] != index or crc32(content, length) != members[1]:
            break
        payloads.append(content[8 : 8 + length])
        at = end
    return payloads


class EntryScanner:
    """Walks the entries of a segment from an offset on, and stops at the first bad one.

    Iteration yields packed entries, as they are in the file: sound, and in sequence.

    Attributes:
        offset: where the next entry begins; after the walk, where the log ends or is damaged.
        index: the index that the next entry must have.
        problem: after the walk, what is wrong at `offset`; None if the log ends there.
        is_sound: the entry at `offset` has a valid checksum, but the wrong index.
    """

    def __init__(self, file: File, *, offset: int, index: int, entry_size_max: int) -> None:
        self.offset = offset
        self.index = index
        self.problem: str | None = None
        self.is_sound = False
        self._file = file
        self._size = file.size()
        self._entry_size_max = entry_size_max

    def __iter__(self) -> Iterator[bytes]:
        unpack = _ENTRY.unpack_from
        crc32 = zlib.crc32
        buffer = b""
        view = memoryview(buffer)
        at = 0
        while True:
            if len(buffer) - at < ENTRY_HEADER_SIZE:
                buffer = self._file.read_at(self.offset, READ_SIZE)
                view = memoryview(buffer)
                at = 0
                if len(buffer) < ENTRY_HEADER_SIZE:
                    if buffer.strip(b"\0"):
                        self.problem = "the file ends inside the header of an entry"
                    return
            length, crc, index = unpack(buffer, at)
            if not length and not crc and not index:
                return
            size = ENTRY_HEADER_SIZE + (length + 7 & ~7)
            # Check before the read: a wrong length must not cost us memory.
            if size > self._entry_size_max:
                self.problem = f"an entry of {size} bytes; allowed are {self._entry_size_max}"
                return
            if self.offset + size > self._size:
                self.problem = f"an entry of {size} bytes goes beyond the end of the file"
                return
            if at + size > len(buffer):
                buffer = self._file.read_at(self.offset, max(size, READ_SIZE))
                view = memoryview(buffer)
                at = 0
            if crc32(view[at + 8 : at + size], length) != crc:
                self.problem = "an entry fails its checksum"
                return
            if index != self.index:
                self.problem = f"an entry has index {index} in place of {self.index}"
                self.is_sound = True
                return
            yield buffer[at : at + size]
            at += size
            self.offset += size
            self.index += 1


def find_entries(
    file: File, *, offset: int, index: int, index_max: int, entry_size_max: int
) -> Iterator[tuple[int, bytes]]:
    """All sound entries after *offset* with an index above *index*, to *index_max*, with offsets.

    For the diagnosis of a damaged segment: the sequence is broken, so it tries every offset at
    which an entry can begin. It reads the rest of the segment into memory.
    """
    data = file.read_at(offset, max(0, file.size() - offset))
    words = array("Q", data[: len(data) & ~7])
    if sys.byteorder == "little":
        words.byteswap()
    for place, word in enumerate(words):
        if not index < word <= index_max or not place:
            continue
        start = (place - 1) * 8
        length = _CRC.unpack_from(data, start)[0]
        if entry_size(length) <= entry_size_max and unpack_entry(data, start, word) is not None:
            yield offset + start, data[start : start + entry_size(length)]


def end_of_data(file: File, offset: int) -> int:
    """The offset after the last nonzero byte, or *offset* if only zeros follow it."""
    end = offset
    at = offset
    size = file.size()
    while at < size:
        chunk = file.read_at(at, min(READ_SIZE, size - at))
        if chunk != _ZEROS[: len(chunk)]:
            end = at + len(chunk.rstrip(b"\0"))
        at += len(chunk)
    return end


def write_zeros(file: File, start: int, end: int) -> None:
    """Fill a range with zeros, so that the disk allocates it now."""
    for at in range(start, end, READ_SIZE):
        file.write_at(at, _ZEROS[: min(READ_SIZE, end - at)])
