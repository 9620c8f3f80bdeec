"""The audit log: who logged in, who was refused, and who changed users or removed data.

Each record is a line of JSON in a file of its own, if there is one. The newest records are kept in
memory for administrators. Records of a burst, such as wrong passwords from one address, are joined:
`left_out` says how many more there were since the record before.

    {"time": "2026-11-30T12:00:00.000000Z", "event": "logged in", "user": "ann", "peer": "…"}
"""

import json
import os
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

import structlog

from headwater_server.net.session.peer import Peer

_log = structlog.get_logger(__name__)

KEPT_MAX: Final = 1_000
"""Records that are kept in memory. The file has all of them."""

_FILE_MODE: Final = 0o600

AUDITED_WRITES: Final = frozenset(
    {"delete_stream", "erase", "erase_positions", "erase_ids", "truncate"}
)
"""Writes that remove or hide stored data."""

_SHOWN_MAX: Final = 200
"""Characters of the arguments of a write in a record."""


class Audit:
    """Takes records. *clock* gives microseconds since 1970 UTC."""

    def __init__(self, clock: Callable[[], int], path: str | None = None) -> None:
        self._clock = clock
        self._kept: deque[list[Any]] = deque(maxlen=KEPT_MAX)
        self._file: int | None = None
        self._failing = False
        if path is not None:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            self._file = os.open(path, flags, _FILE_MODE)

    def record(self, event: str, session: Peer, **details: Any) -> None:
        """Record what a session did, or tried to do."""
        time = self._clock()
        self._kept.append([time, event, session.user or None, session.peer, details])
        if self._file is None:
            return
        shown = datetime.fromtimestamp(time / 1_000_000, UTC)
        line = {
            "time": f"{shown:%Y-%m-%dT%H:%M:%S.%fZ}",
            "event": event,
            "user": session.user or None,
            "peer": session.peer,
            **details,
        }
        try:
            os.write(self._file, json.dumps(line).encode() + b"\n")
            self._failing = False
        except OSError as error:
            if not self._failing:
                _log.critical("the audit log cannot be written", error=repr(error))
            self._failing = True

    def record_write(self, session: Peer, transaction: bytes, write: list[Any]) -> None:
        """Record a write of AUDITED_WRITES."""
        what = ", ".join(map(str, write[1:]))[:_SHOWN_MAX]
        self.record(write[0], session, what=what, transaction=transaction.hex())

    def newest(self, limit: int) -> list[list[Any]]:
        """The newest records, in order of time: [time, event, user, address, details]."""
        return list(self._kept)[-limit:]

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
