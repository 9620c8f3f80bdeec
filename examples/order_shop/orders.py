"""The aggregate: an order, what has happened to it, and what may be done with it."""

from dataclasses import dataclass, field, replace
from typing import Any

from headwater import Event, RecordedEvent, Repository

PRICES = {"tea": 6, "cups": 10}


class Refused(Exception):
    """What a customer may not do, in words for the customer."""


@dataclass(frozen=True)
class Order:
    """The state of an order."""

    customer: str = ""
    items: dict[str, int] = field(default_factory=dict)
    status: str = "new"

    @property
    def total(self) -> int:
        """What it costs."""
        return sum(PRICES[item] * count for item, count in self.items.items())


def evolve(order: Order, event: Event | RecordedEvent) -> Order:
    """The state after an event."""
    data: dict[str, Any] = event.data or {}
    match event.type:
        case "Placed":
            return Order(data["customer"], data["items"], "placed")
        case "Paid" | "Shipped" | "Cancelled":
            return replace(order, status=event.type.lower())
        case _:
            return order


def place(order: Order, customer: str, items: dict[str, int]) -> Event:
    """Place a new order."""
    if order.status != "new":
        raise Refused("this order exists")
    unknown = items.keys() - PRICES.keys()
    if unknown or not items:
        raise Refused(f"we do not sell {', '.join(sorted(unknown)) or 'nothing'}")
    return Event("Placed", {"customer": customer, "items": items})


def pay(order: Order, amount: int) -> Event:
    """Pay exactly what it costs."""
    if order.status != "placed":
        raise Refused(f"a {order.status} order cannot be paid")
    if amount != order.total:
        raise Refused(f"the order costs {order.total}")
    return Event("Paid", {"amount": amount})


def ship(order: Order) -> Event:
    """Send what was paid."""
    if order.status != "paid":
        raise Refused(f"a {order.status} order cannot be shipped")
    return Event("Shipped")


def cancel(order: Order) -> Event:
    """Cancel what was not shipped yet."""
    if order.status not in ("placed", "paid"):
        raise Refused(f"a {order.status} order cannot be cancelled")
    return Event("Cancelled")


ORDERS = Repository(Order, evolve, schema=1, snapshot_every=50, name="order")
