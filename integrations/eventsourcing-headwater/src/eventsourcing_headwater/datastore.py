"""The database of a factory, and Headwater's errors as those of the library."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from eventsourcing.persistence import (
    DatabaseError,
    DataError,
    IntegrityError,
    InternalError,
    OperationalError,
    PersistenceError,
    ProgrammingError,
)

import headwater

_Refusals = tuple[type[headwater.HeadwaterError], ...]

_ERRORS: Final[tuple[tuple[_Refusals, type[DatabaseError]], ...]] = (
    ((headwater.WrongVersion, headwater.ConditionFailed, headwater.DuplicateEvent), IntegrityError),
    ((headwater.TooLarge, headwater.Undecodable, headwater.NotANumber), DataError),
    ((headwater.InvalidArgument, headwater.UnknownOperation), ProgrammingError),
    ((headwater.InternalError, headwater.DamagedFile), InternalError),
    ((headwater.ConnectionLost, headwater.CommitUnknown, headwater.Conflict), OperationalError),
)


class Datastore:
    """One blocking database, connected at the first use and shared by all recorders and threads."""

    def __init__(
        self, url: str, *, ca_file: str | None, request_timeout: float, retry_timeout: float
    ) -> None:
        self._database = headwater.connect_blocking(
            url,
            ca_file=ca_file,
            codec=headwater.RawCodec(),
            request_timeout=request_timeout,
            retry_timeout=retry_timeout,
            client_name="eventsourcing",
        )
        self._lock = threading.Lock()
        self._entered = False
        self._closed = False

    @contextmanager
    def database(self) -> Iterator[headwater.BlockingDatabase]:
        """The database, for a block that raises the library's errors.

        Raises:
            OperationalError: the factory was closed, or no server answered.
        """
        try:
            if not self._entered:
                self._enter()
            yield self._database
        except headwater.HeadwaterError as error:
            raise translated(error) from error

    def _enter(self) -> None:
        with self._lock:
            if self._closed:
                raise OperationalError("the factory was closed")
            if not self._entered:
                self._database.__enter__()
                self._entered = True

    def close(self) -> None:
        """Close all connections. Threads that wait for an answer or an event stop waiting."""
        with self._lock:
            self._closed = True
            if self._entered:
                self._database.close()


def translated(error: headwater.HeadwaterError) -> PersistenceError:
    """The library's error for one of Headwater's."""
    for kinds, counterpart in _ERRORS:
        if isinstance(error, kinds):
            return counterpart(str(error))
    kind = OperationalError if error.retryable else DatabaseError
    return kind(str(error))
