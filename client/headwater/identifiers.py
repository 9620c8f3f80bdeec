"""Transaction ids: UUIDs of version 7 (RFC 9562), 48 bits of milliseconds and then random ones.

    0                     48   52          64  66                              128
    +---------------------+----+-----------+---+--------------------------------+
    | milliseconds        |  7 | random    | 2 | random                         |
    +---------------------+----+-----------+---+--------------------------------+

They sort by the time at which they were made, so the server's index of transactions is written
at its end and not all over. Two that fall into one millisecond differ in 74 random bits.
"""

import os
import time
from typing import Final
from uuid import UUID

_VERSION_7: Final = 7 << 76
_VARIANT: Final = 2 << 62
_LOW_BITS: Final = (1 << 62) - 1
_HIGH_BITS: Final = 0xFFF


def new_transaction_id() -> UUID:
    """An id that no other transaction has."""
    milliseconds = time.time_ns() // 1_000_000
    noise = int.from_bytes(os.urandom(10))
    return UUID(
        int=(milliseconds & 0xFFFF_FFFF_FFFF) << 80
        | _VERSION_7
        | (noise >> 62 & _HIGH_BITS) << 64
        | _VARIANT
        | (noise & _LOW_BITS)
    )


def transaction_bytes(identity: UUID | bytes | str) -> bytes:
    """The 16 bytes of a transaction id in any of the forms that a user may hold it in.

    Raises:
        ValueError: it is none.
    """
    match identity:
        case UUID():
            return identity.bytes
        case str():
            return UUID(identity).bytes
        case bytes() if len(identity) == 16:
            return identity
        case _:
            raise ValueError(f"a transaction id is a UUID, not {identity!r:.60}")
