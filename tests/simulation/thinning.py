"""The model's retention: which versions of a stream are readable, and which snapshots must exist.

    rule     before 4, at most 3        events below version 4, and all but the newest 3, are hidden
    delete   all events are hidden; later appends start the stream again

Hidden events stay hidden whatever is set later, so each change starts from the current rule.
"""

from typing import Final, NamedTuple

from tests.simulation.history import DeleteStream, Retain, Save, Truncate


class Rule(NamedTuple):
    """The retention of a stream. `newest` 0 means no limit."""

    before: int = 1
    deleted: int = 0
    newest: int = 0


EVERYTHING: Final = Rule()


def first_version(rule: Rule, version: int) -> int:
    """The first readable version of a stream that is at a version."""
    return max(rule.before, version - rule.newest + 1 if rule.newest else 1)


def thinned(rule: Rule, version: int, change: Truncate | DeleteStream | Retain) -> Rule:
    """The rule of a stream that is at a version, after a change."""
    rule = rule._replace(before=first_version(rule, version))
    match change:
        case Truncate(_, before):
            return rule._replace(before=max(rule.before, before))
        case DeleteStream():
            return Rule(version + 1, version) if version else rule
        case Retain(_, newest):
            return rule._replace(newest=newest or 0)


class Snapshots:
    """The snapshots that a load must find; *kept* is how many the server keeps."""

    def __init__(self, kept: int) -> None:
        self._kept = kept
        self._changes: dict[str, list[tuple[int, Save | int]]] = {}
        """By stream: each commit that saved a snapshot, or erased events from a version on."""
        self._begun: dict[int, int] = {}
        """When the transaction of each commit with an erasure has begun."""

    def save(self, commit: int, save: Save) -> None:
        """A snapshot was saved."""
        self._changes.setdefault(save.stream, []).append((commit, save))

    def erase(self, commit: int, stream: str, versions: list[int], begun: int) -> None:
        """Events of a stream were erased, and with them the snapshots that may hold their data."""
        self._begun[commit] = begun
        self._changes.setdefault(stream, []).append((commit, min(versions)))

    def newest(self, stream: str, schema: int, commit: int, version: int, ended: int | None) -> int:
        """The highest version, up to *version*, with a snapshot; 0 if there need not be one.

        *ended* is when the reader ended. What has begun later cannot have affected it.
        """
        found: list[int] = []
        for at, change in self._changes.get(stream, ()):
            match change:
                case int(lowest) if at > commit:
                    # Reads before an erasure use no snapshot that may hold its data, or that
                    # of an earlier one.
                    if ended is None or self._begun[at] <= ended:
                        return 0
                case int(lowest):
                    found = [each for each in found if each < lowest]
                case Save() if at <= commit and change.schema == schema:
                    # The save may have pushed out all but the newest.
                    found = sorted({*found, change.version})[-self._kept :]
        return max((each for each in found if each <= version), default=0)
