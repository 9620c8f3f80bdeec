import itertools
from typing import Any

import pytest

from headwater_protocol.connection import (
    ClientConnection,
    Refused,
    Request,
    ServerConnection,
    Violation,
)
from headwater_protocol.errors import (
    AuthenticationFailed,
    InvalidArgument,
    ProtocolError,
    UnknownOperation,
)
from headwater_protocol.operations import ERROR, OK, OPERATIONS
from headwater_protocol.states import ACCEPTED, Role, State, Verdict, after_answer, verdict
from tests.protocol.connections import (
    HELLO_ANSWER,
    HELLO_ANSWER_SCRAM,
    connection_in,
    frame,
    receive_one,
)


@pytest.mark.parametrize("state", State)
def test_each_state_is_reached_as_the_table_says(state: State) -> None:
    assert connection_in(state).state is state


@pytest.mark.parametrize(
    ("state", "operation"), [*itertools.product(State, [*OPERATIONS, "no_such_operation"])]
)
def test_each_state_accepts_refuses_or_ends_on_each_operation_as_in_the_table(
    state: State, operation: str
) -> None:
    match state:
        case State.HELLO:
            wanted = Verdict.ACCEPTED if operation == "hello" else Verdict.VIOLATION
        case State.GREETING | State.AUTHENTICATING | State.CLOSED:
            wanted = Verdict.VIOLATION
        case State.AUTHENTICATION:
            wanted = {"authenticate": Verdict.ACCEPTED, "hello": Verdict.VIOLATION}.get(
                operation, Verdict.REFUSED
            )
        case State.READY:
            wanted = {
                "authenticate": Verdict.VIOLATION,
                "hello": Verdict.VIOLATION,
                "no_such_operation": Verdict.REFUSED,
            }.get(operation, Verdict.ACCEPTED)
    assert verdict(state, operation) is wanted
    assert (operation in ACCEPTED[state]) == (wanted is Verdict.ACCEPTED)

    server = connection_in(state)
    items = server.receive(frame(9, operation))
    if state is State.CLOSED:
        assert items == []
        return
    (item,) = items
    match wanted:
        case Verdict.ACCEPTED:
            # Operations with required arguments refuse a request without them. That is later than
            # the verdict.
            assert isinstance(item, Request) or isinstance(item.error, InvalidArgument)
        case Verdict.REFUSED:
            assert isinstance(item, Refused)
            known = state is State.AUTHENTICATION
            assert type(item.error) is (AuthenticationFailed if known else UnknownOperation)
            assert server.state is state
        case Verdict.VIOLATION:
            assert isinstance(item, Violation)
            assert server.state is State.CLOSED


@pytest.mark.parametrize(
    ("state", "status", "payload", "after"),
    [
        (State.GREETING, OK, HELLO_ANSWER, State.READY),
        (State.GREETING, OK, HELLO_ANSWER_SCRAM, State.AUTHENTICATION),
        (State.GREETING, ERROR, None, State.HELLO),
        (State.AUTHENTICATING, OK, [False, b"r="], State.AUTHENTICATION),
        (State.AUTHENTICATING, OK, [True, b"v="], State.READY),
        (State.AUTHENTICATING, ERROR, None, State.AUTHENTICATION),
    ],
)
def test_the_answer_to_hello_or_authenticate_decides_the_next_state(
    state: State, status: int, payload: Any, after: State
) -> None:
    assert after_answer(state, status, payload) is after


@pytest.mark.parametrize(
    ("state", "payload"),
    [
        (State.GREETING, None),
        (State.GREETING, [1, "x", [], []]),
        (State.GREETING, [1, "x", [], None, bytes(16)]),
        (State.AUTHENTICATING, [1, b""]),
        (State.AUTHENTICATING, [True]),
    ],
)
def test_a_malformed_answer_is_a_protocol_error_at_the_client_and_an_assertion_at_the_server(
    state: State, payload: Any
) -> None:
    with pytest.raises(ProtocolError):
        after_answer(state, OK, payload)
    server = connection_in(state)
    (request_id,) = server.in_flight
    with pytest.raises(AssertionError, match="wrong answer to"):
        server.answer(request_id, payload)


def test_both_ends_go_through_the_same_states_with_scram() -> None:
    client, server = ClientConnection(), ServerConnection()
    assert (client.role, server.role) == (Role.CLIENT, Role.SERVER)
    seen = []

    def exchange(answer: Any, name: str, *arguments: Any) -> None:
        request_id, data = client.request(name, *arguments)
        server.receive(data)
        seen.append((client.state, server.state))
        client.receive(server.answer(request_id, answer))
        seen.append((client.state, server.state))

    exchange(HELLO_ANSWER_SCRAM, "hello", 1)
    exchange([False, b"r="], "authenticate", "SCRAM-SHA-256", b"n,,")
    exchange([True, b"v="], "authenticate", "SCRAM-SHA-256", b"c=")
    states = [
        State.GREETING,
        State.AUTHENTICATION,
        State.AUTHENTICATING,
        State.AUTHENTICATION,
        State.AUTHENTICATING,
        State.READY,
    ]
    assert seen == [(state, state) for state in states]


def test_a_refused_hello_or_authenticate_may_be_retried() -> None:
    client, server = ClientConnection(), ServerConnection()
    for name, arguments, answer in (
        ("hello", (1,), HELLO_ANSWER_SCRAM),
        ("authenticate", ("SCRAM-SHA-256", b""), [True, b""]),
    ):
        before = client.state
        request_id, data = client.request(name, *arguments)
        server.receive(data)
        client.receive(server.error(request_id, InvalidArgument("try again")))
        assert client.state is server.state is before
        request_id, data = client.request(name, *arguments)
        server.receive(data)
        client.receive(server.answer(request_id, answer))
    assert client.state is server.state is State.READY


def test_a_hello_with_wrong_arguments_is_refused_and_may_be_retried() -> None:
    server = ServerConnection()
    item = receive_one(server, frame(1, "hello", "one"))
    assert isinstance(item, Refused)
    server.error(1, item.error)
    assert server.state is State.HELLO
    assert isinstance(receive_one(server, frame(1, "hello", 1)), Request)


def test_a_request_before_the_answer_to_hello_is_a_violation() -> None:
    server = ServerConnection()
    hello, ping = server.receive(frame(1, "hello", 1) + frame(2, "ping"))
    assert isinstance(hello, Request)
    assert isinstance(ping, Violation)
    assert "'ping' is not allowed in state GREETING" in ping.error.message
