"""What `check` finds: one entry for each thing that is wrong, in words and for `repair`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from headwater_protocol.errors import DamagedFile
from headwater_server.engine.format.index_keys import Applied
from headwater_server.storage.errors import reason_of

FINDINGS_MAX: Final = 1000
"""Findings that are kept. More are counted: what went wrong is clear by then."""

NOTHING: Final = Applied(0, 0, 0, 0)

Progress = Callable[[int, int], None]
"""Called with what was looked at, and how much there is, as an estimate."""


class Kind(Enum):
    """What is wrong, as far as it decides what a repair does."""

    DIRECTORY = "directory"
    LOG = "write-ahead log"
    LOG_GAP = "commits missing from the write-ahead log"
    EVENT = "event"
    EVENT_FILE = "file of events"
    OFFSETS = "offsets of events"
    COMMIT = "commit record"
    COMMIT_FILE = "file of the commit log"
    STORE = "state store"
    APPLIED = "what was applied"
    INDEX = "index of events"
    EVENT_IDS = "event ids"
    VERSIONS = "versions of keys"
    TRANSACTIONS = "transaction ids"
    SNAPSHOT = "snapshot"
    GROUP = "consumer group"
    CLOCK = "times in the future"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        kind: what it concerns.
        file: where it is.
        offset: at which byte, if one can tell.
        what: what is wrong, in words.
        remedy: what a repair would do about it, and what that gives up.
        number: the position, commit or entry that it is about, 0 if there is none.
    """

    kind: Kind
    file: str
    offset: int | None
    what: str
    remedy: str
    number: int = 0

    def __str__(self) -> str:
        where = self.file if self.offset is None else f"{self.file} at offset {self.offset}"
        return f"{where}: {self.what}"


@dataclass(slots=True)
class Report:
    """All that a check found.

    Attributes:
        findings: what is wrong, in the order in which it was found.
        more: how many more there are than were kept.
        warnings: what is not damage, and can be repaired too.
        notes: what is worth a word and is not wrong.
        applied: what the last checkpoint had made durable.
        keys, events, commits: how many were looked at in the files.
        logged_commits, logged_events: those that only the write-ahead log has yet.
    """

    findings: list[Finding] = field(default_factory=list)
    more: int = 0
    warnings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    applied: Applied = NOTHING
    keys: int = 0
    events: int = 0
    commits: int = 0
    logged_commits: int = 0
    logged_events: int = 0

    @property
    def is_clean(self) -> bool:
        """Whether nothing is damaged."""
        return not self.findings

    def add(self, finding: Finding) -> None:
        """Note a finding."""
        if len(self.findings) < FINDINGS_MAX:
            self.findings.append(finding)
        else:
            self.more += 1

    def add_error(self, kind: Kind, file: str, error: DamagedFile, remedy: str) -> None:
        """Note what a DamagedFile says; *file* if it does not say where."""
        where = str(error.details.get("file", file))
        offset = error.details.get("offset")
        self.add(Finding(kind, where, offset, reason_of(error), remedy))

    def has(self, *kinds: Kind) -> bool:
        """Whether there is a finding of one of these kinds."""
        return any(finding.kind in kinds for finding in self.findings)

    @contextmanager
    def told(self, kind: Kind, file: str, remedy: str) -> Iterator[None]:
        """Turn DamagedFile into a finding, so that the rest can still be looked at."""
        try:
            yield
        except DamagedFile as error:
            self.add_error(kind, file, error, remedy)


class Counter:
    """Counts what was looked at, and tells from time to time."""

    def __init__(self, tell: Progress, total: int) -> None:
        self._tell = tell
        self._total = max(total, 1)
        self._done = 0
        self._told = 0

    def add(self, count: int) -> None:
        """Note that so much more was looked at."""
        self._done += count
        if self._done - self._told >= max(self._total // 200, 1):
            self._told = self._done
            self._tell(min(self._done, self._total), self._total)

    def end(self) -> None:
        """Note that it is over."""
        self._tell(self._total, self._total)
