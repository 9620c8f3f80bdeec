"""Pages for what went wrong: what was asked, what the server said, and what one can do."""

from headwater.console.sessions import Session
from headwater.console.visits import Page, Visit, rights_in_words
from headwater.errors import (
    ConnectionClosed,
    ConnectionLost,
    HeadwaterError,
    HistoryGone,
    InvalidArgument,
    NoSuchCommit,
    NoSuchEvent,
    NoSuchGroup,
    PermissionDenied,
    ShuttingDown,
    TimedOut,
)

_STATUS: tuple[tuple[type[HeadwaterError] | tuple[type[HeadwaterError], ...], int, str], ...] = (
    (PermissionDenied, 403, "Not allowed"),
    (HistoryGone, 410, "No longer kept"),
    ((NoSuchEvent, NoSuchGroup, NoSuchCommit), 404, "Not found"),
    (InvalidArgument, 400, "Not understood"),
    ((ConnectionLost, ConnectionClosed, ShuttingDown), 502, "No connection to the server"),
    (TimedOut, 504, "No answer from the server"),
)


async def refusal(error: HeadwaterError, visit: Visit | None, session: Session) -> Page:
    """The page for an error."""
    status, title = 500, "An error of the server"
    for kind, code, words in _STATUS:
        if isinstance(error, kind):
            status, title = code, words
            break
    rights: list[str] = []
    if status == 403:
        try:
            rights = rights_in_words(await session.rights())
        except HeadwaterError:
            # The page is about the first error.
            rights = []
    values = {
        "message": str(error),
        "code": type(error).__name__,
        "right": str(error.details.get("right", "")),
        "rights": rights,
        "oldest": error.details.get("oldest"),
    }
    return Page("refusal.html", title, "" if visit is None else visit.path, values, status=status)
