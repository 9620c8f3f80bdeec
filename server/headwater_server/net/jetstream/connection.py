"""A connection to one of several NATS servers, behind synchronous calls.

    commit thread, tail thread, …  -->  event loop in its own thread  -->  n1    n2    n3
                                                                           one at a time

nats-py's own reconnection is off: it would send what it has buffered at a time of its choosing,
and it does not leave a server that hangs with the connection open.
"""

import asyncio
import itertools
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from typing import Final

import nats
import nats.errors
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg

from headwater_protocol.errors import InvalidArgument
from headwater_server.storage.errors import Unavailable
from headwater_server.storage.jetstream.service import STATUS, Reply
from headwater_server.storage.jetstream.settings import check_server

_log = structlog.get_logger(__name__)

CONNECT_S: Final = 0.6
"""Seconds for a connection to one server. Less than a request may take, so that a server that hangs
does not keep a request from the next one."""

HELD_S_MIN: Final = 0.5
"""Seconds that a new connection is kept despite errors: several threads may report the same one."""

HEARD_MAX: Final = 1000
"""Messages of other nodes that are kept; older ones are dropped."""

_NO_RESPONDERS: Final = Reply({STATUS: "503"}, b"")


class _Posted:
    """A request that was posted."""

    def __init__(self, future: "Future[Reply | None]") -> None:
        self._future = future

    def wait(self) -> Reply | None:
        try:
            return self._future.result()
        except CancelledError:
            return None


class NatsConnection:
    """A StreamService on nats-py."""

    def __init__(self, servers: Sequence[str], name: str) -> None:
        """*servers* are URLs: nats://user:password@host:port, or tls://…; *name* is for NATS."""
        self._servers = itertools.cycle(servers)
        self._count = len(servers)
        self._name = name
        self._client: Client | None = None
        self._connected_at = 0.0
        self._refusal: InvalidArgument | None = None
        self._connecting = asyncio.Lock()
        self._heard: dict[str, deque[bytes]] = {}
        self._news = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="nats", daemon=True)
        self._thread.start()

    @classmethod
    def open(cls, servers: Sequence[str], name: str) -> "NatsConnection":
        """Connect to one of the servers.

        Raises:
            InvalidArgument: none can be used; the last one says why.
            Unavailable: none can be reached.
        """
        opened = cls(servers, name)
        for _ in servers:
            future = asyncio.run_coroutine_threadsafe(opened._ensure(), opened._loop)
            if future.result() is not None:
                return opened
        refusal = opened._refusal
        opened.close()
        if refusal is not None:
            raise refusal
        raise Unavailable(f"none of the {opened._count} NATS servers can be reached")

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        self._loop.close()

    # StreamService.

    def post(
        self, subject: str, payload: bytes, headers: Mapping[str, str] | None, seconds: float
    ) -> _Posted:
        if self._closed:
            return _Posted(_nothing())
        request = self._request(subject, payload, headers, seconds)
        return _Posted(asyncio.run_coroutine_threadsafe(request, self._loop))

    def gather(self, subject: str, payload: bytes, seconds: float) -> list[Reply] | None:
        if self._closed:
            return None
        gathering = self._gather(subject, payload, seconds)
        try:
            return asyncio.run_coroutine_threadsafe(gathering, self._loop).result()
        except CancelledError:
            return None

    def reset(self) -> None:
        if not self._closed:
            self._loop.call_soon_threadsafe(self._drop)

    def tell(self, subject: str, payload: bytes) -> None:
        if not self._closed:
            asyncio.run_coroutine_threadsafe(self._tell(subject, payload), self._loop)

    def listen(self, subject: str) -> None:
        if subject in self._heard:
            return
        self._heard[subject] = deque(maxlen=HEARD_MAX)
        asyncio.run_coroutine_threadsafe(self._subscribe_all(), self._loop).result()

    def heard(self, subject: str, seconds: float) -> list[bytes]:
        messages = self._heard[subject]
        with self._news:
            if not messages and seconds > 0:
                self._news.wait_for(lambda: bool(messages) or self._closed, seconds)
            found = list(messages)
            messages.clear()
        return found

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        with self._news:
            self._news.notify_all()
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    # In the event loop.

    async def _ensure(self) -> Client | None:
        """The connection, or None if the next server cannot be used."""
        client = self._client
        if client is not None and client.is_connected:
            return client
        async with self._connecting:
            client = self._client
            if client is not None and client.is_connected:
                return client
            # The next server each time, so that one that hangs is tried once in a round.
            server = next(self._servers)
            client = Client()
            try:
                async with asyncio.timeout(CONNECT_S):
                    await client.connect(
                        server,
                        name=self._name,
                        allow_reconnect=False,
                        connect_timeout=1,
                        error_cb=_ignore,
                    )
                version = client.connected_server_version
                check_server((version.major, version.minor), client.max_payload, server)
            except InvalidArgument as error:
                if self._refusal is None:
                    _log.error("a NATS server is not used", reason=error.message)
                self._refusal = error
                await _close(client)
                return None
            except asyncio.CancelledError:
                # Whoever asked has no more time.
                self._close_later(client)
                raise
            except (TimeoutError, OSError, nats.errors.Error) as error:
                _log.debug("a NATS server cannot be reached", server=server, reason=repr(error))
                await _close(client)
                return None
            self._client = client
            self._connected_at = self._loop.time()
            await self._subscribe_all()
            return client

    async def _subscribe_all(self) -> None:
        client = self._client
        if client is None:
            return
        for subject, messages in self._heard.items():
            await client.subscribe(subject, cb=self._keeper(messages))

    def _keeper(self, messages: deque[bytes]) -> Callable[[Msg], Awaitable[None]]:
        async def keep(message: Msg) -> None:
            with self._news:
                messages.append(message.data)
                self._news.notify_all()

        return keep

    async def _request(
        self, subject: str, payload: bytes, headers: Mapping[str, str] | None, seconds: float
    ) -> Reply | None:
        try:
            async with asyncio.timeout(seconds):
                client = await self._ensure()
                if client is None:
                    return None
                given = None if headers is None else dict(headers)
                message = await client.request(subject, payload, timeout=seconds, headers=given)
        except nats.errors.NoRespondersError:
            return _NO_RESPONDERS
        except (TimeoutError, OSError, nats.errors.Error):
            return None
        return Reply(message.headers or {}, message.data)

    async def _gather(self, subject: str, payload: bytes, seconds: float) -> list[Reply] | None:
        found: list[Reply] = []
        try:
            async with asyncio.timeout(seconds):
                client = await self._ensure()
                if client is None:
                    return None
                inbox = client.new_inbox()
                replies = await client.subscribe(inbox)
                try:
                    await client.publish(subject, payload, reply=inbox)
                    while True:
                        message = await replies.next_msg(timeout=None)
                        found.append(Reply(message.headers or {}, message.data))
                        if STATUS in found[-1].headers:
                            return found
                finally:
                    await replies.unsubscribe()
        except (TimeoutError, OSError, nats.errors.Error):
            return None

    async def _tell(self, subject: str, payload: bytes) -> None:
        client = self._client
        if client is None or not client.is_connected:
            return
        try:
            await client.publish(subject, payload)
        except (OSError, nats.errors.Error) as error:
            _log.debug("a message to other nodes was lost", reason=repr(error))

    def _drop(self) -> None:
        client = self._client
        if client is None or self._loop.time() - self._connected_at < HELD_S_MIN:
            return
        self._client = None
        self._close_later(client)

    def _close_later(self, client: Client) -> None:
        task = self._loop.create_task(_close(client))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _end(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await _close(client)
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


async def _close(client: Client) -> None:
    """Close a connection whose server may hang."""
    try:
        async with asyncio.timeout(CONNECT_S):
            await client.close()
    except (TimeoutError, OSError, nats.errors.Error) as error:
        _log.debug("a connection to NATS was not closed in order", reason=repr(error))


async def _ignore(_error: Exception) -> None:
    """Requests report their failures themselves."""


def _nothing() -> "Future[Reply | None]":
    future: Future[Reply | None] = Future()
    future.set_result(None)
    return future
