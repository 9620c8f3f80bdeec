"""The HTTP server of the pages of monitoring: GET and HEAD, one request for each connection.

h11 does the protocol. This module only moves bytes, within bounds: how many connections, how long
each may last, and how large a request may be. A page is a function from the Accept header to a
response, called in the event loop.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import h11
import structlog
import trio

from headwater_protocol.limits import KIB

_log = structlog.get_logger(__name__)

CONNECTIONS_MAX: Final = 16
"""Connections that are open at a time; each takes a file descriptor from the data. Further ones are
closed at once."""

CONNECTION_S_MAX: Final = 10.0
"""Seconds for a request and its response. Nobody has to wait for the client of a page."""

REQUEST_SIZE_MAX: Final = 16 * KIB
"""Bytes of a request's head."""

_READ_SIZE: Final = 4 * KIB


@dataclass(frozen=True, slots=True)
class Response:
    """The answer to a request for a page."""

    status: int
    content_type: str
    body: bytes


Page = Callable[[str], Response]
"""Makes a response; the argument is the request's Accept header, or ""."""


def json_response(status: int, content: Any) -> Response:
    """A response with JSON."""
    body = json.dumps(content, indent=2).encode() + b"\n"
    return Response(status, "application/json", body)


class HttpServer:
    """Serves pages."""

    def __init__(self, pages: Mapping[str, Page]) -> None:
        self._pages = pages
        self._connections = 0

    async def serve(self, stream: trio.abc.Stream) -> None:
        """Serve one request on a new connection, and close it."""
        if self._connections >= CONNECTIONS_MAX:
            await trio.aclose_forcefully(stream)
            return
        self._connections += 1
        try:
            with trio.move_on_after(CONNECTION_S_MAX):
                async with stream:
                    await self._answer(stream)
        except trio.BrokenResourceError:
            # The client went away.
            pass
        except Exception as error:
            # These pages only tell what is. A failure of theirs must not end the server.
            _log.error("the HTTP server of monitoring failed", exc_info=error)
        finally:
            self._connections -= 1

    async def _answer(self, stream: trio.abc.Stream) -> None:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=REQUEST_SIZE_MAX)
        is_head = False
        try:
            request = await _receive(connection, stream)
            if request is None:
                return
            is_head = request.method == b"HEAD"
            response = self._respond(request)
        except h11.RemoteProtocolError as error:
            if connection.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
                return
            response = json_response(error.error_status_hint, {"error": str(error)})
        headers = [
            ("content-type", response.content_type),
            ("content-length", str(len(response.body))),
            ("cache-control", "no-store"),
            ("connection", "close"),
        ]
        parts = [
            connection.send(h11.Response(status_code=response.status, headers=headers)),
            None if is_head else connection.send(h11.Data(data=response.body)),
            connection.send(h11.EndOfMessage()),
        ]
        await stream.send_all(b"".join(part for part in parts if part))

    def _respond(self, request: h11.Request) -> Response:
        path = request.target.partition(b"?")[0].decode("ascii", "replace")
        page = self._pages.get(path)
        if page is None:
            told = f"there is no page {path}; there are {', '.join(self._pages)}"
            return json_response(404, {"error": told})
        if request.method not in (b"GET", b"HEAD"):
            return json_response(405, {"error": "only GET and HEAD are possible"})
        accept = [value for name, value in request.headers if name == b"accept"]
        try:
            return page(b", ".join(accept).decode("latin-1"))
        except Exception as error:
            _log.error("a page of monitoring failed", page=path, exc_info=error)
            return json_response(500, {"error": "the page failed; see the server's log"})


async def _receive(connection: h11.Connection, stream: trio.abc.Stream) -> h11.Request | None:
    """The next request's head; None if the client closes before."""
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Request):
            return event
        if event is not h11.NEED_DATA:
            return None
        connection.receive_data(bytes(await stream.receive_some(_READ_SIZE)))
