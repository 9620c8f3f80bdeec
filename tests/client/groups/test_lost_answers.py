"""Administrative calls whose answer is lost: each is done once, and says so."""

import itertools
import random
from typing import Any

import pytest

import headwater
from headwater import Event
from headwater.cli.server_process import ServerProcess
from headwater.transport.connection import Connection
from tests.client.faces import FACES, run_on

names = itertools.count(random.randrange(1 << 40))


@pytest.fixture(params=FACES)
def face(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def lost(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Operations whose next answer is lost, together with the connection."""
    operations: set[str] = set()

    def losing(ask: Any) -> Any:
        async def asking(self: Connection, name: str, *arguments: Any) -> Any:
            answer = await ask(self, name, *arguments)
            if name in operations:
                operations.remove(name)
                self.close()
                raise headwater.ConnectionLost("the answer was lost")
            return answer

        return asking

    for kind in (Connection, *Connection.__subclasses__()):
        if "ask" in vars(kind):
            monkeypatch.setattr(kind, "ask", losing(vars(kind)["ask"]))
    return operations


def test_each_call_is_done_once(face: str, lost: set[str], real_server: ServerProcess) -> None:
    """It raised ConnectionLost, which says that nothing happened; again, it was refused."""
    name = f"g{next(names)}"

    async def scenario(db: headwater.Database) -> None:
        await db.append(f"{name}-1", [Event("A", 1), Event("A", 2)])
        lost.add("group_create")
        await db.groups.create(name, category=name)
        lost.add("nack")
        async with db.join(name, credit=1) as group:
            await (await anext(group)).park("broken")
        [parked] = [one.position async for one in db.groups.parked(name)]
        lost.add("group_replay")
        assert await db.groups.replay(name) == 1
        lost.add("group_update")
        await db.groups.update(name, attempts=3)
        async with db.join(name, credit=1) as group:
            await (await anext(group)).park("broken")
        lost.add("group_discard")
        assert await db.groups.discard(name, [parked]) == 1
        lost.add("group_delete")
        await db.groups.delete(name)
        lost.add("role_set")
        await db.rights.set_role(name, "read:keys:a")
        lost.add("role_remove")
        await db.rights.remove_role(name)
        assert not lost
        assert name not in [one.name for one in await db.groups.list()]

    run_on(face, real_server.url, scenario)
