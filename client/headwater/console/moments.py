"""The moment of which a page is: a commit of the past, or now.

`at=1130` in the address means "after commit 1130". Without it the page is live. A time, as in
`at=18:11` or `at=2026-11-30T18:11Z`, is the newest commit at that time. The console replaces it in
the address by the number of the commit at once, so that a shared address means one thing for ever.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from headwater.database import Database
from headwater.errors import HistoryGone, InvalidArgument, PermissionDenied
from headwater.reads.past import Past
from headwater.records import CommitRecord

DIGITS_MAX: Final = 18
"""Digits of a commit in an address: no database has more commits."""

_COMMIT: Final = re.compile(r"(?:commit|c|#)?\s*([\d,]+)", re.IGNORECASE)
_AGO: Final = re.compile(r"-\s*(\d+(?:\.\d+)?)\s*(s|m|min|h|d)")
_CLOCK: Final = re.compile(r"(\d\d?):(\d\d)(?::(\d\d(?:\.\d{1,6})?))?")
_SECONDS: Final = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True, slots=True)
class Moment:
    """The moment of a page.

    Attributes:
        newest: the newest commit.
        now: the time of the server's clock.
        oldest: the oldest commit as of which keys can be read.
        at: the commit that is shown, None if the page is live.
        vs: the commit that it is compared with, or None.
        time: of the commit that is shown; None if its record was trimmed.
    """

    newest: int
    now: datetime
    oldest: int
    at: int | None = None
    vs: int | None = None
    time: datetime | None = None

    @property
    def live(self) -> bool:
        """Whether the page is of now."""
        return self.at is None

    @property
    def commit(self) -> int:
        """The commit after which everything is shown."""
        return self.newest if self.at is None else self.at

    @property
    def gone(self) -> bool:
        """Whether keys of this moment can no longer be read."""
        return self.at is not None and self.at < self.oldest

    @property
    def since(self) -> int | None:
        """The commit that the moment is compared with, if it is before it."""
        return self.vs if self.vs is not None and self.vs < self.commit else None

    @property
    def age(self) -> timedelta | None:
        """How long ago it was."""
        return None if self.time is None else self.now - self.time


async def moment_of(db: Database, at: str, vs: str) -> Moment:
    """The moment that an address names.

    Raises:
        InvalidArgument: the text is neither a commit nor a time.
    """
    pong = await db.ping()
    commit = await commit_of(db, at, pong.commit, pong.time)
    compared = await commit_of(db, vs, pong.commit, pong.time)
    span = await db.known_span()
    shown = pong.commit if commit is None else commit
    # The end of one slice of commits is the commit itself, with its time, whoever asks.
    marks = [] if shown < 1 else await db.count_events(after=shown - 1, until=shown, slices=1)
    time = marks[-1].time if marks and marks[-1].commit == shown else None
    return Moment(pong.commit, pong.time, span.readable.commit, commit, compared, time)


async def commit_of(db: Database, text: str, newest: int, now: datetime) -> int | None:
    """The commit that a text names; None for now."""
    text = text.strip()
    if text.lower() in ("", "live", "now"):
        return None
    if (found := _COMMIT.fullmatch(text)) is not None:
        digits = found[1].replace(",", "")
        if not digits or len(digits) > DIGITS_MAX:
            raise InvalidArgument(f"at: {text!r:.40} is neither a commit nor a time")
        commit = max(1, int(digits))
        # The newest commit that is there is followed when there are newer ones.
        return min(commit, newest) if newest else None
    commit = await Past(db._channel, db._codec, commit=None, time=time_of(text, now)).commit()  # noqa: SLF001
    return max(1, commit) if newest else None


def time_of(text: str, now: datetime) -> datetime:
    """The time that a text names, in UTC.

    Raises:
        InvalidArgument: it names none.
    """
    try:
        if (found := _AGO.fullmatch(text)) is not None:
            return now - timedelta(seconds=float(found[1]) * _SECONDS[found[2]])
        if (found := _CLOCK.fullmatch(text)) is not None:
            day = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
            hours, minutes, seconds = int(found[1]), int(found[2]), float(found[3] or 0)
            time = day + timedelta(hours=hours, minutes=minutes, seconds=seconds)
            # A time that is still to come today was meant to be of yesterday.
            return time if time <= now else time - timedelta(days=1)
        given = datetime.fromisoformat(text)
        return given if given.tzinfo is not None else given.replace(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidArgument(
            f"at: {text!r:.40} is neither a commit nor a time; try 1130, 18:11, -90s or "
            "2026-11-30 18:11"
        ) from error


async def commit_record(db: Database, commit: int) -> CommitRecord | None:
    """The record of a commit. None: there is none, or it was trimmed."""
    if commit < 1:
        return None
    try:
        record = await anext(db.commits(after=commit - 1, limit=1), None)
    except (HistoryGone, PermissionDenied):
        return None
    return record if record is not None and record.commit == commit else None
