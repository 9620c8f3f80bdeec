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
    """The snapshots that a load must find, unless events of their stream were erased."""

    def __init__(self) -> None:
        self._saved: dict[tuple[str, int], list[tuple[int, int]]] = {}
        self._doubtful: set[str] = set()

    def save(self, commit: int, save: Save) -> None:
        """A snapshot was saved."""
        self._saved.setdefault((save.stream, save.schema), []).append((commit, save.version))

    def erase(self, stream: str) -> None:
        """Events of a stream were erased: the model does not know which snapshots remain."""
        self._doubtful.add(stream)

    def newest(self, stream: str, schema: int, commit: int, version: int) -> int:
        """The highest version, up to *version*, with a snapshot; 0 if there need not be one."""
        if stream in self._doubtful:
            return 0
        saved = self._saved.get((stream, schema), [])
        found = [each for at, each in saved if at <= commit and each <= version]
        return max(found, default=0)
