"""A reader for the reads of an execute, which charges them to the work budget of the request.

A single read is bounded by its page. An execute may have thousands of reads, all of which are done
in one go, so they also share a bound.
"""

from headwater_server.engine.reads.filters import EventFilter
from headwater_server.engine.reads.key_names import KeysPage
from headwater_server.engine.reads.reading import EventsPage, Loaded, Reader, StreamPage
from headwater_server.engine.reads.scanning import ScanPage
from headwater_server.engine.settings import EngineSettings
from headwater_server.engine.state.layers import State
from headwater_server.engine.work_budget import READS, WorkBudget


class ChargedReader(Reader):
    """Reads the newest state, durable or not. See Reader.

    Every method raises TooLarge if the budget is used up.
    """

    __slots__ = ("_budget",)

    def __init__(self, state: State, budget: WorkBudget, settings: EngineSettings) -> None:
        super().__init__(
            state,
            state.last_commit,
            state.last_position,
            examined_max=settings.examined_events_max,
            time=state.time.time,
        )
        self._budget = budget
        budget.phase = READS

    def get(self, key: bytes) -> bytes | None:
        self._budget.spend(keys=1)
        return super().get(key)

    def expiry(self, key: bytes) -> int | None:
        self._budget.spend(keys=1)
        return super().expiry(key)

    def scan_keys(self, start: bytes, end: bytes | None, limit: int, reverse: bool) -> KeysPage:
        page = super().scan_keys(start, end, limit, reverse)
        self._budget.spend(keys=4, entries=page.examined)
        return page

    def count_keys(self, start: bytes, end: bytes | None) -> KeysPage:
        page = super().count_keys(start, end)
        self._budget.spend(keys=4, entries=page.examined)
        return page

    def scan_prefixes(
        self, start: bytes, end: bytes | None, size: int, delimiter: bytes | None, limit: int
    ) -> KeysPage:
        page = super().scan_prefixes(start, end, size, delimiter, limit)
        self._budget.spend(keys=4 + 4 * page.key_count, entries=page.examined)
        return page

    def scan_expiries(self, start: bytes, end: bytes | None, limit: int, reverse: bool) -> ScanPage:
        page = super().scan_expiries(start, end, limit, reverse)
        self._budget.spend(keys=4, entries=page.examined)
        return page

    def scan(self, start: bytes, end: bytes | None, limit: int, reverse: bool) -> ScanPage:
        page = super().scan(start, end, limit, reverse)
        self._budget.spend(keys=4, entries=page.examined)
        return page

    def read_stream(self, stream: str, after: int, limit: int, reverse: bool) -> StreamPage:
        page = super().read_stream(stream, after, limit, reverse)
        self._budget.spend(keys=6, entries=4 * len(page.events))
        return page

    def stream_version(self, stream: str) -> int:
        self._budget.spend(keys=2)
        return super().stream_version(stream)

    def load(self, stream: str, name: str, schema: int, below: int | None = None) -> Loaded:
        self._budget.spend(keys=20)
        return super().load(stream, name, schema, below)

    def read_all(self, after: int, wanted: EventFilter, limit: int, reverse: bool) -> EventsPage:
        page = super().read_all(after, wanted, limit, reverse)
        self._budget.spend(keys=6, entries=len(page.events))
        return page

    def _charge(self, *, events: int, entries: int) -> None:
        self._budget.spend(events=events, entries=entries)
