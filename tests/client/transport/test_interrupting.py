"""An exception out of a signal handler, at any instruction, leaves a client that works.

Python runs signal handlers after calls and at the ends of loops. A trace function raises the
exception at each of these places in turn, and then the database is used on.
"""

import dis
import functools
import gc
import itertools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Final

import pytest

import headwater
from headwater import Event
from headwater.cli.server_process import ServerProcess
from headwater.transport.blocking_runtime import BlockingRuntime
from tests.client.fake_server import FakeServer

CLIENT: Final = str(Path(headwater.__file__).parent)
PLACES_MAX: Final = 1000
"""More places than any of the calls below has."""

_CHECKS: Final = {
    number
    for name, number in dis.opmap.items()
    if name.startswith(("CALL", "JUMP_BACKWARD", "RESUME")) and "NO_INTERRUPT" not in name
}
"""The instructions after which Python looks for signals."""


@functools.cache
def handler_at(code: CodeType, offset: int) -> int | None:
    """Where an exception at an instruction is handled."""
    for entry in dis._parse_exception_table(code):  # type: ignore[attr-defined]
        if entry.start <= offset < entry.end:
            return int(entry.target)
    return None


def can_interrupt(frame: FrameType, last: int | None) -> bool:
    """Whether Python would look for signals between the instruction at *last* and the next one.

    It would raise at the first of the two, and the trace function raises at the second. If these
    have different handlers, for example at the end of a `with`, that is not the same.
    """
    code = frame.f_code
    return (
        last is not None
        and code.co_code[last] in _CHECKS
        and handler_at(code, last) == handler_at(code, frame.f_lasti)
    )


class Interruption(BaseException):
    """What the signal handler raises."""


@contextmanager
def interrupted_at(place: int) -> Iterator[list[int]]:
    """Raise Interruption at a place in the client's code. Counts the places that were passed."""
    passed = [0]
    before: dict[FrameType, int] = {}

    def trace(frame: FrameType, event: str, _argument: object) -> Any:
        if not frame.f_code.co_filename.startswith(CLIENT):
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        if event == "opcode":
            last = before.get(frame)
            before[frame] = frame.f_lasti
            if can_interrupt(frame, last):
                passed[0] += 1
                if passed[0] == place:
                    raise Interruption
        return trace

    sys.settrace(trace)
    try:
        yield passed
    finally:
        sys.settrace(None)


def read(db: headwater.BlockingDatabase) -> None:
    assert db.get(("interrupted", "there")) == "yes"


def write(db: headwater.BlockingDatabase) -> None:
    db.add(("interrupted", "written"), 1)


def transaction(db: headwater.BlockingDatabase) -> None:
    with db.transaction() as tx:
        tx.get(("interrupted", "there"))
        tx.put(("interrupted", "put"), 1)


def reconnect(db: headwater.BlockingDatabase) -> None:
    for connection in db._core._channel._connections:
        connection.close()
    assert db.get(("interrupted", "there")) == "yes"


def follow(db: headwater.BlockingDatabase) -> None:
    # Of one stream: how many events other tests left here must not matter.
    with db.subscribe(stream="interrupted") as feed:
        next(feed)


def works_in_any_thread(db: headwater.BlockingDatabase) -> bool:
    """Whether the database still reads and writes, in this thread and in another one."""
    found = []

    def use() -> None:
        db.put(("interrupted", "used"), 1)
        found.append(db.get(("interrupted", "there")))

    use()
    other = threading.Thread(target=use, daemon=True)
    other.start()
    other.join(10)
    return found == ["yes", "yes"]


@pytest.mark.slow
# An attempt to connect that was interrupted leaves its socket to the garbage collector.
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
@pytest.mark.skipif(sys.version_info >= (3, 14), reason="`with` on a lock checks for signals")
@pytest.mark.parametrize(
    ("call", "step"), [(read, 1), (write, 1), (transaction, 9), (reconnect, 29), (follow, 47)]
)
def test_an_interruption_at_any_place_leaves_a_database_that_works(
    call: Callable[[headwater.BlockingDatabase], None], step: int, real_server: ServerProcess
) -> None:
    # Calls that connect have many places, of which the suite tries some. HEADWATER_INTERRUPT=all
    # tries each.
    step = 1 if os.environ.get("HEADWATER_INTERRUPT") == "all" else step
    with headwater.connect_blocking(real_server.url, request_timeout=5, retry_timeout=5) as db:
        db.put(("interrupted", "there"), "yes")
        db.append("interrupted", Event("Happened", None))
        for place in itertools.count(1, step):
            assert place < PLACES_MAX
            try:
                with interrupted_at(place) as passed:
                    call(db)
            except Interruption:
                pass
            assert works_in_any_thread(db), f"interrupted at place {place}"
            if passed[0] < place:
                break
        # What was left to the garbage collector is collected here, and not in another test.
        gc.collect()
        channel = db._core._channel
        assert isinstance(channel.runtime, BlockingRuntime)
        listed = [each() for each in channel.runtime._connections]
        nobodys = [
            each
            for each in listed
            if each is not None and not each.closed and each not in channel._connections
        ]
        # The last one may still be in the traceback of the last interruption.
        assert len(nobodys) <= 1


def test_a_write_that_was_interrupted_after_it_was_sent_says_its_id() -> None:
    with FakeServer() as server, headwater.connect_blocking(server.url) as db:
        main = threading.main_thread().ident
        assert main is not None

        def answer(_request: object) -> object:
            signal.pthread_kill(main, signal.SIGUSR1)
            return server.HANG

        def interrupt(*_: object) -> None:
            raise Interruption

        server.on("execute", answer)
        before = signal.signal(signal.SIGUSR1, interrupt)
        try:
            with pytest.raises(Interruption) as caught:
                db.put("a", 1)
        finally:
            signal.signal(signal.SIGUSR1, before)
        sent = server.named("execute")[0].arguments[0]
        assert caught.value.transaction == sent  # type: ignore[attr-defined]
        db.ping()


def test_a_signal_handler_may_use_the_database_that_it_interrupts(
    real_server: ServerProcess,
) -> None:
    with headwater.connect_blocking(real_server.url, request_timeout=5) as db:
        db.put(("interrupted", "there"), "yes")
        seen = []

        def handler(*_: object) -> None:
            seen.append(db.get(("interrupted", "there")))
            # Only now, or a handler that is slower than the timer would interrupt itself for ever.
            signal.setitimer(signal.ITIMER_REAL, 0.002)

        before = signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.002)
        try:
            for number in range(200):
                db.put(("interrupted", "loop"), number)
                assert db.get(("interrupted", "loop")) == number
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        assert seen
        assert set(seen) == {"yes"}
