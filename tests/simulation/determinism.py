"""Determinism: the same seed gives the same trace.

These sources of randomness and time are controlled:

- trio shuffles the ready tasks with its own random source, and before that their order depends on
  a set. Two private names of its scheduler control both; trio's Hypothesis plugin sets the same
  two. There is no public way.
- The client makes transaction ids from the clock and os.urandom, and its backoff from the global
  random source. Its module of ids gets both from the seed, and the global source is seeded. The
  clock of projections, which says since when a stream is parked, is that of the world.
- Time is a mock clock, which jumps when all tasks wait.
- The server's log is captured and is part of the trace.

Worlds draw from random sources that are named by purpose, `source(seed, name)`. So an additional
draw in one place does not change the others.
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
from headwater.projections import follower, releasing

START_US: Final = 1_700_000_000_000_000
"""The wall clock at the beginning of a world, in microseconds since 1970."""

T = TypeVar("T")


def source(seed: int, purpose: str) -> random.Random:
    """A separate random source for a purpose. Its seed is a str, so hash seeds do not matter."""
    return random.Random(f"{seed} {purpose}")


def wall_clock() -> int:
    """Microseconds since 1970, by the mock clock of the running world."""
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
    clock = SimpleNamespace(time_ns=lambda: wall_clock() * 1000)
    state = random.getstate()
    random.seed(f"{seed} pauses")
    with (
        replaced(identifiers, "os", SimpleNamespace(urandom=noise.randbytes)),
        replaced(identifiers, "time", clock),
        replaced(follower, "time", clock),
        replaced(releasing, "time", clock),
    ):
        try:
            yield
        finally:
            random.setstate(state)


@contextmanager
def _log_into(keep: LogKeeper) -> Iterator[None]:
    """Pass every line of the server's log to *keep*, whatever logging this process did before.

    A logger can cache its configuration at its first line. Such a cache would outlive the world, or
    an older one would keep the world's lines out of the trace. So each module gets a new logger,
    and loggers cache nothing while the world runs.
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
