"""Administrative writes that are sent again with the id of the first time are done once."""

from typing import Any

import pytest

from headwater_protocol.errors import InvalidArgument, TransactionAborted
from headwater_protocol.identified import IDENTITY
from headwater_protocol.operations import OPERATIONS
from headwater_server.net.requests.handlers import HANDLERS
from headwater_server.net.session.failed_requests import KEPT_IN_MEMORY
from tests.net.serving import Client, MemoryServer, serving

REQUESTS: dict[str, list[Any]] = {
    "group_create": ["new", {}, None, {}],
    "group_update": ["g", None, None, {"attempts_max": 3}],
    "group_delete": ["g"],
    "group_replay": ["g", None],
    "group_discard": ["g", [1]],
    "role_set": ["auditor", [["keys", "read", b""]]],
    "role_remove": ["old"],
}
"""Requests that change something when they are done for the first time, after `prepare`."""

ANSWERS = {"group_create": [1], "group_replay": [1], "group_discard": [1]}


async def delivered(client: Client, server: MemoryServer) -> list[int]:
    """Position and token of the first event of the group "g", of which the client is a member."""
    await client.ask("group_create", "g", {}, 0, {})
    await server.append(client, "a", b"")
    await client.result(await client.send("group_join", "g", 1))
    [_, [[token, _, [position, *_]]]] = await client.pushed()
    return [position, token]


def test_every_administrative_write_can_have_an_id_and_is_done_once_with_it() -> None:
    identified = {name for name, one in OPERATIONS.items() if IDENTITY in one.arguments.arguments}
    assert identified == KEPT_IN_MEMORY - {"status"}
    assert {name for name in HANDLERS if "identified" in repr(HANDLERS[name])} == identified


@pytest.mark.parametrize("name", REQUESTS)
async def test_a_request_that_is_sent_again_gets_its_first_answer(name: str) -> None:
    async with serving() as server:
        client = await server.connect()
        claim = await delivered(await server.connect(), server)
        await client.ask("nack", "g", [claim], None, "broken", True)
        await client.ask("role_set", "old", [])
        identity = server.new_id()
        assert await client.ask(name, *REQUESTS[name], identity) == ANSWERS.get(name)
        assert (await client.ask("status", identity))[0] == "committed"
        # The connection was lost before the answer came, and time has passed.
        again = await server.connect()
        await server.append(again, "b", b"")
        assert await again.ask(name, *REQUESTS[name], identity) == ANSWERS.get(name)


@pytest.mark.parametrize("name", REQUESTS)
async def test_the_id_of_an_open_transaction_is_refused(name: str) -> None:
    async with serving() as server:
        client = await server.connect()
        claim = await delivered(await server.connect(), server)
        await client.ask("nack", "g", [claim], None, "broken", True)
        await client.ask("role_set", "old", [])
        identity = server.new_id()
        await client.ask("begin", identity)
        # Else both would be committed, as two commits with the same id.
        with pytest.raises(InvalidArgument, match="is open"):
            await client.ask(name, *REQUESTS[name], identity)
        await client.ask("commit", identity, [["put", b"\x02a\x00", b""]])
        commits = await client.ask("read_commits")
        assert [transaction for _, transaction, *_ in commits].count(identity) == 1


async def test_a_delivery_is_given_back_once() -> None:
    async with serving() as server:
        client = await server.connect()
        claim = await delivered(await server.connect(), server)
        identity = server.new_id()
        request: list[Any] = ["g", [claim], None, "broken", True, identity]
        assert await client.ask("nack", *request) is None
        assert await client.ask("nack", *request) is None
        assert (await client.ask("group_info", "g"))["parked"] == 1


@pytest.mark.parametrize("name", REQUESTS)
async def test_a_request_with_the_id_of_another_commit_is_refused(name: str) -> None:
    async with serving() as server:
        client = await server.connect()
        claim = await delivered(await server.connect(), server)
        await client.ask("nack", "g", [claim], None, "broken", True)
        await client.ask("role_set", "old", [])
        put, other = server.new_id(), server.new_id()
        await client.ask("execute", put, [], [], [["put", b"\x02a\x00", b""]])
        await client.ask("role_set", "other", [], other)
        before = await client.ask("group_info", "g"), await client.ask("role_list")
        # Else it would be told that it was done.
        for identity in (put, other):
            with pytest.raises(InvalidArgument, match="was another one, commit"):
                await client.ask(name, *REQUESTS[name], identity)
        assert (await client.ask("group_info", "g"), await client.ask("role_list")) == before


async def test_a_request_whose_id_was_fenced_is_not_done() -> None:
    async with serving() as server:
        client = await server.connect()
        identity = server.new_id()
        assert (await client.ask("status", identity, True))[0] == "aborted"
        with pytest.raises(TransactionAborted):
            await client.ask("group_create", "g", {}, 0, {}, identity)
        assert await client.ask("group_list") == []
