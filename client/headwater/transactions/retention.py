"""Retention and erasure: truncate, cap or delete a stream, and erase the data of events.

In a transaction or a batch these are writes like any other: they happen together with the others
or not at all. On the database, each one is a transaction of its own.
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
        """Add a write that was checked. It has about *size* bytes."""

    def truncate(self, stream: str, *, before: int) -> None:
        """Hide the events of a stream below a version from all reads, permanently.

        Args:
            stream: its name.
            before: the first version that stays. One above the version of the stream hides all.
        """
        self._keep_checked(["truncate", stream, before], "truncate")

    def delete_stream(self, stream: str) -> None:
        """Hide all events of a stream, and delete its snapshots.

        The stream keeps counting versions, but until the next append it does not exist:
        expect=NO_STREAM holds. It is no error if there is no such stream.
        """
        self._keep_checked(["delete_stream", stream], "delete_stream")

    def set_retention(
        self,
        stream: str,
        *,
        max_count: int | None = None,
        max_age: timedelta | float | None = None,
    ) -> None:
        """Keep only the newest events of a stream, until the retention is set again.

        If neither limit is given, everything is kept from now on. Hidden events stay hidden.

        Args:
            stream: its name.
            max_count: the number of events to keep.
            max_age: the age up to which events are kept. A number is in seconds.
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
        """Erase the data and metadata of events permanently, at every commit.

        Their positions, versions, ids, types and tags stay, and `RecordedEvent.erased` is true.
        Erasing an erased event is no error. If an event does not exist, the commit raises
        NoSuchEvent.

        Args:
            stream: the stream of *versions* or *ids*.
            versions: of events of that stream.
            ids: the ids that were given to events of that stream.
            positions: of events of any stream.
        """
        given = [each for each in (versions, ids, positions) if each is not None]
        if len(given) != 1 or (stream is None) == (positions is None):
            raise InvalidArgument(
                "erase: give a stream with either versions= or ids=, or give positions= alone"
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
        raise InvalidArgument(f"erase: {name}: expected several, got {values!r:.60}")
    return list(values)


def _microseconds(age: timedelta | float) -> int:
    try:
        seconds = age.total_seconds() if isinstance(age, timedelta) else float(age)
        return round(seconds * _SECOND_US)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidArgument(f"set_retention: max_age: {age!r:.60}: {error}") from error


def _id_bytes(identity: UUID) -> bytes:
    if not isinstance(identity, UUID):
        raise InvalidArgument(f"erase: ids: expected a UUID, got {identity!r:.60}")
    return identity.bytes
