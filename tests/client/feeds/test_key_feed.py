"""Feeds of keys on all three faces of the client."""

import uuid
from typing import assert_type

import pytest

import headwater
from headwater.cli.server_process import ServerProcess
from tests.client.faces import FACES, run_on


@pytest.mark.parametrize("face", FACES)
def test_a_feed_gives_every_change_of_its_keys_in_commit_order(
    face: str, real_server: ServerProcess
) -> None:
    name = uuid.uuid4().hex

    async def scenario(db: headwater.Database) -> None:
        start = (await db.ping()).commit
        first = await db.put((name, "ann"), 1)
        async with db.transaction() as tx:
            tx.put((name, "ann"), 2)
            tx.put((name, "bob"), {"n": 5})
            tx.put((name + "x", "not of it"), 0)
        async with db.subscribe(keys=(name,), after=start, window=10) as feed:
            seen: list[headwater.Changes] = []
            async for item in feed:
                if isinstance(item, headwater.CaughtUp):
                    break
                assert isinstance(item, headwater.Changes)
                seen.append(item)
            assert [each.commit for each in seen] == [first.commit, tx.committed.commit]
            ann, bob = seen[1].changes
            assert (ann.key, ann.old, ann.new) == ((name, "ann"), 1, 2)
            assert (bob.old, bob.new, bob.existed, bob.exists) == (None, {"n": 5}, False, True)
            for number in range(30):
                await db.put((name, "ann"), number)
            gone = await db.delete((name, "bob"))
            async for item in feed:
                if isinstance(item, headwater.Changes) and item.commit == gone.commit:
                    [change] = item.changes
                    break
            assert (change.key, change.exists) == ((name, "bob"), False)
            assert int(feed.position) == gone.commit
        wanted = headwater.KeyRange((name, "b"), (name, "c"))
        async with db.subscribe(keys=wanted, after=gone.commit - 1) as feed:
            item = await anext(feed)
            assert isinstance(item, headwater.Changes)
            assert item.changes[0].key == (name, "bob")
        with pytest.raises(headwater.InvalidArgument, match="allows only after"):
            db.subscribe(keys=(name,), category="account")  # type: ignore[call-overload]

    run_on(face, real_server.url, scenario)


async def told_by_type(db: headwater.Database, blocking: headwater.BlockingDatabase) -> None:
    """Not called: a type checker knows from the call what a feed delivers."""
    async for event_item in db.subscribe(stream="a", after=1):
        assert_type(event_item, headwater.EventBatch | headwater.CaughtUp | headwater.FellBehind)
    async for key_item in db.subscribe(keys=("a",), after=1):
        assert_type(key_item, headwater.Changes | headwater.CaughtUp | headwater.FellBehind)
    with blocking.subscribe(query=headwater.Query(types=["a"])) as feed:
        assert_type(next(feed), headwater.EventBatch | headwater.CaughtUp | headwater.FellBehind)
        assert_type(next(feed.events()), headwater.RecordedEvent)
    with blocking.subscribe(keys=headwater.KeyRange("a", "b")) as keys:
        assert_type(next(keys), headwater.Changes | headwater.CaughtUp | headwater.FellBehind)
