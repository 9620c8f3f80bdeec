"""The bytes of one entry of the write-ahead log.

    0          4        8          16        24       40              56         64       72
    +----------+--------+----------+---------+--------+---------------+----------+--------+------
    |  length  |  crc   |  index   |  epoch  |   id   | previous hash |  durable | flags  | body
    +----------+--------+----------+---------+--------+---------------+----------+--------+------

The first 16 bytes are those of every entry of a segmented log (log_segment.py). The hash of an
entry covers all its bytes in the file, including its own previous hash. So one hash confirms all
earlier entries.
"""

import hashlib
import struct
import zlib
from dataclasses import dataclass, replace
from typing import Final

from headwater_protocol.errors import DamagedFile
from headwater_server.storage.errors import Diverged
from headwater_server.storage.log.log_segment import (
    ENTRY_HEADER_SIZE,
    LENGTH_CRC,
    PADDING,
    entry_index,
    entry_size,
    unpack_entry,
)
from headwater_server.storage.wal.interface import (
    ENTRY_FIELDS_SIZE,
    ENTRY_SIZE_MAX,
    FIRST_HASH,
    Body,
    Epoch,
    WalEntry,
    WalIndex,
)

CONTINUED: Final = 1
RESUMED: Final = 2

_INDEX_AND_FIELDS: Final = struct.Struct(">QQ16s16sQQ")
_ENTRY: Final = struct.Struct(">IIQQ16s16sQQ")
_ATTACHMENT: Final = struct.Struct(">Q16s")
assert _INDEX_AND_FIELDS.size == 8 + ENTRY_FIELDS_SIZE

HASH_SIZE: Final = 16
_sha256: Final = hashlib.sha256


def hash_of(entry: bytes) -> bytes:
    """SHA-256 of a packed entry, its first 16 bytes."""
    # The hash of the standard library for which processors have instructions.
    return _sha256(entry, usedforsecurity=False).digest()[:HASH_SIZE]


def pack(
    body: Body, follows: "ChainEnd", epoch: Epoch, entry_id: bytes, durable: WalIndex
) -> tuple[bytes, "ChainEnd"]:
    """The entry with *body* that comes after *follows*, and the chain's new end.

    *durable* is the index up to which the log is known to be durable.
    """
    parts = body.parts
    flags = (CONTINUED if body.continued else 0) | (RESUMED if body.resumed else 0)
    index = follows.index + 1
    fields = _INDEX_AND_FIELDS.pack(index, epoch, entry_id, follows.hash, durable, flags)
    size = ENTRY_FIELDS_SIZE
    for part in parts:
        size += len(part)
    content = b"".join((fields, *parts, PADDING[size & 7]))
    packed = LENGTH_CRC.pack(size, zlib.crc32(content, size)) + content
    digest = _sha256(packed, usedforsecurity=False).digest()[:HASH_SIZE]
    return packed, ChainEnd(WalIndex(index), epoch, digest, durable, not parts)


def unpack(entry: bytes) -> WalEntry | None:
    """Unpack an entry whose checksum was verified; None if it is not one of this log."""
    if len(entry) < _ENTRY.size:
        return None
    length, _, index, epoch, entry_id, previous, durable, flags = _ENTRY.unpack_from(entry)
    if length < ENTRY_FIELDS_SIZE or flags > CONTINUED | RESUMED:
        return None
    return WalEntry(
        index,
        epoch,
        entry_id,
        previous,
        durable,
        flags & CONTINUED != 0,
        flags & RESUMED != 0,
        entry[ENTRY_HEADER_SIZE + ENTRY_FIELDS_SIZE : ENTRY_HEADER_SIZE + length],
    )


def checked(packed: bytes) -> WalEntry:
    """Check and unpack an entry that came from another log.

    Raises:
        DamagedFile: it is not what was written.
    """
    index = entry_index(packed) if len(packed) >= ENTRY_HEADER_SIZE else 0
    if len(packed) > ENTRY_SIZE_MAX or unpack_entry(packed, 0, index) is None:
        raise DamagedFile(f"entry {index} of another log fails its checksum")
    entry = unpack(packed)
    if entry is None or len(packed) != entry_size(ENTRY_FIELDS_SIZE + len(entry.body)):
        raise DamagedFile(f"entry {index} of another log is not an entry of a write-ahead log")
    return entry


@dataclass(slots=True)
class ChainEnd:
    """What the next entry must fit: the fields of the last accepted entry. Never changed.

    Attributes:
        index: its index; 0 before the first of all.
        epoch: its epoch.
        hash: its hash.
        durable: the index up to which the log is known to be durable.
        is_empty: it carries no records: a claim or a seal.
    """

    index: WalIndex
    epoch: Epoch
    hash: bytes
    durable: WalIndex
    is_empty: bool = False

    def all_durable(self) -> "ChainEnd":
        """The same end, now that the log is durable up to here."""
        return replace(self, durable=self.index)

    def error_of(self, entry: WalEntry) -> str | None:
        """The chain error if *entry* comes next; None if it fits."""
        if entry.index != self.index + 1:
            return f"entry {entry.index} follows entry {self.index}"
        if entry.previous_hash != self.hash:
            return f"entry {entry.index} does not carry the hash of the one before it"
        if entry.epoch < self.epoch:
            return f"entry {entry.index} has epoch {entry.epoch}, after epoch {self.epoch}"
        if not self.durable <= entry.durable <= self.index:
            return (
                f"entry {entry.index} says durable up to {entry.durable}, "
                f"after one that says {self.durable}"
            )
        return None

    def check_continued(self, entry: WalEntry) -> None:
        """Check that *entry*, which comes from another log, continues this one.

        Raises:
            Diverged: it is the next one, and its writer did not know this log's last entry.
            DamagedFile: entries before it are missing, or it does not fit.
        """
        chain_error = self.error_of(entry)
        if chain_error is None:
            return
        if entry.index == self.index + 1 and (
            entry.previous_hash != self.hash or entry.epoch < self.epoch
        ):
            raise Diverged(entry.index, chain_error)
        raise DamagedFile(f"an entry of another log: {chain_error}")

    def then(self, entry: WalEntry, packed: bytes) -> "ChainEnd":
        """The end of the chain after one more entry, which fits."""
        return ChainEnd(entry.index, entry.epoch, hash_of(packed), entry.durable, not entry.body)


CHAIN_START: Final = ChainEnd(WalIndex(0), Epoch(0), FIRST_HASH, WalIndex(0))


def attachment_of(entry: bytes) -> bytes:
    """What a segment's header stores of its first entry: the epoch and the previous hash.

    So chain and epoch can continue even if a cut discards the segment's entries.
    """
    fields = _ENTRY.unpack_from(entry)
    return _ATTACHMENT.pack(fields[3], fields[5])


def attachment(epoch: Epoch, previous_hash: bytes) -> bytes:
    """The same for a segment without entries."""
    return _ATTACHMENT.pack(epoch, previous_hash)


def chain_before(first_index: int, attached: bytes) -> ChainEnd:
    """The chain's end before the first entry of a segment, from the segment's header."""
    epoch, previous = _ATTACHMENT.unpack_from(attached)
    # The header alone does not show that anything was durable; the first entry does.
    return ChainEnd(WalIndex(first_index - 1), Epoch(epoch), previous, WalIndex(0))
