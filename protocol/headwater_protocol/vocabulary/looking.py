"""The operations that look into a database: what happened, when, and by whom. See operations.py.

They are asked outside of transactions, by people and their tools.
"""

from typing import Any, Final

from headwater_protocol import limits
from headwater_protocol.fields import (
    Argument,
    Binary,
    Boolean,
    Choice,
    Field,
    Integer,
    Nullable,
    Record,
    Text,
)
from headwater_protocol.vocabulary.keys import KEY, LIMIT

_EVENT_ID: Final = Binary(16, 16)
_NUMBER: Final = Integer(0, limits.NUMBER_MAX)
_STREAM: Final = Text(1, limits.STREAM_NAME_SIZE_MAX)
_CURSOR: Final = Nullable(Binary(0, 2 * limits.KEY_SIZE_MAX))


def _required(name: str, field: Field, why: str = "") -> Argument:
    return Argument(name, field, why=why)


def _optional(name: str, field: Field, default: Any, why: str = "") -> Argument:
    return Argument(name, field, required=False, default=default, why=why)


_RANGE: Final = (
    _required("start", Binary(0, limits.KEY_SIZE_MAX), "inclusive; empty: from the first key"),
    _required("end", Nullable(KEY), "exclusive; nil: to the last key"),
)
_PAGE: Final = _optional("limit", LIMIT, limits.PAGE_ITEMS_MAX, "")
_AT: Final = _optional("at_commit", Nullable(_NUMBER), None, "nil: the newest")

_CONTENTS: Final = (
    "[commit, transaction, time, user | nil, first_position, events, keys | nil, "
    "[[stream, name, schema, version], …] | nil, {what: count} | nil]"
)
_DESCRIBED: Final = (
    "[commit, [[stream, version, first, max_count | nil, max_age | nil, begins, "
    "[position, time, type] | nil], …], cursor | nil]"
)

LOOKING_OPERATIONS: Final[tuple[tuple[str, Record, str, str], ...]] = (
    (
        "find_event",
        Record((_required("id", _EVENT_ID), _AT)),
        "[commit, event | nil]",
        "The event with an id, in any stream.",
    ),
    (
        "read_commits",
        Record(
            (
                _optional(
                    "after",
                    Nullable(_NUMBER),
                    None,
                    "nil: from the oldest that is left, in reverse from the newest",
                ),
                _PAGE,
                _optional("reverse", Boolean(), False, "the newest first, before `after`"),
            )
        ),
        "[[commit, transaction, time, user | nil, first_position, events], …]; position 0: none",
        "The commit log: who committed what, and when.",
    ),
    (
        "key_history",
        Record(
            (
                _required("key", KEY),
                _optional("before", Nullable(_NUMBER), None, "a commit, exclusive; nil: all"),
                _PAGE,
                _AT,
            )
        ),
        "[commit, [[commit, time | nil, user | nil, value | nil, expired], …], more, oldest]",
        "The commits that wrote a key, the newest first, each with the value that it wrote.",
    ),
    (
        "stream_history",
        Record(
            (
                _required("stream", _STREAM),
                _optional("before", _NUMBER, 0, "a version, exclusive; 0: all"),
                _PAGE,
                _AT,
            )
        ),
        "[commit, version, events, [user | nil, …], more]",
        "The events of a stream, the newest first, each with the user who appended it.",
    ),
    (
        "read_commit",
        Record((_required("commit", _NUMBER),)),
        _CONTENTS,
        "A commit with what it wrote.",
    ),
    (
        "commit_changes",
        Record((_required("commit", _NUMBER), *_RANGE, _PAGE)),
        "[[[key, old | nil, new | nil, expired], …], rest | nil]",
        "What a commit did to the keys of a range. `rest`: where the range goes on.",
    ),
    (
        "count_commits",
        Record(
            (
                _optional("by", Choice(("time", "commits")), "time", "what divides the slices"),
                _optional(
                    "first", Nullable(_NUMBER), None, "exclusive; nil: before all that are recorded"
                ),
                _optional("last", Nullable(_NUMBER), None, "inclusive; nil: the newest commit"),
                _optional("slices", Integer(1, limits.SLICES_MAX), 100, ""),
            )
        ),
        "[[commit, time, position], …]",
        "The beginning of a span of commits, and the end of each of its slices.",
    ),
    (
        "known_span",
        Record(()),
        "[[commit, time], [commit, time], [commit, time]]",
        "The oldest commit that is recorded, the oldest that can be read, and the newest.",
    ),
    (
        "position_at",
        Record((_required("commit", _NUMBER),)),
        "position",
        "The position of the newest event at a commit, however old it is.",
    ),
    (
        "list_snapshots",
        Record(
            (
                _required("stream", _STREAM),
                _optional("after", _CURSOR, None, "a cursor"),
                _PAGE,
                _AT,
            )
        ),
        "[commit, [[name, schema, version, saved_by, time | nil, size], …], cursor | nil]",
        "The snapshots of a stream, without their states.",
    ),
    (
        "scan_branches",
        Record(
            (
                *_RANGE,
                _required(
                    "size",
                    Integer(0, limits.KEY_SIZE_MAX),
                    "bytes of the prefix that all keys of the range share",
                ),
                _optional(
                    "delimiter",
                    Nullable(Binary(1, limits.NAME_SIZE_MAX)),
                    None,
                    "nil: beginnings end with a member of the key",
                ),
                _optional(
                    "count_max",
                    Integer(1, limits.BRANCH_COUNT_MAX),
                    100,
                    "keys that are counted in each",
                ),
                _PAGE,
                _AT,
            )
        ),
        "[commit, [[beginning, is_key, below, more], …], rest | nil]",
        "The distinct beginnings of the keys of a range, each with how many keys begin so.",
    ),
    (
        "describe_streams",
        Record(
            (
                _optional("prefix", Text(0, limits.STREAM_NAME_SIZE_MAX), "", "of their names"),
                _optional("after", Nullable(_STREAM), None, "a cursor"),
                _optional("limit", Integer(1, limits.DESCRIBED_MAX), limits.DESCRIBED_MAX, ""),
                _AT,
            )
        ),
        _DESCRIBED,
        "The streams in name order, each with its newest event.",
    ),
)
