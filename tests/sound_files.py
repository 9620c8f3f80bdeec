"""Checks that `headwater check` finds nothing in the files of a server."""

from functools import partial

from headwater.cli.server_process import ServerProcess
from headwater_server.engine.check.check import check
from headwater_server.storage.files.real_files import RealFileSystem
from headwater_server.storage.store.rocks_store import RocksStore


def check_files(server: ServerProcess) -> None:
    """Check the files of a server that does not run. A kill must not leave any damage."""
    if not (server.data / "FORMAT").exists():
        return
    report = check(
        RealFileSystem(),
        str(server.data),
        open_store=partial(RocksStore.open, read_only=True),
    )
    assert report.is_clean, [str(finding) for finding in report.findings]
