"""Listings of streams and categories: in order, in pages, as of any commit."""

import random
from dataclasses import replace
from typing import Any

from headwater_server.engine.reads.listing import CategoryEntry, StreamEntry
from tests.engine.database import SETTINGS, Database


def appended(*streams: str, count: int = 1) -> list[list[Any]]:
    return [["append", name, -1, [[None, "T", b"", b""]] * count] for name in streams]


def streams(
    database: Database, prefix: str = "", *, limit: int = 10_000, at: int | None = None
) -> dict[str, int]:
    """Every stream with its version, over as many pages as it takes."""
    found: list[StreamEntry] = []
    after: str | None = None
    while True:
        page = database.engine.reader(at).list_streams(prefix, after, limit)
        assert len(page.streams) <= limit
        found += page.streams
        if page.cursor is None:
            names = [entry.stream for entry in found]
            assert names == sorted(names, key=str.encode)
            return {entry.stream: entry.version for entry in found}
        assert after is None or page.cursor > after
        after = page.cursor


def categories(database: Database, *, limit: int = 10_000, at: int | None = None) -> dict[str, int]:
    found: list[CategoryEntry] = []
    after: str | None = None
    while True:
        page = database.engine.reader(at).list_categories(after, limit)
        found += page.categories
        if page.cursor is None:
            return {entry.category: entry.events for entry in found}
        after = page.cursor


def test_streams_are_listed_with_their_versions_in_every_layer() -> None:
    database = Database()
    assert streams(database) == {}
    database.execute(*appended("b-1", "a-1"))
    database.checkpoint()
    database.execute(*appended("a-1", "a-2", "c"))
    assert streams(database) == {"a-1": 2, "a-2": 1, "b-1": 1, "c": 1}
    assert categories(database) == {"a": 3, "b": 1, "c": 1}
    database = database.crash()
    assert streams(database) == {"a-1": 2, "a-2": 1, "b-1": 1, "c": 1}


def test_a_prefix_is_compared_with_the_name_only() -> None:
    database = Database()
    database.execute(*appended("é-1", "e-1", "e-12", "e-2", "f", "\U0010ffff"))
    for _ in range(2):
        assert streams(database, "e") == {"e-1": 1, "e-12": 1, "e-2": 1}
        assert streams(database, "e-1") == {"e-1": 1, "e-12": 1}
        assert streams(database, "é") == {"é-1": 1}
        assert streams(database, "\U0010ffff") == {"\U0010ffff": 1}
        assert streams(database, "x") == {}
        database.checkpoint()


def test_only_published_streams_are_listed() -> None:
    database = Database()
    database.execute(*appended("a"))
    database.engine.execute(
        database.new_id(), user=0, conditions=[], reads=None, writes=appended("a", "b")
    )
    assert streams(database) == {"a": 1}
    assert categories(database) == {"a": 1}
    database.sync()
    assert streams(database) == {"a": 2, "b": 1}


def test_a_page_ends_after_enough_was_examined_and_has_a_cursor() -> None:
    database = Database(replace(SETTINGS, examined_events_max=7))
    database.execute(*appended("z"))
    for number in range(50):
        database.execute(*appended(f"s-{number:02}"))
    for _ in range(2):
        # At commit 1, only one of the streams existed.
        assert streams(database, limit=3, at=1) == {"z": 1}
        assert len(streams(database, limit=3)) == 51
        database.checkpoint()


def test_listings_at_any_commit_agree_with_a_model() -> None:
    seed = 7
    print(f"seed {seed}")
    source = random.Random(seed)
    database = Database()
    truth: list[dict[str, int]] = [{}]
    for step in range(120):
        names = {f"{source.choice('abc')}-{source.randrange(8)}" for _ in range(3)}
        count = source.randrange(1, 40)
        database.execute(*appended(*sorted(names), count=count))
        before = truth[-1]
        truth.append(before | {name: before.get(name, 0) + count for name in names})
        if step % 25 == 24:
            database.checkpoint()
        if step % 40 == 39:
            database = database.crash()
    for commit in range(0, 121, 4):
        expected = truth[commit]
        assert streams(database, limit=5, at=commit) == expected
        counts: dict[str, int] = {}
        for name, version in expected.items():
            counts[name[0]] = counts.get(name[0], 0) + version
        assert categories(database, limit=2, at=commit) == counts
