"""The bytes of the commit log: headers of segments, and records. commit_log.py draws them."""

import struct
import zlib
from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

RECORD_SIZE: Final = 64

MAGIC: Final = b"HWCOMMIT"
FORMAT: Final = 1
HEADER: Final = struct.Struct(">8sIIQ16s20sI")
RECORD: Final = struct.Struct(">16sQQQQI8xI")
CRC: Final = struct.Struct(">I")
CRC_AT: Final = RECORD_SIZE - CRC.size


class CommitRecord(NamedTuple):
    """The record of a commit.

    Attributes:
        commit: its number.
        transaction: its transaction's id, 16 bytes.
        time: microseconds since 1970-01-01 UTC; never earlier than that of the previous commit.
        user: the number of the user; 0 without a user.
        first_position: position of its first event; if it has none, of the next event.
        event_count: number of events that it appended.
    """

    commit: int
    transaction: bytes
    time: int
    user: int
    first_position: int
    event_count: int


def pack_header(first: int, records: int, database_id: bytes) -> bytes:
    """The header block of a segment."""
    fields = HEADER.pack(MAGIC, FORMAT, records, first, database_id, b"", 0)
    return fields[:CRC_AT] + CRC.pack(zlib.crc32(fields[:CRC_AT]))


def unpack_header(block: bytes) -> int:
    """The capacity of a segment, from its header block; 0 if that is damaged."""
    if len(block) < RECORD_SIZE or zlib.crc32(block[:CRC_AT]) != CRC.unpack_from(block, CRC_AT)[0]:
        return 0
    records: int = HEADER.unpack_from(block)[2]
    return records


def pack_records(records: Sequence[CommitRecord]) -> bytes:
    """Pack consecutive records of 64 bytes.

    It packs column by column: one call of `struct` for each record would take as long as all this.
    """
    if not records:
        return b""
    commits, transactions, times, users, first_positions, event_counts = zip(*records, strict=True)
    data = bytearray(RECORD_SIZE * len(records))
    longs = memoryview(data).cast("Q")
    ids = memoryview(b"".join(transactions)).cast("Q")
    assert len(ids) == 2 * len(records), "ids have 16 bytes"
    longs[0::8] = ids[0::2]
    longs[1::8] = ids[1::2]
    longs[2::8] = _packed("Q", commits)
    longs[3::8] = _packed("Q", times)
    if any(users):
        longs[4::8] = _packed("Q", users)
    words = memoryview(data).cast("I")
    if any(event_counts):
        longs[5::8] = _packed("Q", first_positions)
        words[12::16] = _packed("I", event_counts)
    else:
        # Without events, all records have the same next position.
        assert first_positions[0] == first_positions[-1]
        same = struct.pack(">Q", first_positions[0]) * len(records)
        longs[5::8] = memoryview(same).cast("Q")
    fields = bytes(data)
    crc32 = zlib.crc32
    crcs = [crc32(fields[at : at + CRC_AT]) for at in range(0, len(fields), RECORD_SIZE)]
    words[15::16] = _packed("I", crcs)
    return bytes(data)


def _packed(size: Literal["Q", "I"], numbers: Sequence[int]) -> "memoryview[int]":
    """Numbers in big-endian form; "Q" is eight bytes, "I" is four."""
    return memoryview(struct.pack(f">{len(numbers)}{size}", *numbers)).cast(size)


def unpack_record(data: bytes, offset: int) -> CommitRecord | None:
    """The record at *offset*; None if it fails its checksum."""
    transaction, commit, time, user, first, count, crc = RECORD.unpack_from(data, offset)
    if zlib.crc32(data[offset : offset + CRC_AT]) != crc:
        return None
    return CommitRecord(commit, transaction, time, user, first, count)
