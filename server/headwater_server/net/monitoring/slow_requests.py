"""The log of slow requests: what each was, who sent it, and what it did.

A line has the operation, the user and connection, how long the request was served and how long it
waited for its fsync, and the work that it was charged for. Of the arguments of reads it has the
names and keys that were asked for, cut short; of writes only how many there were, never their data.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any, Final

import structlog

from headwater_server.engine.work_budget import WorkBudget

_log = structlog.get_logger(__name__)

ASKED_CHARS_MAX: Final = 300
"""Characters of the arguments in a line: enough for a filter, too few to fill the log."""

LINES_PER_SECOND_MAX: Final = 20
"""Lines in a second. On a slow disk every request is slow, and a log of all would slow it more."""

_NS_PER_MS: Final = 1_000_000
_WITH_WRITES: Final = {"write": 1, "commit": 1, "execute": 3}
"""Where the writes are in the arguments of an operation."""


class SlowRequests:
    """Writes the log of slow requests."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._second = 0
        self._lines = 0
        self._left_out = 0

    def tell(
        self,
        name: str,
        session: Any,
        arguments: list[Any],
        served_ns: int,
        waited_ns: int,
        work: WorkBudget | None,
        traceparent: str = "",
    ) -> None:
        """Log a request, unless too many were logged in this second."""
        second = int(self._monotonic())
        if second != self._second:
            self._second, self._lines = second, 0
        self._lines += 1
        if self._lines > LINES_PER_SECOND_MAX:
            self._left_out += 1
            return
        left_out, self._left_out = self._left_out, 0
        _log.warning(
            "slow request",
            operation=name,
            session=str(session),
            user=session.user,
            ms=_ms(served_ns + waited_ns),
            served_ms=_ms(served_ns),
            waited_ms=_ms(waited_ns),
            asked=asked(name, arguments),
            work=None if work is None else charged(work),
            left_out=left_out,
            **({"trace_id": trace_id_of(traceparent)} if traceparent else {}),
        )


def trace_id_of(traceparent: str) -> str:
    """The id of the trace: the second part of `00-TRACE-SPAN-FLAGS`."""
    parts = traceparent.split("-")
    return parts[1] if len(parts) > 1 else traceparent


def _ms(ns: int) -> float:
    return round(ns / _NS_PER_MS, 3)


def charged(work: WorkBudget) -> dict[str, int]:
    """The work that a request was charged for, without what it did not do."""
    counts = {
        "events": work.events,
        "keys": work.keys,
        "entries": work.entries,
        "deleted": work.deleted,
    }
    return {name: count for name, count in counts.items() if count}


def asked(name: str, arguments: list[Any]) -> str:
    """What a request asks for, in few words."""
    place = _WITH_WRITES.get(name)
    if place is None:
        told = ", ".join(repr(argument) for argument in arguments if argument is not None)
    else:
        kinds = Counter(write[0] for write in arguments[place])
        if name == "execute":
            kinds["condition"] = len(arguments[1])
            kinds["read"] = len(arguments[2])
        told = ", ".join(f"{count} {kind}" for kind, count in kinds.items() if count)
    return told if len(told) <= ASKED_CHARS_MAX else told[: ASKED_CHARS_MAX - 1] + "…"
