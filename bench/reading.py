"""The client's own cost of an event that it reads, in this checkout and in another.

    python -m bench.reading                        this checkout
    python -m bench.reading --base ../other        and the other one, in alternating runs

There is no server, so only the client is measured: the processor time for each event of a page, in
microseconds. It is the minimum of all runs. Each row accesses more fields of every event.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

EVENTS: Final = 10_000
REPEATS: Final = 10
ROUNDS: Final = 5

LOOKS: Final[dict[str, Callable[[Any], object]]] = {
    "nothing": lambda _: None,
    "position": lambda event: event.position,
    "stream, version, type": lambda event: (event.stream, event.version, event.type),
    "data": lambda event: event.data,
    "position, stream, version, type, data": lambda event: (
        event.position,
        event.stream,
        event.version,
        event.type,
        event.data,
    ),
    "all members": lambda event: (
        event.position,
        event.stream,
        event.version,
        event.commit,
        event.time,
        event.id,
        event.type,
        event.data,
        event.metadata,
        event.tags,
        event.erased,
    ),
}
"""What is looked at, of each event."""


def measure() -> dict[str, float]:
    """The microseconds of processor time for an event, by the accessed fields."""
    from headwater.blocking.pages import BlockingPages
    from headwater.codecs.codec import MsgpackCodec
    from headwater.reads.pages import EventPages

    data = MsgpackCodec().encode({"amount": 10, "currency": "EUR", "by": "ann"})
    rows = [
        [n, "account-ann", n, n, 1_700_000_000_000_000 + n, bytes(16), "Deposited", data, b"", []]
        for n in range(1, EVENTS + 1)
    ]

    async def fetch(*_: object) -> list[Any]:
        return [EVENTS, EVENTS, rows, False]

    figures: dict[str, float] = {}
    for name, look in LOOKS.items():
        best = float("inf")
        for _ in range(REPEATS):
            pages = BlockingPages(
                EventPages(fetch, MsgpackCodec(), None, 0, {}, reverse=False, limit=None)
            )
            begun = time.process_time()
            for event in pages:
                look(event)
            best = min(best, time.process_time() - begun)
        figures[name] = best / EVENTS * 1e6
    return figures


def measured_in(checkout: Path) -> dict[str, float]:
    """The figures of a checkout, measured in a separate process."""
    paths = (checkout / "protocol", checkout / "client", Path(__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}
    command = [sys.executable, "-m", "bench.reading", "--json"]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--base", type=Path, help="the checkout to compare with")
    parser.add_argument("--json", action="store_true", help="measure once; print JSON")
    given = parser.parse_args()
    if given.json:
        print(json.dumps(measure()))
        return
    checkouts = [Path(__file__).parents[1], *([given.base] if given.base else [])]
    best: list[dict[str, float]] = [{} for _ in checkouts]
    for _ in range(ROUNDS):
        for found, checkout in zip(best, checkouts, strict=True):
            for name, figure in measured_in(checkout.resolve()).items():
                found[name] = min(figure, found.get(name, figure))
    print(f"{'looked at':40}" + "".join(f"{each!s:>12}" for each in ("here", "base")[: len(best)]))
    for name in LOOKS:
        print(f"{name:40}" + "".join(f"{found[name]:9.2f} µs" for found in best))


if __name__ == "__main__":
    main()
