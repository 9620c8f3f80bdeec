"""Pruning: which backups a policy keeps, and which pieces of the archive no kept backup needs.

    made     mon 1   mon 2   tue   wed   thu 1   thu 2
    last 2                                 x       x
    daily 3                  x      x              x         the newest of each of the last days
    kept                     x      x      x       x

A backup is removed only if no rule keeps it. Whatever the policy says, three kinds are kept:

- the newest backup;
- for each timeline of the archive that does not begin with the first entry, the newest backup that
  leads to it, if no other kept one does: without it, the timeline could not be restored;
- a backup that cannot be read, or on which a server runs: somebody should look at it.

The archive is cut only if that is asked for. The pieces before the oldest kept backup go, and the
commits before that backup can then not be restored any more. So does data that was erased since.
"""

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from headwater_protocol.errors import InvalidArgument
from headwater_server.engine.archive.history import History, Timeline
from headwater_server.engine.backups.catalog import Listed
from headwater_server.storage.archive.directory import ArchiveDirectory
from headwater_server.storage.archive.piece import PieceName
from headwater_server.storage.files.copying import remove_tree
from headwater_server.storage.files.file_system import FileSystem, join

REMOVED = ".removed"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Policy:
    """How many backups to keep.

    Attributes:
        last: the newest ones.
        daily: the newest of each of so many days (UTC) on which any was made.
        weekly: likewise of ISO weeks.
    """

    last: int = 0
    daily: int = 0
    weekly: int = 0


@dataclass(frozen=True, slots=True)
class Pruning:
    """What a pruning would do.

    Attributes:
        kept: the backups that stay, each with the reasons.
        removed: the backups that go.
        pieces: the pieces of the archive that go, oldest first, with their timelines.
    """

    kept: list[tuple[Listed, list[str]]]
    removed: list[Listed]
    pieces: list[tuple[int, PieceName]]


def plan_pruning(
    backups: Sequence[Listed],
    policy: Policy,
    *,
    archive: ArchiveDirectory | None,
    cut_archive: bool = False,
) -> Pruning:
    """Decide what to remove; *backups* are sorted, the newest first.

    Raises:
        InvalidArgument: the policy keeps nothing, or the archive is of another database.
        DamagedFile: the archive is damaged, so that it is not known what it needs.
    """
    if not (policy.last or policy.daily or policy.weekly):
        raise InvalidArgument("prune: say how many backups to keep")
    reasons: dict[str, list[str]] = {}

    def keep(backup: Listed, reason: str) -> None:
        reasons.setdefault(backup.name, []).append(reason)

    sound: list[Listed] = []
    for backup in backups:
        if backup.problem is not None:
            keep(backup, backup.problem)
        else:
            sound.append(backup)
    for backup in sound[:1]:
        keep(backup, "the newest")
    for backup in sound[: policy.last]:
        keep(backup, f"one of the last {policy.last}")
    for backup in _newest_of_each(sound, policy.daily, lambda day: day.date().isoformat()):
        keep(backup, "daily")
    for backup in _newest_of_each(sound, policy.weekly, _week):
        keep(backup, "weekly")
    histories = [] if archive is None else _histories(archive)
    for history in histories:
        if history.is_complete:
            continue
        leading = [backup for backup in sound if leads_to(backup, history)]
        if leading and not any(backup.name in reasons for backup in leading):
            keep(leading[0], f"timeline {history.number} of the archive needs it")
    kept = [(backup, reasons[backup.name]) for backup in backups if backup.name in reasons]
    removed = [backup for backup in backups if backup.name not in reasons]
    pieces: list[tuple[int, PieceName]] = []
    if archive is not None and cut_archive:
        pieces = _needless(archive, histories, [each for each, _ in kept if each.problem is None])
    return Pruning(kept, removed, pieces)


def _newest_of_each(
    backups: Iterable[Listed], count: int, period: Callable[[datetime], str]
) -> list[Listed]:
    """The newest backup of each of the last *count* periods that have any."""
    found: dict[str, Listed] = {}
    for backup in backups:
        found.setdefault(period(_EPOCH + timedelta(microseconds=backup.made)), backup)
    return list(found.values())[:count]


def _week(day: datetime) -> str:
    year, week, _ = day.isocalendar()
    return f"{year}-{week}"


def _histories(archive: ArchiveDirectory) -> list[History]:
    return [History(archive, number) for number in archive.timelines() if archive.pieces(number)]


def leads_to(backup: Listed, history: History) -> bool:
    """Whether the archive continues a backup in this history."""
    if backup.database_id != history.archive.database_id:
        return False
    if history.stretch_of(backup.commit) is None:
        return False
    expected = history.id_of(backup.commit) if backup.commit else None
    return expected is None or not backup.transaction or backup.transaction == expected.hex()


def _needless(
    archive: ArchiveDirectory, histories: Sequence[History], kept: Sequence[Listed]
) -> list[tuple[int, PieceName]]:
    """The pieces before the oldest kept backup of every history.

    A timeline that no kept backup leads to stays as it is.
    """
    needed: dict[int, int] = {}
    for history in histories:
        leading = [backup.commit for backup in kept if leads_to(backup, history)]
        place = history.stretch_of(min(leading)) if leading else 0
        assert place is not None
        for number, stretch in enumerate(history.stretches):
            timeline = stretch.timeline
            first = 0
            if leading and number < place:
                first = len(timeline.pieces)
            elif leading and number == place:
                first = timeline.place_of(min(leading))
            needed[timeline.number] = min(first, needed.get(timeline.number, first))
    found: list[tuple[int, PieceName]] = []
    for number, first in sorted(needed.items()):
        timeline = Timeline.of(archive, number)
        # The server merges the newest parts, and looks for the end of the newest timeline.
        last = len(timeline.pieces) - 1
        wholes = itertools.takewhile(lambda each: each.whole, timeline.pieces[: min(first, last)])
        found += [(number, piece) for piece in wholes]
    return found


def prune(
    file_system: FileSystem, directory: str, pruning: Pruning, archive: ArchiveDirectory | None
) -> None:
    """Remove what was decided. A crash leaves whole backups, and an archive without a gap.

    Raises:
        OSError: the disk failed; the rest stays.
    """
    for name in file_system.list(directory):
        if name.startswith(".") and name.endswith(REMOVED):
            remove_tree(file_system, join(directory, name))
    for backup in pruning.removed:
        # The name goes first, durably: half a backup must not look like one.
        aside = join(directory, f".{backup.name}{REMOVED}")
        file_system.rename(backup.path, aside)
        file_system.sync_directory(directory)
        remove_tree(file_system, aside)
    for timeline, piece in pruning.pieces:
        assert archive is not None
        archive.remove(timeline, piece)
        # Oldest first, each durably, so that a power loss in between leaves no gap.
        file_system.sync_directory(archive.directory_of(timeline))
