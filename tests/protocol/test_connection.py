import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater_protocol.connection import (
    Answer,
    Failure,
    Push,
    Refused,
    Request,
    Violation,
)
from headwater_protocol.errors import (
    Conflict,
    HeadwaterError,
    InvalidArgument,
    ProtocolError,
    TooLarge,
    UnknownOperation,
)
from headwater_protocol.frames import encode_frame
from headwater_protocol.limits import (
    BODY_SIZE_MAX,
    ERROR_MESSAGE_MAX,
    HELLO_BODY_SIZE_MAX,
    MIB,
    REQUEST_ID_MAX,
)
from headwater_protocol.messages import encode, encode_array
from headwater_protocol.operations import ERROR, OK, OPERATIONS, PUSH
from headwater_protocol.states import State
from tests.protocol.connections import TX, connection_in, frame, ready_pair, receive_one


@pytest.mark.parametrize("state", [State.HELLO, State.AUTHENTICATION])
def test_an_unauthenticated_client_cannot_make_a_server_buffer_a_large_frame(state: State) -> None:
    server = connection_in(state)
    item = receive_one(server, (HELLO_BODY_SIZE_MAX + 1).to_bytes(4, "big") + bytes(100))
    assert isinstance(item, Violation)
    assert "frame of 16385 bytes; allowed are 1 to 16384" in item.error.message
    assert server.buffered_size == 0


# Requests to the server.


def test_missing_arguments_get_their_defaults() -> None:
    server = connection_in(State.READY)
    assert server.receive(frame(7, "scan", None, b"a", b"b")) == [
        Request(7, "scan", [None, b"a", b"b", 10_000, False, None])
    ]


def test_requests_are_pipelined_and_answered_in_any_order() -> None:
    client, server = ready_pair()
    ids, data = zip(*(client.request("get", None, b"k%d" % n) for n in range(100)), strict=True)
    requests = server.receive(b"".join(data))
    assert [item.request_id for item in requests] == [*ids]
    assert all(isinstance(item, Request) for item in requests)
    answers = b"".join(server.answer(request_id, request_id) for request_id in reversed(ids))
    assert client.receive(answers) == [Answer(one, one) for one in reversed(ids)]
    assert client.in_flight == server.in_flight == {}


def test_a_plain_put_is_received_like_every_other_execute() -> None:
    """Plain puts are parsed without msgpack. With a condition, the same put is an ordinary one."""
    server = connection_in(State.READY)
    put = ["put", b"k", b"v"]
    plain, other = server.receive(
        frame(7, "execute", bytes(16), [], [], [put])
        + frame(8, "execute", bytes(16), [["key_absent", b"x"]], [], [put])
    )
    assert plain == Request(7, "execute", [bytes(16), [], [], [put]])
    assert server.in_flight == {7: "execute", 8: "execute"}
    (again,) = server.receive(frame(7, "execute", bytes(16), [], [], [put]))
    assert isinstance(again, Violation)
    assert "request id 7 is in use by execute" in again.error.message
    assert other.request_id == 8


def test_a_plain_put_before_the_hello_is_a_violation() -> None:
    server = connection_in(State.HELLO)
    item = receive_one(server, frame(7, "execute", bytes(16), [], [], [["put", b"k", b"v"]]))
    assert isinstance(item, Violation)


def test_a_wrong_argument_costs_one_request_and_not_the_connection() -> None:
    client, server = ready_pair()
    bad, good = server.receive(frame(7, "get", None, "no bin") + frame(8, "get", None, b"k"))
    assert isinstance(bad, Refused)
    assert bad.error.message == "get: key: expected bin of 1 to 8192 bytes; got str 'no bin'"
    assert good == Request(8, "get", [None, b"k", None])
    client.in_flight[7] = "get"
    (failure,) = client.receive(server.error(7, bad.error))
    assert isinstance(failure, Failure)
    assert type(failure.error) is InvalidArgument


def test_an_unknown_operation_costs_one_request_and_not_the_connection() -> None:
    server = connection_in(State.READY)
    bad, good = server.receive(frame(7, "incr", b"k") + frame(8, "ping"))
    assert isinstance(bad, Refused)
    assert bad.error.message == "unknown operation 'incr'"
    assert good == Request(8, "ping", [])


@pytest.mark.parametrize(
    ("message", "transaction"),
    [
        ((7, "write", TX, [["put", b""]]), TX),
        ((7, "get", TX, b""), TX),
        ((7, "get", None, b""), None),
        ((7, "write", b"short", []), None),
        ((7, "write"), None),
        ((7, "user_remove", ""), None),
        ((7, "user_remove", TX), None),
        # For example a write of a newer client, followed by its commit.
        ((7, "write_more", TX, []), TX),
        ((7, "write_more", b"short"), None),
    ],
)
def test_a_refusal_names_the_transaction_that_can_no_longer_commit(
    message: tuple[Any, ...], transaction: bytes | None
) -> None:
    item = receive_one(connection_in(State.READY), frame(*message))
    assert isinstance(item, Refused)
    assert item.transaction == transaction


VIOLATIONS = [
    (encode({"id": 1}), 0, "a request is an array"),
    (encode([7]), 7, "a request is an array"),
    (encode([0, "ping"]), 0, "an int of 1 to 4294967295"),
    (encode([-1, "ping"]), 0, "an int of 1 to 4294967295"),
    (encode([True, "ping"]), 0, "an int of 1 to 4294967295"),
    (encode([REQUEST_ID_MAX + 1, "ping"]), 0, "an int of 1 to 4294967295"),
    (encode(["7", "ping"]), 0, "an int of 1 to 4294967295"),
    (encode([7, b"ping"]), 7, "a str and the operation"),
    (encode([7, ["ping"]]), 7, "a str and the operation"),
    (b"\x93\x07\xa4ping\xc1", 7, "byte 7 of the body: 0xc1 is not msgpack"),
    (b"\x92\x07\xa4pi", 7, "the body ends at byte 5"),
    (b"\xc1", 0, "byte 0 of the body: 0xc1 is not msgpack"),
    (b"\x93\x07\xa3get" + b"\x91" * 30 + b"\xc0", 7, "31 nested levels; allowed are 16"),
    (b"\x93\x07\xa4nope" + b"\x91" * 30 + b"\xc0", 7, "31 nested levels; allowed are 16"),
]


@pytest.mark.parametrize(("body", "request_id", "message"), VIOLATIONS)
def test_bytes_that_are_not_a_request_end_the_connection_after_an_error(
    body: bytes, request_id: int, message: str
) -> None:
    server = connection_in(State.READY)
    before, item = server.receive(frame(1, "ping") + encode_frame(body) + frame(2, "ping"))
    assert before == Request(1, "ping", [])
    assert isinstance(item, Violation)
    assert item.request_id == request_id
    assert message in item.error.message
    assert server.closed
    assert server.receive(frame(3, "ping")) == []
    # Earlier requests are still answered, then the error follows.
    client, _ = ready_pair()
    client.in_flight.update({1: "ping", 7: "get"})
    data = server.answer(1, [5, 6]) + server.error(item.request_id, item.error)
    answer, failure = client.receive(data)
    assert answer == Answer(1, [5, 6])
    assert isinstance(failure, Failure)
    assert failure.request_id == request_id
    assert type(failure.error) is ProtocolError


@pytest.mark.parametrize("operation", ["ping", "subscribe"])
def test_an_id_in_use_ends_the_connection_and_is_not_taken_for_an_answer(operation: str) -> None:
    server = connection_in(State.READY)
    server.receive(frame(7, operation))
    if operation == "subscribe":
        server.answer(7, None)  # answered, and still in use
    item = receive_one(server, frame(7, "ping"))
    assert isinstance(item, Violation)
    assert item.request_id == 0
    assert "request id 7 is in use" in item.error.message


def test_an_id_may_be_reused_after_its_answer() -> None:
    server = connection_in(State.READY)
    for _ in range(3):
        assert receive_one(server, frame(7, "ping")) == Request(7, "ping", [])
        server.answer(7, [0, 0])


# Answers of the server.


def test_an_encoded_answer_equals_the_answer_made_of_its_values() -> None:
    events = [[n, "account-ann", n, 1, 2, TX, "T", b"data", b""] for n in range(1, 40)]
    stored = [*map(encode, events)]
    for count in (0, 1, 15, 16, 39):
        server = connection_in(State.READY)
        server.receive(frame(8, "read_all", None))
        server.receive(frame(9, "execute", TX))
        page = [1, 39, events[:count], True]
        encoded = encode_array([encode(1), encode(39), encode_array(stored[:count]), encode(True)])
        assert server.answer_encoded(8, encoded) == frame(8, OK, page)
        assert server.answer_encoded(
            9, encode_array([encode(None), encode_array([encoded])])
        ) == frame(9, OK, [None, [page]])


def test_after_a_refused_answer_above_the_bound_the_request_can_get_an_error() -> None:
    server = connection_in(State.READY)
    server.receive(frame(7, "get", None, b"k"))
    for answer in (server.answer, server.answer_encoded):
        with pytest.raises(TooLarge, match="frame of 16777"):
            answer(7, bytes(BODY_SIZE_MAX))
    assert server.in_flight == {7: "get"}
    server.error(7, TooLarge("the answer"))
    assert server.in_flight == {}


def test_an_error_that_is_too_large_is_sent_without_details() -> None:
    client, server = ready_pair()
    request_id, data = client.request("commit", TX)
    server.receive(data)
    conflicts = [{"kind": "read-write", "key": bytes(8000)}] * 3000
    error = Conflict("lost " * 10_000, details={"conflicts": conflicts})
    (failure,) = client.receive(server.error(request_id, error))
    assert isinstance(failure, Failure)
    assert type(failure.error) is Conflict
    assert failure.error.conflicts == []
    assert len(failure.error.message) == ERROR_MESSAGE_MAX


def test_an_answer_without_a_request_is_an_assertion_error() -> None:
    server = connection_in(State.READY)
    with pytest.raises(KeyError):
        server.answer(7, None)
    with pytest.raises(AssertionError, match="request 7 is not open"):
        server.error(7, InvalidArgument("x"))
    with pytest.raises(AssertionError, match="no subscription 7"):
        server.push(7, ["caught_up", 0])


# Subscriptions.


def test_a_subscription_pushes_under_its_id_until_it_ends() -> None:
    client, server = ready_pair()
    request_id, data = client.request("subscribe", 0, {}, 10)
    server.receive(data)
    event = [1, "s", 1, 1, 2, TX, "T", b"", b""]
    data = server.answer(request_id, None)
    data += server.push(request_id, ["events", [event]])
    data += server.push(request_id, ["caught_up", 1])
    data += server.push(request_id, ["ended", ["shutting_down", "going down", True, {}]])
    assert client.receive(data) == [
        Answer(request_id, None),
        Push(request_id, ["events", [event]]),
        Push(request_id, ["caught_up", 1]),
        Push(request_id, ["ended", ["shutting_down", "going down", True, {}]]),
    ]
    assert client.in_flight == server.in_flight == {}


def test_unsubscribe_ends_a_subscription_with_its_answer() -> None:
    client, server = ready_pair()
    subscription, data = client.request("subscribe")
    server.receive(data)
    client.receive(server.answer(subscription, None))
    ending, data = client.request("unsubscribe", subscription)
    server.receive(data)
    # A push that is already in flight is still accepted.
    late = server.push(subscription, ["caught_up", 0])
    done = server.answer(ending, None)
    assert client.receive(late + done) == [
        Push(subscription, ["caught_up", 0]),
        Answer(ending, None),
    ]
    assert client.in_flight == server.in_flight == {}
    item = client.receive(late)[0]
    assert isinstance(item, Violation)


def test_a_refused_subscribe_opens_nothing() -> None:
    client, server = ready_pair()
    request_id, data = client.request("subscribe")
    server.receive(data)
    client.receive(server.error(request_id, InvalidArgument("no")))
    assert client.in_flight == server.in_flight == {}


def test_unsubscribe_of_an_unknown_subscription_changes_nothing() -> None:
    client, server = ready_pair()
    request_id, data = client.request("unsubscribe", 99)
    server.receive(data)
    assert client.receive(server.answer(request_id, None)) == [Answer(request_id, None)]


# The client.


def test_a_wrong_argument_is_refused_before_it_is_sent() -> None:
    client, _ = ready_pair()
    with pytest.raises(InvalidArgument, match="get: key: expected bin of 1 to 8192 bytes"):
        client.request("get", None, "k")
    with pytest.raises(UnknownOperation, match="unknown operation 'incr'"):
        client.request("incr", b"k")
    with pytest.raises(InvalidArgument, match="lone surrogate"):
        client.request("user_remove", "\ud800")
    with pytest.raises(TooLarge, match="frame of"):
        client.request("write", TX, [["put", b"k", bytes(8 * MIB)]] * 2)
    with pytest.raises(AssertionError, match="hello in state READY"):
        client.request("hello", 1)
    assert client.in_flight == {}
    assert client.request("ping")[0] == 2


def test_no_two_open_requests_share_an_id_and_ids_wrap_around() -> None:
    client, _ = ready_pair()
    first, _ = client.request("subscribe")
    client._last_id = REQUEST_ID_MAX - 1
    assert client.request("ping")[0] == REQUEST_ID_MAX
    assert client.request("ping")[0] == 1
    assert client.request("ping")[0] == first + 1


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ([2, OK], "a response is an array"),
        ({"id": 2}, "a response is an array"),
        ([True, OK, None], "ints"),
        ([2, True, None], "ints"),
        (["2", OK, None], "ints"),
        ([3, OK, None], "request 3, which is not open"),
        ([2, 3, None], r"request 2 \(ping\) with status 3"),
        ([2, PUSH, ["caught_up", 1]], r"request 2 \(ping\) with status 2"),
        ([3, ERROR, ["conflict", "x", True, {}]], "an error for request 3, which is not open"),
    ],
)
def test_a_response_without_a_matching_request_ends_the_connection(
    message: Any, words: str
) -> None:
    client, _ = ready_pair()
    client.request("ping")
    (item,) = client.receive(encode_frame(encode(message)))
    assert isinstance(item, Violation)
    with pytest.raises(ProtocolError, match=words):
        raise item.error
    assert client.closed
    assert client.in_flight == {2: "ping"}  # this request gets no answer


def test_an_error_of_the_whole_connection_closes_it() -> None:
    client, _ = ready_pair()
    client.request("ping")
    (item,) = client.receive(frame(0, ERROR, ["too_many", "connections", True, {}]))
    assert isinstance(item, Failure)
    assert item.request_id == 0
    assert item.error.code == "too_many"
    assert client.closed


def test_a_malformed_push_ends_the_connection() -> None:
    client, server = ready_pair()
    request_id, data = client.request("subscribe")
    server.receive(data)
    client.receive(server.answer(request_id, None))
    for payload in (None, [], [1]):
        (item,) = client.receive(frame(request_id, PUSH, payload))
        assert isinstance(item, Violation)
        client.closed = False


def test_a_stats_answer_that_is_nested_too_deep_is_refused() -> None:
    deep: Any = {}
    for _ in range(20):
        deep = {"a": deep}
    for name, response in (("stats", (OK, deep)), ("ping", (ERROR, ["error", "x", False, deep]))):
        client, _ = ready_pair()
        request_id, _ = client.request(name)
        (item,) = client.receive(frame(request_id, *response))
        assert isinstance(item, Violation)
        assert "nested levels" in item.error.message


# Garbage.

GARBAGE = st.binary(max_size=200) | st.lists(
    st.binary(min_size=1, max_size=40).map(encode_frame)
    | st.tuples(
        st.integers(0, 3),
        st.sampled_from([*OPERATIONS, "nope", 0, 1, 2]),
        st.none()
        | st.binary(max_size=16)
        | st.integers(-9, 2**64 - 1)
        | st.lists(st.none(), max_size=2),
    ).map(lambda message: encode_frame(encode(message)))
    | st.sampled_from([b"\0", b"\xff\xff\xff\xff", b"\0\0\0\x05\xdd\xff\xff\xff\xff"]),
    max_size=6,
).map(b"".join)


@given(data=GARBAGE, state=st.sampled_from(State))
@settings(max_examples=300)
def test_garbage_gives_only_requests_refusals_and_protocol_errors(
    data: bytes, state: State
) -> None:
    server = connection_in(state)
    items = server.receive(data)
    for index, item in enumerate(items):
        # A compiled class cannot be matched by its members.
        if isinstance(item, Request):
            assert item.name in OPERATIONS
            assert len(item.arguments) == len(OPERATIONS[item.name].arguments.arguments)
        elif isinstance(item, Refused):
            assert isinstance(item.error, HeadwaterError)
            assert not isinstance(item.error, ProtocolError)
        else:
            assert isinstance(item, Violation)
            assert type(item.error) is ProtocolError
            assert index == len(items) - 1
            assert server.closed
    # Every item except the violation needs exactly one answer.
    waiting = [item.request_id for item in items if not isinstance(item, Violation)]
    assert len(set(waiting)) == len(waiting)
    assert set(waiting) <= server.in_flight.keys()


@given(data=GARBAGE)
@settings(max_examples=300)
def test_garbage_from_a_server_gives_only_answers_and_protocol_errors(
    data: bytes,
) -> None:
    client, _ = ready_pair()
    client.request("ping")
    client.request("subscribe")
    for item in client.receive(data):
        match item:
            case Answer() | Push():
                pass
            case Failure(_, error):
                assert isinstance(error, HeadwaterError)
            case Violation(_, error):
                assert type(error) is ProtocolError


@pytest.mark.parametrize(
    "body",
    [
        b"\x93\x07\xa3get" + b"\xdd\x00\x00\x10\x00" * 12_000,
        b"\x93\x07\xa3get" + b"\x91" * 60_000,
        b"\x93\x07\xa3get" + (b"\x9f" + b"\x90" * 14) * 1000 * 64,
        b"\x93\x07\xa3get" + b"\xdd\x00\x01\x86\xa0" + b"\x90" * 100_000 + b"\xc0",
        b"\xdd\xff\xff\xff\xff" * 200_000,
        b"\xdf\xff\xff\xff\xff" * 200_000,
        b"\x93\x07\xc6\xff\xff\xff\xff",
        bytes(MIB),
    ],
)
def test_hostile_bodies_take_a_bounded_amount_of_memory(body: bytes) -> None:
    server = connection_in(State.READY)
    data = encode_frame(body)
    tracemalloc.start()
    (item,) = server.receive(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert isinstance(item, Violation | Refused)
    assert peak < 40 * MIB
