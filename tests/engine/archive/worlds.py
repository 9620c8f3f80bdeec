"""Worlds for the archive: a random life of a database and its archive, and a judge at its end.

A life has commits, copies to the archive, checkpoints that trim the log, power losses, archives
that fail at some call, and restores after which the restored database goes on. At the end every
commit of the last history must be restored from the archive alone, exactly as it was noted.
"""

import random

from headwater_protocol.errors import HeadwaterError
from headwater_server.engine.check.archive import check_archive
from headwater_server.storage.archive.directory import ArchiveLost
from tests.engine.archive.archived import SMALL, Archived
from tests.engine.database import Database

STEPS: tuple[str, ...] = ("work", "work", "archive", "archive", "trim", "power", "fail", "restore")


def problem_of(seed: int) -> str | None:
    """Live through a world; what is wrong at its end, or None."""
    draw = random.Random(seed)
    archived = Archived(seed=seed)
    try:
        for number in range(draw.randrange(8, 25)):
            archived = _step(archived, draw, draw.choice(STEPS), number)
        archived.archive()
        return _judge(archived)
    except (AssertionError, HeadwaterError, ArchiveLost, OSError, ValueError) as error:
        return f"{type(error).__name__}: {error}"


def _step(archived: Archived, draw: random.Random, kind: str, number: int) -> Archived:
    if kind == "work":
        archived.work(draw.randrange(1, 9))
    elif kind == "archive":
        archived.archive()
    elif kind == "trim":
        # Enough to fill segments of the log, which a checkpoint then makes redundant.
        archived.work(draw.randrange(20, 60))
        if draw.random() < 0.7:
            archived.archive()
        archived.database.checkpoint()
    elif kind == "power":
        archived.crash()
    elif kind == "fail":
        archived.files.faults.error_at = archived.files.calls + draw.randrange(1, 40)
        try:
            archived.archive()
        except OSError:
            pass
        archived.files.faults.error_at = None
    elif archived.pictures and archived.archiver.commit:
        return _go_on_restored(archived, draw.randrange(archived.archiver.commit + 1), number)
    return archived


def _go_on_restored(archived: Archived, commit: int, number: int) -> Archived:
    """Restore to a commit, and go on with the restored database in place of the old one."""
    target = f"restored-{number}"
    archived.archive()
    _, store = archived.restore(commit=commit, target=target)
    archived.archiver.close()
    archived.database.engine.close()
    return Archived(
        seed=archived.random.getrandbits(32),
        database=Database(
            SMALL,
            seed=archived.random.getrandbits(32),
            files=archived.files,
            store=store,
            now=archived.database.now,
            path=target,
        ),
        pictures={at: seen for at, seen in archived.pictures.items() if at <= commit},
        times={at: time for at, time in archived.times.items() if at <= commit},
    )


def _judge(archived: Archived) -> str | None:
    report = check_archive(archived.files, "archive")
    if report.findings:
        return f"the archive is damaged: {report.findings[0]}"
    if any(begun.needs_backup for begun in archived.begun):
        return "the archive has a gap"
    newest = archived.database.engine.published
    restored = archived.check_restored()
    if restored.commit != newest:
        return f"the archive ends with commit {restored.commit} in place of {newest}"
    for commit in range(0, newest, max(1, newest // 5)):
        archived.check_restored(commit=commit)
    return None
