"""The part of `check` that compares the times in the files with this machine's clock.

The times of a log never decrease. If a wrong clock dated commits in the future, all later commits
are dated after them until that time has come. Nothing is lost, so this is a warning and not damage.
But times of commits are wrong, and transaction ids made before the newest time minus the retention
count as forgotten.
"""

from datetime import UTC, datetime, timedelta
from typing import Final

from headwater_server.engine.check.findings import Finding, Kind, Report
from headwater_server.engine.settings import EngineSettings

AHEAD_US_MAX: Final = EngineSettings().clock_jump_us_max
"""How far ahead of the clock a time may be: the largest clock jump that a server accepts."""

REDATE: Final = (
    "every time after the present is replaced by the present: in the commit log, in the events "
    "and in the state store"
)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class FutureTimes:
    """Collects times in the future. If *now* is None, no time counts as one."""

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
        """Examine the time of a commit. Commits of the write-ahead log come first."""
        if self._latest is not None and time > self._latest:
            if not self._commits or commit < self._first_commit:
                self._first_commit, self._first_time = commit, time
            self._commits += 1
            self._newest = max(self._newest, time)

    def add(self, time: int) -> None:
        """Examine another time of the log, for example of a tick."""
        if self._latest is not None and time > self._latest:
            self._newest = max(self._newest, time)

    def add_later_event(self, position: int) -> None:
        """Count an event with a later time than its commit."""
        self._events += 1
        self._first_position = self._first_position or position

    def tell(self, report: Report, path: str) -> None:
        """Add the result to the report."""
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
                f"position {self._first_position}: a repair of times was interrupted"
            )
        if what:
            finding = Finding(Kind.CLOCK, path, None, "; ".join(what), REDATE, self._first_commit)
            report.warnings.append(finding)


def _text(time: int) -> str:
    try:
        return (_EPOCH + timedelta(microseconds=time)).isoformat(sep=" ", timespec="seconds")
    except OverflowError:
        return f"{time} microseconds after 1970"
