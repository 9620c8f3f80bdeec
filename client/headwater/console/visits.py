"""A visit: one request for a page, with all that a page needs to answer it."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from headwater.accounts.rights import UserRights
from headwater.aggregates.repository import Repository
from headwater.codecs.codec import Codec
from headwater.console.addresses import MOMENT, address
from headwater.console.moments import Moment
from headwater.console.sessions import Session
from headwater.database import Database
from headwater.errors import HistoryGone, PermissionDenied
from headwater.reads.past import Past
from headwater.records import RecordedEvent

T = TypeVar("T")

MARKS_MAX: Final = 1000
"""Marks on the track: as many as there are pixels."""

Mark = tuple[int, str]
"""A commit in which the object of a page changed, and the kind: "", "snap" or "bad"."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the console was started with.

    Attributes:
        server: the address of the server, as text.
        codec: of values, event data and states.
        folds: the repository of each category whose state is shown.
        define: defines the projections of the application on a database; None: not given.
        handlers: the same, as it stands on the command line.
    """

    server: str
    codec: Codec
    folds: Mapping[str, Repository[Any]] = field(default_factory=dict)
    define: Callable[[Database], Any] | None = None
    handlers: str = ""


@dataclass(frozen=True, slots=True)
class Hidden:
    """A part of a page that could not be read.

    Attributes:
        kind: "right": the user may not read it. "past": it is no longer kept.
        reason: what the server said.
    """

    kind: str
    reason: str


@dataclass(slots=True)
class Visit:
    """A request for a page.

    Attributes:
        settings: of the console.
        session: of the user.
        moment: of which the page is.
        path: of the page.
        query: of the address, without the moment.
        track: members of the query that say how the track is drawn.
    """

    settings: Settings
    session: Session
    moment: Moment
    path: str
    query: Mapping[str, str]
    track: Mapping[str, str] = field(default_factory=dict)

    @property
    def db(self) -> Database:
        """The database, with the rights of the user. Its values are bytes."""
        return self.session.db

    @property
    def past(self) -> Past:
        """The database at the moment, so that all parts of a page are of one commit."""
        return self.db.at(commit=self.moment.commit)

    def get(self, name: str, default: str = "") -> str:
        """A member of the query."""
        return self.query.get(name, default)

    def number(self, name: str) -> int | None:
        """A member of the query that is a number; None if it is none, or is missing."""
        text = self.query.get(name, "").replace(",", "").strip()
        return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None

    def url(self, path: str, query: Mapping[str, Any] | None = None, **moment: Any) -> str:
        """The address of a page, at this moment unless *moment* has at= or vs=.

        `at=None` is now.
        """
        own: dict[str, Any] = {"at": self.moment.at, "vs": self.moment.vs, **self.track}
        return address(path, {**(query or {}), **own, **moment})

    def event_url(self, event: RecordedEvent) -> str:
        """The address of an event, by stream and version, so its readers need no other rights."""
        return self.url("/event", {"stream": event.stream, "version": event.version})

    def here(self, **changed: Any) -> str:
        """The address of this page, with some members changed."""
        kept = {name: each for name, each in self.query.items() if name not in MOMENT}
        moment = {name: changed.pop(name) for name in MOMENT if name in changed}
        return self.url(self.path, {**kept, **changed}, **moment)

    async def part(self, reading: Awaitable[T]) -> T | Hidden:
        """A part of a page, or why it cannot be shown. The rest of the page is shown."""
        try:
            return await reading
        except PermissionDenied as error:
            return Hidden("right", str(error))
        except HistoryGone as error:
            return Hidden("past", str(error))


@dataclass(slots=True)
class Page:
    """What a page shows.

    Attributes:
        template: the name of its template.
        title: of the page.
        section: the page of the navigation to which it belongs.
        values: for the template.
        marks: commits in which the object of the page changed, in order.
        status: of the HTTP response.
    """

    template: str
    title: str
    section: str = ""
    values: dict[str, Any] = field(default_factory=dict)
    marks: Sequence[Mark] = ()
    status: int = 200


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """The answer is another page."""

    address: str


Handler = Callable[[Visit], Awaitable[Page | Elsewhere]]


def rights_in_words(rights: UserRights) -> list[str]:
    """What a user may do, in the text of grants and roles."""
    if not rights.restricted:
        return ["everything"]
    return [*(f"role {name}" for name in rights.roles), *(str(one) for one in rights.grants)]
