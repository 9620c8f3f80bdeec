"""A scan does not pass again what it has found to be deleted, and still finds every key."""

import random

import pytest

from headwater_server.engine.reads import scanning
from headwater_server.engine.state import gaps
from tests.engine.database import Database


@pytest.mark.parametrize("checkpoints", [False, True])
def test_a_pop_of_a_queue_in_keys_meets_as_many_keys_after_thousands_as_after_a_hundred(
    checkpoints: bool,
) -> None:
    database = Database()
    keys = [b"q%06d" % number for number in range(4_000)]
    database.execute(*[["put", key, b"job"] for key in keys])
    most = {"early": 0, "late": 0}
    for place, key in enumerate(keys[:3_000]):
        running = database.begin()
        page = running.scan(b"q", b"r", 1, False)
        assert page.items == [key, b"job"]
        database.commit(running, ["delete", key])
        database.execute(["put", b"other", b"%d" % place])
        part = "early" if place < 500 else "late"
        most[part] = max(most[part], page.examined)
        if checkpoints and place % 400 == 200:
            database.checkpoint()
    if not checkpoints:
        assert most["late"] <= most["early"] <= 300


@pytest.mark.parametrize("seed", range(12))
def test_scans_with_gaps_find_what_is_there(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    print("seed", seed)
    source = random.Random(seed)
    monkeypatch.setattr(scanning, "EXAMINED_MIN", source.choice([0, 1, 20]))
    monkeypatch.setattr(gaps, "GAPS_MAX", source.choice([1, 64]))
    monkeypatch.setattr(gaps, "WRITES_MAX", source.choice([3, 10_000]))
    database = Database(seed=seed)
    names = [b"k%02d" % number for number in range(60)]
    truth: list[set[bytes]] = [set()]
    for _ in range(150):
        now = set(truth[-1])
        name = source.choice(names)
        action = source.randrange(8)
        if action < 2:
            end = source.choice(names)
            database.execute(["delete_range", *sorted((name, end + b"x"))])
            now -= {key for key in now if min(name, end + b"x") <= key < max(name, end + b"x")}
        elif action < 5:
            database.execute(["delete", name])
            now.discard(name)
        else:
            database.execute(["put", name, b"v"])
            now.add(name)
        truth.append(now)
        if source.randrange(25) == 0:
            database.checkpoint()
        assert database.engine.published == len(truth) - 1
        for _ in range(4):
            view = source.choice([len(truth) - 1, len(truth) - 1, source.randrange(len(truth))])
            start = source.choice([b"k", b"k", b"k30", source.choice(names)])
            limit = source.choice([1, 3, 100])
            page = database.engine.reader(view).scan(start, b"l", limit, False)
            inside = sorted(key for key in truth[view] if start <= key < b"l")
            assert page.items[::2] == inside[:limit]
            assert page.more == (len(inside) > limit)
