"""What systemd is told if it has started the process: that it is ready, alive, and stopping.

    READY=1      the server listens; units that come after it may start
    WATCHDOG=1   the event loop runs; without it for WatchdogSec, systemd restarts the process
    STOPPING=1   the server shuts down

The protocol is a datagram to the socket in NOTIFY_SOCKET, see sd_notify(3). Without that variable
nothing is sent.
"""

import os
import socket
from typing import Final

import structlog
import trio

_log = structlog.get_logger(__name__)

_US_PER_S: Final = 1_000_000

BEATS_PER_PERIOD: Final = 3
"""Signs of life in the time after which systemd takes the process for dead: one may be late."""


def notify(state: str) -> None:
    """Tell systemd a state. A failure is logged: the server does not depend on it."""
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return
    # A leading @ stands for a name in Linux' abstract namespace.
    address = "\0" + path[1:] if path.startswith("@") else path
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
            sender.sendto(state.encode(), address)
    except OSError as error:
        _log.warning("systemd was not told", state=state, reason=str(error))


def beat_interval_s() -> float | None:
    """Seconds between two signs of life; None: nobody watches this process."""
    period_us, watched = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID")
    if not period_us.isdigit() or int(period_us) == 0 or watched not in (None, str(os.getpid())):
        return None
    return int(period_us) / _US_PER_S / BEATS_PER_PERIOD


def ready(nursery: trio.Nursery) -> None:
    """Tell systemd that the server listens, and from now on that it is alive, if it asks for that.

    The signs of life end with the nursery.
    """
    notify("READY=1")
    interval_s = beat_interval_s()
    if interval_s is not None:
        nursery.start_soon(beat, interval_s)


async def beat(interval_s: float) -> None:
    """Tell systemd that the event loop runs, until cancelled."""
    while True:
        notify("WATCHDOG=1")
        await trio.sleep(interval_s)
