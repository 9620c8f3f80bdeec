"""Deleting a range of keys outside of a transaction, however many keys it has."""

import uuid
from collections.abc import Iterator
from typing import Any

import pytest

import headwater
from headwater.cli.server_process import ServerProcess
from tests.client.faces import FACES, run_on
from tests.client.fake_server import FakeServer


@pytest.fixture(params=FACES)
def face(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_range_is_deleted_in_parts_and_counted(face: str, real_server: ServerProcess) -> None:
    name = uuid.uuid4().hex

    async def scenario(db: headwater.Database) -> None:
        batch = db.batch()
        for number in range(12_000):
            batch.put((name, number), None)
        batch.put((f"{name}x",), "of another range")
        before = (await db.execute(batch)).committed.commit

        deleted = await db.delete_range((name,))
        assert deleted.count == 12_000
        assert deleted.commit is not None
        # At least two transactions, because a page has 10,000 keys at most.
        assert deleted.commit >= before + 2
        assert [item async for item in db.scan((name,))] == []
        assert await db.get(f"{name}x") == "of another range"
        assert await db.delete_range((name,)) == headwater.DeletedRange(0, None)

    run_on(face, real_server.url, scenario)


def test_keys_and_values_that_cannot_be_decoded_are_deleted_too(real_server: ServerProcess) -> None:
    name = uuid.uuid4().hex

    async def scenario(raw: headwater.Database) -> None:
        for number in range(5):
            await raw.put((name, number), b"\xc1")
        async with headwater.connect(real_server.url) as db:
            assert (await db.delete_range(start=(name, 1), end=(name, 4))).count == 3
        assert [key async for key, _ in raw.scan((name,))] == [(name, 0), (name, 4)]

    run_on("trio", real_server.url, scenario, codec=headwater.RawCodec())


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as server:
        yield server


def test_each_part_is_counted_once_although_it_conflicted_or_its_answer_was_lost(
    face: str, server: FakeServer
) -> None:
    pages: list[Any] = [
        [7, [b"\x02a\0", b"", b"\x02b\0", b""], True],
        [7, [b"\x02a\0", b"", b"\x02b\0", b""], True],
        [8, [b"\x02c\0", b""], False],
    ]
    server.on("scan", *pages)
    done: list[Any] = [9, 1_000_000, None, None, {}]
    server.on("commit", headwater.Conflict("another was faster"), done, server.DROP)
    server.on("status", ["committed", [10, 1_000_000, None, None, {}]])

    async def scenario(db: headwater.Database) -> None:
        assert await db.delete_range(()) == headwater.DeletedRange(3, headwater.CommitNumber(10))

    run_on(face, server.url, scenario)
    assert [came.arguments[1:3] for came in server.named("scan")] == [
        [b"", None],
        [b"", None],
        [b"\x02b\0\0", None],
    ]
    assert all(came.arguments[1] == "snapshot" for came in server.named("begin"))


def test_a_range_that_is_none_is_refused(server: FakeServer) -> None:
    async def scenario(db: headwater.Database) -> None:
        with pytest.raises(headwater.InvalidArgument, match="give a prefix"):
            await db.delete_range()
        with pytest.raises(headwater.InvalidArgument, match="start 2 is not before end 1"):
            await db.delete_range(start=2, end=1)

    run_on("trio", server.url, scenario)
    assert not server.named("begin")
