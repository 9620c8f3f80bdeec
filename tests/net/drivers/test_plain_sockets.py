"""The driver of plain sockets, over real sockets on loopback."""

import errno
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import wait_all_tasks_blocked

from headwater_protocol.connection import Answer, ClientConnection, Failure
from headwater_protocol.errors import ShuttingDown, TooMany
from headwater_protocol.limits import PROTOCOL_VERSION
from headwater_server.engine import work_budget
from headwater_server.engine.transactions import write_buffer
from headwater_server.net.drivers.listening import CannotListen, Listeners
from headwater_server.net.session.session import Session
from headwater_server.net.settings import Address, ServerSettings
from tests.net.serving import Client, MemoryServer, serving, settings
from tests.net.session.test_authentication import add_user, login

PINGS: list[tuple[str, tuple[Any, ...]]] = [("ping", ())] * 1_000_000
LOOPBACK = (Address("127.0.0.1", 0),)


@asynccontextmanager
async def listening(
    given: ServerSettings | None = None, **session: Any
) -> AsyncIterator[tuple[MemoryServer, Listeners]]:
    given = replace(given or settings(**session), listen=LOOPBACK)
    async with serving(given) as server:
        listeners = Listeners(given)
        listeners.listen(16)
        for listener in (*listeners.tcp, *listeners.unix):
            server.server.plain_sockets.listen(listener, "test")
        yield server, listeners
    for client in dialed:
        await client.close()
    dialed.clear()


dialed: list[Client] = []


async def dial(listeners: Listeners, *, hello: bool = True) -> Client:
    client = Client(await trio.open_tcp_stream(*listeners.tcp[0].getsockname()))
    dialed.append(client)
    if hello:
        await client.hello()
    return client


async def test_many_connections_each_get_their_own_answers() -> None:
    async with listening() as (server, listeners):
        clients = [await dial(listeners) for _ in range(20)]
        for n, client in enumerate(clients):
            await server.put(client, b"%d" % n, b"value %d" % n)
        requests = [await client.send("get", None, b"%d" % n) for n, client in enumerate(clients)]
        for n, (client, request) in enumerate(zip(clients, requests, strict=True)):
            assert await client.result(request) == b"value %d" % n


async def test_a_fast_client_alone_does_not_starve_other_tasks() -> None:
    async with listening() as (_server, listeners), trio.open_nursery() as nursery:
        address = listeners.tcp[0].getsockname()
        over = threading.Event()
        answered = []

        def ask_endlessly() -> None:
            connection = ClientConnection()
            with socket.create_connection(address) as lone:
                for name, arguments in (("hello", (PROTOCOL_VERSION,)), *PINGS):
                    _, frame = connection.request(name, *arguments)
                    lone.sendall(frame)
                    while not (items := connection.receive(lone.recv(4096))):
                        pass
                    answered.extend(items)
                    if over.is_set():
                        break

        nursery.start_soon(trio.to_thread.run_sync, ask_endlessly)
        with trio.fail_after(20):
            while len(answered) < 20:
                await trio.lowlevel.checkpoint()
            for _ in range(50):
                await trio.sleep(0.0001)
            # Another client can connect, and its requests are served.
            other = await dial(listeners)
            assert type(await other.ask("ping")) is not Failure
        over.set()
    assert all(type(item) is Answer for item in answered)


async def test_a_pipeline_longer_than_a_turn_is_answered_completely_and_in_order() -> None:
    async with listening(requests_per_turn_max=10) as (_server, listeners):
        client, other = await dial(listeners), await dial(listeners)
        requests = [client.connection.request("ping") for _ in range(1000)]
        await client.stream.send_all(b"".join(frame for _, frame in requests))
        await other.ask("ping")
        answers = [await client.receive() for _ in requests]
        assert [answer.request_id for answer in answers] == [number for number, _ in requests]


@pytest.mark.parametrize("count", [1, 100])
async def test_requests_that_came_while_rights_changed_are_answered_after_it(count: int) -> None:
    async with listening() as (server, listeners):
        await add_user(await dial(listeners), "admin", "secret")
        admin, bob = await dial(listeners), await dial(listeners)
        await login(admin, "admin", "secret")
        await add_user(admin, "bob", "secret")
        await login(bob, "bob", "secret")
        server.disk.hold()
        granted = await admin.send("user_grant", "bob", [["keys", "read", b""]])
        await trio.testing.wait_all_tasks_blocked()
        requests = [bob.connection.request("get", None, b"k") for _ in range(count)]
        await bob.stream.send_all(b"".join(frame for _, frame in requests))
        await admin.ask("ping")
        server.disk.release()
        await admin.result(granted)
        answers = [await bob.receive() for _ in requests]
        assert [type(answer) for answer in answers] == [Answer] * count


async def test_a_large_value_is_received_and_sent_in_many_pieces() -> None:
    async with listening() as (server, listeners):
        client = await dial(listeners)
        value = bytes(range(256)) * 30_000
        await server.put(client, b"k", value)
        assert await client.ask("get", None, b"k") == value


async def test_a_client_that_reads_nothing_is_not_read_from_and_harms_nobody() -> None:
    async with listening(output_pause_size=100_000, output_resume_size=10_000) as (
        server,
        listeners,
    ):
        greedy, other = await dial(listeners), await dial(listeners)
        await server.put(other, b"k", b"v" * 100_000)
        requests = [greedy.connection.request("get", None, b"k") for _ in range(300)]
        await greedy.stream.send_all(b"".join(frame for _, frame in requests))
        sessions = server.server.service.sessions
        while not any(isinstance(s, Session) and s.output_blocked for s in sessions):
            await other.ask("ping")
        for _ in range(20):
            await other.ask("ping")
            assert max(session.output_size for session in sessions) < 300_000
        for request_id, _ in requests:
            assert len(await greedy.result(request_id)) == 100_000


async def test_the_driver_does_not_spin_while_a_connection_that_ends_waits_for_a_commit() -> None:
    # The session took no more input, and nobody had told the driver. It was told again and again
    # that the socket was readable, until the commit was answered.
    async with listening() as (server, listeners):
        client = await dial(listeners)
        server.disk.hold()
        commit = await client.send("execute", server.new_id(), [], [], [["put", b"k", b"v"]])
        await wait_all_tasks_blocked()
        (session,) = server.server.service.sessions
        session.end(ShuttingDown("the server is shutting down"))
        await client.send("ping")
        with trio.fail_after(5):
            await wait_all_tasks_blocked()
        server.disk.release()
        assert (await client.result(commit))[0][0] == 1
        ended = await client.receive()
        assert isinstance(ended, Failure)
        assert isinstance(ended.error, ShuttingDown)


async def test_one_connection_too_many_is_refused_with_the_reason() -> None:
    given = replace(settings(), connections_max=2)
    async with listening(given) as (_server, listeners):
        first, _second = await dial(listeners), await dial(listeners)
        third = await dial(listeners, hello=False)
        item = await third.receive()
        assert isinstance(item, Failure)
        assert isinstance(item.error, TooMany)
        await first.ask("ping")


async def test_the_last_descriptors_are_reserved_for_files() -> None:
    # When clients used all descriptors, the next checkpoint used to fail, which ended the server.
    async with listening() as (server, listeners):
        first = await dial(listeners)
        service = server.server.service
        assert service.descriptors_max is not None
        usual, service.descriptors_max = service.descriptors_max, 0
        refused = await dial(listeners, hello=False)
        failure = await refused.receive()
        assert isinstance(failure, Failure)
        assert isinstance(failure.error, TooMany)
        assert "ulimit" in failure.error.message
        assert await first.ask("ping") is not None
        service.descriptors_max = usual
        assert await (await dial(listeners)).ask("ping") is not None


async def test_a_reset_connection_releases_what_it_held() -> None:
    async with listening() as (server, listeners):
        client, other = await dial(listeners), await dial(listeners)
        await client.ask("begin", server.new_id())
        # With this option, close sends a reset.
        linger = (1).to_bytes(4, "little") + bytes(4)
        client.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)  # type: ignore[attr-defined]
        await client.close()
        while (await other.ask("stats"))["connections"] > 1:
            pass
        assert (await other.ask("stats"))["open_transactions"] == 0


@pytest.mark.skipif(
    str(work_budget.__file__).endswith(".so"), reason="a constant of a compiled module is fixed"
)
@pytest.mark.parametrize("resets", [False, True])
async def test_a_client_that_leaves_during_a_long_request_is_noticed_before_its_end(
    *, resets: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its request would take the time of others to the end, for an answer that nobody reads."""
    monkeypatch.setattr(work_budget, "AT_ONCE_MAX", 50)
    monkeypatch.setattr(work_budget, "STEP_MAX", 20)
    monkeypatch.setattr(write_buffer, "WRITES_AT_ONCE_MAX", 50)
    event = [None, "T", b"", b""]
    async with listening(requests_per_turn_max=1) as (server, listeners):
        client, other = await dial(listeners), await dial(listeners)
        appends = [["append", f"s-{number}", -1, [event]] for number in range(3000)]
        await client.send("execute", server.new_id(), [], [], appends)
        running = server.server.service.long_requests.running
        with trio.fail_after(30):
            while not running:
                await other.ask("ping")
            if resets:
                linger = (1).to_bytes(4, "little") + bytes(4)
                client.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)  # type: ignore[attr-defined]
            await client.close()
            while (await other.ask("stats"))["connections"] > 1:
                pass
        assert not running
        assert (await other.ask("newest_position", None))[1] == 0, "it was not done to the end"


async def test_a_server_without_free_descriptors_does_not_spin_and_recovers(
    autojump_clock: trio.testing.MockClock,
) -> None:
    class Exhausted:
        """A listener whose accept fails because there is no free descriptor."""

        def __init__(self, listener: socket.socket) -> None:
            self.listener = listener
            self.calls = 0
            self.exhausted = True

        def accept(self) -> Any:
            self.calls += 1
            if self.exhausted:
                raise OSError(errno.EMFILE, "Too many open files")
            return self.listener.accept()

        def __getattr__(self, name: str) -> Any:
            return getattr(self.listener, name)

    async with serving() as server:
        listener = socket.create_server(("127.0.0.1", 0))
        poor = Exhausted(listener)
        server.server.plain_sockets.listen(poor, "test")  # type: ignore[arg-type]
        with socket.create_connection(listener.getsockname()) as waiting:
            await trio.sleep(3.5)
            assert 1 <= poor.calls <= 5, "the listener must try again only about once a second"
            poor.exhausted = False
            await trio.sleep(3)
            waiting.setblocking(False)
            assert len(server.server.service.sessions) == 1


async def test_a_unix_socket_is_removed_when_the_server_stops(
    tmp_path: Path,
) -> None:
    path = tmp_path / "headwater.sock"
    given = replace(settings(), listen=(), unix=str(path))
    async with serving(given) as server:
        listeners = Listeners(given)
        assert listeners.local_only
        listeners.listen(16)
        server.server.plain_sockets.listen(listeners.unix[0], "unix")
        client = Client(await trio.open_unix_socket(path))
        await client.hello()
        await client.ask("ping")
        with pytest.raises(CannotListen, match="another server"):
            Listeners(given)
        await client.close()
        listeners.close()
        assert not path.exists()


def test_a_unix_socket_of_a_dead_server_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "headwater.sock"
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(path))
    left.close()
    listeners = Listeners(replace(settings(), listen=(), unix=str(path)))
    assert listeners.listen(1) == [f"unix:{path}"]
    listeners.close()


def test_a_file_that_is_not_a_socket_is_not_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(CannotListen):
        Listeners(replace(settings(), listen=(), unix=str(path)))
    assert path.read_text() == "data"


def test_the_error_of_a_port_in_use_names_the_address() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = Address(*taken.getsockname())
        with pytest.raises(CannotListen, match=f"{address}.*in use"):
            Listeners(replace(settings(), listen=(address,)))


def test_without_users_only_this_machine_may_connect() -> None:
    exposed = Listeners(replace(settings(), listen=(Address("0.0.0.0", 0), *LOOPBACK)))
    try:
        assert not exposed.local_only
        with pytest.raises(CannotListen, match=r"0\.0\.0\.0.*headwater user add NAME --data D"):
            exposed.check_allowed(has_users=False, data="D")
        exposed.check_allowed(has_users=True, data="D")
        assert len(exposed.tcp) == 2
    finally:
        exposed.close()


def test_the_error_of_an_unknown_host_names_the_host() -> None:
    with pytest.raises(CannotListen, match="no such host"):
        Listeners(replace(settings(), listen=(Address("no.such.host.invalid", 1),)))
