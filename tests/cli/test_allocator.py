"""Large blocks go back to the system when they are freed."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import sys, psutil
from headwater_server.cli.allocator import return_large_blocks
if sys.argv[1] == "fixed":
    assert return_large_blocks()
MIB = 1 << 20
del (first := [bytes(20 * MIB)])[:]     # this raises what counts as large
process = psutil.Process()
before = process.memory_info().rss
blocks, small = [], []
for _ in range(16):
    blocks.append(bytearray(b"x" * (4 * MIB)))
    small.append(bytearray(b"y" * 100_000))   # between the large ones, in the heap
del blocks
print((process.memory_info().rss - before) // MIB)
"""


def kept_mib(how: str) -> int:
    """What a process keeps of 16 blocks of 4 MiB that it has freed, beside 2 MiB that it uses."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is about glibc")
def test_freed_blocks_do_not_stay_in_the_process() -> None:
    """A server kept the memory of all large answers that it had ever held at once."""
    assert kept_mib("default") > 16
    assert kept_mib("fixed") < 8
