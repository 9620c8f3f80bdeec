"""The HTTP server of monitoring: responses, refusals, and bounds on what a client may hold."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from headwater_server.net.monitoring.http import (
    CONNECTION_S_MAX,
    CONNECTIONS_MAX,
    REQUEST_SIZE_MAX,
    HttpServer,
    Response,
)

Dial = Callable[[], trio.abc.Stream]


def hello(accept: str) -> Response:
    return Response(200, "text/plain", f"hello {accept}".encode())


def broken(_accept: str) -> Response:
    raise RuntimeError("a bug")


@asynccontextmanager
async def serving() -> AsyncIterator[Dial]:
    server = HttpServer({"/hello": hello, "/broken": broken})
    async with trio.open_nursery() as nursery:

        def dial() -> trio.abc.Stream:
            ours, theirs = memory_stream_pair()
            nursery.start_soon(server.serve, theirs)
            return ours

        yield dial
        nursery.cancel_scope.cancel()


async def received(stream: trio.abc.Stream) -> bytes:
    data = b""
    while more := await stream.receive_some(65536):
        data += bytes(more)
    return data


async def ask(dial: Dial, request: bytes) -> tuple[bytes, bytes]:
    """The status line and the body of the response to a request."""
    stream = dial()
    await stream.send_all(request)
    head, _, body = (await received(stream)).partition(b"\r\n\r\n")
    return head.splitlines()[0] if head else b"", body


async def test_a_page_is_made_with_the_accept_header_of_the_request() -> None:
    async with serving() as dial:
        request = b"GET /hello?x=1 HTTP/1.1\r\nHost: h\r\nAccept: a/b\r\naccept: c\r\n\r\n"
        assert await ask(dial, request) == (b"HTTP/1.1 200 ", b"hello a/b, c")


async def test_a_request_may_arrive_byte_by_byte() -> None:
    async with serving() as dial:
        stream = dial()
        for byte in b"GET /hello HTTP/1.0\r\n\r\n":
            await stream.send_all(bytes([byte]))
        assert (await received(stream)).endswith(b"hello ")


async def test_head_has_the_headers_of_the_page_and_no_body() -> None:
    async with serving() as dial:
        stream = dial()
        await stream.send_all(b"HEAD /hello HTTP/1.1\r\nHost: h\r\n\r\n")
        head, _, body = (await received(stream)).partition(b"\r\n\r\n")
        assert b"content-length: 6" in head.lower()
        assert body == b""


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"GET /other HTTP/1.1", b"404"),
        (b"POST /hello HTTP/1.1", b"405"),
        (b"GET /broken HTTP/1.1", b"500"),
        (b"nonsense", b"400"),
        (b"GET /" + b"x" * 2 * REQUEST_SIZE_MAX + b" HTTP/1.1", b"431"),
    ],
)
async def test_other_requests_are_answered_with_an_error(
    request_line: bytes, status: bytes
) -> None:
    async with serving() as dial:
        line, body = await ask(dial, request_line + b"\r\nHost: h\r\n\r\n")
        assert line.split()[1] == status
        assert b'"error"' in body
        assert (await ask(dial, b"GET /hello HTTP/1.1\r\nHost: h\r\n\r\n"))[1] == b"hello "


async def test_a_client_that_closes_early_disturbs_nobody() -> None:
    async with serving() as dial:
        for part in (b"", b"GET /hel", b"GET /hello HTTP/1.1\r\nHost: h\r\n\r\n"):
            stream = dial()
            await stream.send_all(part)
            await stream.aclose()
        assert (await ask(dial, b"GET /hello HTTP/1.1\r\nHost: h\r\n\r\n"))[1] == b"hello "


async def test_a_connection_lasts_a_bounded_time(autojump_clock: MockClock) -> None:
    async with serving() as dial:
        stream = dial()
        await stream.send_all(b"GET /hello HTTP/1.1\r\n")
        began = trio.current_time()
        assert await received(stream) == b""
        assert trio.current_time() - began == pytest.approx(CONNECTION_S_MAX)


async def test_only_so_many_connections_are_open_at_a_time(autojump_clock: MockClock) -> None:
    async with serving() as dial:
        held = [dial() for _ in range(CONNECTIONS_MAX)]
        await wait_all_tasks_blocked()
        assert await received(dial()) == b"", "one more is closed without an answer"
        await held[0].aclose()
        await wait_all_tasks_blocked()
        assert (await ask(dial, b"GET /hello HTTP/1.1\r\nHost: h\r\n\r\n"))[1] == b"hello "
