"""Reads of keys, and writes with a condition, that take one round trip: on all faces."""

import uuid

import pytest

import headwater
from headwater.cli.server_process import ServerProcess
from tests.client.faces import FACES, run_on


@pytest.mark.parametrize("face", FACES)
def test_keys_are_listed_counted_and_grouped_without_their_values(
    face: str, real_server: ServerProcess
) -> None:
    name = uuid.uuid4().hex

    async def scenario(db: headwater.Database) -> None:
        keys = [(name, letter, number) for letter in "abc" for number in range(150)]
        async with db.transaction() as tx:
            for key in keys:
                tx.put(key, "x")
            assert await tx.count((name,)) == 450
            assert [item async for item in tx.prefixes((name,))] == [(name, x) for x in "abc"]
        assert [key async for key in db.scan((name,), values=False)] == keys
        backwards = db.scan((name, "b"), values=False, reverse=True, limit=140)
        assert [key async for key in backwards] == keys[299:159:-1]
        assert await db.count((name,)) == 450
        assert await db.count(start=(name, "b", 10), end=(name, "c")) == 140
        assert await db.count((name, "z")) == 0
        assert [item async for item in db.prefixes((name,))] == [(name, x) for x in "abc"]
        assert [item async for item in db.prefixes((name, "a"), limit=2)] == keys[:2]
        assert [item async for item in db.prefixes(name)] == [(name, x) for x in "abc"]

    run_on(face, real_server.url, scenario)


@pytest.mark.parametrize("face", FACES)
def test_beginnings_end_with_a_delimiter(face: str, real_server: ServerProcess) -> None:
    name = uuid.uuid4().hex

    async def scenario(db: headwater.Database) -> None:
        paths = ["img/2023/a", "img/2023/b", "img/2024/c", "img/lo\0go", "img", "imgs/x"]
        async with db.transaction() as tx:
            for path in paths:
                tx.put((name, path), 1)
        found = [item async for item in db.prefixes((name, "img/"), "/")]
        assert found == ["img/2023/", "img/2024/", "img/lo\0go"]
        assert [item async for item in db.prefixes((name, ""), "/")] == ["img", "img/", "imgs/"]
        with pytest.raises(headwater.InvalidArgument, match="ends with a str"):
            db.prefixes((name, 7), "/")

    run_on(face, real_server.url, scenario)


@pytest.mark.parametrize("face", FACES)
def test_many_values_come_in_their_order(face: str, real_server: ServerProcess) -> None:
    name = uuid.uuid4().hex

    async def scenario(db: headwater.Database) -> None:
        for number in range(4):
            await db.put((name, number), "x" * 700_000)
        keys = [(name, 3), (name, 9), (name, 0), (name, 1), (name, 2), (name, 9)]
        values = await db.get_many(keys, default=0)
        assert [value and len(value) for value in values] == [700_000, 0, *[700_000] * 3, 0]
        assert await db.get_many([]) == []
        async with db.transaction() as tx:
            tx.put((name, 9), 1)
            assert (await tx.get_many(keys))[1] == 1

    run_on(face, real_server.url, scenario)


@pytest.mark.parametrize("face", FACES)
def test_a_withdrawal_can_depend_on_the_order_of_a_number(
    face: str, real_server: ServerProcess
) -> None:
    name = uuid.uuid4().hex

    async def scenario(db: headwater.Database) -> None:
        await db.put(name, 80)
        batch = db.batch()
        batch.require_number(name, at_least=50, less=1000)
        batch.add(name, -50)
        await db.execute(batch)
        with pytest.raises(headwater.ConditionFailed, match="at least 50"):
            await db.execute(batch)
        assert await db.get(name) == 30
        with pytest.raises(headwater.InvalidArgument, match="give a limit"):
            db.batch().require_number(name)

    run_on(face, real_server.url, scenario)


@pytest.mark.parametrize("face", FACES)
def test_a_put_can_depend_on_what_is_there(face: str, real_server: ServerProcess) -> None:
    name = uuid.uuid4().hex

    async def scenario(db: headwater.Database) -> None:
        assert await db.put_if_absent(name, 1, ttl=100)
        assert await db.ttl(name) is not None
        assert not await db.put_if_absent(name, 2)
        assert not await db.compare_and_set(name, 2, 3)
        assert await db.compare_and_set(name, 1, None)
        assert await db.ttl(name) is None
        assert await db.compare_and_set(name, None, 4, ttl=100)
        assert await db.pop(name) == 4
        assert await db.pop(name, "none") == "none"

    run_on(face, real_server.url, scenario)
