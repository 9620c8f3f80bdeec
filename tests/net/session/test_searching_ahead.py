"""A request whose conditions take long is served in steps, and others are served in between."""

from typing import Any

import pytest
from trio.testing import wait_all_tasks_blocked

from headwater_protocol.errors import TooLarge
from headwater_protocol.frames import encode_frame
from headwater_protocol.messages import encode
from headwater_server.engine import work_budget
from headwater_server.net.session.session import Session, open_session
from tests.net.drivers.test_plain_sockets import dial, listening
from tests.net.serving import Client, MemoryServer, serving, settings

pytestmark = pytest.mark.skipif(
    str(work_budget.__file__).endswith(".so"), reason="a constant of a compiled module is fixed"
)

NEVER = {"query": [{"tags": ["even", "odd"]}]}
CONDITION = ["no_events", NEVER, 0]


@pytest.fixture(autouse=True)
def _small_searches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work_budget, "SEARCHED_MAX", 100)


async def fill(server: MemoryServer, client: Client, count: int = 20_000) -> None:
    events = [[None, "T", b"", b"", [("even", "odd")[n % 2]]] for n in range(1_000)]
    for _ in range(count // 1_000):
        await client.ask("execute", server.new_id(), [], [], [["append", "t-1", -1, events]])


def execute(server: MemoryServer, value: bytes) -> tuple[Any, ...]:
    return server.new_id(), [CONDITION], [["get", b"k"]], [["put", b"k", value]]


async def test_the_requests_of_a_connection_stay_in_order_behind_a_long_one() -> None:
    async with listening(requests_per_turn_max=1) as (server, listeners):
        client, other = await dial(listeners), await dial(listeners)
        await fill(server, client)
        sent = [await client.send("execute", *execute(server, b"%d" % n)) for n in range(3)]
        last = await client.send("get", None, b"k")
        answers: dict[int, Any] = {}
        while len(answers) < 4:
            item: Any = await client.receive()
            answers[item.request_id] = item.payload
        assert [answers[number][1] for number in sent] == [[None], [b"0"], [b"1"]]
        assert answers[last] in (None, b"0", b"1", b"2"), "a read sees what is published"
        assert await other.ask("get", None, b"k") == b"2"


async def test_others_are_served_between_the_steps() -> None:
    async with serving(settings(requests_per_turn_max=1)) as server:
        client = await server.connect()
        await fill(server, client)
        service = server.server.service
        session = open_session(service, "long", lambda: None)
        session.receive(encode_frame(encode([1, "hello", 1])))
        session.receive(encode_frame(encode([2, "execute", *execute(server, b"v")])))
        turns = 0
        while session.runnable:
            assert await client.ask("get", None, b"k") is None
            session.run()
            turns += 1
        assert turns > 4
        assert not service.searches
        await wait_all_tasks_blocked()
        assert await client.ask("get", None, b"k") == b"v"
        session.close()


async def test_a_request_that_is_searched_for_too_long_is_refused_without_effect() -> None:
    async with serving(settings(request_ms_max=0)) as server:
        client = await server.connect()
        await fill(server, client)
        with pytest.raises(TooLarge, match="longer than 0 ms"):
            await client.ask("execute", *execute(server, b"v"))
        assert not server.server.service.searches
        assert await client.ask("get", None, b"k") is None


async def test_a_search_ends_with_its_connection() -> None:
    async with serving(settings(requests_per_turn_max=1)) as server:
        client = await server.connect()
        await fill(server, client)
        session: Session = open_session(server.server.service, "long", lambda: None)
        session.receive(encode_frame(encode([1, "hello", 1])))
        session.receive(encode_frame(encode([2, "execute", *execute(server, b"v")])))
        assert server.server.service.searches
        session.close()
        session.run()
        assert not server.server.service.searches
        assert await client.ask("get", None, b"k") is None
