"""Transaction ids: UUIDs of version 7 (RFC 9562), 48 bits of milliseconds and then random ones.

    0                     48   52          64  66                              128
    +---------------------+----+-----------+---+--------------------------------+
    | milliseconds        |  7 | random    | 2 | random                         |
    +---------------------+----+-----------+---+--------------------------------+

They sort by time, so the server appends to the end of its index of transactions instead of writing
all over it. Two ids of the same millisecond differ in 74 random bits.
"""

import os
import time
from typing import Final
from uuid import UUID

_FIXED: Final = 7 << 76 | 2 << 62
_RANDOM: Final = ((1 << 80) - 1) & ~(0xF << 76 | 3 << 62)


def new_transaction_id() -> bytes:
    """The 16 bytes of a new id. Bytes, because building a UUID object is slower."""
    milliseconds = time.time_ns() // 1_000_000
    noise = int.from_bytes(os.urandom(10)) & _RANDOM
    return ((milliseconds & 0xFFFF_FFFF_FFFF) << 80 | noise | _FIXED).to_bytes(16)


def transaction_bytes(identity: UUID | bytes | str) -> bytes:
    """The 16 bytes of a transaction id that is given as UUID, text or bytes.

    Raises:
        ValueError: it is not an id.
    """
    match identity:
        case UUID():
            return identity.bytes
        case str():
            return UUID(identity).bytes
        case bytes() if len(identity) == 16:
            return identity
        case _:
            raise ValueError(f"expected a transaction id (a UUID), got {identity!r:.60}")
