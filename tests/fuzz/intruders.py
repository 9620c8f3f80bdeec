"""Strangers and insiders against a server process with users and small budgets.

    python -m tests.fuzz.intruders --count 200000

A stranger has no password. It sends malformed frames, and messages of log-ins. An insider is a
user with random rights. It sends requests of every operation, valid and malformed. Half of both do
not read the answers. Meanwhile an administrator writes and reads, and changes rights.

The laws: a stranger is told nothing but errors. No answer to an insider has what it has no right to
read, and nothing changes that it has no right to write. The server survives, answers the
administrator, stays within its memory, logs no internal error, and its files are sound.
"""

import argparse
import contextlib
import random
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgpack
from scramp import ScramClient

import headwater
from headwater_protocol.frames import FrameSplitter, encode_frame
from headwater_protocol.limits import BODY_SIZE_MAX, PROTOCOL_VERSION
from headwater_protocol.mechanisms import MECHANISMS, SCRAM
from headwater_protocol.operations import OK, OPERATIONS, PUSH
from tests.fuzz import mutations
from tests.fuzz.live import ANSWER_S_MAX, Target
from tests.fuzz.messages import Frames, encode, outcome_of
from tests.protocol.connections import ready_pair
from tests.vectors import examples

FRAMES_A_CONNECTION: Final = 60
CONNECTIONS_A_SEED: Final = 100
USERS: Final = 8

SECRET: Final = "nobody may see this"
"""A part of every value and event that is kept from the insiders."""

PASSWORD: Final = "pencil"

LAST_ID: Final = 2**31
"""The id of the last request of a connection."""

OPTIONS: Final = (
    *("--memory-max", "64", "--connections-max", "100", "--transactions-max", "50"),
    *("--transaction-idle", "2", "--history-window", "2", "--snapshots-kept", "1"),
)
"""The smallest budgets with which the administrator can still work."""

GRANTS: Final = (
    *("read:keys:balance", "write:keys:balance", "write:keys", "read:keys"),
    *("read:category:account", "append:category:account", "append:stream:account-ann"),
    *("manage:prefix:account-", "erase:category:account", "read:stream:account-bob"),
    *("group:mailer", "group", "backup", "append:prefix:order"),
)
"""What insiders are given some of. Nothing of it lets them read the secrets, or change them.

`replicate` is not among them: a node that follows copies the whole log.
"""


class Guarded(Target):
    """A server with users and secrets."""

    def __init__(self, directory: Path, grants: Sequence[str] = GRANTS) -> None:
        self._grants = grants
        super().__init__(directory, *OPTIONS)
        with headwater.connect_blocking(self.server.url) as database:
            database.add_user("admin", PASSWORD)
        with self.connect() as database:
            for number in range(20):
                database.append(f"secret-{number}", headwater.Event("Hidden", SECRET))
                database.append("account-ann", headwater.Event("Opened", number))
            database.groups.create("hidden", category="secret")
            database.groups.create("mailer", category="account", after=0)
            for number in range(USERS):
                database.add_user(f"user {number}", PASSWORD)

    def connect(self) -> headwater.BlockingDatabase:
        return headwater.connect_blocking(self.server.url, user="admin", password=PASSWORD)

    def give_rights(self, source: random.Random) -> None:
        """Give every insider other rights, while some of their connections may be open."""
        with self.connect() as database:
            for number in range(USERS):
                name = f"user {number}"
                had = database.rights.of(name)
                database.rights.grant(
                    name, *source.sample(self._grants, source.randint(1, len(self._grants) // 2))
                )
                kept = set(database.rights.of(name).grants)
                lost = [each for each in had.grants if source.random() < 0.7 and len(kept) > 1]
                if lost:
                    database.rights.revoke(name, *lost)

    def secrets_stay(self) -> None:
        """Nobody has changed what insiders have no right to."""
        with self.connect() as database:
            for number in range(20):
                (event,) = database.read(f"secret-{number}")
                assert event.data == SECRET
            assert database.groups.info("hidden").name == "hidden"
            assert len(database.users()) == USERS + 1
            assert not database.rights.of("admin").restricted


class Intruder:
    """One connection to the server, which remembers what it is told."""

    def __init__(self, url: str, outcomes: Counter[str]) -> None:
        host, _, port = url.removeprefix("headwater://").rpartition(":")
        self.socket = socket.create_connection((host, int(port)), timeout=ANSWER_S_MAX)
        self._splitter = FrameSplitter(BODY_SIZE_MAX)
        self._outcomes = outcomes

    def send(self, frame: bytes) -> None:
        """Send the bytes of a frame."""
        self.socket.sendall(frame)

    def read_all(self, last_frame: bytes) -> Iterator[list[Any]]:
        """All messages of the server, until it has answered everything, or closes."""
        if len(last_frame) < 4 or int.from_bytes(last_frame[:4], "big") != len(last_frame) - 4:
            return
        self.send(encode_frame(encode([LAST_ID, "ping"])))
        while True:
            found = self.received()
            yield from found
            if any(request_id == LAST_ID for request_id, *_ in found):
                return

    def ask(self, message: list[Any]) -> list[Any]:
        """Send a request and return its answer."""
        self.send(encode_frame(encode(message)))
        while True:
            for answer in self.received():
                if answer[0] == message[0]:
                    return answer

    def log_in(self, name: str) -> None:
        """Say hello and log in."""
        self.ask([1, "hello", PROTOCOL_VERSION, "fuzz"])
        scram = ScramClient([SCRAM], name, PASSWORD)
        first = self.ask([2, "authenticate", SCRAM, scram.get_client_first().encode()])
        scram.set_server_first(first[2][1].decode())
        last = self.ask([3, "authenticate", SCRAM, scram.get_client_final().encode()])
        assert last[2][0] is True, last

    def received(self) -> list[list[Any]]:
        """Some messages of the server.

        Raises:
            ConnectionError: the server has closed the connection.
        """
        data = self.socket.recv(65536)
        if not data:
            raise ConnectionError
        assert SECRET.encode() not in data, "an insider was told a secret"
        found: list[list[Any]] = [msgpack.unpackb(body) for body in self._splitter.feed(data)]
        for _, status, payload in found:
            known = {OK: "served", PUSH: "pushed"}
            self._outcomes[known.get(status) or payload[0]] += 1
        return found


def stranger(target: Guarded, source: random.Random, outcomes: Counter[str]) -> int:
    """One connection of a stranger. Returns the number of frames."""
    frames = []
    maker = Frames(source)
    for number in range(source.randint(1, FRAMES_A_CONNECTION)):
        if source.random() < 0.5:
            frames.append(encode_frame(encode([number + 2, *_log_in_message(source)])))
        else:
            frames.append(maker.frame())
    intruder = Intruder(target.server.url, outcomes)
    with intruder.socket, contextlib.suppress(ConnectionError):
        if source.random() < 0.9:
            hello = intruder.ask([1, "hello", PROTOCOL_VERSION, "fuzz"])
            assert hello[2][3] == [SCRAM]
        for frame in frames:
            intruder.send(frame)
        if source.random() < 0.5:
            for _, status, payload in intruder.read_all(frames[-1]):
                # Hello is answered, and the first message of a log-in, whatever the name is.
                begun = isinstance(payload, list) and (payload[0] is False or len(payload) == 5)
                assert status != OK or begun, payload
    return len(frames)


def _log_in_message(source: random.Random) -> list[Any]:
    """A request to authenticate, mostly malformed."""
    name = source.choice(("admin", "user 1", "nobody", "n" * 2000, ""))
    scram = ScramClient([SCRAM], name or "x", "wrong")
    text = scram.get_client_first().encode()
    match source.randrange(4):
        case 0:
            text = mutations.corrupted(text, source, [b"c=biws,r=x,p=AAAA", b"p=tls-unique,,n=a"])
        case 1:
            text = b"c=biws,r=" + source.randbytes(8).hex().encode() + b",p=" + b"A" * 44
    return ["authenticate", source.choice(MECHANISMS), text[:4096]]


def insider(target: Guarded, source: random.Random, outcomes: Counter[str]) -> int:
    """One connection of a user with random rights. Returns the number of frames."""
    frames = _frames_of_an_insider(source)
    intruder = Intruder(target.server.url, outcomes)
    with intruder.socket, contextlib.suppress(ConnectionError):
        intruder.log_in(f"user {source.randrange(USERS)}")
        if source.random() < 0.5:
            intruder.send(b"".join(frames))
        else:
            for frame in frames:
                intruder.send(frame)
        if source.random() < 0.5:
            for _ in intruder.read_all(frames[-1]):
                pass
    return len(frames)


def _frames_of_an_insider(source: random.Random) -> list[bytes]:
    """Valid and malformed requests of all operations. Only the last one ends the connection."""
    maker = Frames(source)
    ids = [source.randbytes(16) for _ in range(3)]
    connection = ready_pair()[1]
    frames: list[bytes] = []
    for number in range(FRAMES_A_CONNECTION):
        if source.random() < 0.6:
            name = source.choice(sorted(OPERATIONS))
            known = [each for each in examples.EXAMPLES if each.name == name]
            arguments = _with_ids(source.choice(known).arguments, ids, source)
            frames.append(encode_frame(encode([number + 10, name, *arguments])))
        else:
            frames.append(maker.frame())
        whole = int.from_bytes(frames[-1][:4], "big") == len(frames[-1]) - 4
        if not whole or outcome_of(frames[-1][4:], connection) == "violation":
            # Most frames of this kind are left out, so that the connection lasts.
            if source.random() < 0.1:
                break
            frames.pop()
    return frames


def _with_ids(value: Any, ids: list[bytes], source: random.Random) -> Any:
    """A value of an example with other ids of transactions, events and so on."""
    if isinstance(value, bytes) and len(value) == 16:
        return source.choice(ids)
    if isinstance(value, list | tuple):
        return [_with_ids(each, ids, source) for each in value]
    if value == "account-ann":
        return source.choice(("account-ann", "account-bob", "order-1", "secret-1"))
    return value


def run(target: Guarded, who: Any, seed: int, connections: int, outcomes: Counter[str]) -> int:
    """Run the connections of a seed. Returns the number of frames."""
    source = random.Random(f"intruders {who.__name__} {seed}")
    sent = 0
    for number in range(connections):
        if number % 20 == 0:
            target.give_rights(source)
            target.answers(number)
        sent += who(target, source, outcomes)
    target.secrets_stay()
    target.survives()
    return sent


def main() -> int:
    """Send --count frames of strangers, then of insiders, and print the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=20_000, help="frames of each kind")
    options = parser.parse_args()
    for who in (stranger, insider):
        began = time.monotonic()
        sent, seed = 0, options.seed
        outcomes: Counter[str] = Counter()
        with tempfile.TemporaryDirectory() as directory:
            target = Guarded(Path(directory))
            while sent < options.count:
                sent += run(target, who, seed, CONNECTIONS_A_SEED, outcomes)
                seed += 1
            growth = target.growth
            target.stop()
        print(
            f"{who.__name__}, seeds {options.seed} to {seed - 1}: {sent} frames in "
            f"{time.monotonic() - began:.0f} s; the server has grown by {growth >> 20} MiB, and "
            f"the administrator waited at most {target.slowest_s:.2f} s; "
            f"{dict(outcomes.most_common())}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
