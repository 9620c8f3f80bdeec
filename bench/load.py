"""The load generator: compiles load.c, writes the file that it reads, and runs it.

Requests are made here, before the measurement. A part that must differ each time (a transaction id,
an expected version) is a *mark* of eight bytes in the request, which the generator overwrites with
an increasing number.
"""

import json
import struct
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SOURCE: Final = Path(__file__).with_name("load.c")

_STEP: Final = struct.Struct("<III")
_PATCH: Final = struct.Struct("<IQ")
_U32: Final = struct.Struct("<I")
_U64: Final = struct.Struct("<Q")


class LoadFailed(Exception):
    """The load generator failed, or the server answered with errors."""


@dataclass(frozen=True, slots=True)
class Step:
    """Bytes to send together, and the number of their answers.

    Attributes:
        marks: eight bytes that occur in the data, with a base. The generator overwrites them with
            the base plus the number of the cycle.
    """

    data: bytes
    answers: int = 1
    marks: Mapping[bytes, int] | None = None

    def pack(self) -> bytes:
        """The step in the format of load.c."""
        patches: list[bytes] = []
        for mark, base in (self.marks or {}).items():
            assert len(mark) == 8
            at = self.data.find(mark)
            assert at >= 0, "a mark is missing in the data"
            while at >= 0:
                patches.append(_PATCH.pack(at, base))
                at = self.data.find(mark, at + 8)
        return b"".join(
            (_STEP.pack(self.answers, len(self.data), len(patches)), *patches, self.data)
        )


NOTHING: Final = Step(b"", 0)


@dataclass(frozen=True, slots=True)
class Cycle:
    """Steps; each is sent after all answers of the previous one.

    Attributes:
        retries: whether the cycle restarts after an error, with *recover* before it.
    """

    steps: Sequence[Step]
    retries: bool = False
    recover: Step = NOTHING


@dataclass(frozen=True, slots=True)
class Script:
    """The requests of one connection: a setup, then the cycles in an endless loop."""

    cycles: Sequence[Cycle]
    setup: Step = NOTHING

    def pack(self) -> bytes:
        """The script in the format of load.c."""
        parts = [self.setup.pack(), _U64.pack(0), _U32.pack(len(self.cycles))]
        for cycle in self.cycles:
            parts += (_U32.pack(len(cycle.steps)), _U32.pack(cycle.retries))
            parts += (step.pack() for step in cycle.steps)
            parts.append(cycle.recover.pack())
        return b"".join(parts)


@dataclass(frozen=True, slots=True)
class Measured:
    """The results of the measured time. Latencies are in microseconds."""

    requests: int
    seconds: float
    errors: int
    retries: int
    bytes_in: int
    cpu_seconds: float
    p50_us: float
    p99_us: float
    p999_us: float
    max_us: float
    first_error: str = ""

    @property
    def rate(self) -> float:
        """Requests, or whole cycles, per second."""
        return self.requests / self.seconds


class Load:
    """The compiled generator, in a temporary directory."""

    def __init__(self) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="headwater-load-")
        self._program = Path(self._directory.name) / "load"
        subprocess.run(
            ["cc", "-O2", "-D_GNU_SOURCE", "-o", str(self._program), str(SOURCE)],
            check=True,
        )

    def __enter__(self) -> "Load":
        return self

    def __exit__(self, *_: object) -> None:
        self._directory.cleanup()

    def run(
        self,
        protocol: str,
        port: int,
        scripts: Sequence[Script],
        *,
        depth: int = 1,
        warm_up_s: float,
        measure_s: float,
    ) -> Measured:
        """Run each script on its own connection and return the results after the warm-up.

        Raises:
            LoadFailed: a connection broke, or an error was not retried.
        """
        path = Path(self._directory.name) / "requests"
        path.write_bytes(_U32.pack(len(scripts)) + b"".join(script.pack() for script in scripts))
        arguments = (protocol, "127.0.0.1", port, path, depth, warm_up_s, measure_s)
        ran = subprocess.run(
            [str(self._program), *map(str, arguments)], capture_output=True, text=True, check=False
        )
        if ran.returncode:
            raise LoadFailed(ran.stderr.strip())
        measured = Measured(**json.loads(ran.stdout))
        if measured.errors:
            raise LoadFailed(f"{measured.errors} errors; the first: {measured.first_error}")
        return measured
