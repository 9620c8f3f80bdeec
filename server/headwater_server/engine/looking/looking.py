"""What people ask about a database, over its state: the functions of this room, at a commit."""

from collections.abc import Callable

from headwater_protocol.errors import NoSuchEvent
from headwater_server.engine.format.events import stream_name
from headwater_server.engine.looking.event_ids import find_event, not_indexed
from headwater_server.engine.reads.reading import Reader
from headwater_server.engine.state.layers import State


class Looking:
    """Questions about a database. *reader* makes a reader, at a commit or at the newest one."""

    def __init__(self, state: State, reader: Callable[[int | None], Reader]) -> None:
        self._state = state
        self._reader = reader

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
