"""Keys without values, counts and beginnings of keys, against a list of keys."""

import random
from dataclasses import replace

import pytest

from headwater_protocol.keys import encode_key, member_end
from headwater_protocol.limits import KEY_SIZE_MAX
from headwater_server.engine.reads import key_names
from headwater_server.engine.reads.key_names import KeysPage
from headwater_server.engine.reads.reading import Reader
from tests.engine.database import OWNER, SETTINGS, Database

LAST = b"\xff" * KEY_SIZE_MAX


def all_keys(
    reader: Reader, start: bytes, end: bytes | None, *, reverse: bool, limit: int
) -> list[bytes]:
    found: list[bytes] = []
    for _ in range(10_000):
        page = reader.scan_keys(start, end, limit, reverse)
        assert page.key_count == len(page.keys) <= limit
        found += [key[1:] for key in page.keys]
        if page.rest is None:
            return found
        assert 0 < len(page.rest) <= KEY_SIZE_MAX + 1
        if reverse:
            end = page.rest[1:]
        else:
            start = page.rest[1:]
    raise AssertionError("a scan without an end")


def counted(reader: Reader, start: bytes, end: bytes | None) -> int:
    total = 0
    page = KeysPage([], 0, b"\x01" + start, 0)
    while page.rest is not None:
        page = reader.count_keys(page.rest[1:], end)
        total += page.key_count
    return total


def beginnings(
    reader: Reader, start: bytes, size: int, delimiter: bytes | None, limit: int
) -> list[bytes]:
    found: list[bytes] = []
    page = KeysPage([], 0, b"\x01" + start, 0)
    while page.rest is not None:
        page = reader.scan_prefixes(page.rest[1:], None, size, delimiter, limit)
        found += [key[1:] for key in page.keys]
    return found


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("own", [False, True])
def test_pages_agree_with_the_keys_in_every_layer(
    seed: int, own: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    print(f"seed {seed}")
    # So small that pages end inside of ranges, behind deleted keys too.
    monkeypatch.setattr(key_names, "EXAMINED_KEYS_MAX", 256)
    monkeypatch.setattr(key_names, "EXAMINED_SIZE_MAX", 2000)
    monkeypatch.setattr(key_names, "PREFIXES_MAX", 3)
    source = random.Random(seed)
    database = Database(replace(SETTINGS, history_window_us=0))
    there: set[bytes] = set()
    names = [(letter, number) for letter in "abcdefg" for number in range(100)]
    for part in range(4):
        writes: list[list[object]] = [["put", LAST, b""]]
        there.add(LAST)
        for name in source.sample(names, 150):
            key = encode_key(name)
            if key in there and source.random() < 0.5:
                there.discard(key)
                writes.append(["delete", key])
            else:
                there.add(key)
                writes.append(["put", key, source.randbytes(source.randrange(40))])
        if own and part == 3:
            reader: Reader = database.begin()
            reader.write(writes)  # type: ignore[attr-defined]
        else:
            database.execute(*writes)
            reader = database.engine.reader()
        if part in (0, 2):
            database.checkpoint()
    keys = sorted(there)
    for limit in (1, 7, 1000):
        for reverse in (False, True):
            expected = keys[::-1] if reverse else keys
            assert all_keys(reader, b"", None, reverse=reverse, limit=limit) == expected
        first, last = encode_key(("b",)), encode_key(("d", 50))
        inside = [key for key in keys if first <= key < last]
        assert all_keys(reader, first, last, reverse=False, limit=limit) == inside
        assert counted(reader, first, last) == len(inside)
        letters = sorted({key[:3] for key in keys if key != LAST})
        assert beginnings(reader, b"", 0, None, limit) == [*letters, LAST]
    assert counted(reader, b"", None) == len(keys)


def test_a_delimiter_ends_beginnings_inside_of_a_str() -> None:
    database = Database()
    paths = ["img/2023/a", "img/2023/b", "img/2024/c", "img/logo", "img", "imgs/x"]
    database.execute(*(["put", encode_key(("files", path)), b""] for path in paths))
    shared = encode_key(("files", "img/"))[:-1]
    found = beginnings(database.engine.reader(), shared, len(shared), b"/", 10)
    behind = [key[len(shared) :] for key in found if key.startswith(shared)]
    assert behind == [b"2023/", b"2024/", b"logo\0"]


def test_many_values_stop_after_a_page() -> None:
    database = Database()
    database.execute(*(["put", b"%d" % number, bytes(600_000)] for number in range(3)))
    reader = database.engine.reader()
    assert reader.get_many([b"x", b"0", b"1", b"2"]) == [None, bytes(600_000), bytes(600_000)]
    assert reader.get_many([b"x", b"y"]) == [None, None]


def test_a_transaction_conflicts_with_what_its_pages_have_reached_and_nothing_else() -> None:
    database = Database()
    database.execute(*(["put", encode_key((letter, 1)), b""] for letter in "abcd"))
    for write, conflicts in ((("b", 2), True), (("d", 2), False)):
        transaction = database.begin()
        assert len(transaction.scan_keys(b"", None, 3, False).keys) == 3
        other = database.begin()
        assert len(other.scan_prefixes(b"", None, 0, None, 3).keys) == 3
        database.execute(["put", encode_key(write), b""])
        for running in (transaction, other):
            running.write([["put", encode_key(("mine",)), b""]])
            ticket = database.engine.commit(running.id, OWNER, [])
            assert (ticket.error is not None) == conflicts


@pytest.mark.parametrize(
    "member", [None, b"a\0b", "a\0", (1, (None, "x")), -5, 0, 2**70, 1.5, True]
)
def test_a_member_ends_where_the_next_begins(member: object) -> None:
    key = encode_key(("x", member, "y"))  # type: ignore[arg-type]
    begin = len(encode_key(("x",)))
    assert member_end(key, begin) == len(encode_key(("x", member)))  # type: ignore[arg-type]
