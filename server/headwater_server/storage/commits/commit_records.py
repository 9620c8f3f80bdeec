"""The bytes of the commit log: headers of segments, and records. commit_log.py draws them."""

import struct
import zlib
from collections.abc import Sequence
from typing import Final, NamedTuple

from headwater_protocol.messages import NumberPacker

RECORD_SIZE: Final = 64

MAGIC: Final = b"HWCOMMIT"
FORMAT: Final = 1
HEADER: Final = struct.Struct(">8sIIQ16s20sI")
RECORD: Final = struct.Struct(">16sQQQQI8xI")
CRC: Final = struct.Struct(">I")
CRC_AT: Final = RECORD_SIZE - CRC.size
_ID_SIZE: Final = 16
_NO_EVENTS: Final = bytes(4)


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


class RecordPacker:
    """Packs records. Consecutive ones share most of their bytes, which are packed once."""

    def __init__(self) -> None:
        self._commits = NumberPacker()
        self._time = self._user = self._position = 0
        self._packed_time = self._packed_user = self._packed_position = bytes(8)

    def pack(
        self,
        commit: int,
        transaction: bytes,
        time: int,
        user: int,
        first_position: int,
        event_count: int,
    ) -> bytes:
        """The 64 bytes of a record with the members of a CommitRecord."""
        assert len(transaction) == _ID_SIZE
        if time != self._time:
            self._time, self._packed_time = time, time.to_bytes(8, "big")
        if user != self._user:
            self._user, self._packed_user = user, user.to_bytes(8, "big")
        if first_position != self._position:
            self._position = first_position
            self._packed_position = first_position.to_bytes(8, "big")
        fields = b"%b%b%b%b%b%b\0\0\0\0\0\0\0\0" % (
            transaction,
            self._commits.pack(commit),
            self._packed_time,
            self._packed_user,
            self._packed_position,
            event_count.to_bytes(4, "big") if event_count else _NO_EVENTS,
        )
        crc: int = zlib.crc32(fields)
        return fields + crc.to_bytes(4, "big")


def pack_records(records: Sequence[CommitRecord]) -> bytes:
    """Pack several records, one after the other."""
    packer = RecordPacker()
    return b"".join([packer.pack(*record) for record in records])


def commit_in(packed: bytes, offset: int) -> int:
    """The number of the commit whose record is at *offset*."""
    return int.from_bytes(packed[offset + 16 : offset + 24], "big")


def unpack_record(data: bytes, offset: int) -> CommitRecord | None:
    """The record at *offset*; None if it fails its checksum."""
    transaction, commit, time, user, first, count, crc = RECORD.unpack_from(data, offset)
    if zlib.crc32(data[offset : offset + CRC_AT]) != crc:
        return None
    return CommitRecord(commit, transaction, time, user, first, count)
