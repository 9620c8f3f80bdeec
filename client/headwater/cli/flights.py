"""A month of flights: the demo's data, and what the database must contain after loading it.

The file has one row for each flight that left one of three airports in January 2013. An aircraft
is a stream, named by its tail number, and a flight is an event of it. Flights that were cancelled
before an aircraft was chosen share one stream.
"""

import csv
import gzip
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from headwater.records import Event, RecordedEvent

FILE_NAME: Final = "flights-2013-01.csv.gz"
MISSING: Final = "NA"
SNAPSHOT_EVERY: Final = 50
SCHEMA: Final = 1


@dataclass(frozen=True, slots=True)
class Flight:
    """A row of the file.

    Attributes:
        stream: of the aircraft.
        nth: the number of the flight for its aircraft: 1, 2, 3 … It is the version of its event.
    """

    stream: str
    nth: int
    type: str
    carrier: str
    origin: str
    destination: str
    details: dict[str, Any]

    @property
    def event(self) -> Event:
        """The flight as an event of its aircraft."""
        return Event(self.type, self.details)

    @property
    def counters(self) -> tuple[tuple[str, ...], ...]:
        """The keys of the counters that the flight increments."""
        return (
            ("carrier", self.carrier),
            ("airport", self.origin, "departures"),
            ("airport", self.destination, "arrivals"),
        )


@dataclass(frozen=True, slots=True)
class Aircraft:
    """The flights of an aircraft so far: the aggregate that snapshots store."""

    flights: int = 0
    cancelled: int = 0
    miles: int = 0
    minutes: int = 0

    def after(self, type: str, details: dict[str, Any]) -> "Aircraft":  # noqa: A002 - the event's word
        """The aircraft after one more event."""
        if type == "Cancelled":
            return Aircraft(self.flights, self.cancelled + 1, self.miles, self.minutes)
        return Aircraft(
            self.flights + 1,
            self.cancelled,
            self.miles + details["miles"],
            self.minutes + (details["minutes"] or 0),
        )

    def after_all(self, events: Iterable[RecordedEvent]) -> "Aircraft":
        """The aircraft after some events of the database."""
        aircraft = self
        for event in events:
            aircraft = aircraft.after(event.type, event.data)
        return aircraft

    @property
    def state(self) -> list[int]:
        """The aircraft as the state of a snapshot. `Aircraft(*state)` reverses it."""
        return [self.flights, self.cancelled, self.miles, self.minutes]


def find_file() -> Path:
    """The file: in an installed package beside this module, in a checkout under bench/."""
    here = Path(__file__).parent
    for path in (here / "data" / FILE_NAME, here.parents[2] / "bench" / "data" / FILE_NAME):
        if path.exists():
            return path
    raise FileNotFoundError(f"{FILE_NAME} is neither in {here / 'data'} nor in a checkout's bench")


def read_flights(path: Path, *, limit: int | None = None) -> list[Flight]:
    """The flights of the file in its order, the first *limit* of them if that is given."""
    flights: list[Flight] = []
    of_aircraft: Counter[str] = Counter()
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if limit is not None and len(flights) >= limit:
                break
            stream = _stream(row["tailnum"])
            of_aircraft[stream] += 1
            flights.append(_flight(row, stream, of_aircraft[stream]))
    return flights


def counters(flights: Iterable[Flight]) -> Counter[tuple[str, ...]]:
    """The counters after these flights."""
    return Counter(key for flight in flights for key in flight.counters)


def shares(flights: Iterable[Flight], count: int) -> list[list[Flight]]:
    """The flights dealt to *count* workers, each aircraft to one, so its order is kept."""
    dealt: list[list[Flight]] = [[] for _ in range(count)]
    worker_of: dict[str, int] = {}
    for flight in flights:
        worker = worker_of.setdefault(flight.stream, len(worker_of) % count)
        dealt[worker].append(flight)
    return dealt


def by_stream(flights: Sequence[Flight]) -> dict[str, list[Flight]]:
    """The flights of each aircraft in their order."""
    streams: dict[str, list[Flight]] = {}
    for flight in flights:
        streams.setdefault(flight.stream, []).append(flight)
    return streams


def _stream(tail_number: str) -> str:
    return "aircraft-unknown" if tail_number in ("", MISSING) else f"aircraft-{tail_number}"


def _flight(row: dict[str, str], stream: str, nth: int) -> Flight:
    if _number(row["dep_time"]) is None:
        kind = "Cancelled"
    elif _number(row["air_time"]) is None:
        kind = "Diverted"
    else:
        kind = "Flown"
    details = {
        "flight": row["carrier"] + row["flight"],
        "from": row["origin"],
        "to": row["dest"],
        "day": f"{row['year']}-{int(row['month']):02}-{int(row['day']):02}",
        "scheduled": _number(row["sched_dep_time"]),
        "departed": _number(row["dep_time"]),
        "late": _number(row["arr_delay"]),
        "miles": _number(row["distance"]),
        "minutes": _number(row["air_time"]),
    }
    return Flight(stream, nth, kind, row["carrier"], row["origin"], row["dest"], details)


def _number(text: str) -> int | None:
    return None if text in ("", MISSING) else int(text)
