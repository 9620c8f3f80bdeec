"""Retention: what is kept of a stream, and what is erased; the calls that say so.

In a transaction or a batch they are writes like any other, so they happen together with the rest
of it or not at all. On the database each is a transaction of its own.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from headwater.errors import InvalidArgument
from headwater_protocol.operations import STREAM, WRITE

_SECOND_US: Final = 1_000_000


class RetentionWrites(ABC):
    """The writes of retention. Nothing here waits."""

    @abstractmethod
    def _keep(self, write: list[Any], size: int) -> None:
        """Keep a write that was checked; it has *size* bytes, about."""

    def truncate(self, stream: str, *, before: int) -> None:
        """Hide a stream's events below a version from all reads, for good.

        Args:
            before: the first version that stays; one above the stream's version hides all.
        """
        self._keep_checked(["truncate", stream, before], "truncate")

    def delete_stream(self, stream: str) -> None:
        """Hide all events of a stream, and remove its snapshots.

        Its versions go on counting, but until it is appended to again it is no stream:
        expect=NO_STREAM holds. It is no error if there is none.
        """
        self._keep_checked(["delete_stream", stream], "delete_stream")

    def set_retention(
        self,
        stream: str,
        *,
        max_count: int | None = None,
        max_age: timedelta | float | None = None,
    ) -> None:
        """Keep only the newest events of a stream, from now on and until it is set again.

        Without both, all is kept that is not hidden yet; what is hidden stays so.

        Args:
            max_count: how many events.
            max_age: for how long; a number is of seconds.
        """
        age = None if max_age is None else _microseconds(max_age)
        self._keep_checked(["set_retention", stream, max_count, age], "set_retention")

    def erase(
        self,
        stream: str | None = None,
        *,
        versions: Iterable[int] | None = None,
        ids: Iterable[UUID] | None = None,
        positions: Iterable[int] | None = None,
    ) -> None:
        """Erase the data and metadata of events for good, at every commit.

        Their positions, versions, ids, types and tags stay, and `RecordedEvent.erased` is true.
        To erase again what is erased is no error; to erase what is not there is NoSuchEvent.

        Args:
            stream: the stream of *versions* or *ids*.
            versions: of events of that stream.
            ids: that were given to events of that stream.
            positions: of events of any streams.
        """
        given = [each for each in (versions, ids, positions) if each is not None]
        if len(given) != 1 or (stream is None) == (positions is None):
            raise InvalidArgument(
                "erase: a stream with versions= or ids=, or positions=; one of them"
            )
        if positions is not None:
            self._keep_erasure(["erase_positions", _listed("positions", positions)])
        elif versions is not None:
            self._keep_erasure(["erase", stream, _listed("versions", versions)])
        else:
            named = [_id_bytes(each) for each in _listed("ids", ids)]
            self._keep_erasure(["erase_ids", stream, named])

    def _keep_erasure(self, write: list[Any]) -> None:
        if not write[-1]:
            raise InvalidArgument("erase: no events are named")
        self._keep_checked(write, "erase", 17 * len(write[-1]))

    def _keep_checked(self, write: list[Any], place: str, size: int = 0) -> None:
        if write[0] != "erase_positions":
            STREAM(write[1], f"{place}: stream")
        WRITE.variants[write[0]](write[1:], place)
        self._keep(write, 512 + size)


def _listed(name: str, values: Any) -> list[Any]:
    if not isinstance(values, Iterable):
        raise InvalidArgument(f"erase: {name}: several are wanted, not {values!r:.60}")
    return list(values)


def _microseconds(age: timedelta | float) -> int:
    try:
        seconds = age.total_seconds() if isinstance(age, timedelta) else float(age)
        return round(seconds * _SECOND_US)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidArgument(f"set_retention: max_age: {age!r:.60}: {error}") from error


def _id_bytes(identity: UUID) -> bytes:
    if not isinstance(identity, UUID):
        raise InvalidArgument(f"erase: ids: a UUID is wanted, not {identity!r:.60}")
    return identity.bytes
