"""A stream between a client and the server that injects the faults of a plan.

    client  <---->  socket  <---->  FaultyStream  <---->  session of the server

It stands at the server's end, sees whole frames in both directions, and passes on everything that
has no fault byte for byte.
"""

from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgpack
import trio

from headwater_protocol.errors import Conflict
from headwater_protocol.frames import FrameSplitter, encode_frame
from headwater_protocol.messages import encode
from headwater_protocol.operations import ERROR
from headwater_testing.faults import Fault, FaultPlan

Act = Callable[[Fault], Awaitable[None]]
"""Does what a fault needs of the machine: a restart, an outage, a jump of the clock."""

_OWN_REQUESTS_FROM: Final = 2**31
"""Ids of requests that are made here. Clients count from 1."""


class FaultyStream(trio.abc.Stream):
    """A stream that reads the client's requests and sends the server's answers."""

    def __init__(self, stream: trio.abc.Stream, plan: FaultPlan, act: Act) -> None:
        self._stream = stream
        self._plan = plan
        self._act = act
        self._requests = FrameSplitter()
        self._answers = FrameSplitter()
        self._reading: set[bytes] = set()
        self._held: dict[int, Fault] = {}
        self._own = _OWN_REQUESTS_FROM
        self._broken = False
        self._sending = trio.Lock()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        while True:
            data = await self._stream.receive_some(max_bytes)
            if not data or self._broken:
                return b""
            passing = b""
            for body in self._requests.feed(bytes(data)):
                passed = await self._request(body)
                if passed is None:
                    await self._break(b"")
                    return passing
                passing += passed
            if passing:
                return passing

    async def _request(self, body: bytes) -> bytes | None:
        """What the server gets of a request. None: the connection breaks before it."""
        frame = encode_frame(body)
        message = msgpack.unpackb(body, strict_map_key=False)
        match message:
            case [int(number), str(operation), *arguments]:
                pass
            case _:
                return frame
        transaction = arguments[0] if arguments and isinstance(arguments[0], bytes) else None
        fault = self._plan.draw(operation, may_conflict=self._may_conflict(operation, arguments))
        if transaction is not None and operation not in ("begin", "write", "commit", "rollback"):
            self._reading.add(transaction)
        match fault:
            case None:
                return frame
            case Fault(kind="conflict"):
                return await self._conflict(number, arguments[0])
            case Fault(kind="lost request"):
                return None
            case Fault(kind="restart"):
                await self._act(fault)
                return None
            case Fault(kind="clock"):
                await self._act(fault)
                return frame
            case _:
                # It is acted on when the answer comes.
                self._held[number] = fault
                return frame

    def _may_conflict(self, operation: str, arguments: list[Any]) -> bool:
        # A transaction that has read nothing conflicts with nobody.
        return operation == "commit" and bool(arguments) and arguments[0] in self._reading

    async def _conflict(self, number: int, transaction: bytes) -> bytes:
        error = Conflict(
            "another transaction has changed what this one read (injected)",
            details={"injected": True},
        )
        await self._send(encode_frame(encode((number, ERROR, error.as_payload()))))
        # The server ends the transaction, as it does after a conflict of its own.
        self._own += 1
        return encode_frame(encode((self._own, "rollback", transaction)))

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        passing = b""
        for body in self._answers.feed(bytes(data)):
            number = msgpack.unpackb(body, strict_map_key=False)[0]
            if number > _OWN_REQUESTS_FROM:
                continue
            fault = self._held.pop(number, None)
            if fault is not None and fault.kind == "slow":
                await trio.sleep(fault.amount / 1000)
            elif fault is not None and fault.kind == "outage":
                # The end of the server breaks the connection. If we did, the client would be back
                # before the end.
                await self._act(fault)
            elif fault is not None:
                await self._break(passing)
                return
            passing += encode_frame(body)
        if passing and not self._broken:
            await self._send(passing)

    async def _send(self, data: bytes) -> None:
        # An injected answer comes from the task that reads requests.
        async with self._sending:
            await self._stream.send_all(data)

    async def _break(self, last: bytes) -> None:
        """End the connection after some last bytes."""
        self._broken = True
        if last:
            await self._send(last)
        await trio.aclose_forcefully(self._stream)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()
