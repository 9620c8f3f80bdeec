"""The state and its layers: every look-up, in every layer, compared with plain dicts."""

import random
from bisect import bisect_right
from typing import Any

import pytest

from headwater_server.engine.state.layers import NO_HEAD, Head, State
from headwater_server.engine.transactions.changed_keys import ChangedKeys
from headwater_server.engine.work_budget import VALIDATION, WorkBudget
from tests.engine.database import Database

KEYS = [b"\x01" + bytes([letter]) for letter in b"abcdefgh"]
STREAMS = ["a-1", "a-2", "b-1", "plain"]
COMMITS = 40


class Truth:
    """What was committed: commits of keys, positions of streams, categories and types."""

    def __init__(self) -> None:
        self.keys: dict[bytes, list[tuple[int, bytes | None]]] = {key: [] for key in KEYS}
        self.streams: dict[str, list[int]] = {stream: [] for stream in STREAMS}
        self.categories: dict[str, list[int]] = {"a": [], "b": [], "plain": []}
        self.types: dict[str, list[int]] = {"T0": [], "T1": []}
        self.last_positions = [0]
        self.times = [0]
        self.events = 0

    def value(self, key: bytes, view: int) -> bytes | None:
        versions = [value for commit, value in self.keys[key] if commit <= view]
        return versions[-1] if versions else None


def built(seed: int) -> tuple[State, Truth]:
    """Commits over three checkpoints of the files, a frozen memtable, and an active one."""
    source = random.Random(seed)
    database = Database()
    truth = Truth()
    for commit in range(1, COMMITS + 1):
        database.now += source.choice([0, 10])
        truth.times.append(database.now)
        writes: list[list[Any]] = []
        for key in source.sample(KEYS, source.randint(0, 3)):
            value = None if source.random() < 0.3 else b"%d" % commit
            writes.append(["delete", key[1:]] if value is None else ["put", key[1:], value])
            truth.keys[key].append((commit, value))
        for _ in range(source.randint(0 if writes else 1, 2)):
            stream, kind = source.choice(STREAMS), source.choice(["T0", "T1"])
            writes.append(["append", stream, -1, [[None, kind, b"", b""]]])
            truth.events += 1
            for positions in (
                truth.streams[stream],
                truth.categories[stream.split("-")[0]],
                truth.types[kind],
            ):
                positions.append(truth.events)
        truth.last_positions.append(truth.events)
        database.execute(*writes)
        if commit in (6, 12, 20):
            database.checkpoint()
        if commit == 30:
            assert database.engine.begin_checkpoint() is not None
    return database.engine._state, truth


@pytest.fixture(scope="module", params=range(3))
def both(request: pytest.FixtureRequest) -> tuple[State, Truth]:
    return built(request.param)


def test_a_key_has_the_right_value_at_every_commit(both: tuple[State, Truth]) -> None:
    state, truth = both
    for view in range(COMMITS + 1):
        for key in KEYS:
            assert state.get(key, view) == truth.value(key, view)


def test_a_scan_finds_the_right_keys_at_every_commit(both: tuple[State, Truth]) -> None:
    state, truth = both
    for view in range(COMMITS + 1):
        for start, end in ((KEYS[0], b"\xff"), (KEYS[2], KEYS[5]), (KEYS[3] + b"\0", KEYS[7])):
            wanted = [
                (key, value)
                for key in KEYS
                if start <= key < end and (value := truth.value(key, view)) is not None
            ]
            assert list(state.scan(start, end, view)) == wanted
            assert list(state.scan(start, end, view, reverse=True)) == wanted[::-1]


def test_the_newest_commit_of_a_key_is_found_if_it_is_after_a_given_commit(
    both: tuple[State, Truth],
) -> None:
    state, truth = both
    for key in [*KEYS, b"\x01none"]:
        newest = max((commit for commit, _ in truth.keys.get(key, [])), default=0)
        for after in range(COMMITS + 1):
            assert state.newest_commit(key, after) == (newest if newest > after else 0)


def test_a_range_counts_as_changed_if_one_of_its_keys_was(both: tuple[State, Truth]) -> None:
    state, truth = both
    for low in range(len(KEYS)):
        for high in (low + 1, low + 3, None):
            inside = KEYS[low:high]
            end = KEYS[high] if high is not None and high < len(KEYS) else b"\xff"
            for after in range(COMMITS + 1):
                newest = {
                    key: max((c for c, _ in truth.keys[key] if c > after), default=0)
                    for key in inside
                }
                found = ChangedKeys(state, after, WorkBudget(VALIDATION)).in_range(KEYS[low], end)
                if found is None:
                    assert not any(newest.values())
                else:
                    key, commit = found
                    assert (commit, True) in [(c, c > after) for c, _ in truth.keys[key]]
                    assert key in inside


def test_a_stream_has_the_right_version_at_every_position(both: tuple[State, Truth]) -> None:
    state, truth = both
    for stream, positions in truth.streams.items():
        head = state.head(stream)
        assert head == Head(positions[0], len(positions), positions[-1])
        for position in range(truth.events + 2):
            assert state.version_at(stream, head, position) == bisect_right(positions, position)
        for first in range(1, len(positions) + 1):
            for last in range(first - 1, len(positions) + 1):
                found = list(state.stream_positions(stream, head, first, last))
                assert found == positions[first - 1 : last]
    assert state.head("none") == NO_HEAD
    assert state.version_at("none", NO_HEAD, 5) == 0
    assert list(state.stream_positions("none", NO_HEAD, 1, 0)) == []


@pytest.mark.parametrize("index", ["category", "type"])
def test_an_index_finds_the_first_positions_in_both_directions(
    both: tuple[State, Truth], index: str
) -> None:
    state, truth = both
    source = random.Random(1)
    lists = truth.categories if index == "category" else truth.types
    for name, positions in [*lists.items(), ("none", [])]:
        for _ in range(200):
            after, upto = sorted(source.choices(range(truth.events + 2), k=2))
            limit = source.choice([1, 2, 5, 1000])
            inside = [position for position in positions if after < position <= upto]
            found = state.indexed_positions(index, name, after, upto, limit)
            assert list(found) == inside[:limit]
            found = state.indexed_positions(index, name, after, upto, limit, reverse=True)
            assert list(found) == inside[::-1][:limit]


def test_events_are_returned_in_the_requested_order(both: tuple[State, Truth]) -> None:
    state, truth = both
    everything = [state.events([position])[0] for position in range(1, truth.events + 1)]
    source = random.Random(2)
    for _ in range(100):
        wanted = source.choices(range(1, truth.events + 1), k=source.randint(0, 12))
        assert state.events(wanted) == [everything[position - 1] for position in wanted]
    for first in range(1, truth.events + 1):
        # A page ends with its layer; it is correct and has at least one event.
        found = state.events_from(first, truth.events, 1000, 10**6)
        assert found
        assert found == everything[first - 1 : first - 1 + len(found)]
        assert state.events_from(first, truth.events, 3, 10**6) == found[:3]
        assert state.events_from(first, first, 1000, 10**6) == found[:1]
        assert state.events_from(first, truth.events, 1000, 1) == found[:1]
    assert state.events_from(5, 4, 10, 10) == []


def test_the_last_position_of_a_commit_and_the_commit_at_a_time_are_found(
    both: tuple[State, Truth],
) -> None:
    state, truth = both
    for commit in range(COMMITS + 1):
        assert state.position_at(commit) == truth.last_positions[commit]
    for time in {*truth.times, truth.times[1] - 1, truth.times[-1] + 1}:
        assert state.commit_at(time) == bisect_right(truth.times, time) - 1
    for commit in range(1, COMMITS + 1):
        record = state.commit_record(commit)
        assert (record.commit, record.time) == (commit, truth.times[commit])
        assert state.transaction(record.transaction) == commit
    assert state.transaction(bytes(16)) is None
