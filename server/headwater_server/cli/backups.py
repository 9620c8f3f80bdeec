"""`headwater backup list` and `prune`: the backups on this machine, without a server."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final

from headwater_server.cli.failures import one_line
from headwater_server.engine.backups.catalog import Listed, list_backups
from headwater_server.engine.backups.pruning import Policy, Pruning, plan_pruning, prune
from headwater_server.storage.archive.directory import ArchiveDirectory
from headwater_server.storage.files.real_files import RealFileSystem
from headwater_server.storage.store.rocks_store import RocksStore

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_open_store = partial(RocksStore.open, read_only=True)


def listed(directory: str) -> list[dict[str, Any]]:
    """The backups in a directory as rows, the newest first."""
    with one_line():
        found = list_backups(RealFileSystem(), directory, _open_store)
    return [
        {
            "name": each.name,
            "made": _made(each),
            "commit": each.commit,
            "position": each.position,
            "size": each.size,
            "copied": each.copied,
            "problem": each.problem,
        }
        for each in found
    ]


@dataclass(frozen=True, slots=True)
class Planned:
    """A pruning that was not done yet."""

    directory: str
    archive: ArchiveDirectory | None
    pruning: Pruning

    @property
    def removes(self) -> bool:
        """Whether there is anything to remove."""
        return bool(self.pruning.removed or self.pruning.pieces)

    def told(self) -> Iterator[str]:
        """What stays and why, and what goes."""
        for backup, reasons in self.pruning.kept:
            yield f"keep    {backup.name}  {_made(backup)}  {', '.join(reasons)}"
        for backup in self.pruning.removed:
            yield f"remove  {backup.name}  {_made(backup)}"
        if self.pruning.pieces:
            yield f"remove  {len(self.pruning.pieces)} pieces of the archive"

    def perform(self) -> None:
        """Remove them."""
        with one_line():
            prune(RealFileSystem(), self.directory, self.pruning, self.archive)


def plan(
    directory: str,
    last: int,
    daily: int,
    weekly: int,
    *,
    archive: str | None,
    cut_archive: bool,
) -> Planned:
    """Decide which backups in a directory may go."""
    files = RealFileSystem()
    with one_line():
        found = None if archive is None else ArchiveDirectory.look_at(files, archive)
        backups = list_backups(files, directory, _open_store)
        policy = Policy(last, daily, weekly)
        pruning = plan_pruning(backups, policy, archive=found, cut_archive=cut_archive)
    return Planned(directory, found, pruning)


def _made(backup: Listed) -> str:
    if not backup.made:
        return ""
    return (_EPOCH + timedelta(microseconds=backup.made)).isoformat(timespec="seconds")
