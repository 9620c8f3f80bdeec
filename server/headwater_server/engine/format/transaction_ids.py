"""Transaction ids: 16 bytes that a client chooses, by preference a UUID of version 7.

A UUIDv7 (RFC 9562) starts with the millisecond in which it was made. This lets the engine
distinguish a transaction that it never saw from one whose status it has forgotten. Any other 16
bytes are allowed too; once such an id is older than the retention, it looks like one never seen.
"""

import random
from datetime import UTC, datetime, timedelta
from typing import Final

_MS_US: Final = 1000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def new_transaction_id(now: int, source: random.Random) -> bytes:
    """A UUIDv7 of the time *now*, in microseconds."""
    value = (now // _MS_US & (1 << 48) - 1) << 80 | source.getrandbits(80)
    value &= ~(0xF << 76 | 0x3 << 62)
    value |= 0x7 << 76 | 0x2 << 62
    return value.to_bytes(16, "big")


def made_between(transaction: bytes, start: int, end: int) -> bool:
    """Whether the id says that it was made from *start* on and before *end*, in microseconds.

    One in 64 random ids looks like a UUIDv7, with any time within 9,000 years. A narrow range
    misjudges fewer of them.
    """
    if transaction[6] >> 4 != 7 or transaction[8] >> 6 != 2:
        return False
    return start <= made_at(transaction) < end


def made_at(transaction: bytes) -> int:
    """The time in microseconds at which a UUIDv7 was made, by its maker's clock."""
    return int.from_bytes(transaction[:6], "big") * _MS_US


def ids_from(time: int) -> bytes:
    """A lower bound of the UUIDv7 ids that were made at a time in microseconds or later."""
    return max(time // _MS_US, 0).to_bytes(6, "big")


def told_time(time: int) -> str:
    """A time in microseconds, formatted for a message."""
    try:
        return (_EPOCH + timedelta(microseconds=time)).isoformat(timespec="seconds")
    except OverflowError:
        return f"{time // 1_000_000} s after 1970"
