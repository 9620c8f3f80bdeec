"""Inspection: what `headwater check` says of a machine's files, without disturbing anything.

It looks at twins of the disk and of the state store, in no time of the world's, so that a world
goes the same way whether it is inspected or not.
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
