"""All implementations of readiness report the same."""

import select
import socket
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from headwater_server.net.drivers.readiness import READ, WRITE, AnySystem, Epoll, Readiness

Pair = tuple[socket.socket, socket.socket]

WAYS: list[Callable[[], Readiness[str]]] = [AnySystem]
if hasattr(select, "epoll"):
    WAYS.append(Epoll)


@pytest.fixture(params=WAYS, ids=lambda way: way.__name__)
def readiness(request: pytest.FixtureRequest) -> Iterator[Readiness[str]]:
    with closing(request.param()) as made:
        yield made


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_only_the_requested_events_are_reported(readiness: Readiness[str], pair: Pair) -> None:
    ours, theirs = pair
    readiness.register(ours, READ, "ours")
    assert readiness.ready() == []
    theirs.send(b"x")
    assert readiness.ready() == [("ours", READ)]
    readiness.modify(ours, READ | WRITE, "ours")
    assert readiness.ready() == [("ours", READ | WRITE)]
    readiness.modify(ours, WRITE, "renamed")
    assert readiness.ready() == [("renamed", WRITE)]
    readiness.unregister(ours)
    assert readiness.ready() == []


def test_a_closed_peer_makes_the_socket_readable(readiness: Readiness[str], pair: Pair) -> None:
    ours, theirs = pair
    readiness.register(ours, READ, "ours")
    theirs.close()
    assert readiness.ready() == [("ours", READ)]
    readiness.modify(ours, READ | WRITE, "ours")
    assert readiness.ready() == [("ours", READ | WRITE)]
    # It must not wake a server that waits for another event.
    readiness.modify(ours, WRITE, "ours")
    assert readiness.ready() == [("ours", WRITE)]


def test_the_descriptor_of_a_readiness_is_readable_while_a_socket_is_ready(
    readiness: Readiness[str], pair: Pair
) -> None:
    ours, theirs = pair
    readiness.register(ours, READ, "ours")
    assert select.select([readiness.fileno()], [], [], 0)[0] == []
    theirs.send(b"x")
    assert select.select([readiness.fileno()], [], [], 5)[0] == [readiness.fileno()]


def test_a_reused_descriptor_belongs_to_its_new_owner(
    readiness: Readiness[str], pair: Pair
) -> None:
    ours, _ = pair
    readiness.register(ours, WRITE, "before")
    readiness.unregister(ours)
    readiness.register(ours, WRITE, "after")
    assert readiness.ready() == [("after", WRITE)]


def test_a_closed_socket_can_be_unregistered(readiness: Readiness[str], pair: Pair) -> None:
    ours, _ = pair
    readiness.register(ours, WRITE, "ours")
    ours.close()
    readiness.unregister(ours)
    assert readiness.ready() == []


def test_a_wait_tells_whether_a_socket_became_ready(readiness: Readiness[str], pair: Pair) -> None:
    ours, theirs = pair
    readiness.register(ours, READ, "ours")
    assert not readiness.wait(0.001)
    theirs.send(b"x")
    assert readiness.wait(60.0)
    assert readiness.ready() == [("ours", READ)]
