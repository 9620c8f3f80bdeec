"""Objects are converted to plain data, and back."""

from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from typing import Any, NewType
from uuid import UUID

import msgspec
import pydantic
import pytest

from headwater.codecs.codec import MsgpackCodec
from headwater.codecs.type_mapping import mapping_of
from headwater.errors import InvalidArgument

Account = NewType("Account", str)


class Kind(Enum):
    CASH = "cash"
    CARD = "card"


@dataclass(frozen=True)
class Money:
    amount: Decimal
    currency: str = "EUR"


@dataclass
class Payment:
    account: Account
    total: Money
    kind: Kind
    at: datetime
    parts: tuple[Money, ...] = ()
    pair: tuple[int, Money] | None = None
    notes: dict[Kind, list[Money]] = field(default_factory=dict)
    kinds: set[Kind] = field(default_factory=set)
    refund: "Payment | None" = None
    plain_tuple: tuple[int, str] = (1, "a")
    anything: int | str | None = None


class StructMoney(msgspec.Struct, frozen=True):
    amount: Decimal
    currency: str = "EUR"


class StructPayment(msgspec.Struct):
    id: UUID
    total: StructMoney
    kind: Kind
    at: datetime
    day: date
    raw: bytes
    kinds: set[Kind] = set()


class ModelMoney(pydantic.BaseModel):
    amount: Decimal
    currency: str = "EUR"


class ModelPayment(pydantic.BaseModel):
    id: UUID
    total: ModelMoney
    at: datetime
    day: date
    raw: bytes


NOW = datetime(2013, 1, 31, 12, tzinfo=UTC)
MONEY = Money(Decimal("1.10"))
PAYMENT = Payment(
    Account("ann"),
    MONEY,
    Kind.CARD,
    NOW,
    parts=(MONEY, Money(Decimal(2), "CHF")),
    pair=(7, MONEY),
    notes={Kind.CASH: [MONEY]},
    kinds={Kind.CASH},
)
PAYMENT.refund = Payment(Account("bob"), MONEY, Kind.CASH, NOW)

VALUES = [
    MONEY,
    PAYMENT,
    StructPayment(
        UUID(int=7), StructMoney(Decimal("1.10")), Kind.CASH, NOW, NOW.date(), b"\0", {Kind.CARD}
    ),
    ModelPayment(
        id=UUID(int=7),
        total=ModelMoney(amount=Decimal("1.10")),
        at=NOW,
        day=NOW.date(),
        raw=b"\xff",
    ),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_an_object_that_is_encoded_and_decoded_is_equal(value: Any) -> None:
    mapping = mapping_of(type(value))
    codec = MsgpackCodec()
    assert mapping.load(codec.decode(codec.encode(mapping.dump(value)))) == value


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_a_field_that_the_class_lacks_is_ignored(value: Any) -> None:
    mapping = mapping_of(type(value))
    assert mapping.load({**mapping.dump(value), "unheard_of": 1}) == value


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("data", [None, 7, {}, ["a"]])
def test_data_that_does_not_match_the_class_is_an_error(value: Any, data: Any) -> None:
    with pytest.raises(Exception, match=r"\w"):
        mapping_of(type(value)).load(data)


def test_a_union_whose_members_the_data_cannot_distinguish_is_refused() -> None:
    @dataclass
    class Either:
        one: Money | Kind

    @dataclass
    class Half:
        one: Money | str

    for kind in (Either, Half):
        with pytest.raises(InvalidArgument, match=r"one: the data does not tell which"):
            mapping_of(kind)


def test_a_class_of_another_kind_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="give dump= and load="):
        mapping_of(complex)
