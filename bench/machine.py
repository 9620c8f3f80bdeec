"""Facts about the machine on which figures were measured."""

import os
import platform
import shutil
import time
from pathlib import Path
from typing import Any, Final

import psutil

SYNCS: Final = 200
"""Number of fsyncs; their median characterizes the disk."""


def facts(directory: Path) -> dict[str, Any]:
    """The hardware, software and load of the machine."""
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "compiler": shutil.which("cc") or "none",
        "load_average": [round(each, 2) for each in os.getloadavg()],
        "sync_us_median": round(_sync_us(directory), 1),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor())


def _sync_us(directory: Path) -> float:
    """The median time of a small write and fsync in preallocated space."""
    path = directory / "sync-probe"
    times: list[float] = []
    with path.open("wb") as file:
        file.write(bytes(SYNCS * 4096))
        file.flush()
        os.fsync(file.fileno())
        sync = getattr(os, "fdatasync", os.fsync)
        for place in range(SYNCS):
            began = time.perf_counter()
            os.pwrite(file.fileno(), b"x" * 200, place * 4096)
            sync(file.fileno())
            times.append(time.perf_counter() - began)
    path.unlink()
    return sorted(times)[SYNCS // 2] * 1e6
