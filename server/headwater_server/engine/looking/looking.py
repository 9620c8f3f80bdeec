"""What people ask about a database, over its state: the functions of this room, at a commit."""

from typing import Any, Protocol

from headwater_protocol.errors import NoSuchEvent
from headwater_server.engine.format.events import stream_name
from headwater_server.engine.format.keyspaces import USER
from headwater_server.engine.looking import commits
from headwater_server.engine.looking.all_snapshots import read_snapshots
from headwater_server.engine.looking.branches import Branch, branches
from headwater_server.engine.looking.event_ids import find_event, not_indexed
from headwater_server.engine.looking.key_history import KeyVersion, key_history
from headwater_server.engine.looking.snapshots import list_snapshots
from headwater_server.engine.reads.changes import Change
from headwater_server.engine.reads.reading import Reader, user_range
from headwater_server.engine.reads.time_index import position_at_commit
from headwater_server.engine.state.layers import State


class Readable(Protocol):
    """What can be read of a database: an engine."""

    @property
    def published(self) -> int:
        """The newest commit that readers see."""
        ...

    @property
    def oldest_readable(self) -> int:
        """The oldest commit at which a reader may begin."""
        ...

    def reader(self, at_commit: int | None = None, *, step: bool = False) -> Reader:
        """A reader at the newest commit or a past one."""
        ...


class Looking:
    """Questions about a database."""

    def __init__(self, state: State, engine: Readable) -> None:
        self._state = state
        self._engine = engine
        self._reader = engine.reader

    def find_event(self, event_id: bytes, at_commit: int | None = None) -> tuple[int, bytes | None]:
        """The commit of the view, and the stored event with an id, or None.

        Raises:
            NoSuchEvent: it was not found, but an earlier version of Headwater wrote events without
                the index.
        """
        reader = self._reader(at_commit)
        found = find_event(self._state, reader.view, reader.position, event_id)
        if found is None and (after := not_indexed(self._state)):
            raise NoSuchEvent(
                f"no event after position {after} has the id {event_id.hex()}; earlier ones were "
                "written by a version without an index of ids",
                details={"indexed_after": after},
            )
        return reader.view, found

    def stream_of(self, event_id: bytes, at_commit: int | None = None) -> str | None:
        """The stream of the event with an id; None: it is not found."""
        try:
            _, stored = self.find_event(event_id, at_commit)
        except NoSuchEvent:
            return None
        return None if stored is None else stream_name(stored).decode()

    # Commits.

    def read_commits(self, after: int | None, limit: int, reverse: bool = False) -> list[list[Any]]:
        """The commits after one, or in reverse those before it, in the protocol's form."""
        return commits.read_commits(self._state, self._engine.published, after, limit, reverse)

    def read_commit(self, commit: int) -> list[Any]:
        """A commit with what it wrote."""
        engine = self._engine
        return commits.read_commit(self._state, engine.oldest_readable, engine.published, commit)

    def commit_changes(
        self, commit: int, start: bytes, end: bytes | None, limit: int
    ) -> tuple[list[Change], bytes | None]:
        """What a commit did to the users' keys of [start, end), and where it goes on."""
        first, last = user_range(start, end)
        engine = self._engine
        found, rest = commits.commit_changes(
            self._state, engine.oldest_readable, engine.published, commit, first, last, limit
        )
        return found, None if rest is None else rest[1:]

    def count_commits(
        self, by: str, first: int | None, last: int | None, slices: int
    ) -> list[commits.Mark]:
        """The ends of the slices of a span of times or commits."""
        return commits.count_commits(self._state, self._engine.published, by, first, last, slices)

    def known_span(self) -> list[list[int]]:
        """Commit and time of the oldest recorded, the oldest readable and the newest commit."""
        engine = self._engine
        return commits.known_span(self._state, engine.oldest_readable, engine.published)

    def position_at(self, commit: int) -> int:
        """The position of the newest event at a commit, however old it is."""
        return position_at_commit(self._state, commit, self._engine.published)

    # Histories.

    def key_history(
        self, key: bytes, before: int | None, limit: int, at_commit: int | None
    ) -> tuple[int, list[list[Any]], bool, int]:
        """The view, the versions of a user's key, whether more follow, and the oldest commit."""
        view = self._reader(at_commit).view
        before = view + 1 if before is None else min(before, view + 1)
        horizon = self._engine.oldest_readable
        versions, more = key_history(self._state, USER + key, before, horizon, limit)
        return view, [self._told(version) for version in versions], more, horizon

    def _told(self, version: KeyVersion) -> list[Any]:
        time, user = commits.who_and_when(self._state, self._engine.published, version.commit)
        return [version.commit, time, user, version.value, version.expired]

    def users_of(self, numbers: list[int]) -> list[str | None]:
        """The users of commits; None: there are no users, or the record was trimmed."""
        known: dict[int, str | None] = {}
        for commit in numbers:
            if commit not in known:
                published = self._engine.published
                known[commit] = commits.who_and_when(self._state, published, commit)[1]
        return [known[commit] for commit in numbers]

    # Snapshots, and the tree of keys.

    def read_snapshots(
        self, cursor: bytes | None, limit: int, at_commit: int | None = None
    ) -> tuple[list[list[Any]], bytes | None]:
        """Stored snapshots of all streams, and the cursor for the next page; None at the end."""
        return read_snapshots(self._state, self._reader(at_commit).view, cursor, limit)

    def list_snapshots(
        self, stream: str, cursor: bytes | None, limit: int, at_commit: int | None
    ) -> tuple[int, list[list[Any]], bytes | None]:
        """The view, the snapshots of a stream, and the cursor for the next page."""
        reader = self._reader(at_commit)
        published = self._engine.published
        return reader.view, *list_snapshots(self._state, published, reader, stream, cursor, limit)

    def branches(
        self,
        start: bytes,
        end: bytes | None,
        size: int,
        delimiter: bytes | None,
        count_max: int,
        limit: int,
        at_commit: int | None,
    ) -> tuple[int, list[Branch], bytes | None]:
        """The view, the branches of the users' keys of [start, end), and where they go on."""
        first, last = user_range(start, end)
        view = self._reader(at_commit).view
        found, rest = branches(
            self._state,
            first,
            last,
            view,
            size=size + 1,
            delimiter=delimiter,
            count_max=count_max,
            limit=limit,
        )
        told = [branch._replace(beginning=branch.beginning[1:]) for branch in found]
        return view, told, None if rest is None else rest[1:]
