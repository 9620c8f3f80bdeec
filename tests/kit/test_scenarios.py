"""given(events).when(command).then(events)."""

import pytest

from headwater import Event, InvalidArgument, RecordedEvent, Repository
from headwater_testing import given
from headwater_testing.scenarios import ScenarioFailed


def evolve(balance: int, event: RecordedEvent) -> int:
    match event.type:
        case "Deposited":
            return balance + int(event.data)
        case "Withdrawn":
            return balance - int(event.data)
        case _:
            return balance


def withdraw(balance: int, amount: int) -> Event | None:
    if amount > balance:
        raise ValueError("not enough")
    return Event("Withdrawn", amount, tags=["money"]) if amount else None


accounts: Repository[int] = Repository(0, evolve)


def test_a_command_decides_on_the_events_before_it() -> None:
    scenario = given(accounts, Event("Opened"), Event("Deposited", 10))
    scenario.when(withdraw, 4).then(Event("Withdrawn", 4, tags=["money"])).then_state(6)
    scenario.when(withdraw, 7).then_raises(ValueError, "enough").then_state(6)
    scenario.when(withdraw, 0).then()


@pytest.mark.parametrize(
    "expected",
    [
        (),
        (Event("Withdrawn", 4),),
        (Event("Withdrawn", 5, tags=["money"]),),
        (Event("Spent", 4, tags=["money"]),),
        (Event("Withdrawn", 4, {"by": "ann"}, tags=["money"]),),
        (Event("Withdrawn", 4, tags=["money"]), Event("Withdrawn", 4, tags=["money"])),
    ],
)
def test_other_events_than_those_decided_fail(expected: tuple[Event, ...]) -> None:
    scenario = given(accounts, Event("Deposited", 10)).when(withdraw, 4)
    with pytest.raises(ScenarioFailed):
        scenario.then(*expected)


def test_an_error_that_is_not_expected_fails() -> None:
    scenario = given(accounts).when(withdraw, 4)
    with pytest.raises(ScenarioFailed):
        scenario.then()
    with pytest.raises(ScenarioFailed):
        scenario.then_raises(KeyError)
    with pytest.raises(ScenarioFailed):
        scenario.then_raises(ValueError, "too much")
    with pytest.raises(ScenarioFailed):
        given(accounts).when(withdraw, 0).then_raises(ValueError)
    with pytest.raises(ScenarioFailed):
        given(accounts).then_state(1)


def test_events_go_through_the_codec() -> None:
    seen: list[object] = []

    def look(state: int, event: RecordedEvent) -> int:
        seen.append((event.data, event.metadata, event.version, list(event.tags)))
        return state

    given(Repository(0, look), Event("Happened", {"pair": (1, 2)}, {"by": "ann"}, tags=["a"]))
    assert seen == [({"pair": [1, 2]}, {"by": "ann"}, 1, ["a"])]
    with pytest.raises(InvalidArgument):
        given(accounts, Event("Happened", object()))
