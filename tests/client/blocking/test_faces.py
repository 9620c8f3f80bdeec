"""Both faces have the same names and take the same arguments."""

import inspect
from typing import Any

import pytest

from headwater.blocking import database as blocking
from headwater.blocking import groups as blocking_groups
from headwater.connecting import connect, connect_blocking
from headwater.database import Database
from headwater.feeds.subscription import Events, Subscription
from headwater.groups.administration import Groups
from headwater.groups.delivery import Delivery
from headwater.groups.membership import Membership
from headwater.reads.past import Past
from headwater.transactions.transaction import Transaction

PAIRS = [
    (Database, blocking.BlockingDatabase),
    (Transaction, blocking.BlockingTransaction),
    (Past, blocking.BlockingPast),
    (Subscription, blocking.BlockingSubscription),
    (Groups, blocking_groups.BlockingGroups),
    (Membership, blocking_groups.BlockingMembership),
    (Delivery, blocking_groups.BlockingDelivery),
    (Events, blocking.BlockingEvents),
]

# What the async face does for itself alone: the core's side of an unknown commit, and what a
# connection tells a subscription.
INTERNAL = {"settle", "settle_deliveries", "check_mine", "claim", "deliver", "lose"}


def public(face: type) -> dict[str, Any]:
    """Names of a class, with those that its instances only get when they are made."""
    names = {name: getattr(face, name) for name in dir(face) if not name.startswith("_")}
    code = inspect.getsource(vars(face)["__init__"]) if "__init__" in vars(face) else ""
    for line in code.splitlines():
        name = line.strip().removeprefix("self.").partition(" ")[0].rstrip(":")
        if line.strip().startswith("self.") and not name.startswith("_"):
            names.setdefault(name, None)
    return names


@pytest.mark.parametrize(("awaited", "plain"), PAIRS, ids=lambda face: face.__name__)
def test_both_faces_have_the_same_names(awaited: type, plain: type) -> None:
    assert public(awaited).keys() - INTERNAL == public(plain).keys()


@pytest.mark.parametrize(("awaited", "plain"), PAIRS[:-1], ids=lambda face: face.__name__)
def test_both_faces_take_the_same_arguments(awaited: type, plain: type) -> None:
    compared = 0
    for name, method in public(plain).items():
        of_awaited = public(awaited)[name]
        if inspect.isfunction(method):
            mine = inspect.signature(method).parameters
            assert mine == inspect.signature(of_awaited).parameters or name == "run", name
            assert [*mine] == [*inspect.signature(of_awaited).parameters]
            compared += 1
    assert compared


def test_both_ways_to_connect_take_the_same_arguments() -> None:
    awaited = dict(inspect.signature(connect).parameters)
    assert awaited.pop("open_stream").default is None
    assert awaited == dict(inspect.signature(connect_blocking).parameters)


def test_what_does_not_wait_is_no_coroutine_and_what_waits_is_one() -> None:
    for name in ("put", "delete", "delete_range", "add", "min", "max", "append", "save_snapshot"):
        assert not inspect.iscoroutinefunction(getattr(Transaction, name)), name
        assert inspect.iscoroutinefunction(getattr(Database, name)), name
