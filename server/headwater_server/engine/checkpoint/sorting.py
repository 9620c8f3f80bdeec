"""Sorts many keys in small steps, and iterates in chunks.

A call of `sort` holds the GIL until it ends, 20 ms for all keys of a memtable. So the keys are
sorted in short runs, and all runs are cut at the same keys. The pieces between two cuts are joined
and sorted, which is fast because `sort` detects sorted runs and merges them.

    runs       a-----------m--------z    b----------n-----y    a------k-------------x
    parts      |  a .. f   |   g .. p   |   q .. z   |         each from all three runs
"""

from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator
from itertools import islice
from typing import Final, TypeVar

from headwater_server.engine.pacing import YieldGil

RUN_KEYS: Final = 1024
"""Keys that are sorted in one call, which takes about 0.5 ms."""

_SAMPLED: Final = 64
"""One of this many keys is sampled, to choose the cuts."""

_SAMPLE_MAX: Final = 4096
"""The approximate maximum of sampled keys, which are sorted in one call, too."""

_T = TypeVar("_T")


def sorted_parts(
    keys: Collection[bytes], yield_gil: YieldGil, run_keys: int = RUN_KEYS
) -> Iterator[list[bytes]]:
    """The keys in order, in lists of about *run_keys*; *keys* must not change meanwhile."""
    runs: list[list[bytes]] = []
    for run in chunks(keys, run_keys):
        run.sort()
        runs.append(run)
        yield_gil()
    if len(runs) <= 1:
        yield from runs
        return
    step = max(_SAMPLED, len(keys) // _SAMPLE_MAX)
    sample = sorted(key for run in runs for key in run[::step])
    cuts = sample[:: max(1, run_keys // step)][1:]
    begun = [0] * len(runs)
    for cut in [*cuts, None]:
        part: list[bytes] = []
        for place, run in enumerate(runs):
            end = len(run) if cut is None else bisect_left(run, cut, begun[place])
            part += run[begun[place] : end]
            begun[place] = end
        part.sort()
        yield part
        yield_gil()


def chunks(items: Iterable[_T], count: int) -> Iterator[list[_T]]:
    """The items in lists of *count*, the last of which may be shorter."""
    rest = iter(items)
    while chunk := list(islice(rest, count)):
        yield chunk
