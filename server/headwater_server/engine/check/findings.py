"""The findings of `check`: one for each problem, for people and for `repair`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from headwater_protocol.errors import DamagedFile
from headwater_server.engine.format.index_keys import Applied
from headwater_server.storage.errors import reason_of

FINDINGS_MAX: Final = 1000
"""Findings that are kept. Further ones are only counted."""

NOTHING: Final = Applied(0, 0, 0, 0)

Progress = Callable[[int, int], None]
"""Called with how much was examined, and with an estimate of the total."""


class Kind(Enum):
    """The kinds of problems, as far as a repair distinguishes them."""

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
    EXPIRY = "expiry of a key"
    CLOCK = "times in the future"
    LATER_COMMITS = "commit log beyond the newest commit"
    LATER_EVENTS = "event log beyond the newest commit"


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem.

    Attributes:
        kind: what it concerns.
        file: the file that it is in.
        offset: the byte offset in the file, if known.
        what: a description.
        remedy: what a repair would do, and what would be lost.
        number: the position, commit or entry that it concerns; 0 if none.
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
    """The results of a check.

    Attributes:
        findings: the problems, in the order in which they were found.
        more: how many further problems were not kept.
        warnings: problems that are not damage but can be repaired.
        notes: observations that are not problems.
        applied: what the last checkpoint made durable.
        keys, events, commits: how many were examined in the files.
        logged_commits, logged_events: those that are only in the write-ahead log so far.
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
        """Add a finding."""
        if len(self.findings) < FINDINGS_MAX:
            self.findings.append(finding)
        else:
            self.more += 1

    def add_error(self, kind: Kind, file: str, error: DamagedFile, remedy: str) -> None:
        """Add a DamagedFile as a finding; *file* is used if the error names none."""
        where = str(error.details.get("file", file))
        offset = error.details.get("offset")
        self.add(Finding(kind, where, offset, reason_of(error), remedy))

    def has(self, *kinds: Kind) -> bool:
        """Whether there is a finding of one of these kinds."""
        return any(finding.kind in kinds for finding in self.findings)

    @contextmanager
    def told(self, kind: Kind, file: str, remedy: str) -> Iterator[None]:
        """Turn a DamagedFile into a finding, so that the rest can still be checked."""
        try:
            yield
        except DamagedFile as error:
            self.add_error(kind, file, error, remedy)


class Counter:
    """Counts what was examined, and reports progress from time to time."""

    def __init__(self, tell: Progress, total: int) -> None:
        self._tell = tell
        self._total = max(total, 1)
        self._done = 0
        self._told = 0

    def add(self, count: int) -> None:
        """Count further examined items."""
        self._done += count
        if self._done - self._told >= max(self._total // 200, 1):
            self._told = self._done
            self._tell(min(self._done, self._total), self._total)

    def end(self) -> None:
        """Report the end."""
        self._tell(self._total, self._total)
