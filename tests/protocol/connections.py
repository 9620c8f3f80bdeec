"""Connections in a given state, and frames to feed them."""

from typing import Any

from headwater_protocol.connection import (
    ClientConnection,
    ServerConnection,
)
from headwater_protocol.frames import encode_frame
from headwater_protocol.messages import encode
from headwater_protocol.states import State

TX = bytes(range(16))
HELLO_ANSWER = [1, "headwater 1.0", [], [], bytes(16)]
HELLO_ANSWER_SCRAM = [1, "headwater 1.0", [], ["SCRAM-SHA-256"], bytes(16)]


def frame(*message: Any) -> bytes:
    return encode_frame(encode(message))


def ready_pair() -> tuple[ClientConnection, ServerConnection]:
    client, server = ClientConnection(), ServerConnection()
    request_id, data = client.request("hello", 1)
    server.receive(data)
    client.receive(server.answer(request_id, HELLO_ANSWER))
    assert client.state is server.state is State.READY
    return client, server


def connection_in(state: State) -> ServerConnection:
    """A server's connection that reached *state* by requests and answers."""
    server = ServerConnection()
    if state is State.HELLO:
        return server
    server.receive(frame(1, "hello", 1))
    if state is State.GREETING:
        return server
    if state in (State.AUTHENTICATION, State.AUTHENTICATING):
        server.answer(1, HELLO_ANSWER_SCRAM)
    else:
        server.answer(1, HELLO_ANSWER)
    if state is State.AUTHENTICATING:
        server.receive(frame(2, "authenticate", "SCRAM-SHA-256", b""))
    if state is State.CLOSED:
        server.close()
    return server


def receive_one(server: ServerConnection, data: bytes) -> Any:
    (item,) = server.receive(data)
    return item
