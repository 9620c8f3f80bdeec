"""One seed, one trace: where chance and time come from while a world runs.

What must be taken in hand, and how:

- trio shuffles the tasks that are ready, from a random source of its own, and lets their order
  in a set decide before that. Both are settled by two private names of its scheduler, the
  same two that trio's Hypothesis plugin sets; there is no public way.
- The client makes transaction ids from the clock and os.urandom, and uneven pauses from the
  global random source. Its module of ids gets both from the seed, and the global source is
  seeded.
- Time is a mock clock which jumps when all tasks wait.
- The server's log is kept in memory: its words are part of the trace.

What the worlds draw, they draw from sources named after their purpose, `source(seed, name)`,
so a draw more in one place does not change all others.
"""

import random
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any, Final, TypeVar

import structlog
import trio
from trio.testing import MockClock

from headwater import identifiers

START_US: Final = 1_700_000_000_000_000
"""The wall clock when a world begins, in microseconds since 1970."""

T = TypeVar("T")


def source(seed: int, purpose: str) -> random.Random:
    """A random source of its own for a purpose; of a string, so that no hash seed matters."""
    return random.Random(f"{seed} {purpose}")


def wall_clock() -> int:
    """Microseconds since 1970, by the mock clock of the world that runs."""
    return START_US + round(trio.current_time() * 1_000_000)


LogKeeper = Callable[[dict[str, Any]], None]


def run_deterministically(
    seed: int, function: Callable[[], Awaitable[T]], keep_log: LogKeeper
) -> T:
    """Run an async function on trio, so that the same seed gives the same steps."""
    with _scheduler(seed), _client_chance(seed), _log_into(keep_log):
        return trio.run(function, clock=MockClock(autojump_threshold=0))


@contextmanager
def _scheduler(seed: int) -> Iterator[None]:
    scheduler: Any = trio._core._run
    with (
        replaced(scheduler, "_ALLOW_DETERMINISTIC_SCHEDULING", True),
        replaced(scheduler, "_r", source(seed, "scheduler")),
    ):
        yield


@contextmanager
def _client_chance(seed: int) -> Iterator[None]:
    noise = source(seed, "transaction ids")
    state = random.getstate()
    random.seed(f"{seed} pauses")
    with (
        replaced(identifiers, "os", SimpleNamespace(urandom=noise.randbytes)),
        replaced(identifiers, "time", SimpleNamespace(time_ns=lambda: wall_clock() * 1000)),
    ):
        try:
            yield
        finally:
            random.setstate(state)


@contextmanager
def _log_into(keep: LogKeeper) -> Iterator[None]:
    """Hand every line of the server's log to *keep*, however this process logged before.

    A logger may have been told to remember, at its first line, how it was configured then. Such
    a memory would outlive the world; or, if it is older, keep the world's lines from the trace.
    So each module gets a new logger, and for as long as the world lasts none remembers anything.
    """

    def processor(_logger: object, level: str, entry: Any) -> Any:
        keep({"level": level, **entry})
        raise structlog.DropEvent

    before = structlog.get_config()
    structlog.reset_defaults()
    structlog.configure(
        processors=[structlog.processors.format_exc_info, processor],
        cache_logger_on_first_use=False,
    )
    with ExitStack() as modules:
        for name, module in sorted(sys.modules.items()):
            if name.startswith("headwater_server.") and hasattr(module, "_log"):
                modules.enter_context(replaced(module, "_log", structlog.get_logger()))
        try:
            yield
        finally:
            structlog.configure(**before)


@contextmanager
def replaced(owner: Any, name: str, value: object) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)
