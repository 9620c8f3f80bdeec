"""The part of `check` that compares the times in the files with the clock of this machine.

The times of a log never go back. If a clock was wrong for a while and dated commits in the future,
every later commit is dated after them, until that future has come. Nothing is lost by it, so it is
a warning and not damage: times of commits are wrong, and transaction ids that were made before
the newest time less the retention count as forgotten.
"""

from datetime import UTC, datetime, timedelta
from typing import Final

from headwater_server.engine.check.findings import Finding, Kind, Report
from headwater_server.engine.settings import EngineSettings

AHEAD_US_MAX: Final = EngineSettings().clock_jump_us_max
"""How far ahead of the clock a time may be: as far as a server follows a clock that is set."""

REDATE: Final = (
    "every time after the present is replaced by the present: in the commit log, in the events "
    "and in the state store"
)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class FutureTimes:
    """Collects the times that are in the future. *now* None: nothing is."""

    def __init__(self, now: int | None) -> None:
        self._now = 0 if now is None else now
        self._latest = None if now is None else now + AHEAD_US_MAX
        self._commits = 0
        self._first_commit = 0
        self._first_time = 0
        self._newest = 0
        self._events = 0
        self._first_position = 0

    def add_commit(self, commit: int, time: int) -> None:
        """Look at the time of a commit. Those of the write-ahead log come first."""
        if self._latest is not None and time > self._latest:
            if not self._commits or commit < self._first_commit:
                self._first_commit, self._first_time = commit, time
            self._commits += 1
            self._newest = max(self._newest, time)

    def add(self, time: int) -> None:
        """Look at another time of the log: of a tick, say."""
        if self._latest is not None and time > self._latest:
            self._newest = max(self._newest, time)

    def add_later_event(self, position: int) -> None:
        """Note an event that has a later time than its commit."""
        self._events += 1
        self._first_position = self._first_position or position

    def tell(self, report: Report, path: str) -> None:
        """Put what was found into the report."""
        what = []
        if self._commits:
            what.append(
                f"{self._commits} commits are dated in the future, the first of them commit "
                f"{self._first_commit}: {_text(self._first_time)}"
            )
        if self._newest:
            what.append(
                f"the log's time is {_text(self._newest)}, and this machine's clock says "
                f"{_text(self._now)}"
            )
        if self._events:
            what.append(
                f"{self._events} events have a later time than their commits, the first of them "
                f"position {self._first_position}: a repair of times did not come to its end"
            )
        if what:
            finding = Finding(Kind.CLOCK, path, None, "; ".join(what), REDATE, self._first_commit)
            report.warnings.append(finding)


def _text(time: int) -> str:
    try:
        return (_EPOCH + timedelta(microseconds=time)).isoformat(sep=" ", timespec="seconds")
    except OverflowError:
        return f"{time} microseconds after 1970"
