"""What Django's tests leave out: numbers, long names, many entries, threads, other processes."""

import os
import pickle
import threading
from collections.abc import Iterator
from uuid import uuid4

import pytest
from django.core.exceptions import ImproperlyConfigured
from django_headwater.cache import NUMBER_MAX, HeadwaterCache
from django_headwater.databases import close_all, database

from headwater.cli.server_process import ServerProcess


@pytest.fixture
def cache(server: ServerProcess) -> Iterator[HeadwaterCache]:
    cache = HeadwaterCache(server.url, {"OPTIONS": {"SPACE": str(uuid4())}})
    yield cache
    cache.clear()


def test_numbers_of_any_size_are_counted(cache: HeadwaterCache) -> None:
    cache.set("n", NUMBER_MAX)
    assert cache.incr("n") == NUMBER_MAX + 1
    assert cache.incr("n", NUMBER_MAX) == cache.get("n") == 2 * NUMBER_MAX + 1
    cache.set("f", 1.5)
    assert cache.incr("f") == 2.5
    cache.set("text", "x")
    with pytest.raises(TypeError):
        cache.incr("text")
    with pytest.raises(ValueError, match="'absent' not found"):
        cache.incr("absent")


@pytest.mark.parametrize("number", [1, 2**70])
def test_counting_keeps_the_time(cache: HeadwaterCache, number: int) -> None:
    cache.set("n", number, timeout=100)
    cache.incr("n")
    left = cache.database.ttl(cache._key("n", None))
    assert left is not None
    assert 0 < left <= 100


@pytest.mark.parametrize("value", [True, False, None, 0, -1, 2**64, b"", "", b"\x80", (1, [2])])
def test_a_value_comes_back_with_its_type(cache: HeadwaterCache, value: object) -> None:
    cache.set("k", value)
    found = cache.get("k", "absent")
    assert (found, type(found)) == (value, type(value))


def test_threads_count_exactly(cache: HeadwaterCache) -> None:
    cache.set("n", 0)

    def count() -> None:
        for _ in range(50):
            cache.incr("n")

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert cache.get("n") == 200


def test_of_many_that_add_one_succeeds(cache: HeadwaterCache) -> None:
    added: list[bool] = []
    threads = [
        threading.Thread(target=lambda n=n: added.append(cache.add("k", n))) for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(added) == [False] * 7 + [True]


@pytest.mark.filterwarnings("ignore:.*memcached")
def test_long_names_are_told_apart(cache: HeadwaterCache) -> None:
    long = "ü" * 10_000
    cache.set_many({long + "1": 1, long + "2": 2, "short": 3})
    assert cache.get_many([long + "1", long + "2", "short", "none"]) == {
        long + "1": 1,
        long + "2": 2,
        "short": 3,
    }


def test_more_entries_than_fit_into_a_request(cache: HeadwaterCache) -> None:
    large = {f"large{n}": bytes([n]) * 2_000_000 for n in range(12)}
    assert cache.set_many(large) == []
    assert cache.get_many(large) == large
    many = {str(n): n for n in range(2_500)}
    cache.set_many(many)
    assert cache.get_many(many) == many
    cache.delete_many(many)
    assert cache.get_many(many) == {}
    assert cache.get_many(["large0"]) == {"large0": large["large0"]}


def test_without_max_entries_there_is_no_limit(cache: HeadwaterCache) -> None:
    for number in range(310):
        cache.set(str(number), number)
    assert cache.database.count((cache._space,)) == 310


@pytest.mark.parametrize("timeout", [0, -1])
def test_what_has_ended_is_not_stored(cache: HeadwaterCache, timeout: int) -> None:
    cache.set_many({"a": 1, "b": 2})
    assert cache.add("c", 3, timeout)
    assert not cache.add("a", 3, timeout)
    cache.set_many({"a": 2}, timeout)
    assert cache.touch("b", timeout)
    assert not cache.touch("b", timeout)
    assert cache.get_many(["a", "b", "c"]) == {}


def test_a_child_process_uses_the_cache_of_its_parent(cache: HeadwaterCache) -> None:
    cache.set("k", "of the parent")
    child = os.fork()
    if child == 0:
        right = cache.get("k") == "of the parent"
        cache.set("child", right)
        os._exit(0)
    os.waitpid(child, 0)
    assert cache.get("child") is True


def test_databases_are_shared_and_opened_again(server: ServerProcess) -> None:
    first = database(server.url)
    assert database(server.url) is first
    assert database(server.url, retry_timeout=1) is not first
    close_all()
    second = database(server.url)
    assert second is not first
    assert second.get(("absent",)) is None


def test_a_space_that_is_no_text_is_refused() -> None:
    with pytest.raises(ImproperlyConfigured, match="SPACE"):
        HeadwaterCache("headwater://localhost", {"OPTIONS": {"SPACE": 1}})


def test_what_others_pickled_is_a_value(cache: HeadwaterCache) -> None:
    cache.set("k", pickle.dumps(1))
    assert cache.get("k") == pickle.dumps(1)
