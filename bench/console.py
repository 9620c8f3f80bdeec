"""How long the console takes on a month of flights: to start, to answer, to paint in a browser.

    python -m bench.console                 all flights; the browser if there is a Chromium

Each page is asked for at its newest commit and at one in the middle. The first paint is what
Chromium reports as its first contentful paint, with an empty cache.
"""

import argparse
import asyncio
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import headwater
from headwater.cli.flights import SCHEMA, SNAPSHOT_EVERY, Aircraft, Flight, find_file, read_flights
from headwater.cli.server_process import ServerProcess

PAGES: Final = (
    "/",
    "/streams",
    "/stream?name={stream}",
    "/events",
    "/event?stream={stream}&version=40",
    "/keys?key=%5B%22carrier%22%2C%22UA%22%5D",
    "/commits",
    "/consumers",
)

ASKED: Final = 15
"""How often a page is asked for; the median is told."""

WORKERS: Final = 64
"""Transactions at a time while loading."""

FLAGS: Final = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--no-first-run",
)


async def load(url: str, flights: Sequence[Flight]) -> None:
    """Load the flights, each in a transaction with its counters, in the order of each aircraft."""
    by_stream: dict[str, list[Flight]] = {}
    for flight in flights:
        by_stream.setdefault(flight.stream, []).append(flight)
    waiting = list(by_stream.values())
    async with headwater.connect(url) as db:

        async def work() -> None:
            while waiting:
                aircraft = Aircraft()
                for flight in waiting.pop():
                    batch = db.batch()
                    batch.append(flight.stream, [flight.event])
                    for key in flight.counters:
                        batch.add(key, 1)
                    aircraft = aircraft.after(flight.type, flight.details)
                    await db.execute(batch)
                    if flight.nth % SNAPSHOT_EVERY == 0:
                        state = [aircraft.flights, aircraft.cancelled, aircraft.miles]
                        await db.save_snapshot(
                            flight.stream, version=flight.nth, state=state, schema=SCHEMA
                        )

        await asyncio.gather(*(work() for _ in range(WORKERS)))


@contextmanager
def console(url: str) -> Iterator[tuple[str, float]]:
    """A console process: its address, and the seconds until it listened."""
    program = "from headwater.console.command import console; console()"
    began = time.perf_counter()
    child = subprocess.Popen(
        [sys.executable, "-c", program, "--url", url, "--listen", "127.0.0.1:0"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert child.stdout is not None
    try:
        found = re.search(r"http://[\d.:]+", child.stdout.readline())
        assert found, "the console did not start"
        yield found[0], time.perf_counter() - began
    finally:
        child.terminate()
        child.wait()
        child.stdout.close()


def answered(address: str) -> tuple[float, int]:
    """The median seconds until a page was received, and its bytes."""
    took, size = [], 0
    for _ in range(ASKED):
        began = time.perf_counter()
        with urllib.request.urlopen(address) as response:  # noqa: S310 - our own console
            size = len(response.read())
        took.append(time.perf_counter() - began)
    return statistics.median(took), size


def paints(addresses: Sequence[str]) -> list[float]:
    """The first contentful paint of each page in Chromium, in milliseconds."""
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium") or shutil.which("chromium-browser")
    found = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(FLAGS))
        for address in addresses:
            context = browser.new_context()
            page: Any = context.new_page()
            page.goto(address)
            page.locator("#track svg").wait_for()
            found.append(
                page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
            )
            context.close()
        browser.close()
    return found


def main() -> None:
    """Load, start, ask, paint, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flights", type=int, help="only so many")
    options = parser.parse_args()
    flights = read_flights(find_file(), limit=options.flights)
    stream = max(flights, key=lambda flight: flight.nth).stream
    with tempfile.TemporaryDirectory() as directory, ServerProcess(Path(directory)) as server:
        asyncio.run(load(server.url, flights))
        with headwater.connect_blocking(server.url) as db:
            newest = db.ping().commit
            print(f"{db.newest_position():,} events, {newest:,} commits")
        with console(server.url) as (address, started):
            print(f"started in {started:.2f} s")
            pages = [address + page.format(stream=stream) for page in PAGES]
            for page in pages:
                live, size = answered(page)
                past, _ = answered(f"{page}{'&' if '?' in page else '?'}at={newest // 2}")
                shown = page.removeprefix(address)
                print(f"{shown:48} {live * 1000:6.0f} ms {past * 1000:6.0f} ms past {size:8,} B")
            if shutil.which("chromium") or shutil.which("chromium-browser"):
                for page, took in zip(pages, paints(pages), strict=True):
                    print(f"{page.removeprefix(address):48} first paint {took:6.0f} ms")


if __name__ == "__main__":
    main()
