"""The guarantees of StateStore, tested on RocksDB and on the store in memory."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from headwater_server.storage.store.interface import Family, StateStore, WriteBatch
from headwater_server.storage.store.rocks_store import RocksStore
from headwater_server.testing.memory_store import MemoryStore


@pytest.fixture(params=["rocks", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StateStore]:
    opened: StateStore
    opened = RocksStore.open(str(tmp_path / "state")) if request.param == "rocks" else MemoryStore()
    yield opened
    opened.close()


def put(store: StateStore, family: Family, **items: str) -> None:
    batch = WriteBatch()
    for key, value in items.items():
        batch.put(family, key.encode(), value.encode())
    store.write(batch)


def keys(items: Iterator[tuple[bytes, bytes]]) -> str:
    """The keys of a scan, of one letter each, as a word."""
    return b"".join(key for key, _ in items).decode()


def test_a_put_key_is_found_and_a_missing_key_is_none(store: StateStore) -> None:
    put(store, Family.LATEST, a="1", b="")
    assert store.get(Family.LATEST, b"a") == b"1"
    assert store.get(Family.LATEST, b"b") == b""
    assert store.get(Family.LATEST, b"c") is None
    assert store.get(Family.LATEST, b"") is None
    assert store.get_many(Family.LATEST, [b"b", b"c", b"a", b"a"]) == [b"", None, b"1", b"1"]
    assert store.get_many(Family.LATEST, []) == []


def test_families_are_separate(store: StateStore) -> None:
    for family in Family:
        put(store, family, a=family.name, z=family.name)
    for family in Family:
        assert store.get(family, b"a") == family.name.encode()
        assert [value for _, value in store.scan(family, b"")] == [family.name.encode()] * 2
        assert keys(store.scan(family, b"", None, reverse=True)) == "za"
        assert keys(store.scan(family, b"b", None, reverse=True)) == "z"


def test_a_key_can_be_any_bytes(store: StateStore) -> None:
    batch = WriteBatch()
    odd = [b"", b"\0", b"\0\0", b"\x00\xff", b"a", b"\xff", b"\xff\xff", b"\xff" * 8192]
    for key in odd:
        batch.put(Family.INDEX, key, key[:5])
    store.write(batch)
    assert list(store.scan(Family.INDEX, b"")) == [(key, key[:5]) for key in odd]
    assert store.get_many(Family.INDEX, odd) == [key[:5] for key in odd]


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(
    ("start", "end", "found"),
    [
        (b"", None, "bdf"),
        (b"", b"", ""),
        (b"", b"b", ""),
        (b"b", b"b", ""),
        (b"b", b"d", "b"),
        (b"b", b"d\0", "bd"),
        (b"c", b"e", "d"),
        (b"c", None, "df"),
        (b"f", b"b", ""),
        (b"g", None, ""),
    ],
)
def test_a_scan_includes_its_start_and_excludes_its_end(
    store: StateStore, start: bytes, end: bytes | None, found: str, reverse: bool
) -> None:
    put(store, Family.HISTORY, b="", d="", f="")
    put(store, Family.CHANGES, a="", c="", e="")
    got = keys(store.scan(Family.HISTORY, start, end, reverse=reverse))
    assert got == (found[::-1] if reverse else found)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(
    ("start", "end", "count_max", "size_max", "found", "more"),
    [
        (b"", None, 4, 99, "bdf", False),
        (b"", None, 3, 99, "bdf", True),
        (b"", None, 2, 99, "bd", True),
        (b"", None, 9, 3, "bd", True),
        (b"", None, 9, 1, "b", True),
        (b"", b"b", 9, 99, "", False),
        (b"c", b"e", 9, 99, "d", False),
        (b"c", b"e", 1, 99, "d", True),
        (b"f", b"b", 9, 99, "", False),
        (b"g", None, 9, 99, "", False),
    ],
)
def test_a_page_ends_when_it_is_full_and_says_whether_there_is_more(
    store: StateStore,
    start: bytes,
    end: bytes | None,
    count_max: int,
    size_max: int,
    found: str,
    more: bool,
    reverse: bool,
) -> None:
    put(store, Family.HISTORY, b="11", d="22", f="33")
    put(store, Family.LATEST, a="", y="")
    put(store, Family.CHANGES, a="", c="", e="")
    page = store.page(
        Family.HISTORY, start, end, count_max=count_max, size_max=size_max, reverse=reverse
    )
    if reverse and more:
        found = {b"": "fdb", b"c": "d"}[start][: len(found)]
    elif reverse:
        found = found[::-1]
    assert b"".join(page.keys).decode() == found
    assert page.values == [{"b": b"11", "d": b"22", "f": b"33"}[key] for key in found]
    assert page.more == more


def test_a_scan_shows_the_store_as_it_was_when_it_was_asked(store: StateStore) -> None:
    put(store, Family.LATEST, a="1", b="1", c="1", d="1")
    not_begun = store.scan(Family.LATEST, b"")
    begun = store.scan(Family.LATEST, b"")
    backwards = store.scan(Family.LATEST, b"", reverse=True)
    assert next(begun) == (b"a", b"1")
    assert next(backwards) == (b"d", b"1")
    put(store, Family.LATEST, b="2", c2="2", e="2")
    batch = WriteBatch()
    batch.delete(Family.LATEST, b"c")
    batch.delete_range(Family.LATEST, b"a", b"b")
    store.write(batch)
    store.flush()
    assert list(begun) == [(b"b", b"1"), (b"c", b"1"), (b"d", b"1")]
    assert list(backwards) == [(b"c", b"1"), (b"b", b"1"), (b"a", b"1")]
    assert keys(not_begun) == "abcd"
    assert list(store.scan(Family.LATEST, b"")) == [
        (b"b", b"2"), (b"c2", b"2"), (b"d", b"1"), (b"e", b"2"),
    ]  # fmt: skip


def test_a_scan_stays_within_its_range_while_memory_is_reused(store: StateStore) -> None:
    """rocksdict used to compare with a bound that was freed, and a scan ended early."""
    batch = WriteBatch()
    for number in range(1000):
        batch.put(Family.LATEST, b"%03d" % number, b"")
    store.write(batch)
    scans = [(n, store.scan(Family.LATEST, b"%03d" % n, b"%03d" % (n + 300))) for n in range(500)]
    garbage = [bytes([255]) * size for size in range(1, 60) for _ in range(20)]
    for number, scan in scans:
        assert [int(key) for key, _ in scan] == list(range(number, number + 300))
    assert garbage


def test_the_writes_of_a_batch_happen_in_their_order(store: StateStore) -> None:
    put(store, Family.LATEST, a="0", b="0", c="0")
    batch = WriteBatch()
    batch.put(Family.LATEST, b"a", b"1")
    batch.delete_range(Family.LATEST, b"a", b"c")
    batch.put(Family.LATEST, b"b", b"2")
    batch.delete(Family.LATEST, b"c")
    batch.delete(Family.LATEST, b"never there")
    assert len(batch) == 5
    store.write(batch)
    assert list(store.scan(Family.LATEST, b"")) == [(b"b", b"2")]
    store.write(WriteBatch())


def test_a_batch_can_be_written_again_and_extended(store: StateStore) -> None:
    batch = WriteBatch()
    batch.put(Family.LATEST, b"a", b"1")
    store.write(batch)
    batch.put(Family.LATEST, b"b", b"1")
    store.write(batch)
    assert keys(store.scan(Family.LATEST, b"")) == "ab"


def test_deleting_a_range_stays_within_it_and_its_family(store: StateStore) -> None:
    for family in Family:
        put(store, family, a="", b="", c="")
    batch = WriteBatch()
    batch.delete_range(Family.HISTORY, b"b", None)
    batch.delete_range(Family.CHANGES, b"a", b"c")
    batch.delete_range(Family.INDEX, b"c", b"a")
    batch.delete_range(Family.INDEX, b"b", b"b")
    store.write(batch)
    store.flush()
    found = {family.name: keys(store.scan(family, b"")) for family in Family}
    assert found == {
        "LATEST": "abc", "HISTORY": "a", "CHANGES": "c", "INDEX": "abc", "TRANSACTIONS": "abc",
    }  # fmt: skip


def test_closing_ends_the_scans_that_are_open(store: StateStore) -> None:
    put(store, Family.LATEST, a="", b="")
    scan = store.scan(Family.LATEST, b"")
    next(scan)
    store.close()
    assert list(scan) == []


def test_sizes_count_the_keys(store: StateStore) -> None:
    put(store, Family.LATEST, **{f"k{number}": "x" * 100 for number in range(100)})
    store.flush()
    sizes = store.sizes()
    assert set(sizes) == {"keys", "file_bytes", "memory_bytes", "cache_bytes"}
    assert sizes["keys"] == 100
    assert sizes["file_bytes"] + sizes["memory_bytes"] > 1000
    assert store.verify() == 100


def test_reopening_keeps_what_was_flushed(store: StateStore) -> None:
    put(store, Family.LATEST, a="1")
    store.flush()
    put(store, Family.LATEST, b="1")
    scan = store.scan(Family.LATEST, b"")
    store.reopen()
    assert list(scan) == []
    assert store.get(Family.LATEST, b"a") == b"1"
    put(store, Family.LATEST, c="1")
    store.flush()
    assert store.get(Family.LATEST, b"c") == b"1"


@pytest.mark.parametrize("seed", range(8))
def test_any_run_of_writes_and_reads_equals_a_dict(store: StateStore, seed: int) -> None:
    print("seed", seed)
    source = random.Random(seed)
    model: dict[tuple[Family, bytes], bytes] = {}
    families = list(Family)
    for _ in range(120):
        batch = WriteBatch()
        for _ in range(source.randrange(6)):
            family = source.choice(families)
            key = b"%d" % source.randrange(30)
            match source.randrange(5):
                case 0:
                    batch.delete(family, key)
                    model.pop((family, key), None)
                case 1:
                    end = b"%d" % source.randrange(30)
                    batch.delete_range(family, key, end)
                    for gone in [k for k in model if k[0] == family and key <= k[1] < end]:
                        del model[gone]
                case _:
                    value = source.randbytes(source.randrange(20))
                    batch.put(family, key, value)
                    model[family, key] = value
        store.write(batch)
        if source.random() < 0.1:
            store.flush()
        family = source.choice(families)
        start = b"%d" % source.randrange(30)
        end_or_none = source.choice([None, b"%d" % source.randrange(30)])
        reverse = source.random() < 0.5
        expected = sorted(
            (
                (key, value)
                for (of, key), value in model.items()
                if of == family and start <= key and (end_or_none is None or key < end_or_none)
            ),
            reverse=reverse,
        )
        assert list(store.scan(family, start, end_or_none, reverse=reverse)) == expected
        count = source.randrange(1, 6)
        page = store.page(
            family, start, end_or_none, count_max=count, size_max=1000, reverse=reverse
        )
        assert list(zip(page.keys, page.values, strict=True)) == expected[:count]
        assert page.more == (len(expected) >= count)
        assert store.get(family, start) == model.get((family, start))
    assert store.verify() == len(model)


def test_a_checkpoint_is_a_separate_store_with_all_flushed_data(
    store: StateStore, tmp_path: Path
) -> None:
    put(store, Family.LATEST, a="1", b="2")
    put(store, Family.INDEX, a="3")
    store.flush()
    path = str(tmp_path / "checkpoint")
    store.checkpoint_to(path)
    put(store, Family.LATEST, a="9", c="9")
    store.flush()
    made: StateStore
    if isinstance(store, MemoryStore):
        made = store.checkpoints[path].crash()
    else:
        made = RocksStore.open(path)
    assert made.verify() == 3
    assert made.get_many(Family.LATEST, [b"a", b"b", b"c"]) == [b"1", b"2", None]
    assert made.get(Family.INDEX, b"a") == b"3"
    put(made, Family.LATEST, d="4")
    made.flush()
    made.close()
    assert store.get(Family.LATEST, b"d") is None
    assert store.get(Family.LATEST, b"a") == b"9"
