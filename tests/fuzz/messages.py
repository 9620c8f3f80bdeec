"""Malformed frames against a session: `python -m tests.fuzz.messages --count 1000000`.

The session is the server's own, on an in-memory engine whose syncs take no time. For every body, an
oracle says what must happen: it is served, refused (the request fails, the connection continues),
or a violation (the connection ends). The oracle uses the slow path where the product has a fast
one: the scan before decoding, and the full `check` of each argument instead of its fast validator.
"""

import argparse
import random
import resource
import sys
import time
import tracemalloc
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, Literal

import msgpack
import structlog
import trio

from headwater_protocol.connection import ServerConnection
from headwater_protocol.errors import HeadwaterError, InternalError, ProtocolError
from headwater_protocol.frames import FrameSplitter, encode_frame
from headwater_protocol.limits import (
    BODY_SIZE_MAX,
    DEPTH_MAX,
    KIB,
    MIB,
    PROTOCOL_VERSION,
    REQUEST_ID_MAX,
    REQUEST_ITEMS_MAX,
)
from headwater_protocol.messages import depth, scan
from headwater_protocol.messages import encode as pack
from headwater_protocol.operations import ERROR, OK, OPERATIONS, PUSH
from headwater_protocol.states import Verdict, verdict
from headwater_server.net.server import Server
from headwater_server.net.session.session import Session, open_session
from headwater_server.net.settings import ServerSettings
from headwater_server.net.threads.adaptive_fsync import AdaptiveFsync
from headwater_server.net.threads.worker_thread import run_inline
from tests.engine.database import Database
from tests.fuzz import mutations
from tests.vectors import examples

Outcome = Literal["served", "refused", "violation"]

FRAMES_A_BATCH: Final = 1000
"""Frames of one seed, which share a database."""

LATER: Final = frozenset(
    {"copy_begin", "copy_read", "log_read", "promote", "wait_commit", "read_at_least"}
)
"""Operations that a task answers, or that wait for something. No task runs here."""

PEAK_SIZE_MAX: Final = 40 * MIB
"""Bytes that a frame may take temporarily, in addition to a multiple of its size: the decoder
allocates up to 4,096 announced members, on up to 1,024 levels."""

PEAK_A_BYTE_MAX: Final = 100
"""Bytes of memory for each byte of a frame, since one byte can become an empty list."""

ADDRESS_SPACE: Final = 2 * 1024 * MIB
"""Memory limit of the process in long runs. Code that trusts a large header exceeds it."""


class Bare:
    """A server without its event loop: a wake-up acts immediately."""

    def __init__(self, seed: int) -> None:
        settings = ServerSettings(data="data", scrub_interval_ms=None)
        self.database = Database(settings.engine, seed=seed)
        server = Server(
            self.database.engine,
            settings,
            clock=lambda: self.database.now,
            worker=lambda _: run_inline,
            adaptive_fsync=_on_a_fast_disk(),
        )
        self.service = server.service
        # There is no event loop that could run in between.
        self.service.monotonic = self.service.session_turn.now = lambda: 0.0
        self.service.memory_budget._monotonic = lambda: 0.0
        self.group_commit = self.service.group_commit
        self.subscriptions = self.service.subscriptions
        self.subscriptions._turn.now = lambda: 0.0

    def connect(self, *, hello: bool = True) -> Session:
        """Open a new session."""
        session = open_session(self.service, "fuzz", lambda: None)
        if hello:
            self.feed(session, encode_frame(encode([1, "hello", PROTOCOL_VERSION, "fuzz"])))
            answers(session)
        return session

    @property
    def is_followed(self) -> bool:
        """Whether a follower has greeted."""
        return self.group_commit._ship is not None

    def feed(self, session: Session, data: bytes) -> None:
        """Process received bytes as the event loop does."""
        self.group_commit.begin_turn()
        session.receive(data)
        while session.runnable:
            session.run()
        self.group_commit.end_turn()
        while self.subscriptions.turn():
            pass


def _on_a_fast_disk() -> AdaptiveFsync:
    adaptive_fsync = AdaptiveFsync(lambda: 0.0)
    while not adaptive_fsync.on_event_loop:
        adaptive_fsync.timed(lambda: None)
    return adaptive_fsync


def answers(session: Session) -> list[list[Any]]:
    """Take and decode the session's output."""
    splitter = FrameSplitter(BODY_SIZE_MAX)
    found = []
    while chunk := session.output():
        found += [msgpack.unpackb(body) for body in splitter.feed(bytes(chunk))]
        session.sent(len(chunk))
    assert not splitter.buffered_size, "half a frame was sent"
    return found


def encode(message: Any) -> bytes:
    """The bytes of a message."""
    return bytes(pack(message))


# The oracle.


def outcome_of(body: bytes, connection: ServerConnection) -> Outcome:
    """The outcome that the protocol requires for a body in the connection's current state."""
    try:
        scan(body, REQUEST_ITEMS_MAX)
    except ProtocolError:
        # Empty arrays and maps do not count as levels, whatever the form of their header.
        if not _only_too_deep_by_empty_ones(body):
            return "violation"
    try:
        message = msgpack.unpackb(body, strict_map_key=False)
    except ValueError:
        return "violation"
    if (
        type(message) is not list
        or len(message) < 2
        or type(message[0]) is not int
        or not 0 < message[0] <= REQUEST_ID_MAX
        or type(message[1]) is not str
        or message[0] in connection.in_flight
    ):
        return "violation"
    name, arguments = message[1], message[2:]
    match verdict(connection.state, name):
        case Verdict.VIOLATION:
            return "violation"
        case Verdict.REFUSED:
            return "refused"
    wanted = OPERATIONS[name].arguments.arguments
    if not sum(each.required for each in wanted) <= len(arguments) <= len(wanted):
        return "refused"
    try:
        for each, argument in zip(arguments, wanted, strict=False):
            argument.field(each, argument.name)
    except HeadwaterError:
        return "refused"
    return "served"


def _only_too_deep_by_empty_ones(body: bytes) -> bool:
    try:
        return depth(msgpack.unpackb(body)) <= DEPTH_MAX
    except ValueError:
        return False


# Frames.


class Frames:
    """Frames from a seed: examples of all operations, corrupted in many ways."""

    def __init__(self, source: random.Random, *, without: Sequence[str] = ()) -> None:
        self._source = source
        self._examples = [
            [each.name, *each.arguments] for each in examples.EXAMPLES if each.name not in without
        ]
        self._bodies = [encode([7, *each]) for each in self._examples]
        self._request_id = 1

    def body(self) -> bytes:
        """The next body."""
        source = self._source
        self._request_id += 1
        what = source.random()
        if what < 0.05:
            return encode([self._request_id, *source.choice(self._examples)])
        if what < 0.5:
            message = msgpack.unpackb(
                encode([self._request_id, *source.choice(self._examples)]), strict_map_key=False
            )
            # Mostly change the arguments, and keep the id and the operation.
            kept = message[: source.choice((0, 2, 2, 2, 2))]
            changed = message[len(kept) :]
            for _ in range(source.choice((1, 1, 2, 4))):
                if changed:
                    changed = mutations.altered(changed, source)
            return self._encoded(kept + changed)
        if what < 0.53:
            return self._bomb()
        return mutations.corrupted(source.choice(self._bodies), source, self._bodies)

    def frame(self) -> bytes:
        """The next frame, sometimes with a wrong size."""
        body = self.body() or b"\xc1"
        if self._source.random() < 0.02:
            size = self._source.choice((0, len(body) - 1, len(body) + 1, BODY_SIZE_MAX, 2**32 - 1))
            return size.to_bytes(4, "big") + body
        return encode_frame(body)

    def _encoded(self, message: Any) -> bytes:
        try:
            return encode(message)
        except (OverflowError, ValueError):
            # Numbers that msgpack cannot encode.
            return b"\xc1"

    def _bomb(self) -> bytes:
        """A few bytes that announce a large value."""
        source = self._source
        head = b"\x93" + encode(self._request_id) + encode(source.choice(("execute", "commit")))
        count = source.choice((2, 4095, 4096, 4097, 99_999, 2**32 - 1))
        header = b"\xdd" + count.to_bytes(4, "big")
        deep = source.choice((1, 15, 16, 17, 500, 1023, 1024, 5000))
        filling = source.choice((b"\x90", b"\x80", b"\xc0", b"\xa0"))
        match source.randrange(4):
            case 0:
                return head + header * deep
            case 1:
                return head + b"\x91" * deep
            case 2:
                return head + b"\x81\xa1k" * deep + filling
            case _:
                return head + header + filling * min(count, source.choice((100, 65_000, 200_000)))


class Fuzzer:
    """Sends batches of frames to sessions and judges the results.

    Attributes:
        outcomes: counts of bodies by outcome.
        peak_size: most bytes of memory that a measured frame took.
    """

    def __init__(self, *, measured: float = 0.0) -> None:
        self._measured = measured
        self.outcomes: Counter[str] = Counter()
        self.peak_size = 0

    @property
    def malformed(self) -> int:
        """The number of malformed frames."""
        return sum(self.outcomes.values()) - self.outcomes["served"]

    def run_batch(self, seed: int, frames: int = FRAMES_A_BATCH) -> None:
        """Send all frames of a seed, over as many connections as needed."""

        async def batch() -> None:
            self._run_batch(seed, frames)

        # Some requests ask for trio's time. Nothing awaits, so no task runs.
        trio.run(batch)

    def _run_batch(self, seed: int, frames: int) -> None:
        source = random.Random(f"messages {seed}")
        maker = Frames(source)
        bare = Bare(seed)
        session: Session | None = None
        for number in range(frames):
            done = bare.is_followed or (session is not None and session.closing)
            if session is None or done or self._is_given_up(session, source):
                if session is not None:
                    session.close()
                if bare.service.authentication_needed or bare.is_followed:
                    # A frame has added a user, so hardly any request would be served; or it was a
                    # follower's, for which a task would send the commits.
                    bare = Bare(seed)
                session = bare.connect(hello=source.random() < 0.9)
            data = maker.frame()
            try:
                self._feed(bare, session, data, source)
            except Exception as error:
                told = f"seed {seed}, frame {number}: {data[:200].hex()} ({len(data)} bytes)"
                raise AssertionError(told) from error
        self._still_works(bare)

    def _is_given_up(self, session: Session, source: random.Random) -> bool:
        # The frame is incomplete. Mostly the client closes the connection then.
        return session.connection.buffered_size > 0 and source.random() < 0.8

    def _feed(self, bare: Bare, session: Session, data: bytes, source: random.Random) -> None:
        whole = int.from_bytes(data[:4], "big") == len(data) - 4
        buffered = session.connection.buffered_size
        expected: Outcome | None = None
        if whole and not buffered:
            expected = outcome_of(data[4:], session.connection)
        measure = source.random() < self._measured
        if measure:
            tracemalloc.start(1)
        pieces = [data]
        if source.random() < 0.05:
            cut = source.randint(0, len(data))
            pieces = [data[:cut], data[cut:]]
        for piece in pieces:
            bare.feed(session, piece)
        if measure:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            self.peak_size = max(self.peak_size, peak)
            assert peak <= PEAK_SIZE_MAX + PEAK_A_BYTE_MAX * len(data), f"{peak} bytes at once"
        assert session.connection.buffered_size <= buffered + len(data)
        got = answers(session)
        self._judge(session, expected, got)

    def _judge(self, session: Session, expected: Outcome | None, got: list[list[Any]]) -> None:
        assert not session.service.failures.failed, "no request can end the process"
        for answer in got:
            assert len(answer) == 3, answer
            assert answer[1] in (OK, ERROR, PUSH), answer
            if answer[1] == ERROR:
                assert answer[2][0] != InternalError.code, answer
        if expected is None:
            self.outcomes["a size that is wrong, or the rest of one"] += 1
            return
        self.outcomes[expected] += 1
        assert session.closing == (expected == "violation") or session.ended, (expected, got)
        direct = [answer for answer in got if answer[1] != PUSH]
        if expected == "served" and session.ended and direct[-1][0] == 0:
            # The first user was added, or the connection was closed: the reason follows the answer.
            direct.pop()
        # Commits become durable within the turn, so everything has been answered, but for what a
        # task of the server answers.
        if expected == "served" and not direct and session.connection.in_flight:
            assert LATER & set(session.connection.in_flight.values()), expected
            return
        assert len(direct) == 1, (expected, got)
        if expected != "served":
            assert direct[0][1] == ERROR, (expected, got)

    def _still_works(self, bare: Bare) -> None:
        if bare.service.authentication_needed:
            return
        session = bare.connect()
        transaction = bare.database.new_id()
        put = ["put", b"after all of it", b"1"]
        bare.feed(session, encode_frame(encode([2, "execute", transaction, [], [], [put]])))
        ((_, status, _),) = answers(session)
        assert status == OK
        session.close()
        for other in list(bare.service.sessions):
            assert isinstance(other, Session)
            other.close()
        assert bare.database.engine.open_count(session) == 0
        assert bare.subscriptions.count == 0


@contextmanager
def strict_log() -> Iterator[None]:
    """Within this context the server's log is not printed and must have no internal error."""

    def drop(_logger: object, _level: str, entry: Any) -> Any:
        assert not entry.get("exc_info"), entry
        raise structlog.DropEvent

    before = structlog.get_config()
    structlog.configure(processors=[drop], cache_logger_on_first_use=False)
    try:
        yield
    finally:
        structlog.configure(**before)


def main() -> int:
    """Run batches until --count malformed frames were sent."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="of the first batch")
    parser.add_argument("--count", type=int, default=100_000, help="malformed frames")
    parser.add_argument("--measured", type=float, default=0.002, help="share with memory measured")
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    fuzzer = Fuzzer(measured=options.measured)
    began = time.monotonic()
    seed = options.seed
    with strict_log():
        while fuzzer.malformed < options.count:
            fuzzer.run_batch(seed)
            seed += 1
    seconds = time.monotonic() - began
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // KIB
    print(
        f"seeds {options.seed} to {seed - 1}: {fuzzer.malformed} malformed frames in "
        f"{seconds:.0f} s; {dict(fuzzer.outcomes)}; at most {fuzzer.peak_size} bytes for one "
        f"frame, {resident} MiB resident"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
