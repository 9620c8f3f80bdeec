r"""Searching: the positions of the events that match a filter, from the indexes alone.

Every index is a sorted list of positions, so a filter is a tree of lists:

    stream s, and (types A or B with tag x, or tag y)

                 Both
               /      \
        stream s      Either
                     /      \
                 Both        tag y
                /    \
           Either     tag x          each node can `seek`: its first position at or after one
           /    \
       type A  type B

`Both` seeks in its shortest list first and asks the others for that position. The first list that
does not have it gives the next position to try. So all lists skip what cannot match (leapfrog join,
Veldhuizen 2014, with galloping search). `Either` keeps its lists in a heap. The cost depends on the
shortest list, not on the length of the log.

A reverse search negates all positions, so that the same code can always go upwards.

A prefix of stream names is `Either` of the streams that have it, or without a "-" of the categories
that have it. Names are in order, so a prefix is a range of them (state/names.py). If these are too
many, its events are looked for in the category, or among all events, and must be checked.

A search has a budget and stops when it is used up. Everything before the place where it stopped is
decided, so a page may end there and the next one can continue.
"""

import heapq
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from headwater_server.engine.format.index_keys import CATEGORY, STREAM
from headwater_server.engine.reads.filters import Criterion, EventFilter
from headwater_server.engine.state.layers import State
from headwater_server.engine.state.names import names_with_prefix

END: Final = 2**64
"""Above every position, and every negated one."""

_FIRST_CHUNK: Final = 1024
"""Positions in the first fetch, and in the first one after a skip. An array is copied."""

_FIRST_CHUNK_REVERSE: Final = 128
"""The same for a reverse search, which must negate each position."""

_CHUNK_MAX: Final = 4096
"""Positions in the largest fetch, 32 KiB; used while all fetched positions are needed."""

_FETCH_COST: Final = 16
"""The cost of a fetch, in seeks within fetched positions: measured as 15 to 40."""

PREFIX_NAMES_MAX: Final = 256
"""Streams or categories with a prefix that a search merges. Each takes a few look-ups to begin
with, some milliseconds for so many. Checking the events of their category soon takes longer."""

FEW: Final = 512
"""Positions that are checked one by one rather than looking up the names of a prefix."""

Fetch = Callable[[int, int, int], Sequence[int]]
"""Arguments are after, upto and a limit. Returns positions in (after, upto], at most that many; in
a reverse search the greatest come first."""


class _Budget:
    """How many seeks a search may still do."""

    __slots__ = ("left",)

    def __init__(self, left: int) -> None:
        self.left = left


class _Node(Protocol):
    """A sorted list of places in which one can seek, always forwards.

    A place is a position, or a negated one. *sure* is false after a seek that stopped because the
    budget was used up. Then nothing before the returned place matches, but that place itself may
    not match either.
    """

    sure: bool

    def seek(self, place: int, /) -> int:
        """The first place at or after *place*, END if there is none."""


class _List:
    """The positions of one stream, category, type or tag."""

    __slots__ = (
        "_at",
        "_budget",
        "_chunk",
        "_fetch",
        "_first_chunk",
        "_high",
        "_low",
        "_places",
        "_reverse",
        "sure",
    )

    def __init__(
        self, fetch: Fetch, low: int, high: int, *, reverse: bool, budget: _Budget
    ) -> None:
        self._fetch = fetch
        self._low = low
        self._high = high
        self._reverse = reverse
        self._budget = budget
        self._places: Sequence[int] = ()
        self._at = 0
        self._chunk = _FIRST_CHUNK_REVERSE if reverse else _FIRST_CHUNK
        self._first_chunk = self._chunk
        self.sure = True

    def seek(self, place: int) -> int:
        places = self._places
        self._budget.left -= 1
        at = self._at
        # Usually it is the current or the next one.
        if at < len(places) and places[at] < place:
            at += 1
            if at < len(places) and places[at] < place:
                at = bisect_left(places, place, at)
        if at < len(places):
            self._at = at
            return places[at]
        return self._refill(place)

    def _refill(self, place: int) -> int:
        if self._budget.left <= 0:
            self.sure = False
            return place
        self._budget.left -= _FETCH_COST
        # Fetch more if nearly all of the last chunk was used, and little after a skip.
        used = self._at + 1 >= len(self._places) - 1
        self._chunk = min(2 * self._chunk, _CHUNK_MAX) if used else self._first_chunk
        if self._reverse:
            found = self._fetch(self._low, min(self._high, -place), self._chunk)
            self._places = [-position for position in found]
        else:
            self._places = self._fetch(max(self._low, place - 1), self._high, self._chunk)
        self._at = 0
        return self._places[0] if self._places else END


class _Both:
    """The positions that are in all of several lists; the shortest list comes first."""

    __slots__ = ("_nodes", "sure")

    def __init__(self, nodes: Sequence[_Node]) -> None:
        assert len(nodes) > 1
        self._nodes = tuple(nodes)
        self.sure = True

    def seek(self, place: int) -> int:
        nodes = self._nodes
        rarest = nodes[0]
        while True:
            for node in nodes:
                found = node.seek(place)
                if found == END or not node.sure:
                    self.sure = node.sure
                    return found
                if found != place:
                    place = found
                    # After a skip in another list, ask the shortest list again.
                    if node is not rarest:
                        break
            else:
                return place


class _Either:
    """The positions that are in at least one of several lists."""

    __slots__ = ("_heap", "sure")

    def __init__(self, nodes: Sequence[_Node]) -> None:
        # The number breaks ties, so that nodes are never compared.
        self._heap = [(-END, number, node) for number, node in enumerate(nodes)]
        self.sure = True

    def seek(self, place: int) -> int:
        heap = self._heap
        found, number, node = heap[0]
        while found < place:
            heapq.heapreplace(heap, (node.seek(place), number, node))
            found, number, node = heap[0]
        self.sure = node.sure
        return found


class _Nothing:
    """No position at all."""

    __slots__ = ("sure",)

    def __init__(self) -> None:
        self.sure = True

    def seek(self, _: int) -> int:
        return END


_NOTHING: Final[tuple[int, _Node]] = (0, _Nothing())


class Search:
    """A search for the positions in (*after*, *upto*] that match a filter, in order or in reverse.

    Attributes:
        exact: whether all found positions match. If not, the events must be checked.
        looked_at: the last position that is decided.
        over: whether everything was searched.
    """

    def __init__(
        self,
        state: State,
        wanted: EventFilter,
        after: int,
        upto: int,
        *,
        reverse: bool,
        budget: int,
    ) -> None:
        self._state = state
        self._low = after
        self._high = upto
        self._reverse = reverse
        self._allowed = budget
        self._budget = _Budget(budget)
        self._lists = 0
        self.exact = True
        self.over = False
        self.looked_at = upto + 1 if reverse else after
        self._root = self._tree(wanted)
        # Enough to decide at least one position for any filter.
        self._budget.left += 2 * (1 + _FETCH_COST) * self._lists

    def take(self, count: int) -> list[int]:
        """The next *count* positions; fewer if the search is over or the budget is used up."""
        found: list[int] = []
        root, reverse = self._root, self._reverse
        place = 1 - self.looked_at if reverse else self.looked_at + 1
        while len(found) < count:
            at = root.seek(place)
            if at == END:
                self.over = True
                self.looked_at = self._low + 1 if reverse else self._high
                return found
            if not root.sure:
                place = at
                break
            found.append(-at if reverse else at)
            place = at + 1
        self.looked_at = 1 - place if reverse else place - 1
        return found

    @property
    def cost(self) -> int:
        """Seeks of this search beyond the first few, which are free for every search."""
        return max(0, self._allowed - self._budget.left)

    @property
    def spent(self) -> bool:
        """Whether the budget is used up."""
        return self._budget.left <= 0

    # The tree.

    def _tree(self, wanted: EventFilter) -> _Node:
        state = self._state
        parts: list[tuple[int, _Node]] = []
        category = wanted.category
        if wanted.stream is not None:
            parts.append(self._stream(wanted.stream))
            self.exact = category is None and wanted.prefix is None
        elif wanted.prefix is not None:
            parts += self._prefix(wanted.prefix, category)
        elif category is not None:
            parts.append(self._index("category", category))
        if wanted.types:
            parts.append(self._either([self._index("type", name) for name in wanted.types]))
        if wanted.query:
            parts.append(self._either([self._criterion(each) for each in wanted.query]))
        if not parts:
            parts.append((state.last_position, self._list(_every)))
        return self._both(parts)[1]

    def _prefix(self, prefix: str, category: str | None) -> list[tuple[int, _Node]]:
        """The streams whose names begin with a prefix, in a category if one is given."""
        state = self._state
        beginning, dash, _ = prefix.partition("-")
        if category is None and dash:
            # All streams with such a prefix are in one category.
            category = beginning
        if category is None:
            if self._high - self._low > FEW:
                categories = names_with_prefix(state, CATEGORY, prefix, PREFIX_NAMES_MAX)
                if categories is not None:
                    return [self._either([self._index("category", name) for name in categories])]
            self.exact = False
            return []
        if not dash:
            # The category decides it: a name begins with its category.
            return [self._index("category", category) if category.startswith(prefix) else _NOTHING]
        if category != beginning:
            return [_NOTHING]
        if len(state.indexed_positions("category", category, self._low, self._high, FEW)) == FEW:
            streams = names_with_prefix(state, STREAM, prefix, PREFIX_NAMES_MAX)
            if streams is not None:
                return [self._either([self._stream(name) for name in streams])]
        self.exact = False
        return [self._index("category", category)]

    def _criterion(self, criterion: Criterion) -> tuple[int, _Node]:
        parts = [self._index("tag", tag) for tag in criterion.tags]
        if criterion.types:
            parts.append(self._either([self._index("type", name) for name in criterion.types]))
        return self._both(parts)

    def _both(self, parts: list[tuple[int, _Node]]) -> tuple[int, _Node]:
        if len(parts) == 1:
            return parts[0]
        parts.sort(key=lambda part: part[0])
        return parts[0][0], _Both([node for _, node in parts])

    def _either(self, parts: list[tuple[int, _Node]]) -> tuple[int, _Node]:
        if not parts:
            return _NOTHING
        if len(parts) == 1:
            return parts[0]
        return sum(count for count, _ in parts), _Either([node for _, node in parts])

    def _index(self, index: str, name: str) -> tuple[int, _Node]:
        state, reverse = self._state, self._reverse

        def fetch(after: int, upto: int, limit: int) -> Sequence[int]:
            return state.indexed_positions(index, name, after, upto, limit, reverse=reverse)

        return state.indexed_count(index, name), self._list(fetch)

    def _stream(self, stream: str) -> tuple[int, _Node]:
        state, reverse = self._state, self._reverse
        head = state.head(stream)

        def fetch(after: int, upto: int, limit: int) -> Sequence[int]:
            low = state.version_at(stream, head, after)
            high = state.version_at(stream, head, upto)
            if reverse:
                found = state.stream_positions(stream, head, max(low + 1, high - limit + 1), high)
                return found[::-1]
            return state.stream_positions(stream, head, low + 1, min(high, low + limit))

        return head.version, self._list(fetch)

    def _list(self, fetch: Fetch) -> _Node:
        self._lists += 1
        if fetch is _every and self._reverse:
            fetch = _every_in_reverse
        return _List(fetch, self._low, self._high, reverse=self._reverse, budget=self._budget)


def _every(after: int, upto: int, limit: int) -> Sequence[int]:
    return range(after + 1, min(upto, after + limit) + 1)


def _every_in_reverse(after: int, upto: int, limit: int) -> Sequence[int]:
    return range(upto, max(after, upto - limit), -1)
