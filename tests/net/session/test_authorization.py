"""Rights over a session: each operation with and without what it needs, and changes of rights."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from scramp import ScramClient

from headwater_protocol.connection import Answer, Failure, Push
from headwater_protocol.errors import (
    AuthenticationFailed,
    HeadwaterError,
    InvalidArgument,
    PermissionDenied,
    TransactionGone,
)
from headwater_protocol.grants import Grant
from headwater_protocol.keys import encode_key, prefix_range
from headwater_protocol.operations import CONDITION, OPERATIONS, READ, WRITE
from headwater_server.net.authorization import (
    CONDITION_RULES,
    READ_RULES,
    RULES,
    WRITE_RULES,
)
from headwater_server.net.settings import ServerSettings
from tests.net.serving import Client, MemoryServer, serving, settings
from tests.net.session.test_authentication import MECHANISM, add_user, end_of, login, verifier

A = encode_key(("a", 1))
A_RANGE = prefix_range(("a",))
TX = bytes(range(16))
EVENT = [None, "Happened", b"", b""]

READ_ALL = ("read:keys", "read:streams")

NEEDS: dict[str, list[tuple[list[Any], tuple[str, ...]]]] = {
    "hello": [],
    "authenticate": [],
    "ping": [([], ())],
    "begin": [([TX], ())],
    "write": [
        ([TX, [["put", A, b""]]], ("write:keys:a",)),
        ([TX, [["delete", A]]], ("write:keys:a",)),
        ([TX, [["expire", A, 1, None]]], ("write:keys:a",)),
        ([TX, [["delete_range", *A_RANGE]]], ("write:keys:a",)),
        ([TX, [["delete_range", b"", None]]], ("write:keys",)),
        ([TX, [["add", A, 1]]], ("write:keys:a",)),
        ([TX, [["min", A, 1]]], ("write:keys:a",)),
        ([TX, [["max", A, 1]]], ("write:keys:a",)),
        ([TX, [["append", "a-1", -1, [EVENT]]]], ("append:category:a",)),
        (
            [TX, [["append", "a-1", -1, [EVENT], {"stream": "b-1"}]]],
            ("append:stream:a-1", "read:stream:b-1"),
        ),
        ([TX, [["save_snapshot", "a-1", "s", 1, 0, b""]]], ("append:prefix:a-",)),
        ([TX, [["ack", "g", [[1, 1]]]]], ("group:g",)),
        ([TX, [["truncate", "a-1", 1]]], ("manage:stream:a-1",)),
        ([TX, [["delete_stream", "a-1"]]], ("manage:stream:a-1",)),
        ([TX, [["set_retention", "a-1", 1, None]]], ("manage:stream:a-1",)),
        ([TX, [["erase", "a-1", [1]]]], ("erase:stream:a-1",)),
        ([TX, [["erase_positions", [1]]]], ("erase:streams",)),
        ([TX, [["erase_ids", "a-1", [TX]]]], ("erase:stream:a-1",)),
    ],
    "commit": [([TX, [["put", A, b""]]], ("write:keys:a",)), ([TX], ())],
    "rollback": [([TX], ())],
    "execute": [
        ([TX, [["value", A, None]]], ("read:keys:a",)),
        ([TX, [["stream", "a-1", 0]]], ("read:stream:a-1",)),
        ([TX, [["unchanged", *A_RANGE, 0]]], ("read:keys:a",)),
        ([TX, [["compare", A, "less", 1]]], ("read:keys:a",)),
        ([TX, [["no_events", {"prefix": "a-"}, 0]]], ("read:prefix:a-",)),
        ([TX, [], [["get", A]]], ("read:keys:a",)),
        ([TX, [], [["get_entry", A]]], ("read:keys:a",)),
        ([TX, [], [["get_expiry", A]]], ("read:keys:a",)),
        ([TX, [], [["get_many", [A, A]]]], ("read:keys:a",)),
        ([TX, [], [["scan", *A_RANGE, 1, False]]], ("read:keys:a",)),
        ([TX, [], [["scan_keys", *A_RANGE, 1, False]]], ("read:keys:a",)),
        ([TX, [], [["count_keys", *A_RANGE]]], ("read:keys:a",)),
        ([TX, [], [["scan_prefixes", *A_RANGE, 0, None, 1]]], ("read:keys:a",)),
        ([TX, [], [["scan_expiries", *A_RANGE, 1, False]]], ("read:keys:a",)),
        ([TX, [], [["stream_version", "a-1"]]], ("read:stream:a-1",)),
        ([TX, [], [["read_stream", "a-1", 0, 1, False]]], ("read:category:a",)),
        ([TX, [], [["read_all", 0, {"category": "a"}, 1, False]]], ("read:category:a",)),
        ([TX, [], [["load", "a-1", "", 0, None]]], ("read:stream:a-1",)),
        (
            [TX, [["value", A, None]], [["load", "b-1", "", 0, None]], [["put", A, b""]]],
            ("read:keys:a", "read:stream:b-1", "write:keys:a"),
        ),
    ],
    "status": [([TX], ())],
    "get": [([None, A], ("read:keys:a",)), ([None, A, 0], ("read:keys:a",))],
    "get_entry": [([None, A], ("read:keys:a",))],
    "get_expiry": [([None, A], ("read:keys:a",))],
    "get_many": [
        ([None, [A]], ("read:keys:a",)),
        ([None, [A, encode_key(("b",))]], ("read:keys:a", "read:keys:b")),
    ],
    "scan": [([None, *A_RANGE], ("read:keys:a",)), ([None, b"", None], ("read:keys",))],
    "scan_keys": [([None, *A_RANGE], ("read:keys:a",)), ([None, b"", None], ("read:keys",))],
    "count_keys": [([None, *A_RANGE], ("read:keys:a",)), ([None, b"", None], ("read:keys",))],
    "scan_prefixes": [
        ([None, *A_RANGE, 0], ("read:keys:a",)),
        ([None, b"", None, 0], ("read:keys",)),
    ],
    "scan_expiries": [([None, *A_RANGE], ("read:keys:a",)), ([None, b"", None], ("read:keys",))],
    "stream_version": [([None, "a-1"], ("read:stream:a-1",))],
    "read_stream": [([None, "a-1"], ("read:stream:a-1",))],
    "read_all": [
        ([None], ("read:streams",)),
        ([None, 0, {"types": ["Happened"]}], ("read:streams",)),
        ([None, 0, {"prefix": "a-1"}], ("read:category:a",)),
    ],
    "newest_position": [
        ([None], ("read:streams",)),
        ([None, 0, {"category": "a"}], ("read:category:a",)),
    ],
    "load": [([None, "a-1"], ("read:stream:a-1",))],
    "commit_at": [([0], ())],
    "position_before": [([0], ())],
    "read_commits": [([], READ_ALL)],
    "read_snapshots": [([], ("read:streams",))],
    "list_streams": [([], ("read:streams",)), (["a-"], ("read:prefix:a",))],
    "list_categories": [([], ("read:streams",))],
    "find_event": [([TX], ("read:streams",))],
    "key_history": [([A], ("read:keys:a",))],
    "stream_history": [(["a-1"], ("read:stream:a-1",))],
    "read_commit": [([1], READ_ALL)],
    "commit_changes": [([1, *A_RANGE], ("read:keys:a",)), ([1, b"", None], ("read:keys",))],
    "count_commits": [([], ())],
    "known_span": [([], ())],
    "position_at": [([1], ())],
    "list_snapshots": [(["a-1"], ("read:category:a",))],
    "scan_branches": [([*A_RANGE, 0], ("read:keys:a",)), ([b"", None, 0], ("read:keys",))],
    "describe_streams": [([], ("read:streams",)), (["a-"], ("read:prefix:a",))],
    "subscribe": [([0, {"stream": "a-1"}], ("read:stream:a-1",)), ([], ("read:streams",))],
    "subscribe_keys": [([*A_RANGE, 0], ("read:keys:a",))],
    "credit": [([0, 1], ())],
    "unsubscribe": [([0], ())],
    "group_create": [(["h", {"category": "a"}], ("group:h", "read:category:a"))],
    "group_update": [
        (["g", None, None, {}], ("group:g",)),
        (["g", {"category": "b"}], ("group:g", "read:category:b")),
    ],
    "group_delete": [(["g"], ("group:g",))],
    "group_list": [([], ("group",))],
    "group_info": [(["g"], ("group:g",))],
    "group_join": [(["g"], ("group:g", "read:category:a"))],
    "group_leave": [([0], ())],
    "nack": [(["g", [[1, 1]]], ("group:g",))],
    "group_extend": [(["g", [[1, 1]]], ("group:g",))],
    "group_parked": [(["g"], ("group:g", "read:category:a"))],
    "group_replay": [(["g"], ("group:g",))],
    "group_discard": [(["g"], ("group:g",))],
    "stats": [([], ("admin",))],
    "backup": [(["monday"], ("backup",))],
    "user_verifiers": [([], ("admin",))],
    "hold_clock": [([1], ("admin",))],
    "node": [([], ())],
    "wait_commit": [([0], ())],
    "read_at_least": [
        ([0, ["get", A, None]], ("read:keys:a",)),
        ([0, ["read_all", 0, {"category": "a"}, 1, False, None]], ("read:category:a",)),
        ([0, ["list_streams", "", None, 1, None]], ("read:streams",)),
        ([0, ["commit_at", 0]], ()),
    ],
    "replicate": [(["n", 0, 0, bytes(16)], ("replicate",))],
    "log_read": [(["n", 0, 1000, 0], ("replicate",))],
    "copy_begin": [(["n"], ("replicate",))],
    "copy_read": [([bytes(16), 0, 0, 1], ("replicate",))],
    "promote": [([], ("admin",))],
    "cluster_status": [([], ())],
    "cluster_resign": [([], ("admin",))],
    "whoami": [([], ())],
    "connection_list": [([], ("admin",))],
    "connection_close": [([10_000], ("admin",))],
    "conflicts": [([], ()), ([TX], ())],
    "trace": [(["00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", 1], ())],
    "user_set": [(["zoe", bytes(16), 4096, bytes(32), bytes(32)], ("admin",))],
    "user_remove": [(["zoe"], ("admin",))],
    "user_list": [([], ("admin",))],
    "user_grant": [(["zoe"], ("admin",))],
    "user_revoke": [(["zoe"], ("admin",))],
    "user_rights": [([], ()), (["zoe"], ("admin",))],
    "user_limit": [(["zoe", 5000], ("admin",))],
    "role_set": [(["r", []], ("admin",))],
    "role_remove": [(["r"], ("admin",))],
    "role_list": [([], ("admin",))],
    "audit_read": [([], ("admin",))],
}
"""Requests, and the least grants with which each is served. Group g delivers category a."""

EVERY_OTHER = (
    *("read:keys:b", "write:keys:b", "read:category:c", "append:category:b", "manage:category:b"),
    *("erase:category:b", "group:other", "backup", "replicate"),
)
"""Grants for other things than the requests are about."""


@dataclass
class Users:
    """A server with an administrator, and the user bob."""

    server: MemoryServer
    admin: Client

    async def bob(self, *grants: str, roles: tuple[str, ...] = ()) -> Client:
        """A connection of bob, who has just these rights."""
        _, _, old_roles, old, _ = await self.admin.ask("user_rights", "bob")
        if old or old_roles:
            await self.admin.ask("user_revoke", "bob", old, old_roles)
        await self.grant(*grants, roles=roles)
        return await self.connect("bob")

    async def grant(self, *grants: str, roles: tuple[str, ...] = ()) -> None:
        wanted = [Grant.parse(each).as_wire() for each in grants]
        await self.admin.ask("user_grant", "bob", wanted, list(roles))

    async def revoke(self, *grants: str, roles: tuple[str, ...] = ()) -> None:
        wanted = [Grant.parse(each).as_wire() for each in grants]
        await self.admin.ask("user_revoke", "bob", wanted, list(roles))

    async def connect(self, name: str) -> Client:
        client = await self.server.connect()
        await login(client, name, "secret")
        return client


@asynccontextmanager
async def users(given: ServerSettings | None = None) -> AsyncIterator[Users]:
    async with serving(given) as server:
        first = await server.connect()
        await server.append(first, "a-1", b"1")
        await server.append(first, "b-1", b"2")
        await first.ask("group_create", "g", {"category": "a"})
        await add_user(first, "admin", "secret")
        admin = await server.connect()
        await login(admin, "admin", "secret")
        await add_user(admin, "bob", "secret")
        yield Users(server, admin)


async def is_denied(client: Client, operation: str, *arguments: Any) -> bool:
    """Whether a request is refused for a missing right. Other errors mean that it was allowed."""
    try:
        await client.ask(operation, *arguments)
    except PermissionDenied:
        return True
    except HeadwaterError:
        return False
    return False


def test_every_operation_and_every_part_of_one_has_a_rule_and_a_row() -> None:
    assert RULES.keys() == OPERATIONS.keys() == NEEDS.keys()
    assert WRITE_RULES.keys() == WRITE.variants.keys()
    assert CONDITION_RULES.keys() == CONDITION.variants.keys()
    assert READ_RULES.keys() == READ.variants.keys()
    parts = {
        part[0]
        for arguments, _ in (*NEEDS["write"], *NEEDS["execute"])
        for group in arguments[1:]
        for part in group
    }
    assert parts == {*WRITE.variants, *CONDITION.variants, *READ.variants}


@pytest.mark.parametrize("operation", [name for name, rows in NEEDS.items() if rows])
async def test_an_operation_needs_each_of_its_rights_and_no_other(operation: str) -> None:
    async with users() as known:
        for arguments, needed in NEEDS[operation]:
            for missing in needed:
                others = [each for each in needed if each != missing]
                bob = await known.bob(*EVERY_OTHER, *others)
                if missing in EVERY_OTHER:
                    await known.revoke(missing)
                assert await is_denied(bob, operation, *arguments), (operation, missing)
                await bob.close()
            bob = await known.bob(*needed)
            assert not await is_denied(bob, operation, *arguments), (operation, arguments)
            await bob.close()
            admin = await known.bob("admin")
            assert not await is_denied(admin, operation, *arguments), (operation, arguments)
            await admin.close()


async def test_an_event_is_found_by_who_may_read_its_stream_and_an_unknown_id_tells_nothing() -> (
    None
):
    async with users() as known:
        _, _, rows, _ = await known.admin.ask("read_all", None)
        bob = await known.bob("read:category:a")
        assert [row[1] for row in rows] == ["a-1", "b-1"]
        assert (await bob.ask("find_event", rows[0][5]))[1] == rows[0]
        errors = []
        for unreadable in (rows[1][5], TX):
            with pytest.raises(PermissionDenied) as caught:
                await bob.ask("find_event", unreadable)
            errors.append((caught.value.message, caught.value.details))
        assert errors[0] == errors[1]


# Changes of rights are in force at once.


async def test_what_a_user_loses_ends_at_once_and_the_rest_goes_on() -> None:
    async with users() as known:
        bob = await known.bob("read:category:a", "read:category:b", "read:keys:a", "group:g")
        kept = await subscribed(bob, "subscribe", 2, {"category": "b"}, 100)
        lost = {
            await subscribed(bob, "subscribe", 2, {"category": "a"}, 100),
            await subscribed(bob, "subscribe_keys", *A_RANGE, 2, 100),
            await subscribed(bob, "group_join", "g", 0),
        }
        await known.revoke("read:category:a", "read:keys:a")
        ended = await pushes_of(bob, "ended", len(lost))
        assert {request_id for request_id, _ in ended} == lost
        assert {payload[1][0] for _, payload in ended} == {"permission_denied"}
        await known.server.append(known.admin, "b-1", b"more")
        ((request_id, _),) = await pushes_of(bob, "events", 1)
        assert request_id == kept


async def subscribed(client: Client, operation: str, *arguments: Any) -> int:
    """Open a feed or a membership; return its id. Pushes to others may arrive meanwhile."""
    request_id = await client.send(operation, *arguments)
    while True:
        item = await client.receive()
        assert not isinstance(item, Failure), item
        if isinstance(item, Answer) and item.request_id == request_id:
            return request_id


async def pushes_of(client: Client, kind: str, count: int) -> list[tuple[int, list[Any]]]:
    """The next pushes of a kind, with the id of their feed."""
    found: list[tuple[int, list[Any]]] = []
    while len(found) < count:
        item = await client.receive()
        if isinstance(item, Push) and item.payload[0] == kind:
            found.append((item.request_id, item.payload))
    return found


async def test_a_transaction_that_read_what_is_not_allowed_any_more_is_rolled_back() -> None:
    async with users() as known:
        bob = await known.bob("read:keys:a", "write:keys:b")
        await bob.ask("begin", TX)
        await bob.ask("get", TX, A)
        await known.revoke("read:keys:a")
        with pytest.raises(TransactionGone):
            await bob.ask("commit", TX, [["put", encode_key(("b",)), b""]])


@pytest.mark.parametrize("change", ["rights", "removed", "another", "password"])
async def test_a_log_in_that_began_before_a_change_has_what_is_so_after_it(change: str) -> None:
    async with users() as known:
        await known.grant("read:keys:a", "read:keys:b")
        client = await known.server.connect()
        scram = ScramClient([MECHANISM], "bob", "secret")
        first = scram.get_client_first().encode()
        _, reply = await client.ask("authenticate", MECHANISM, first)
        scram.set_server_first(reply.decode())
        if change == "rights":
            await known.revoke("read:keys:a")
        elif change == "password":
            await add_user(known.admin, "bob", "other", create=False)
        else:
            await known.admin.ask("user_remove", "bob")
            if change == "another":
                await add_user(known.admin, "bob", "secret")
        final = scram.get_client_final().encode()
        if change == "rights":
            await client.ask("authenticate", MECHANISM, final)
            assert await is_denied(client, "get", None, A)
        else:
            with pytest.raises(AuthenticationFailed, match="wrong"):
                await client.ask("authenticate", MECHANISM, final)


@pytest.mark.parametrize("way", ["grant", "role", "log-in"])
async def test_who_is_losing_the_right_cannot_use_it_before_the_change_is_durable(way: str) -> None:
    async with users() as known:
        await known.admin.ask("role_set", "chief", [["admin"]])
        if way == "role":
            bob = await known.bob("read:keys:a", roles=("chief",))
            change: list[Any] = ["role_set", "chief", [["backup"]]]
        else:
            bob = await known.bob("read:keys:a", "admin")
            change = ["user_revoke", "bob", [["admin"]], []]
        known.server.disk.hold()
        changed = await known.admin.send(*change)
        await trio.testing.wait_all_tasks_blocked()
        if way == "log-in":
            bob = await known.connect("bob")
        given = await bob.send("user_grant", "bob", [["backup"], ["admin"]], ["admin"])
        # Others are served meanwhile.
        await known.admin.ask("ping")
        await trio.testing.wait_all_tasks_blocked()
        known.server.disk.release()
        await known.admin.result(changed)
        with pytest.raises(PermissionDenied):
            await bob.result(given)
        assert not await is_denied(bob, "get", None, A)


async def test_a_right_that_is_being_given_is_there_once_it_is_durable() -> None:
    async with users() as known:
        bob = await known.bob("read:keys:b")
        known.server.disk.hold()
        given = await known.admin.send("user_grant", "bob", [Grant.parse("read:keys:a").as_wire()])
        await trio.testing.wait_all_tasks_blocked()
        read = await bob.send("get", None, A)
        await trio.testing.wait_all_tasks_blocked()
        known.server.disk.release()
        await known.admin.result(given)
        assert await bob.result(read) is None


async def test_nobody_adds_a_user_without_being_one_while_the_first_one_is_added() -> None:
    async with serving() as server:
        first, other = await server.connect(), await server.connect()
        server.disk.hold()
        added = [await first.send("user_set", name, *verifier("secret")) for name in ("ann", "bob")]
        await trio.testing.wait_all_tasks_blocked()
        late = await server.connect()
        for client in (other, late):
            await client.send("user_set", "eve", *verifier("secret"))
        await trio.testing.wait_all_tasks_blocked()
        server.disk.release()
        for request in added:
            await first.result(request)
        for client in (other, late):
            assert await end_of(client) == "authentication_failed"
        ann = await server.connect()
        await login(ann, "ann", "secret")
        assert await ann.ask("user_list") == ["ann", "bob"]


async def test_two_users_who_remove_each_other_do_not_leave_a_server_without_any() -> None:
    async with serving(local_only=False) as server:
        server.server.service.authentication_needed = False
        await add_user(await server.connect(), "ann", "secret")
        ann = await server.connect()
        await login(ann, "ann", "secret")
        await add_user(ann, "bob", "secret")
        server.disk.hold()
        first = await ann.send("user_remove", "bob")
        second = await ann.send("user_remove", "ann")
        await trio.testing.wait_all_tasks_blocked()
        server.disk.release()
        items = [await ann.receive() for _ in range(2)]
        outcomes = {item.request_id: type(item) for item in items}
        assert outcomes == {first: Answer, second: Failure}


async def test_an_administrator_who_is_one_no_more_does_not_hold_the_clock() -> None:
    async with users() as known:
        bob = await known.bob("admin", "read:keys:a")
        now = known.server.engine.sequencer.clock.now()
        await bob.ask("hold_clock", now)
        with pytest.raises(InvalidArgument, match="another connection holds the clock"):
            await known.admin.ask("hold_clock", now)
        await known.revoke("admin")
        await known.admin.ask("hold_clock", now)


async def test_more_rights_leave_open_transactions_as_they_are() -> None:
    async with users() as known:
        bob = await known.bob("write:keys:b")
        await bob.ask("begin", TX)
        await known.grant("read:keys:a")
        committed = await bob.ask("commit", TX, [["put", encode_key(("b",)), b""]])
        assert committed[0] == known.server.engine.published


async def test_a_refused_write_rolls_its_transaction_back() -> None:
    async with users() as known:
        bob = await known.bob("write:keys:b")
        await bob.ask("begin", TX)
        assert await is_denied(bob, "write", TX, [["put", A, b""]])
        with pytest.raises(TransactionGone):
            await bob.ask("commit", TX, [["put", encode_key(("b",)), b""]])


async def test_a_commit_that_is_sent_again_after_the_right_was_taken_is_answered() -> None:
    async with users() as known:
        bob = await known.bob("write:keys:a")
        request: list[Any] = [TX, [], [], [["put", A, b"1"]]]
        first = await bob.ask("execute", *request)
        await known.revoke("write:keys:a")
        assert await bob.ask("execute", *request) == first
        assert await is_denied(bob, "execute", bytes(16), [], [], [["put", A, b"2"]])


@pytest.mark.parametrize(
    "read",
    [
        ["get", A],
        ["scan", *A_RANGE, 10, False],
        ["read_stream", "b-1", 0, 10, False],
        ["read_all", 0, {}, 10, False],
        ["load", "b-1", "", 0, None],
    ],
    ids=lambda read: read[0],
)
async def test_the_id_of_a_commit_opens_no_reads(read: list[Any]) -> None:
    async with users() as known:
        bob = await known.bob("write:keys:b")
        committed, _ = await bob.ask("execute", TX, [], [], [["put", encode_key(("b",)), b""]])
        with pytest.raises(
            PermissionDenied, match=f"committed, as commit {committed[0]}"
        ) as caught:
            await bob.ask("execute", TX, [], [read])
        assert caught.value.details["commit"] == committed[0]


@pytest.mark.parametrize("operation", ["commit", "execute"])
async def test_the_id_of_a_commit_does_not_tell_which_events_are_stored(operation: str) -> None:
    async with users() as known:
        identity, again = b"i" * 16, b"t" * 16
        event = [identity, "Happened", b"", b""]
        secret = ["append", "b-1", -1, [event]]
        await known.admin.ask("execute", bytes(16), [], [], [secret])
        bob = await known.bob("append:stream:a-1")
        own = ["append", "a-1", -1, [event]]
        await bob.ask("execute", TX, [], [], [own])
        # Its event was stored before, so the answer to this one has the place of that event.
        await bob.ask("execute", again, [], [], [own])
        arguments = [again, [secret]] if operation == "commit" else [again, [], [], [secret]]
        told = await bob.ask(operation, *arguments)
        *_, versions = told if operation == "commit" else told[0]
        assert "b-1" not in versions


@pytest.mark.parametrize(
    "again",
    [
        ["execute", TX, [], [], [["put", A, b""]]],
        ["execute", TX, [], [], [["put", encode_key(("b",)), b""]]],
        ["execute", TX, [], []],
        ["commit", TX],
        ["commit", TX, [["put", A, b""]]],
        ["group_update", "g", None, None, {}, TX],
        ["status", TX],
        ["status", TX, True],
    ],
)
async def test_a_commit_of_somebody_else_is_not_answered_again(again: list[Any]) -> None:
    async with users() as known:
        append = ["append", "secret-1", -1, [EVENT]]
        first = await known.admin.ask("execute", TX, [], [], [append])
        bob = await known.bob("write:keys:a", "read:streams", "group:g")
        if again[0] == "status":
            assert (await bob.ask(*again))[0] == "committed"
            await known.revoke("read:streams")
        # Neither the streams of the commit are told, nor that there is one.
        with pytest.raises(PermissionDenied) as refused:
            await bob.ask(*again)
        assert "commit" not in refused.value.details
        assert await known.admin.ask("execute", TX, [], [], [append]) == first


async def test_a_delivery_that_is_given_back_again_is_answered_to_who_did_it() -> None:
    async with users() as known:
        bob = await known.bob("group:g", "read:category:a")
        await bob.result(await bob.send("group_join", "g", 1))
        await known.server.append(known.admin, "a-2", b"")
        [_, [[token, _, [position, *_]]]] = await bob.pushed()
        request: list[Any] = ["g", [[position, token]], None, "broken", True, TX]
        assert await bob.ask("nack", *request) is None
        assert await bob.ask("nack", *request) is None
        [*_, [_, identity, _, name, *_]] = await known.admin.ask("read_commits")
        assert (identity, name) == (TX, "bob")


async def test_a_role_changes_for_all_who_have_it() -> None:
    async with users() as known:
        await known.admin.ask("role_set", "auditor", [["streams", "read", {"category": "a"}]])
        bob = await known.bob(roles=("auditor",))
        assert not await is_denied(bob, "read_stream", None, "a-1")
        assert await is_denied(bob, "read_stream", None, "b-1")
        await known.admin.ask("role_set", "auditor", [["streams", "read", {"category": "b"}]])
        assert await is_denied(bob, "read_stream", None, "a-1")
        assert not await is_denied(bob, "read_stream", None, "b-1")
        with pytest.raises(InvalidArgument, match="'bob' has the role"):
            await known.admin.ask("role_remove", "auditor")
        await known.revoke(roles=("auditor",))
        await known.admin.ask("role_remove", "auditor")
        assert [name for name, _ in await known.admin.ask("role_list")] == [
            *("admin", "reader", "writer"),
        ]


async def test_a_group_that_delivers_other_events_ends_members_that_may_not_read_them() -> None:
    async with users() as known:
        bob = await known.bob("group:g", "read:category:a")
        member = await subscribed(bob, "group_join", "g", 0)
        await known.admin.ask("group_update", "g", {"category": "b"})
        ((request_id, payload),) = await pushes_of(bob, "ended", 1)
        assert request_id == member
        assert payload[1][0] == "permission_denied"


@pytest.mark.parametrize(
    ("grants", "may"),
    [
        ((), False),
        (("read:keys", "read:streams", "backup"), False),
        (("write:keys:z",), True),
        (("append:stream:z",), True),
        (("manage:stream:z",), True),
        (("erase:stream:z",), True),
        (("group:z",), True),
        (("admin",), True),
    ],
)
async def test_only_who_may_write_something_adds_to_the_log(
    grants: tuple[str, ...], may: bool
) -> None:
    async with users() as known:
        bob = await known.bob(*(grants or ("read:keys",)))
        if not grants:
            await known.revoke("read:keys")
        sequencer = known.server.engine.sequencer
        before = sequencer.commits_and_fences
        unknown = known.server.new_id()
        assert await is_denied(bob, "status", unknown, True) != may
        assert (sequencer.commits_and_fences > before) == may
        assert not await is_denied(bob, "status", unknown)
        committed, _ = await known.server.put(known.admin, A, b"")
        # What has ended adds nothing.
        [*_, [commit, identity, *_]] = await known.admin.ask("read_commits")
        assert commit == committed[0]
        assert (await bob.ask("status", identity, True))[0] == "committed"
        await bob.ask("begin", TX)
        await bob.ask("commit", TX)
        assert sequencer.commits_and_fences == before + may + 1


async def test_a_user_without_any_grant_left_may_do_nothing() -> None:
    async with users() as known:
        assert await known.admin.ask("user_rights", "bob") == ["bob", False, [], [], None]
        bob = await known.bob("read:keys")
        await known.revoke("read:keys")
        assert await is_denied(bob, "get", None, A)
        assert await bob.ask("user_rights") == ["bob", True, [], [], None]
        await add_user(known.admin, "bob", "other", create=False)
        assert await known.admin.ask("user_rights", "bob") == ["bob", True, [], [], None]


async def test_the_last_user_that_may_do_everything_stays() -> None:
    async with users() as known:
        await known.bob("read:keys")
        with pytest.raises(InvalidArgument, match="no user would be left"):
            await known.admin.ask("user_grant", "admin", [["backup"]])
        with pytest.raises(InvalidArgument, match="no user would be left"):
            await known.admin.ask("user_remove", "admin")
        await known.admin.ask("user_grant", "bob", [], ["admin"])
        await known.admin.ask("user_remove", "admin")


async def test_built_in_roles_cannot_be_changed_and_unknown_ones_not_given() -> None:
    async with users() as known:
        with pytest.raises(InvalidArgument, match="built in"):
            await known.admin.ask("role_set", "reader", [])
        with pytest.raises(InvalidArgument, match="no role 'none'"):
            await known.admin.ask("user_grant", "bob", [], ["none"])
        with pytest.raises(InvalidArgument, match="was not given admin"):
            await known.admin.ask("user_revoke", "bob", [["admin"]])


async def test_the_first_user_ends_the_connections_without_one() -> None:
    async with serving() as server:
        silent = await server.connect()
        await silent.send("subscribe", 0, {}, 100)
        await silent.send("subscribe_keys", b"", None, 0, 100)
        other = await server.connect()
        await add_user(other, "ann", "secret")
        assert await end_of(other) == "authentication_failed"
        ann = await server.connect()
        await login(ann, "ann", "secret")
        await server.append(ann, "a-1", b"secret")
        assert await end_of(silent) == "authentication_failed"


async def test_writes_that_are_refused_do_not_fill_the_audit_log() -> None:
    async with users() as known:
        bob = await known.bob("write:keys:a")
        before = await known.admin.ask("audit_read")
        for name in ("write", "commit", "execute"):
            writes = [["erase", "a-1", [1]]] * 10
            arguments = [TX, [], [], writes] if name == "execute" else [TX, writes]
            for _ in range(3):
                assert await is_denied(bob, name, *arguments)
        # A commit that is sent again does nothing either.
        await bob.ask("execute", TX, [], [], [["put", A, b""]])
        await bob.ask("execute", TX, [], [], [["erase", "a-1", [1]]])
        after = (await known.admin.ask("audit_read"))[len(before) :]
        assert [event for _, event, *_ in after] == ["permission denied"] * 3


async def test_log_ins_refusals_changes_of_users_and_erasures_are_audited(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    given = replace(settings(), audit_log=str(path))
    async with users(given) as known:
        bob = await known.bob("erase:category:a")
        await bob.ask("execute", TX, [], [], [["erase", "a-1", [1]]])
        assert await is_denied(bob, "get", None, A)
        assert await is_denied(bob, "get", None, A)
        records = await known.admin.ask("audit_read")
        with pytest.raises(AuthenticationFailed):
            await login(await known.server.connect(), "bob", "wrong")
    events = [(event, user) for _, event, user, *_ in records]
    assert events == [
        *(("user set", None), ("logged in", "admin"), ("user set", "admin")),
        *(("rights granted", "admin"), ("logged in", "bob"), ("erase", "bob")),
        ("permission denied", "bob"),
    ]
    assert records[5][4] == {"what": "a-1, [1]", "transaction": TX.hex()}
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["event"], line["user"]) for line in lines] == [*events, ("log-in failed", None)]
    assert path.stat().st_mode & 0o777 == 0o600
