"""Isolation anomalies in a history of lists, after Elle (Kingsbury and Alvaro, "Elle: Inferring
Isolation Anomalies from Experimental Observations", VLDB 2020), in the terms of Adya's thesis.

Every element is appended only once in a world, so a read of a list shows which transactions wrote
it and in which order. The dependencies between transactions follow from these reads only, and not
from what the database says about itself:

    list under key x      a1  a2  a3         T1 appended a1, T2 a2, T3 a3; T9 read [a1, a2]

    ww    T1 -> T2 -> T3                     each appended its element after the previous one
    wr    T2 -> T9                           T9 saw the element of T2
    rw    T9 -> T3                           T9 did not see the element of T3
    rt    A -> B                             A was acknowledged before B began

A cycle means that no order of the transactions explains the reads. Its name depends on its edges:
G0 (only ww), G1c (also wr), G-single (also one rw), G2 (more rw). The suffix "-realtime" means that
it also needs rt edges: an order exists, but not in real time.

The allowed anomalies depend on the isolation: G2 for snapshot, none for serializable. A history has
both levels. As in Adya's definition of mixed levels, an rw edge counts for G2 only if its reader is
serializable.
"""

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from tests.simulation.history import Append, Attempt, Outcome, Read


class Anomaly(NamedTuple):
    """An anomaly: its name in the literature, and the evidence."""

    name: str
    story: str

    def __str__(self) -> str:
        return f"{self.name}: {self.story}"


Edges = dict[int, dict[int, str]]
"""Edges from one transaction to others, with the reason for each."""

_WW: Final = "ww"
_WR: Final = "wr"
_RW: Final = "rw"
_RT: Final = "rt"


@dataclass(frozen=True, slots=True)
class _Graph:
    """Dependencies by kind. Nodes are numbers of attempts; negative ones are points in time."""

    edges: dict[str, Edges]

    def add(self, kind: str, start: int, end: int, reason: str) -> None:
        if start != end:
            self.edges[kind][start].setdefault(end, reason)

    def successors(self, kinds: Iterable[str]) -> Callable[[int], dict[int, str]]:
        """The edges of some kinds out of a node, each with its reason."""
        chosen = [self.edges[kind] for kind in kinds]

        def of(node: int) -> dict[int, str]:
            found: dict[int, str] = {}
            for edges in chosen:
                found |= edges.get(node, {})
            return found

        return of


def check_lists(attempts: Iterable[Attempt], final: Mapping[str, list[str]]) -> list[Anomaly]:
    """Find the anomalies in appends and reads of lists.

    Args:
        attempts: only Append and Read operations are examined, so lists under keys must be given as
            these too.
        final: the lists that were read at the end, after all appends.
    """
    considered = [attempt for attempt in attempts if _lists_of(attempt)]
    writers, anomalies = _writers(considered)
    orders = _orders(considered, final, anomalies)
    happened = _happened(considered, orders, writers)
    anomalies += _reads_of_nothing(considered, writers, happened)
    anomalies += _lost(considered, final)
    anomalies += _own(happened.values())
    graph = _dependencies(happened, orders, writers)
    _add_real_time(graph, happened.values())
    return anomalies + _cycles(graph, happened)


def _lists_of(attempt: Attempt) -> list[Append | Read]:
    return [each for each in attempt.operations if isinstance(each, Append | Read)]


def _writers(attempts: list[Attempt]) -> tuple[dict[str, Attempt], list[Anomaly]]:
    """The attempt that appended each element."""
    writers: dict[str, Attempt] = {}
    anomalies = []
    for attempt in attempts:
        for operation in _lists_of(attempt):
            if isinstance(operation, Append):
                for element, _ in operation.elements:
                    if element in writers:
                        anomalies.append(
                            Anomaly("malformed", f"{element} was appended by two attempts")
                        )
                    writers[element] = attempt
    return writers, anomalies


def _reads(attempts: Iterable[Attempt]) -> Iterable[tuple[Attempt, Read]]:
    for attempt in attempts:
        own: set[str] = set()
        for operation in _lists_of(attempt):
            if isinstance(operation, Append):
                own.update(element for element, _ in operation.elements)
            elif operation.after == 0:
                # _own checks what a transaction sees of its own writes.
                others = [element for element in operation.elements if element not in own]
                yield attempt, operation._replace(elements=others)


def _orders(
    attempts: list[Attempt], final: Mapping[str, list[str]], anomalies: list[Anomaly]
) -> dict[str, list[str]]:
    """The order of each list's elements: the longest read. All others must be prefixes of it."""
    orders = {stream: list(elements) for stream, elements in final.items()}
    for _, read in _reads(attempts):
        if read.stream not in final and len(read.elements) > len(orders.get(read.stream, [])):
            orders[read.stream] = read.elements
    for attempt, read in _reads(attempts):
        order = orders.get(read.stream, [])
        if len(read.elements) != len(set(read.elements)):
            anomalies.append(
                Anomaly("duplicate elements", f"{attempt} read {read.stream}: {read.elements}")
            )
        if read.elements != order[: len(read.elements)]:
            anomalies.append(
                Anomaly(
                    "incompatible order",
                    f"{attempt} read {read.stream} as {read.elements}, which is not a prefix of "
                    f"{order}",
                )
            )
    return orders


def _happened(
    attempts: list[Attempt], orders: dict[str, list[str]], writers: dict[str, Attempt]
) -> dict[int, Attempt]:
    """The committed transactions, including unknown ones whose writes were read."""
    seen = {
        writers[element].number
        for order in orders.values()
        for element in order
        if element in writers
    }
    return {
        attempt.number: attempt
        for attempt in attempts
        if attempt.outcome is Outcome.COMMITTED
        or (attempt.outcome is Outcome.UNKNOWN and attempt.number in seen)
    }


def _reads_of_nothing(
    attempts: list[Attempt], writers: dict[str, Attempt], happened: dict[int, Attempt]
) -> Iterable[Anomaly]:
    """Garbage, aborted reads (G1a) and intermediate reads (G1b)."""
    last_appends: dict[tuple[int, str], str] = {}
    for attempt in attempts:
        for operation in _lists_of(attempt):
            if isinstance(operation, Append) and operation.elements:
                last_appends[attempt.number, operation.stream] = operation.elements[-1][0]
    # Aborted transactions too must read only committed writes.
    for attempt, read in _reads(attempts):
        for element in read.elements:
            writer = writers.get(element)
            if writer is None:
                yield Anomaly("garbage read", f"{attempt} read {element}, which nobody wrote")
            elif writer.outcome is Outcome.ABORTED:
                yield Anomaly("G1a", f"{attempt} read {element} of {writer}")
        if read.elements:
            writer = writers.get(read.elements[-1])
            if writer is not None and writer.number in happened:
                last = last_appends[writer.number, read.stream]
                if last != read.elements[-1]:
                    yield Anomaly(
                        "G1b", f"{attempt} read {read.elements[-1]} of {writer}, but not its {last}"
                    )


def _lost(attempts: list[Attempt], final: Mapping[str, list[str]]) -> Iterable[Anomaly]:
    """Acknowledged appends that are missing at the end, and aborted ones that are there."""
    for attempt in attempts:
        for operation in _lists_of(attempt):
            if not isinstance(operation, Append) or not final:
                continue
            order = final.get(operation.stream, [])
            for element, _ in operation.elements:
                if attempt.outcome is Outcome.COMMITTED and element not in order:
                    yield Anomaly(
                        "lost write", f"{element} of {attempt} is not in {operation.stream}"
                    )
                if attempt.outcome is Outcome.ABORTED and element in order:
                    yield Anomaly("G1a", f"{operation.stream} has {element} of {attempt}")


def _own(attempts: Iterable[Attempt]) -> Iterable[Anomaly]:
    """A transaction must see its own appends, and always the same of all others."""
    for attempt in attempts:
        expected: dict[str, list[str]] = {}
        own: dict[str, list[str]] = defaultdict(list)
        for operation in _lists_of(attempt):
            if isinstance(operation, Append):
                added = [element for element, _ in operation.elements]
                own[operation.stream] += added
                if operation.stream in expected:
                    expected[operation.stream] += added
                continue
            if operation.after:
                continue
            known = expected.get(operation.stream)
            mine = own[operation.stream]
            wrong = known is not None and operation.elements != known
            if wrong or (mine and operation.elements[-len(mine) :] != mine):
                yield Anomaly("internal", f"{attempt} read {operation}, expected {known or mine}")
            expected[operation.stream] = list(operation.elements)


def _dependencies(
    happened: dict[int, Attempt], orders: dict[str, list[str]], writers: dict[str, Attempt]
) -> _Graph:
    graph = _Graph({kind: defaultdict(dict) for kind in (_WW, _WR, _RW, _RT)})
    following: dict[tuple[str, str | None], str] = {}
    for stream, order in orders.items():
        known = [element for element in order if element in writers]
        for before, after in zip([None, *known], known, strict=False):
            following[stream, before] = after
            if before is not None:
                graph.add(
                    _WW,
                    writers[before].number,
                    writers[after].number,
                    f"{after} comes after {before} in {stream}",
                )
    for attempt, read in _reads(happened.values()):
        last = read.elements[-1] if read.elements else None
        if last is not None and last in writers:
            reason = f"{last} was read in {read.stream}"
            graph.add(_WR, writers[last].number, attempt.number, reason)
        after_last = following.get((read.stream, last))
        # It did not miss its own elements that follow.
        while after_last is not None and writers[after_last] is attempt:
            after_last = following.get((read.stream, after_last))
        if after_last is not None:
            reason = f"{after_last} was not seen in {read.stream}"
            graph.add(_RW, attempt.number, writers[after_last].number, reason)
    return graph


def _add_real_time(graph: _Graph, attempts: Iterable[Attempt]) -> None:
    """An attempt that ended before another began comes first.

    To avoid an edge for each such pair, each end is a node of its own. These nodes form a chain,
    and an attempt that begins follows the last node before it.
    """
    moments: list[tuple[int, bool, int]] = []
    for attempt in attempts:
        moments.append((attempt.begun, True, attempt.number))
        if attempt.ended is not None and attempt.outcome is Outcome.COMMITTED:
            moments.append((attempt.ended, False, attempt.number))
    moment = 0
    for _, is_begin, number in sorted(moments):
        if is_begin:
            if moment:
                graph.add(_RT, moment, number, "it began later")
        else:
            graph.add(_RT, number, moment - 1, "it was acknowledged")
            if moment:
                graph.add(_RT, moment, moment - 1, "later")
            moment -= 1


def _cycles(graph: _Graph, happened: dict[int, Attempt]) -> list[Anomaly]:
    """One cycle of each kind; with real-time edges only if there is none without them."""
    for suffix, time in (("", ()), ("-realtime", (_RT,))):
        anomalies: list[Anomaly] = []
        for name, kinds in (("G0", (_WW, *time)), ("G1c", (_WW, _WR, *time))):
            cycle = _cycle_anywhere(graph.successors(kinds), happened)
            if cycle is not None:
                anomalies.append(_tell(name + suffix, cycle, happened))
                break
        if not anomalies:
            anomalies = _cycles_with_anti_dependencies(graph, happened, suffix, time)
        if anomalies:
            return anomalies
    return []


def _cycles_with_anti_dependencies(
    graph: _Graph, happened: dict[int, Attempt], suffix: str, time: tuple[str, ...]
) -> list[Anomaly]:
    forward = graph.successors((_WW, _WR, *time))
    for start, ends in graph.edges[_RW].items():
        for end, reason in ends.items():
            path = _path(forward, end, start)
            if path is not None:
                return [_tell("G-single" + suffix, [(start, reason), *path], happened)]
    owed = _Graph(dict(graph.edges))
    owed.edges[_RW] = {
        reader: ends
        for reader, ends in graph.edges[_RW].items()
        if reader in happened and happened[reader].isolation == "serializable"
    }
    cycle = _cycle_anywhere(owed.successors((_WW, _WR, _RW, *time)), happened)
    return [] if cycle is None else [_tell("G2" + suffix, cycle, happened)]


def _cycle_anywhere(
    successors: Callable[[int], dict[int, str]], happened: dict[int, Attempt]
) -> list[tuple[int, str]] | None:
    """A shortest cycle through the first node on a cycle."""
    on_cycles = _on_cycles(successors, happened)
    for node in sorted(on_cycles):
        if node >= 0:
            for neighbour, reason in successors(node).items():
                path = _path(successors, neighbour, node)
                if path is not None:
                    return [(node, reason), *path]
    return None


def _on_cycles(successors: Callable[[int], dict[int, str]], nodes: Iterable[int]) -> set[int]:
    """Nodes on a cycle: the rest after repeatedly removing nodes without successors.

    The rest includes nodes that only lead to a cycle. That costs time, but is not wrong.
    """
    out: dict[int, int] = {}
    before: dict[int, list[int]] = defaultdict(list)
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        if node in out:
            continue
        ends = successors(node)
        out[node] = len(ends)
        for end in ends:
            before[end].append(node)
            waiting.append(end)
    ready = [node for node, count in out.items() if count == 0]
    while ready:
        for node in before[ready.pop()]:
            out[node] -= 1
            if out[node] == 0:
                ready.append(node)
    return {node for node, count in out.items() if count > 0}


def _path(
    successors: Callable[[int], dict[int, str]], start: int, end: int
) -> list[tuple[int, str]] | None:
    """A shortest path, as nodes with the reason for the next edge; without *end*."""
    came: dict[int, tuple[int, str]] = {}
    waiting = deque([start])
    while waiting:
        node = waiting.popleft()
        if node == end:
            steps: list[tuple[int, str]] = []
            while node != start:
                node, reason = came[node]
                steps.append((node, reason))
            return steps[::-1]
        for neighbour, reason in successors(node).items():
            if neighbour not in came and neighbour != start:
                came[neighbour] = (node, reason)
                waiting.append(neighbour)
    return None


def _tell(name: str, cycle: list[tuple[int, str]], happened: dict[int, Attempt]) -> Anomaly:
    steps = [f"{happened.get(node, 'a moment')} -> [{reason}]" for node, reason in cycle]
    return Anomaly(name, " ".join([*steps, "the first"]))
