"""Commits: listed in both directions, counted over time, and one with what it wrote.

Commit numbers and positions have no gaps, and times never go back. So the commits of a span of time
are counted by finding those at its ends, and no commit in between is read.
"""

from bisect import bisect_left, bisect_right
from itertools import groupby
from typing import Any, Final, NamedTuple

from headwater_protocol.errors import HistoryGone, InvalidArgument, NoSuchCommit
from headwater_protocol.limits import PAGE_SIZE_MAX
from headwater_server.engine.accounts import account_name
from headwater_server.engine.format import keyspaces
from headwater_server.engine.format.keyspaces import SNAPSHOTS, USER, parse_snapshot_key
from headwater_server.engine.reads.changes import (
    COMMIT_KEYS_MAX,
    Change,
    PartlyRead,
    has_expired,
    keys_of_commit,
)
from headwater_server.engine.state.layers import State

SNAPSHOTS_TOLD_MAX: Final = 1_000
"""Snapshots of one commit that are told by name."""

_OTHERS: Final = {
    keyspaces.ACCOUNTS: "accounts",
    keyspaces.GROUPS: "groups",
    keyspaces.EXPIRIES: "expiries",
    keyspaces.RETENTION: "retention",
    keyspaces.ERASURES: "erasures",
}
"""Key spaces other than those of users and snapshots. Only their keys are counted."""


class Mark(NamedTuple):
    """The end of a slice: a commit, its time, and the newest position then."""

    commit: int
    time: int
    position: int


def describe(state: State, published: int, commit: int) -> list[Any]:
    """A commit in the protocol's form.

    Raises:
        HistoryGone: its record was trimmed.
    """
    record = state.commit_record(commit)
    name = account_name(state, published, record.user) if record.user else None
    first_position = record.first_position if record.event_count else 0
    return [commit, record.transaction, record.time, name, first_position, record.event_count]


def who_and_when(state: State, published: int, commit: int) -> tuple[int | None, str | None]:
    """The time of a commit and its user; None: its record was trimmed, or there are no users."""
    if commit < state.files.oldest_commit:
        return None, None
    record = state.commit_record(commit)
    return record.time, account_name(state, published, record.user) if record.user else None


def read_commits(
    state: State, published: int, after: int | None, limit: int, reverse: bool
) -> list[list[Any]]:
    """The commits after one, or in reverse those before it; None: from the end where it begins.

    Raises:
        HistoryGone: the record of the commit after it was trimmed.
    """
    oldest = int(state.files.oldest_commit)
    if reverse:
        last = published if after is None else min(after - 1, published)
        numbers = range(last, max(oldest, last - limit + 1) - 1, -1)
        return [describe(state, published, commit) for commit in numbers]
    first = oldest if after is None else after + 1
    if first < oldest:
        raise HistoryGone(
            f"the commits after {after} were trimmed from the commit log, whose oldest is {oldest}",
            details={"oldest": oldest},
        )
    last = min(published, first + limit - 1)
    return [describe(state, published, commit) for commit in range(first, last + 1)]


def known_span(state: State, horizon: int, published: int) -> list[list[int]]:
    """Commit and time of: the oldest that is recorded, the oldest that can be read, the newest."""
    commits = (int(state.files.oldest_commit), horizon, published)
    return [[commit, _time_of(state, commit)] for commit in commits]


def _time_of(state: State, commit: int) -> int:
    """The time of a commit; 0 before the first, and if its record was trimmed."""
    if not state.files.oldest_commit <= commit <= state.last_commit:
        return 0
    return state.commit_record(commit).time


def count_commits(
    state: State, published: int, by: str, first: int | None, last: int | None, slices: int
) -> list[Mark]:
    """The ends of *slices* slices of a span, the beginning of the first one before them.

    *by* "time": *first* and *last* are times. *by* "commits": they are commits; the slices have the
    same number of commits, as nearly as possible. The span begins after *first*, and *last* belongs
    to it. None: before all commits that are recorded, and the newest.

    Raises:
        InvalidArgument: the span is empty.
    """
    oldest = int(state.files.oldest_commit)
    if not published or oldest > published:
        return []
    lowest = oldest - 1
    if by == "time":
        begin = _time_of(state, oldest) - 1 if first is None else first
        end = _time_of(state, published) if last is None else last
    else:
        begin = lowest if first is None else max(first, lowest)
        end = published if last is None else min(last, published)
    if begin >= end:
        raise InvalidArgument(f"count_commits: a span from {begin} to {end} is empty")
    if by != "time":
        slices = min(slices, end - begin)
    bounds = [begin + (end - begin) * number // slices for number in range(slices + 1)]
    if by == "time":
        commits = [0] * len(bounds)
        _find(state, bounds, commits, (0, slices), (lowest, published))
        return [_mark(state, *pair) for pair in zip(commits, bounds, strict=True)]
    return [_mark(state, commit, _time_of(state, commit)) for commit in bounds]


def _find(
    state: State,
    times: list[int],
    commits: list[int],
    places: tuple[int, int],
    span: tuple[int, int],
) -> None:
    """Fill in the newest commit at each of *times* in *places*; all are in *span*.

    The middle one is found first, and halves the span of both sides.
    """
    low, high = places
    if low > high:
        return
    middle = (low + high) // 2
    least, most = span
    numbers = range(least + 1, most + 1)
    found = least + bisect_right(numbers, times[middle], key=lambda number: _time_of(state, number))
    commits[middle] = found
    _find(state, times, commits, (low, middle - 1), (least, found))
    _find(state, times, commits, (middle + 1, high), (found, most))


def _mark(state: State, commit: int, time: int) -> Mark:
    if commit < state.files.oldest_commit:
        # What comes before the first recorded commit.
        following = state.commit_record(commit + 1)
        return Mark(commit, time, following.first_position - 1)
    return Mark(commit, time, state.position_at(commit))


def read_commit(state: State, horizon: int, published: int, commit: int) -> list[Any]:
    """A commit with what it wrote; see the operation `read_commit`.

    Raises:
        NoSuchCommit, HistoryGone: there is no record of it.
    """
    if not 0 < commit <= published:
        raise NoSuchCommit(f"there is no commit {commit}; the newest is {published}")
    told = describe(state, published, commit)
    if commit <= horizon:
        return [*told, None, None, None]
    counts: dict[str, int] = {}
    snapshots: list[list[Any]] = []
    user_keys = 0
    keys = keys_of_commit(state, commit, PartlyRead())
    for space, of_space in groupby(keys, lambda key: key[:1]):
        members = list(of_space)
        if space == USER:
            user_keys = len(members)
        elif space == SNAPSHOTS:
            snapshots = [list(parse_snapshot_key(key)) for key in members[:SNAPSHOTS_TOLD_MAX]]
            counts["snapshots"] = len(members)
        elif space in _OTHERS:
            counts[_OTHERS[space]] = len(members)
    return [*told, user_keys, snapshots, counts]


def commit_changes(
    state: State, horizon: int, published: int, commit: int, start: bytes, end: bytes, limit: int
) -> tuple[list[Change], bytes | None]:
    """What a commit did to the stored keys of [start, end), and the key at which it goes on.

    Raises:
        NoSuchCommit, HistoryGone: there is no such commit, or what was before it is gone.
    """
    if not 0 < commit <= published:
        raise NoSuchCommit(f"there is no commit {commit}; the newest is {published}")
    if commit <= horizon:
        raise HistoryGone(
            f"the changes of commit {commit} are older than the history window; the oldest that "
            f"can be read are those of commit {horizon + 1}",
            details={"oldest": horizon + 1},
        )
    keys = keys_of_commit(state, commit, PartlyRead())
    found: list[Change] = []
    size = 0
    for place in range(bisect_left(keys, start), bisect_left(keys, end)):
        key = keys[place]
        if len(found) >= min(limit, COMMIT_KEYS_MAX) or size >= PAGE_SIZE_MAX:
            return found, key
        old, new = state.get(key, commit - 1), state.get(key, commit)
        if old is None and new is None:
            continue
        found.append(Change(key[1:], old, new, new is None and has_expired(state, commit, key)))
        size += len(key) + len(old or b"") + len(new or b"")
    return found, None
