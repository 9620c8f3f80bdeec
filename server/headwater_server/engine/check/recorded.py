"""Compares the files of a backup with BACKUP, which has their sizes and digests."""

from headwater_protocol.errors import DamagedFile
from headwater_server.engine.backup_record import RECORD_NAME, read_record
from headwater_server.engine.check.findings import Finding, Kind, Report
from headwater_server.storage.files.copying import digest_of
from headwater_server.storage.files.directory import LOCK_NAME
from headwater_server.storage.files.file_system import FileSystem, join

_REMEDY = "none: a repair keeps what is sound; take it from another backup if there is one"


def check_recorded(file_system: FileSystem, path: str, report: Report) -> None:
    """Compare the files of the directory at *path*, if it is a backup that nobody has changed."""
    if not file_system.exists(join(path, RECORD_NAME)):
        return
    if file_system.exists(join(path, LOCK_NAME)):
        report.notes.append("a server has run on this backup, so its digests were not compared")
        return
    try:
        record = read_record(file_system, path)
    except DamagedFile as error:
        report.add_error(Kind.DIRECTORY, join(path, RECORD_NAME), error, _REMEDY)
        return
    assert record is not None, "it is there"
    for name, recorded in sorted(record.files.items()):
        what = _difference(file_system, join(path, name), recorded.size, recorded.digest)
        if what is not None:
            report.add(Finding(Kind.DIRECTORY, join(path, name), None, what, _REMEDY))


def _difference(
    file_system: FileSystem, path: str, recorded_size: int, digest: str | None
) -> str | None:
    if not file_system.exists(path):
        return "it is missing, and BACKUP has it"
    file = file_system.open(path, writable=False)
    try:
        size = file.size()
    finally:
        file.close()
    if size != recorded_size:
        return f"it has {size} bytes, and {recorded_size} when the backup was made"
    if digest is not None and digest_of(file_system, path, size) != digest:
        return "it has not the SHA-256 that BACKUP has"
    return None
