"""docs/protocol.md agrees with the table of operations, and its examples with the code."""

import re
from pathlib import Path
from typing import Any, Final

import pytest

from headwater_protocol import errors, limits
from headwater_protocol.connection import Request, ServerConnection
from headwater_protocol.errors import HeadwaterError
from headwater_protocol.fields import Record, Tagged
from headwater_protocol.frames import encode_frame
from headwater_protocol.keys import encode_key, prefix_range
from headwater_protocol.messages import decode, encode
from headwater_protocol.operations import CONDITION, FILTER, OPERATIONS, READ, WRITE
from tests.vectors import examples
from tests.vectors.notation import notation

PAGE: Final = (Path(__file__).parents[2] / "docs/protocol.md").read_text()


def flat(text: str) -> str:
    """Text without line breaks, which may be anywhere."""
    return " ".join(text.split())


def cell(text: str) -> str:
    return text.replace("|", "\\|")


def section(heading: str) -> str:
    """The text under a heading, up to the next heading of its level or above."""
    level = heading.split(" ")[0]
    _, _, rest = PAGE.partition(f"\n{heading}\n")
    assert rest, f"no heading {heading}"
    return re.split(rf"\n#{{1,{len(level)}}} ", rest)[0]


def argument_rows(record: Record) -> list[str]:
    return [
        f"| `{argument.name}` | {cell(argument.field.describe())} | "
        + ("required" if argument.required else f"`{notation(argument.default)}`")
        + f" | {cell(argument.why)} |"
        for argument in record.arguments
    ]


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_page_documents_each_operation(name: str) -> None:
    operation = OPERATIONS[name]
    text = section(f"#### `{name}`")
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert rows == argument_rows(operation.arguments)
    assert operation.what in flat(text)
    assert f"Answer: `{operation.answer}`" in flat(text)
    numbers = [n for n, example in enumerate(examples.EXAMPLES, 1) if example.name == name]
    for number in numbers[:2]:
        example = examples.EXAMPLES[number - 1]
        assert f"    -> {notation([number, name, *example.arguments])}\n" in text
        assert f"    <- {notation([number, 0, example.answer])}" in text


def test_the_page_documents_no_other_operations() -> None:
    assert set(re.findall(r"^#### `(\w+)`", PAGE, re.MULTILINE)) == OPERATIONS.keys()


@pytest.mark.parametrize(
    ("heading", "tagged"),
    [("## Writes", WRITE), ("## Conditions", CONDITION), ("## Reads in an execute", READ)],
)
def test_the_page_documents_the_parts_of_an_execute(heading: str, tagged: Tagged) -> None:
    rows = [line for line in section(heading).splitlines() if line.startswith("| `")]
    assert len(rows) == len(tagged.variants)
    for row, (word, record) in zip(rows, tagged.variants.items(), strict=True):
        names = [argument.name for argument in record.arguments]
        assert row.startswith(f"| `[{', '.join([notation(word), *names])}]` |")
        for argument in record.arguments:
            assert f"`{argument.name}`: {cell(argument.field.describe())}" in row
            assert argument.why in row


def test_the_page_documents_the_filter() -> None:
    text = section("## Filters")
    for name, field in FILTER.members.items():
        assert f"| `{name}` | {field.describe()} |" in text


def test_the_page_documents_every_error_code_and_whether_it_is_retryable() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (yes|no) \| .+ \|$", section("## Errors"), re.MULTILINE)
    classes = [
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, HeadwaterError)
    ]
    assert dict(rows) == {known.code: "yes" if known.retryable else "no" for known in classes}


def test_the_errors_listed_for_an_operation_exist() -> None:
    for name in OPERATIONS:
        for named in re.findall(r"Errors[^:]*: (.*?)(?:\n\n|$)", section(f"#### `{name}`"), re.S):
            words = re.findall(r"`([a-z]+_[a-z_]+)`", named)
            known = {*errors._CLASSES, *OPERATIONS, "at_commit"}
            assert set(words) <= known, name


def test_the_page_documents_every_limit_with_its_value() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \| .+ \|$", section("## Limits"), re.MULTILINE)
    bounds = {
        name: str(value)
        for name, value in vars(limits).items()
        if name.isupper() and name not in ("KIB", "MIB")
    }
    assert dict(rows) == bounds


def test_the_examples_of_keys_are_right() -> None:
    rows = re.findall(r"^\| `\((.+)\)` \| `([0-9a-f ]+)` \|$", section("## Keys"), re.MULTILINE)
    wanted = {shown: encode_key(key).hex(" ") for shown, key in examples.KEYS_DOCUMENTED.items()}
    assert dict(rows) == wanted
    start, end = (edge.hex(" ") for edge in prefix_range(("balance",)))
    assert f'for `("balance")` from `{start}` to `{end}`' in flat(section("## Keys"))


def test_the_scram_messages_equal_the_test_vectors() -> None:
    text = section("## Authentication")
    for message in examples.SCRAM:
        assert message.decode() in text


def session_lines() -> list[tuple[str, str, bytes]]:
    """The direction, the notation and the frame of each message of the session in hex."""
    found: list[tuple[str, str, bytes]] = []
    for line in section("## A session in hex").splitlines():
        if match := re.fullmatch(r"    (->|<-) (.+)", line):
            found.append((match[1], match[2], b""))
        elif match := re.fullmatch(r"       ([0-9a-f ]+)", line):
            direction, shown, frame = found[-1]
            found[-1] = (direction, shown, frame + bytes.fromhex(match[1]))
    return found


def test_the_session_in_hex_is_a_real_session() -> None:
    server = ServerConnection()
    lines = session_lines()
    assert len(lines) > 10
    for direction, shown, frame in lines:
        message: Any = decode(frame[4:], limits.BODY_SIZE_MAX, limits.REQUEST_ITEMS_MAX)
        assert notation(message) == shown
        assert frame == encode_frame(encode(message))
        request_id, status, *payload = message
        if direction == "->":
            (item,) = server.receive(frame)
            assert isinstance(item, Request) or status == "get"
        elif status == 0:
            assert server.answer(request_id, *payload) == frame
        elif status == 1:
            assert server.error(request_id, HeadwaterError.from_payload(*payload)) == frame
        else:
            assert server.push(request_id, *payload) == frame
    assert server.in_flight == {}
