"""When a key expires, as the arguments of a call and as the members of a write."""

from datetime import datetime, timedelta
from typing import Any, Final

from headwater.errors import InvalidArgument
from headwater.records import microseconds_of
from headwater_protocol.limits import NUMBER_MAX

_MICROSECOND: Final = timedelta(microseconds=1)


def expiry_members(
    place: str, ttl: timedelta | float | None, expires_at: datetime | None
) -> tuple[int | None, int | None]:
    """The last two members of the write "expire": microseconds after the commit, and the time.

    Raises:
        InvalidArgument: both are given, or one of them is no time.
    """
    if ttl is not None and expires_at is not None:
        raise InvalidArgument(f"{place}: give either ttl= or expires_at=")
    if expires_at is not None:
        at = microseconds_of(expires_at, f"{place}: expires_at")
        # There are no commits before 1970, so every earlier time has the same effect.
        return None, max(at, 0)
    return None if ttl is None else _microseconds(place, ttl), None


def _microseconds(place: str, ttl: timedelta | float) -> int:
    wrong = f"{place}: ttl: expected a number of seconds above 0, or a timedelta, got {ttl!r:.60}"
    given: Any = ttl
    if isinstance(given, timedelta):
        count = given // _MICROSECOND
    elif isinstance(given, int | float) and not isinstance(given, bool):
        if not 0 < given < NUMBER_MAX / 1_000_000:
            raise InvalidArgument(wrong)
        count = round(given * 1_000_000)
    else:
        raise InvalidArgument(wrong)
    if not 0 < count <= NUMBER_MAX:
        raise InvalidArgument(wrong)
    return count
