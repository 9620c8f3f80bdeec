"""The history of a key: compared with what each commit was seen to write."""

import random
from dataclasses import replace
from typing import Any

import pytest

from headwater_protocol.limits import PAGE_SIZE_MAX
from headwater_server.engine.looking.key_history import VERSIONS_MAX
from headwater_server.engine.settings import SECOND_US
from tests.engine.database import SETTINGS, Database

Version = tuple[int, bytes | None]


def history(
    database: Database, key: bytes, at: int | None = None, limit: int = 10_000
) -> list[Version]:
    """All versions, over as many pages as it takes."""
    found: list[Version] = []
    before: int | None = None
    while True:
        looking = database.engine.looking
        view, rows, more, oldest = looking.key_history(key, before, limit, at)
        assert view == (database.engine.published if at is None else at)
        assert oldest == database.engine.oldest_readable
        found += [(row[0], row[3]) for row in rows]
        if not more:
            return found
        before = rows[-1][0]


def expected(model: list[Version], view: int, horizon: int) -> list[Version]:
    found: list[Version] = []
    for commit, value in reversed(model):
        if commit > view:
            continue
        if commit <= horizon and value is None:
            break
        found.append((commit, value))
        if commit <= horizon:
            break
    return found


@pytest.mark.parametrize("seed", range(10))
def test_a_history_has_every_version_of_the_window(seed: int) -> None:
    source = random.Random(seed)
    settings = replace(SETTINGS, history_window_us=source.choice([SECOND_US, 3600 * SECOND_US]))
    database = Database(settings, seed=seed)
    keys = [b"a", b"b", b"bb", b"c" * 300]
    model: dict[bytes, list[Version]] = {key: [] for key in keys}
    for _ in range(250):
        database.now += source.choice([1000, SECOND_US // 10])
        writes: list[list[Any]] = []
        for key in source.sample(keys, source.randrange(1, 4)):
            value = source.choice([None, source.randbytes(3)])
            writes.append(["delete", key] if value is None else ["put", key, value])
        before = {write[1]: database.engine.get(write[1]) for write in writes}
        commit = database.execute(*writes)[0]
        for write in writes:
            value = write[2] if write[0] == "put" else None
            # The deletion of an absent key may or may not be a version; both say the same.
            if value is not None or before[write[1]] is not None:
                model[write[1]].append((commit, value))
        if source.random() < 0.1:
            database.checkpoint(tidy=source.random() < 0.3)
        if source.random() < 0.02:
            database = database.crash()
        if source.random() < 0.1:
            horizon, newest = database.engine.oldest_readable, database.engine.published
            for key in keys:
                for view in {newest, source.randint(max(horizon, 1), newest)}:
                    wanted = expected(model[key], view, horizon)
                    for limit in (1, 3, 10_000):
                        found = history(database, key, view, limit)
                        assert without_repeated_deletions(found) == wanted


def without_repeated_deletions(found: list[Version]) -> list[Version]:
    """Without deletions of absent keys."""
    kept: list[Version] = []
    for place, (commit, value) in enumerate(found):
        older = found[place + 1][1] if place + 1 < len(found) else None
        if value is not None or older is not None:
            kept.append((commit, value))
    return kept


def test_a_version_says_who_when_and_whether_the_key_expired() -> None:
    database = Database()
    database.execute(["put", b"k", b"1"], ["expire", b"k", SECOND_US, None])
    first = database.now
    database.wait(2 * SECOND_US)
    database.engine.get(b"k")
    database.execute(["put", b"other", b""])
    for _ in range(2):
        _, rows, more, _ = database.engine.looking.key_history(b"k", None, 10, None)
        assert not more
        assert [(row[2], row[3], row[4]) for row in rows] == [
            (None, None, True),
            (None, b"1", False),
        ]
        assert rows[1][1] <= first <= rows[0][1]
        database.checkpoint()


def test_a_page_is_bounded_by_versions_and_bytes() -> None:
    database = Database()
    for number in range(VERSIONS_MAX + 50):
        database.execute(["put", b"k", b"%d" % number])
        if number == VERSIONS_MAX // 2:
            database.checkpoint()
    looking = database.engine.looking
    _, rows, more, _ = looking.key_history(b"k", None, 10_000, None)
    assert (len(rows), more) == (VERSIONS_MAX, True)
    assert len(history(database, b"k")) == VERSIONS_MAX + 50
    for number in range(4):
        database.execute(["put", b"large", bytes(PAGE_SIZE_MAX // 2 + number)])
    for _ in range(2):
        _, rows, more, _ = looking.key_history(b"large", None, 10_000, None)
        assert (len(rows), more) == (2, True)
        assert len(history(database, b"large")) == 4
        database.checkpoint()
