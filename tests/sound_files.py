"""What `headwater check` says of the files that a server has left: nothing."""

from functools import partial

from headwater.cli.server_process import ServerProcess
from headwater_server.engine.check.check import check
from headwater_server.storage.files.real_files import RealFileSystem
from headwater_server.storage.store.rocks_store import RocksStore


def check_files(server: ServerProcess) -> None:
    """What a kill leaves is no damage: no file contradicts another. The server must not run."""
    if not (server.data / "FORMAT").exists():
        return
    report = check(
        RealFileSystem(),
        str(server.data),
        open_store=partial(RocksStore.open, read_only=True),
    )
    assert report.is_clean, [str(finding) for finding in report.findings]
