from types import FunctionType

import pytest

from bench.journey import Call, Journey, journeys, table, traced

SAMPLE = """
def one(): return two() + three()
def two(): return sum(numbers())
def three(): return two()
def numbers(): yield from (1, 2, 3)
"""


def functions_of(module: str) -> dict[str, FunctionType]:
    namespace: dict[str, FunctionType] = {}
    names = {"__name__": module}
    exec(SAMPLE, names, namespace)
    names.update(namespace)  # type: ignore[arg-type]
    return namespace


def test_a_generator_is_called_once_however_often_it_is_resumed() -> None:
    one = functions_of("headwater_server.sample")["one"]
    names = [call.function for call in traced(one)]
    assert names == ["one", "two", "numbers", "three", "two", "numbers"]


def test_functions_of_other_packages_are_not_counted() -> None:
    assert traced(functions_of("headwater.sample")["one"]) == ()
    assert traced(functions_of("headwater_server_tools")["one"]) == ()


def test_a_module_is_counted_once_and_each_change_of_module_is() -> None:
    calls = [Call("a", "f"), Call("a", "g"), Call("b", "h"), Call("a", "f")]
    journey = Journey("sample", "a sample", tuple(calls), requests=2)
    assert journey.functions == tuple(calls[:3])
    assert (journey.modules, journey.changes) == (2, 2)
    assert "   4    2.0         3       2       2  sample" in list(table([journey]))[1]


@pytest.mark.source
async def test_every_journey_starts_in_the_session_and_is_the_same_each_time() -> None:
    found = await journeys()
    assert found == await journeys()
    for journey in found:
        if journey.name != "checkpoint":
            assert str(journey.calls[0]).endswith("session:Session.receive")


@pytest.mark.source
async def test_requests_of_one_turn_share_the_calls_of_their_sync() -> None:
    found = {journey.name: journey for journey in await journeys()}
    syncs = [call for call in found["put-16"].calls if call.function == "SegmentedLog.sync"]
    assert len(syncs) == 1
    assert len(found["put-16"].calls) < found["put-16"].requests * len(found["put"].calls)
