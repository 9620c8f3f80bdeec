"""Checks the log, and tells a torn tail from corruption.

A checksum alone cannot tell them apart. A write that was running when the power failed leaves a bad
entry. Nothing is lost then, since nobody was told that the entry is durable. But if a bad entry was
once durable, data is lost, and the server must not continue without it. The later entries decide:

    entry   5   6   bad   8   9            torn tail:   no entry says that 7 was durable
    durable 4   5    ?    6   6

    entry   5   6   bad   8   9            corruption:  8 was written after 7 was durable
    durable 4   5    ?    7   7

It is also corruption if the bad entry is not in the last segment (a segment is synced before the
next one appears), if entries are missing between segments, if a sound entry does not fit the chain
(no crash makes one), and if the caller knows that the entry was durable.

One case stays undecided: if nothing was written after the last group and it rots, it looks like a
torn tail. `seal` closes this gap at a clean stop, and so does the next group.

This module writes nothing.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from headwater_protocol.errors import DamagedFile
from headwater_server.storage.errors import reason_of
from headwater_server.storage.log.log_segment import (
    ENTRY_HEADER_SIZE,
    SEGMENT_HEADER_SIZE,
    damaged,
    end_of_data,
    find_entries,
)
from headwater_server.storage.log.segmented_log import Segment, SegmentedLog
from headwater_server.storage.wal.entry import (
    CHAIN_START,
    ChainEnd,
    chain_before,
    unpack,
)
from headwater_server.storage.wal.interface import WalEntry, WalIndex

_KEPT_OVERHEAD: Final = 400
"""Bytes that an entry takes in memory besides its body: about six objects."""


@dataclass(frozen=True, slots=True)
class Damage:
    """The first place where the log is not what was written.

    Attributes:
        path: the file.
        offset: where the bad bytes begin.
        end: where the bytes that are not zero end.
        index: the entry that should begin there.
        reason: what is wrong.
        is_corruption: something durable is lost. If False, it is a torn tail, and nothing is lost.
        readable_after: how many later entries are sound; a cut discards them.
        last_readable: the highest index of those, 0 if there are none.
        known_durable: the highest index that is known to have been durable.
    """

    path: str
    offset: int
    end: int
    index: WalIndex
    reason: str
    is_corruption: bool
    readable_after: int
    last_readable: WalIndex
    known_durable: WalIndex

    def describe(self) -> str:
        """What is wrong, and what a cut of the log here would discard."""
        if not self.is_corruption:
            return f"{self.reason}; a torn tail: no entry says that entry {self.index} was durable"
        lost = max(self.last_readable, self.known_durable, self.index)
        entries = f"entries {self.index} to {lost}" if lost > self.index else f"entry {lost}"
        return (
            f"{self.reason}; this is not a torn tail. `headwater repair` would cut the log before "
            f"entry {self.index} and discard {entries}. {self.readable_after} of them can still "
            f"be read, and entries up to {self.known_durable} are known to have been durable"
        )


@dataclass(frozen=True, slots=True)
class LogReport:
    """The result of a walk over the whole log. The log can be cut at `end` of `segment`.

    Attributes:
        segments: number of files.
        entries: sound entries before the first damage.
        first_index: the oldest entry.
        last: the chain's end before the first damage.
        segment: first index of the segment in which the log ends.
        end: offset in that segment at which the next entry would begin.
        unconfirmed: offset in that segment of the first entry that no later one says was durable.
        damage: the first damage; None if the log is whole.
    """

    segments: int
    entries: int
    first_index: WalIndex
    last: ChainEnd
    segment: int
    end: int
    unconfirmed: int
    damage: Damage | None


class KeptEntries:
    """The first entries of a check, without a gap, as many as there is room for."""

    def __init__(self, size_max: int) -> None:
        self.entries: deque[WalEntry] = deque()
        self._room = size_max

    def add(self, entry: WalEntry) -> None:
        """Keep the next entry. After the first that does not fit, keep none."""
        self._room -= len(entry.body) + _KEPT_OVERHEAD
        if self._room >= 0:
            self.entries.append(entry)


def check_log(
    log: SegmentedLog,
    *,
    known_durable: WalIndex,
    on_entry: Callable[[WalEntry], None] = lambda _: None,
) -> LogReport:
    """Walk over every entry of a log that has segments.

    *known_durable* is an index that the caller knows to have been durable, for example from a
    checkpoint. *on_entry* is called with each entry that the report counts, in order.
    """
    assert log.segments
    last = len(log.segments) - 1
    walk = _Walk(CHAIN_START, SEGMENT_HEADER_SIZE, SEGMENT_HEADER_SIZE, 0, None, False)
    for place, segment in enumerate(log.segments):
        chain, reason = _begin(segment, walk.chain if place else None)
        if reason is not None:
            # Without a sound header, the log ends with the segment before.
            damage = _diagnose(log, place, 0, chain, reason, sure=True, known_durable=known_durable)
            return _report(log, max(0, place - 1), replace(walk, chain=chain), damage)
        walk = _walk(log, segment, chain, walk.entries, on_entry)
        if walk.reason is not None:
            sure = walk.is_broken or place < last
            damage = _diagnose(
                log,
                place,
                walk.end,
                walk.chain,
                walk.reason,
                sure=sure,
                known_durable=known_durable,
            )
            return _report(log, place, walk, damage)
    if walk.chain.index >= known_durable:
        return _report(log, last, walk, None)
    reason = f"the log ends with entry {walk.chain.index}, but entry {known_durable} was durable"
    damage = _diagnose(
        log, last, walk.end, walk.chain, reason, sure=True, known_durable=known_durable
    )
    return _report(log, last, walk, damage)


def _begin(segment: Segment, chain: ChainEnd | None) -> tuple[ChainEnd, str | None]:
    """The chain's end before a segment's first entry, and what is wrong with its header.

    *chain* is the chain's end after the previous segment, None for the first one.
    """
    header = segment.header
    if header is None or segment.problem is not None:
        before = chain or replace(CHAIN_START, index=WalIndex(segment.first_index - 1))
        return before, reason_of(segment.problem) if segment.problem else "no header"
    before = chain_before(segment.first_index, header.attachment)
    if chain is None:
        return before, None
    if before.index != chain.index:
        return chain, (
            f"the segment begins with entry {segment.first_index}, "
            f"but the one before it ends with entry {chain.index}"
        )
    if before.hash != chain.hash or before.epoch < chain.epoch:
        return chain, "it does not continue the chain of the segment before it"
    return replace(chain, epoch=before.epoch), None


@dataclass(frozen=True, slots=True)
class _Walk:
    """Where the walk through one segment ended."""

    chain: ChainEnd
    end: int
    unconfirmed: int
    entries: int
    reason: str | None
    is_broken: bool


def _walk(
    log: SegmentedLog,
    segment: Segment,
    chain: ChainEnd,
    entries: int,
    on_entry: Callable[[WalEntry], None],
) -> _Walk:
    scanner = log.scan(segment)
    reason = None
    is_broken = False
    # Offset of the first entry of the last group: no later entry says that it was durable.
    group = SEGMENT_HEADER_SIZE
    for packed in scanner:
        entry = unpack(packed)
        reason = "not an entry of this log" if entry is None else chain.error_of(entry)
        if entry is None or reason is not None:
            is_broken = True
            break
        if entry.durable == chain.index:
            group = scanner.offset
        chain = chain.then(entry, packed)
        entries += 1
        on_entry(entry)
    else:
        reason = scanner.problem
        is_broken = scanner.is_sound
        if reason is None and end_of_data(segment.file, scanner.offset) > scanner.offset:
            reason = f"no entry {scanner.index}, but bytes other than zero follow"
        size_made = segment.header.size if segment.header is not None else 0
        if reason is None and segment.file.size() < size_made:
            reason = f"the file ends after {segment.file.size()} bytes of {size_made}"
            is_broken = True
    return _Walk(chain, scanner.offset, group, entries, reason, is_broken)


def _diagnose(
    log: SegmentedLog,
    place: int,
    offset: int,
    chain: ChainEnd,
    reason: str,
    *,
    sure: bool,
    known_durable: WalIndex,
) -> Damage:
    """Read all later entries. If one says that the bad entry was durable, this is corruption."""
    segment = log.segments[place]
    index = WalIndex(chain.index + 1)
    known = max(known_durable, chain.durable)
    readable = 0
    last_readable = WalIndex(0)
    for number, each in enumerate(log.segments[place:]):
        found = find_entries(
            each.file,
            offset=SEGMENT_HEADER_SIZE if number else offset,
            index=index,
            index_max=max(index, each.first_index) + each.file.size() // ENTRY_HEADER_SIZE,
            entry_size_max=log.layout.entry_size_max,
        )
        for _, packed in found:
            entry = unpack(packed)
            if entry is not None:
                readable += 1
                last_readable = max(last_readable, entry.index)
                known = max(known, entry.durable)
    return Damage(
        path=segment.path,
        offset=offset,
        end=end_of_data(segment.file, offset),
        index=index,
        reason=reason,
        is_corruption=sure or known >= index,
        readable_after=readable,
        last_readable=last_readable,
        known_durable=known,
    )


def _report(log: SegmentedLog, place: int, walk: _Walk, damage: Damage | None) -> LogReport:
    return LogReport(
        segments=len(log.segments),
        entries=walk.entries,
        first_index=WalIndex(log.segments[0].first_index),
        last=walk.chain,
        segment=log.segments[place].first_index,
        end=walk.end,
        unconfirmed=walk.unconfirmed,
        damage=damage,
    )


def as_error(damage: Damage) -> DamagedFile:
    """The DamagedFile that refuses to open a log with this damage."""
    return damaged(damage.path, damage.offset, damage.describe())
