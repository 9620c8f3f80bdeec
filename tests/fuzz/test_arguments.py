"""Every argument of every operation: missing, nil, or of another type, against a server process.

A compiled function that is given a value of another type than its annotation says raises TypeError,
where the source would have gone on. So the server process runs here as it is: compiled in `make
test-compiled`, from source otherwise. The laws: every request is answered, no answer says that the
server failed, and the server goes on.
"""

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgpack
import pytest
from scramp import ScramClient

import headwater
from headwater.cli.server_process import ServerProcess
from headwater_protocol.errors import InternalError
from headwater_protocol.frames import FrameSplitter, encode_frame
from headwater_protocol.limits import BODY_SIZE_MAX, PROTOCOL_VERSION
from headwater_protocol.mechanisms import MECHANISMS, SCRAM
from headwater_protocol.operations import ERROR, OK, OPERATIONS, PUSH
from tests.vectors import examples

pytestmark = pytest.mark.slow

VALUES: Final[list[Any]] = [
    *(None, True, False, 0, 1, -1, 2**31, 2**63 - 1, 2**63, 2**64 - 1, -(2**63), 1.5, float("nan")),
    *("", "x", "account-ann", b"", b"k", bytes(16), [], [[]], [None], [1], ["x"], [b"k"], {}),
    *({"stream": "x"}, {"x": 1}, ["put", b"k", b"v"], [["put", b"k", None]], [[1, 1]]),
]
"""Values of all types, each of which some argument takes."""

AT_START: Final = ("hello", "authenticate")
"""Operations of connections that are not ready yet."""


def variants(arguments: list[Any]) -> Iterator[list[Any]]:
    """The arguments of an example with one changed, or with the last ones missing."""
    yield arguments
    for place in range(len(arguments) + 1):
        yield arguments[:place]
    for place, argument in enumerate(arguments):
        for value in VALUES:
            yield [*arguments[:place], value, *arguments[place + 1 :]]
        # Writes, conditions, reads and filters have arguments of their own.
        if isinstance(argument, list) and argument and isinstance(argument[0], list):
            for inner in variants(argument[0]):
                yield [*arguments[:place], [inner, *argument[1:]], *arguments[place + 1 :]]
        if isinstance(argument, dict):
            for name in argument:
                for value in VALUES:
                    yield [*arguments[:place], {**argument, name: value}, *arguments[place + 1 :]]


def requests(name: str) -> Iterator[list[Any]]:
    """Requests of an operation."""
    wanted = OPERATIONS[name].arguments.arguments
    for each in examples.EXAMPLES:
        if each.name == name:
            given: list[Any] = msgpack.unpackb(msgpack.packb(each.arguments))
            # The answer may come after this time, and the socket does not wait as long.
            for place, argument in enumerate(wanted[: len(given)]):
                if argument.name == "wait_ms":
                    given[place] = 1
            # Also the arguments that the example leaves out.
            rest = [None] * (len(wanted) - len(given))
            yield from variants(given + rest)


class Asking:
    """A connection that asks and keeps count."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), timeout=30)
        self._splitter = FrameSplitter(BODY_SIZE_MAX)
        self._request_id = 0

    def close(self) -> None:
        self.socket.close()

    def ask(self, name: str, *arguments: Any) -> tuple[int, Any]:
        """The status and payload of the answer."""
        self._request_id += 1
        body = msgpack.packb([self._request_id, name, *arguments])
        self.socket.sendall(encode_frame(body))
        while True:
            data = self.socket.recv(65536)
            assert data, f"the connection was closed after {name} {arguments}"
            for each in self._splitter.feed(data):
                request_id, status, payload = msgpack.unpackb(each)
                if request_id == self._request_id and status != PUSH:
                    assert status != ERROR or payload[0] != InternalError.code, (name, arguments)
                    return status, payload

    def log_in(self) -> None:
        self.ask("hello", PROTOCOL_VERSION, "test")
        scram = ScramClient([SCRAM], "admin", "pencil")
        _, (_, reply) = self.ask("authenticate", SCRAM, scram.get_client_first().encode())
        scram.set_server_first(reply.decode())
        assert self.ask("authenticate", SCRAM, scram.get_client_final().encode())[1][0]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with a user, as the first one would end all connections."""
    with ServerProcess(Path(tmp_path_factory.mktemp("server"))) as running:
        with headwater.connect_blocking(running.url) as db:
            db.add_user("admin", "pencil")
        with headwater.connect_blocking(running.url, user="admin", password="pencil") as db:
            db.append("account-ann", [headwater.Event("Opened", number) for number in range(20)])
            # The commits that the examples name are there, so nobody waits for them.
            for number in range(50):
                db.put(("balance", "ann"), number)
        yield running
        running.stop()
        said = running.log.read_text()
        assert "Traceback" not in said, said[-3000:]


@pytest.mark.parametrize("name", [name for name in OPERATIONS if name not in AT_START])
def test_an_argument_of_any_type_is_answered(name: str, server: ServerProcess) -> None:
    asking = Asking(server.address)
    asking.log_in()
    count = 0
    for arguments in requests(name):
        identity = os.urandom(16)
        asking.ask("begin", identity)
        asking.ask(name, *(identity if each == examples.TX else each for each in arguments))
        asking.ask("rollback", identity)
        count += 1
    assert count > 0
    asking.close()


@pytest.mark.parametrize("name", AT_START)
def test_an_argument_of_any_type_is_answered_before_the_log_in(
    name: str, server: ServerProcess
) -> None:
    given: list[Any] = [PROTOCOL_VERSION, "x", []] if name == "hello" else [SCRAM, b"n,,n=a,r=b"]
    for arguments in variants(given):
        asking = Asking(server.address)
        if name == "authenticate":
            asking.ask("hello", PROTOCOL_VERSION, "test")
        status, _ = asking.ask(name, *arguments)
        assert status in (OK, ERROR)
        asking.close()
    for mechanism in MECHANISMS:
        asking = Asking(server.address)
        asking.ask("hello", PROTOCOL_VERSION, "test")
        asking.ask("authenticate", mechanism, b"")
        asking.close()
