"""SCRAM over a session: who is accepted, who is refused, and that user names do not leak."""

import base64
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import trio
import trio.testing
from scramp import ScramClient, ScramException, ScramMechanism

from headwater_protocol.connection import Failure, Push, Responded
from headwater_protocol.errors import AuthenticationFailed, HeadwaterError, InvalidArgument
from headwater_protocol.limits import HELLO_BODY_SIZE_MAX, PROTOCOL_VERSION
from headwater_protocol.mechanisms import MECHANISMS
from headwater_server.net.session.certificates import TlsFacts
from headwater_server.net.settings import ClientLogin
from tests.net.serving import Client, MemoryServer, serving, settings

MECHANISM = "SCRAM-SHA-256"


def verifier(password: str) -> tuple[bytes, int, bytes, bytes]:
    salt, stored_key, server_key, iterations = ScramMechanism(MECHANISM).make_auth_info(
        password, iteration_count=4096
    )
    return salt, iterations, stored_key, server_key


async def add_user(client: Client, name: str, password: str, *, create: bool = True) -> None:
    await client.ask("user_set", name, *verifier(password), create)


async def login(client: Client, name: str, password: str) -> None:
    scram = ScramClient([MECHANISM], name, password)
    done, reply = await client.ask("authenticate", MECHANISM, scram.get_client_first().encode())
    assert not done
    scram.set_server_first(reply.decode())
    done, reply = await client.ask("authenticate", MECHANISM, scram.get_client_final().encode())
    assert done
    scram.set_server_final(reply.decode())


async def end_of(client: Client) -> str:
    """The code of the error that ends a connection. Nothing stored may be pushed before it."""
    received: list[Responded] = []
    with pytest.raises(trio.EndOfChannel):
        while True:
            received.append(await client.receive())
    pushed = [item.payload[0] for item in received if isinstance(item, Push)]
    assert not {"events", "changes"}.intersection(pushed)
    assert isinstance(received[-1], Failure)
    return received[-1].error.code


async def server_first(server: MemoryServer, name: str) -> dict[str, str]:
    client = await server.connect()
    scram = ScramClient([MECHANISM], name, "wrong")
    _, reply = await client.ask("authenticate", MECHANISM, scram.get_client_first().encode())
    await client.close()
    return dict(part.split("=", 1) for part in reply.decode().split(","))


async def test_a_right_password_is_accepted_and_commits_carry_the_user() -> None:
    async with serving() as server:
        await add_user(await server.connect(), "ann", "secret")
        client = await server.connect(hello=False)
        _, _, _, mechanisms, _ = await client.hello()
        assert mechanisms == [MECHANISM]
        await login(client, "ann", "secret")
        await server.put(client, b"k", b"v")
        commits = await client.ask("read_commits")
        assert [user for _, _, _, user, *_ in commits] == [None, "ann"]


async def test_a_wrong_password_is_refused_and_the_third_closes_the_connection() -> None:
    async with serving() as server:
        await add_user(await server.connect(), "ann", "secret")
        client = await server.connect()
        for _ in range(3):
            with pytest.raises(AuthenticationFailed):
                await login(client, "ann", "wrong")
        with pytest.raises(trio.EndOfChannel):
            await client.receive()


async def test_a_wrong_password_can_be_followed_by_the_right_one() -> None:
    async with serving() as server:
        await add_user(await server.connect(), "ann", "secret")
        client = await server.connect()
        with pytest.raises(AuthenticationFailed):
            await login(client, "ann", "wrong")
        await login(client, "ann", "secret")
        await client.ask("ping")


async def test_without_authentication_nothing_is_served() -> None:
    async with serving() as server:
        await add_user(await server.connect(), "ann", "secret")
        client = await server.connect()
        client.connection._enter(type(client.connection.state).READY)
        with pytest.raises(AuthenticationFailed):
            await client.ask("get", None, b"k")


async def test_a_name_that_does_not_exist_is_answered_like_one_that_does() -> None:
    async with serving() as server:
        await add_user(await server.connect(), "ann", "secret")
        known = await server_first(server, "ann")
        unknown = await server_first(server, "bob")
        assert known["i"] == unknown["i"]
        assert len(base64.b64decode(known["s"])) == len(base64.b64decode(unknown["s"]))
        assert unknown["s"] == (await server_first(server, "bob"))["s"], (
            "the salt of an unknown name must not change between attempts"
        )
        assert unknown["s"] != (await server_first(server, "eve"))["s"]
        client = await server.connect()
        with pytest.raises(AuthenticationFailed) as of_unknown:
            await login(client, "bob", "secret")
        with pytest.raises(AuthenticationFailed) as of_known:
            await login(client, "ann", "wrong")
        assert str(of_unknown.value) == str(of_known.value)


@pytest.mark.parametrize("message", [b"", b"nonsense", b"\xff\xfe", b"n,,n=ann", b"p=x,,n=a,r=b"])
async def test_a_malformed_message_is_a_failed_attempt(message: bytes) -> None:
    async with serving() as server:
        await add_user(await server.connect(), "ann", "secret")
        client = await server.connect()
        with pytest.raises(AuthenticationFailed):
            await client.ask("authenticate", MECHANISM, message)
        await login(client, "ann", "secret")


BOUND = TlsFacts(b"hash", has_certificate=True, user="ann", login=ClientLogin.BOTH)


@pytest.mark.parametrize(
    ("tls", "offered"),
    [
        (None, ["SCRAM-SHA-256"]),
        (TlsFacts(b"hash"), ["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"]),
        (TlsFacts(None), ["SCRAM-SHA-256"]),
        (TlsFacts(b"hash", user="ann"), ["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"]),
        (BOUND, ["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"]),
        (
            replace(BOUND, login=ClientLogin.EITHER),
            ["EXTERNAL", "SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"],
        ),
        (
            replace(BOUND, login=ClientLogin.EITHER, has_certificate=False, user=None),
            ["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"],
        ),
        (replace(BOUND, login=ClientLogin.CERTIFICATE), ["EXTERNAL"]),
    ],
)
async def test_what_is_not_offered_is_refused(tls: TlsFacts | None, offered: list[str]) -> None:
    async with serving(settings(authentications_failed_max=9)) as server:
        await add_user(await server.connect(), "ann", "secret")
        client = await server.connect(hello=False)
        if tls is not None:
            await trio.testing.wait_all_tasks_blocked()
            service = server.server.service
            (stranger,) = service.strangers.since(trio.current_time() + 1)
            service.strangers.introduce(stranger, tls)
        assert (await client.hello())[3] == offered
        for mechanism in MECHANISMS:
            if mechanism not in offered:
                with pytest.raises(AuthenticationFailed, match="not offered on this connection"):
                    await client.ask("authenticate", mechanism, b"")
        if "SCRAM-SHA-256-PLUS" in offered:
            # An exchange ends with the mechanism with which it began.
            scram = ScramClient(["SCRAM-SHA-256"], "ann", "secret")
            first = scram.get_client_first().encode()
            _, reply = await client.ask("authenticate", "SCRAM-SHA-256", first)
            scram.set_server_first(reply.decode())
            final = scram.get_client_final().encode()
            with pytest.raises(AuthenticationFailed):
                await client.ask("authenticate", "SCRAM-SHA-256-PLUS", final)
            # And a message that is bound is one of the mechanism that binds.
            bound = ScramClient(
                ["SCRAM-SHA-256-PLUS"], "ann", "secret", ("tls-server-end-point", b"hash")
            )
            with pytest.raises(AuthenticationFailed):
                first = bound.get_client_first().encode()
                await client.ask("authenticate", "SCRAM-SHA-256", first)


async def test_an_unauthenticated_client_cannot_send_large_frames() -> None:
    async with serving() as server:
        client = await server.connect(hello=False)
        await client.stream.send_all((HELLO_BODY_SIZE_MAX + 1).to_bytes(4, "big"))
        item = await client.receive()
        assert isinstance(item, Failure)
        with pytest.raises(trio.EndOfChannel):
            await client.receive()


async def test_the_first_user_locks_out_connections_without_one() -> None:
    async with serving() as server:
        before, client = await server.connect(), await server.connect()
        await add_user(client, "ann", "secret")
        for one in (before, client):
            assert await end_of(one) == "authentication_failed"


async def test_a_new_user_counts_only_once_it_is_durable() -> None:
    async with serving() as server:
        client = await server.connect()
        server.disk.hold()
        request = await client.send("user_set", "ann", *verifier("secret"))
        await trio.testing.wait_all_tasks_blocked()
        assert (await (await server.connect(hello=False)).hello())[3] == []
        server.disk.release()
        await client.result(request)
        assert await end_of(client) == "authentication_failed"


async def test_the_connections_of_a_removed_user_are_closed() -> None:
    async with serving() as server:
        await add_user(await server.connect(), "ann", "secret")
        ann = await server.connect()
        await login(ann, "ann", "secret")
        await add_user(ann, "bob", "hidden")
        bob = await server.connect()
        await login(bob, "bob", "hidden")
        await ann.ask("user_remove", "bob")
        item = await bob.receive()
        assert isinstance(item, Failure)
        assert isinstance(item.error, AuthenticationFailed)
        with pytest.raises(trio.EndOfChannel):
            await bob.receive()
        assert await ann.ask("user_list") == ["ann"]


async def test_a_user_that_removes_itself_gets_the_answer_first() -> None:
    async with serving() as server:
        await add_user(await server.connect(), "ann", "secret")
        ann = await server.connect()
        await login(ann, "ann", "secret")
        await ann.ask("user_remove", "ann")
        item = await ann.receive()
        assert isinstance(item, Failure)
        again = await server.connect(hello=False)
        assert (await again.hello())[3] == [], "without users, no authentication is needed"


async def test_the_last_user_of_a_server_that_other_machines_can_reach_cannot_be_removed() -> None:
    async with serving(local_only=False) as server:
        server.server.service.authentication_needed = False
        await add_user(await server.connect(), "ann", "secret")
        ann = await server.connect()
        await login(ann, "ann", "secret")
        with pytest.raises(InvalidArgument):
            await ann.ask("user_remove", "ann")


async def test_a_password_can_be_changed() -> None:
    async with serving() as server:
        await add_user(await server.connect(), "ann", "secret")
        ann = await server.connect()
        await login(ann, "ann", "secret")
        with pytest.raises(HeadwaterError):
            await add_user(ann, "ann", "other")
        await add_user(ann, "ann", "other", create=False)
        again = await server.connect()
        with pytest.raises((AuthenticationFailed, ScramException)):
            await login(again, "ann", "secret")
        await login(again, "ann", "other")


async def test_hello_with_a_later_version_is_answered_with_ours() -> None:
    async with serving() as server:
        client = await server.connect(hello=False)
        answer = await client.ask("hello", PROTOCOL_VERSION + 41)
        assert answer[0] == PROTOCOL_VERSION


async def test_the_number_of_attempts_is_a_setting() -> None:
    async with serving(settings(authentications_failed_max=1)) as server:
        await add_user(await server.connect(), "ann", "secret")
        client = await server.connect()
        with pytest.raises(AuthenticationFailed):
            await login(client, "ann", "wrong")
        with pytest.raises(trio.EndOfChannel):
            await client.receive()


async def test_a_log_in_costs_the_same_however_many_users_there_are() -> None:
    async with serving() as server:
        first = await server.connect()
        await add_user(first, "ann", "secret")
        ann = await server.connect()
        await login(ann, "ann", "secret")
        for number in range(20):
            await add_user(ann, f"user {number}", "secret")
        await server_first(server, "nobody")
        read_all: list[str] = []

        def noted(name: str, method: Callable[[], object]) -> object:
            read_all.append(name)
            return method()

        accounts = server.engine.accounts
        for name in ("names", "verifiers"):
            method = getattr(accounts, name)
            setattr(accounts, name, partial(noted, name, method))
        assert (await server_first(server, "nobody"))["i"] == "4096"
        await login(await server.connect(), "user 7", "secret")
        assert read_all == []
        await add_user(ann, "one more", "secret")
        await server_first(server, "nobody")
        assert read_all == ["verifiers"]
