"""The stores: items, filters, namespaces and expiry, on both faces."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta

import pytest
from langgraph.store.base import GetOp, InvalidNamespaceError, PutOp, SearchOp
from langgraph.store.headwater import AsyncHeadwaterStore, HeadwaterStore
from langgraph.store.memory import InMemoryStore

from headwater.cli.server_process import ServerProcess


@pytest.fixture
def store(server: ServerProcess, prefix: str) -> Iterator[HeadwaterStore]:
    ttl = {"omit_expired": True, "refresh_on_read": True}
    with HeadwaterStore.from_conn_string(server.url, prefix=prefix, ttl=ttl) as store:  # type: ignore[arg-type]
        yield store


def expire(store: HeadwaterStore, namespace: tuple[str, ...], key: str) -> None:
    """Let an item's time have passed, as if the clock had gone on."""
    items, database = store._items, store._database
    row = database.get(items._key(namespace, key))
    database.delete(items._expiry(row[3], namespace, key))
    row[3] = datetime.now(UTC) - timedelta(seconds=1)
    database.put(items._key(namespace, key), row)
    database.put(items._expiry(row[3], namespace, key), None)


def test_an_item_is_put_read_changed_and_deleted(store: HeadwaterStore) -> None:
    place = ("users", "ann")
    store.put(place, "name", {"first": "Ann", "tags": ["a", {"b": None}]})
    first = store.get(place, "name")
    assert first is not None
    assert first.value == {"first": "Ann", "tags": ["a", {"b": None}]}
    store.put(place, "name", {"first": "Anna"})
    second = store.get(place, "name")
    assert second is not None
    assert second.created_at == first.created_at
    assert second.updated_at > first.updated_at
    store.delete(place, "name")
    assert store.get(place, "name") is None


def test_searches_and_listings_are_those_of_the_store_in_memory(store: HeadwaterStore) -> None:
    memory = InMemoryStore()
    for each in (store, memory):
        for number in range(30):
            place: tuple[str, ...] = ("docs", f"user{number % 3}")
            place = place if number % 5 else ("docs",)
            each.put(place, f"{number:02}", {"n": number, "in": {"odd": number % 2}, "l": [1, 2]})
        each.put(("other", "docs"), "x", {"n": 1})
        each.put(("docs", "user1", "deep"), "x", {"n": 100})
    filters: list[dict[str, object]] = [
        {},
        {"n": 7},
        {"n": {"$gte": 10, "$lt": 20}},
        {"n": {"$ne": 3}},
        {"in": {"odd": 1}},
        {"l": [1, 2]},
        {"absent": None},
    ]
    places: list[tuple[str, ...]] = [(), ("docs",), ("docs", "user1"), ("nothing",)]
    for place in places:
        for wanted in filters:
            ours, theirs = (
                {(item.namespace, item.key) for item in each.search(place, filter=wanted, limit=99)}
                for each in (store, memory)
            )
            assert ours == theirs
    assert len(store.search(("docs",), limit=10, offset=25)) == 6
    for options in (
        {},
        {"prefix": ("docs",)},
        {"suffix": ("docs",)},
        {"prefix": ("docs", "*")},
        {"max_depth": 1},
        {"max_depth": 2, "limit": 2, "offset": 1},
    ):
        assert store.list_namespaces(**options) == memory.list_namespaces(**options)


def test_a_batch_reads_before_it_writes(store: HeadwaterStore) -> None:
    store.put(("a",), "k", {"n": 1})
    found = store.batch(
        [
            PutOp(("a",), "k", {"n": 2}),
            GetOp(("a",), "k"),
            SearchOp(("a",)),
            PutOp(("a",), "k", {"n": 3}),
        ]
    )
    assert found[0] is None
    assert found[1].value == {"n": 1}  # type: ignore[union-attr]
    assert [item.value for item in found[2]] == [{"n": 1}]  # type: ignore[union-attr]
    newest = store.get(("a",), "k")
    assert newest is not None
    assert newest.value == {"n": 3}


def test_a_label_or_filter_that_is_wrong_is_refused(store: HeadwaterStore) -> None:
    with pytest.raises(InvalidNamespaceError):
        store.batch([GetOp(("a.b",), "k")])
    store.put(("a",), "k", {"n": 1})
    with pytest.raises(ValueError, match=r"\$like"):
        store.search(("a",), filter={"n": {"$like": 1}})


def test_an_expired_item_is_hidden_and_then_swept(store: HeadwaterStore) -> None:
    for name in ("keeps", "goes"):
        store.put(("a", name), "k", {"n": 1}, ttl=60)
    store.put(("a", "forever"), "k", {"n": 1})
    expire(store, ("a", "goes"), "k")
    assert store.get(("a", "goes"), "k") is None
    assert [item.namespace[1] for item in store.search(("a",))] == ["forever", "keeps"]
    assert store.list_namespaces() == [("a", "forever"), ("a", "keeps")]
    assert store.sweep_ttl() == 1
    assert store.sweep_ttl() == 0
    assert store._database.get(store._items._key(("a", "goes"), "k")) is None


def test_reading_lets_an_item_live_on_and_putting_without_ttl_for_ever(
    store: HeadwaterStore,
) -> None:
    def expires() -> datetime | None:
        row: list[datetime | None] = store._database.get(store._items._key(("a",), "k"))
        return row[3]

    store.put(("a",), "k", {"n": 1}, ttl=60)
    first = expires()
    assert first is not None
    store.get(("a",), "k", refresh_ttl=False)
    assert expires() == first
    store.get(("a",), "k")
    second = expires()
    assert second is not None
    assert second > first
    store.search(("a",))
    third = expires()
    assert third is not None
    assert third > second
    store.put(("a",), "k", {"n": 2}, ttl=None)
    assert expires() is None
    assert list(store._database.scan((store._items.prefix, "x"))) == []


def test_the_sweeper_starts_and_stops(store: HeadwaterStore) -> None:
    store.start_ttl_sweeper(60)
    assert store.stop_ttl_sweeper(30)
    store.start_ttl_sweeper(60).cancel()
    assert store.stop_ttl_sweeper(30)


def test_the_asyncio_store_does_the_same(server: ServerProcess, prefix: str) -> None:
    async def run() -> AsyncIterator[None]:
        async with AsyncHeadwaterStore.from_conn_string(server.url, prefix=prefix) as store:
            await asyncio.gather(*(store.aput(("a",), f"{n}", {"n": n}) for n in range(50)))
            found = await store.asearch(("a",), filter={"n": {"$lt": 10}}, limit=99)
            assert len(found) == 10
            item = await asyncio.to_thread(store.get, ("a",), "7")
            assert item is not None
            assert item.value == {"n": 7}
            with pytest.raises(asyncio.InvalidStateError):
                store.batch([GetOp(("a",), "7")])
            assert await store.alist_namespaces() == [("a",)]
            assert await store.sweep_ttl() == 0
            await store.start_ttl_sweeper(60)
            assert await store.stop_ttl_sweeper()
        yield

    async def all_of_it() -> None:
        async for _ in run():
            pass

    asyncio.run(all_of_it())
