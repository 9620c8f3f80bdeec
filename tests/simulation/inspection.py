"""Inspection: runs `headwater check` on a machine's files without side effects.

It uses copies of the disk and of the state store and takes no time of the world, so an inspection
does not change the course of the world.
"""

from headwater_protocol.errors import HeadwaterError, InvalidArgument
from headwater_server.engine.check.check import check
from headwater_server.testing.memory_files import MemoryFileSystem
from tests.simulation.disk import SimulatedDisk, SimulatedStore
from tests.simulation.rocks import SimulatedRocks


def inspect(disk: SimulatedDisk, store: SimulatedStore | SimulatedRocks) -> list[str]:
    """What is wrong with the files as programs see them now."""
    twin = MemoryFileSystem.copy(disk)
    try:
        report = check(twin, "data", open_store=lambda _: store.twin())
    except InvalidArgument:
        # The machine died before there was a database.
        return []
    except HeadwaterError as error:
        return [f"check: {error.code}: {error.message}"]
    return [f"check: {finding.kind.value}: {finding}" for finding in report.findings]
