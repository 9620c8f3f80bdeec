"""The load generator: compiles load.c, writes the file that it reads, and runs it.

Requests are made here, once, before the clock runs. What must differ each time (a transaction's
id, an expected version) is a *mark* of eight bytes in the request, which the generator overwrites
with a number that counts up.
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
    """The generator ended with an error, or the server answered with errors."""


@dataclass(frozen=True, slots=True)
class Step:
    """Bytes to send at once, and the number of answers that they get.

    Attributes:
        marks: eight bytes that occur in the data, with the number to which that of the cycle is
            added; the sum is written over them.
    """

    data: bytes
    answers: int = 1
    marks: Mapping[bytes, int] | None = None

    def pack(self) -> bytes:
        """The step as load.c reads it."""
        patches: list[bytes] = []
        for mark, base in (self.marks or {}).items():
            assert len(mark) == 8
            at = self.data.find(mark)
            assert at >= 0, "a mark that does not occur"
            while at >= 0:
                patches.append(_PATCH.pack(at, base))
                at = self.data.find(mark, at + 8)
        return b"".join(
            (_STEP.pack(self.answers, len(self.data), len(patches)), *patches, self.data)
        )


NOTHING: Final = Step(b"", 0)


@dataclass(frozen=True, slots=True)
class Cycle:
    """Steps of which each waits for the answers of the one before.

    Attributes:
        retries: an error in an answer begins the cycle again, after *recover*.
    """

    steps: Sequence[Step]
    retries: bool = False
    recover: Step = NOTHING


@dataclass(frozen=True, slots=True)
class Script:
    """What one connection sends: a setup, then the cycles, over and over."""

    cycles: Sequence[Cycle]
    setup: Step = NOTHING

    def pack(self) -> bytes:
        """The script as load.c reads it."""
        parts = [self.setup.pack(), _U64.pack(0), _U32.pack(len(self.cycles))]
        for cycle in self.cycles:
            parts += (_U32.pack(len(cycle.steps)), _U32.pack(cycle.retries))
            parts += (step.pack() for step in cycle.steps)
            parts.append(cycle.recover.pack())
        return b"".join(parts)


@dataclass(frozen=True, slots=True)
class Measured:
    """What the generator saw in the measured time; latencies are in microseconds."""

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
        """Requests, or whole cycles, in a second."""
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
        """Send *scripts*, one a connection, and return what was measured after the warm-up.

        Raises:
            LoadFailed: a connection broke, or an answer was an error that is not retried.
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
