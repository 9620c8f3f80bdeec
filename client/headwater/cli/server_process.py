"""A server as a child process, which can be killed and started again.

The demo, the tests and the benchmarks use it. It never signals any process except its own child.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Final

READY_S_MAX: Final = 60.0
"""Seconds in which a started server must listen. It may have to replay a log first."""

STOP_S_MAX: Final = 60.0
"""Seconds in which a server must end after SIGTERM. It writes a last checkpoint first."""

_POLL_INTERVAL_S: Final = 0.002
_LOG_LINES_SHOWN: Final = 20


class ServerFailed(Exception):
    """The server ended, or did not listen in time. The message has the end of its log."""


class ServerProcess:
    """A server at a loopback port of its own, with all its files in *directory*.

    The port is chosen at the first start and kept, so clients find it again after a restart.

    Attributes:
        program: the command to run. A test can replace it, by a server with a bad disk for example.
        data: the data directory.
        log: a file with the output of all starts.
    """

    program: ClassVar[tuple[str, ...]] = (sys.executable, "-m", "headwater_server")

    def __init__(self, directory: Path, options: Sequence[str] = ()) -> None:
        self.data = directory / "data"
        self.log = directory / "server.log"
        self.address = "127.0.0.1:0"
        self._ready = directory / "ready"
        self._options = tuple(options)
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "ServerProcess":
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """The URL of the server."""
        return f"headwater://{self.address}"

    @property
    def pid(self) -> int:
        """The id of the running process."""
        assert self._child is not None, "the server was not started"
        return self._child.pid

    def start(self) -> float:
        """Start and wait until it listens; return the seconds that this took.

        Raises:
            ServerFailed: the server ended, or took longer than READY_S_MAX.
        """
        assert self._child is None, "the server is running already"
        self._ready.unlink(missing_ok=True)
        began = time.perf_counter()
        with self.log.open("ab") as log:
            self._child = subprocess.Popen(  # noqa: S603 - our own program
                [
                    *(*self.program, "serve"),
                    *("--data", str(self.data), "--listen", self.address),
                    *("--ready-file", str(self._ready), *self._options),
                ],
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C must reach only this process, which then stops the server.
                start_new_session=True,
            )
        while not self._ready.exists():
            if self._child.poll() is not None:
                self._child = None
                raise ServerFailed(f"the server ended during its start\n{self._end_of_log()}")
            if time.perf_counter() - began > READY_S_MAX:
                self.kill()
                raise ServerFailed(f"not ready after {READY_S_MAX} s\n{self._end_of_log()}")
            time.sleep(_POLL_INTERVAL_S)
        self.address = self._ready.read_text().split()[0]
        return time.perf_counter() - began

    def kill(self) -> None:
        """Kill the server with SIGKILL, as a crash would."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Stop the server with SIGTERM, and wait. It is no error if it is not running."""
        if self._child is not None:
            self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> None:
        assert self._child is not None, "the server is not running"
        child, self._child = self._child, None
        child.send_signal(how)
        try:
            child.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
            raise ServerFailed(f"did not end within {STOP_S_MAX} s\n{self._end_of_log()}") from None

    def _end_of_log(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()
        return "\n".join(lines[-_LOG_LINES_SHOWN:])


def _environment() -> dict[str, str]:
    """The environment of this process, without variables that are settings of the server."""
    return {name: value for name, value in os.environ.items() if not name.startswith("HEADWATER_")}
