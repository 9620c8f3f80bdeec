"""The demo on the first flights of its file, against a real server."""

from collections import Counter

from click.testing import CliRunner

from headwater.cli.demo import Journal, Moment, compare_counters, compare_past, demo
from headwater.cli.flights import (
    Aircraft,
    by_stream,
    counters,
    find_file,
    read_flights,
    shares,
)


def test_the_demo_succeeds_and_shows_its_comparison() -> None:
    result = CliRunner().invoke(demo, ["--flights", "600", "--clients", "2"])
    assert result.exit_code == 0, result.output
    assert "kill -9" in result.output
    assert "DIFFERENT" not in result.output
    assert "events, in their order" in result.output


def test_the_file_is_the_month_and_every_row_has_a_stream() -> None:
    flights = read_flights(find_file())
    assert len(flights) == 27_004
    assert {flight.type for flight in flights} == {"Flown", "Cancelled", "Diverted"}
    assert len(by_stream(flights)["aircraft-unknown"]) == 155
    assert all(flight.stream.startswith("aircraft-") for flight in flights)


def test_each_aircraft_goes_to_one_worker_in_its_order() -> None:
    flights = read_flights(find_file(), limit=2000)
    dealt = shares(flights, 7)
    assert sorted(map(id, flights)) == sorted(id(flight) for share in dealt for flight in share)
    for share in dealt:
        for stream, rows in by_stream(share).items():
            assert [row.nth for row in rows] == list(range(1, len(rows) + 1)), stream


def test_an_aircraft_counts_cancelled_flights_apart() -> None:
    flown = {"miles": 100, "minutes": 30}
    diverted = {"miles": 100, "minutes": None}
    aircraft = Aircraft().after("Flown", flown).after("Diverted", diverted).after("Cancelled", {})
    assert aircraft == Aircraft(flights=2, cancelled=1, miles=200, minutes=30)
    assert Aircraft(*aircraft.state) == aircraft


def test_a_counter_that_is_off_by_one_is_a_difference() -> None:
    wanted = counters(read_flights(find_file(), limit=300))
    assert compare_counters("airport", wanted, wanted).equal
    found = Counter(wanted)
    found["airport", "EWR", "departures"] -= 1
    assert not compare_counters("airport", wanted, found).equal
    found["airport", "EWR", "departures"] += 1
    found["airport", "XXX", "arrivals"] += 1
    assert not compare_counters("airport", wanted, found).equal


def test_a_changed_past_is_a_difference() -> None:
    flights = read_flights(find_file(), limit=300)
    journal = Journal(kill_after=300, commits=list(enumerate(flights, 1)))
    before = Moment(200, counters(flights[:200]))
    assert compare_past(journal, before, before).equal
    assert not compare_past(journal, before, Moment(200, counters(flights[:201]))).equal
