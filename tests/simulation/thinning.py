"""The model's retention: which versions of a stream can be read, and which snapshots must be there.

    rule     before 4, at most 3        events below both are hidden, for good
    delete   all up to now are hidden; what is appended then is another life of the stream

What was hidden stays hidden, whatever is set later: each change begins with what was hidden before.
"""

from typing import Final, NamedTuple

from tests.simulation.history import DeleteStream, Retain, Save, Truncate


class Rule(NamedTuple):
    """What is kept of a stream; 0 newest is no bound."""

    before: int = 1
    deleted: int = 0
    newest: int = 0


EVERYTHING: Final = Rule()


def first_version(rule: Rule, version: int) -> int:
    """The first version that can be read of a stream at a version."""
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
    """Which snapshots a load must find, unless events of their stream were erased."""

    def __init__(self) -> None:
        self._saved: dict[tuple[str, int], list[tuple[int, int]]] = {}
        self._doubtful: set[str] = set()

    def save(self, commit: int, save: Save) -> None:
        """One was saved."""
        self._saved.setdefault((save.stream, save.schema), []).append((commit, save.version))

    def erase(self, stream: str) -> None:
        """Events of a stream were erased: which snapshots are left is not told."""
        self._doubtful.add(stream)

    def newest(self, stream: str, schema: int, commit: int, version: int) -> int:
        """The highest version up to one of which there is a snapshot; 0 if none must be there."""
        if stream in self._doubtful:
            return 0
        saved = self._saved.get((stream, schema), [])
        found = [each for at, each in saved if at <= commit and each <= version]
        return max(found, default=0)
