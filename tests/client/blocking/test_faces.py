"""The blocking face has the same methods, arguments and docstrings as the asynchronous face."""

import ast
import functools
import inspect
import operator
import types
import typing
from typing import Any

import pytest

import generate_blocking
from headwater.blocking.database import BlockingDatabase
from headwater.blocking.pages import BlockingPages
from headwater.connecting import connect, connect_blocking
from headwater.database import Database
from headwater.reads.pages import Pages
from headwater.transactions.transaction import Transaction

PAIRS = [
    (
        generate_blocking.load(path),
        generate_blocking.load(f"{module}.{generate_blocking.blocking_name(name)}"),
    )
    for module, paths in generate_blocking.GENERATED.items()
    for path in paths
    for name in [path.rpartition(".")[2]]
]

EVERY_PAIR = pytest.mark.parametrize(("awaited", "plain"), PAIRS, ids=lambda face: face.__name__)


def members(face: type) -> dict[str, Any]:
    """The public names of a class."""
    return {name: getattr(face, name) for name in dir(face) if not name.startswith("_")}


def in_common(awaited: type, plain: type) -> list[tuple[str, Any, Any]]:
    """The methods and properties that both faces have."""
    theirs = members(awaited)
    return [(name, theirs[name], own) for name, own in members(plain).items() if name in theirs]


@pytest.mark.parametrize("module", generate_blocking.GENERATED)
def test_the_committed_files_are_those_that_the_generator_makes(module: str) -> None:
    checked_in = ast.parse(generate_blocking.path_of(module).read_text())
    made = ast.parse(generate_blocking.generate(module))
    assert without_order(made) == without_order(checked_in), "run `make blocking`"


def without_order(tree: ast.Module) -> set[str]:
    """The parts of a module. The order of imports is the formatter's business."""
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            node.names.sort(key=lambda alias: alias.name)
    return {ast.dump(node) for node in tree.body}


@EVERY_PAIR
def test_both_faces_have_the_same_names(awaited: type, plain: type) -> None:
    left_out = generate_blocking.INTERNAL.get(awaited.__name__, set())
    attributes = {name for name, _, _ in generate_blocking.public_attributes(awaited)}
    assert left_out <= members(awaited).keys()
    assert (members(awaited).keys() | attributes) - left_out == members(plain).keys()


@EVERY_PAIR
def test_both_faces_take_the_same_arguments(awaited: type, plain: type) -> None:
    for name, theirs, own in in_common(awaited, plain):
        if inspect.isfunction(own):
            expected = inspect.signature(theirs).parameters
            mine = inspect.signature(own).parameters
            assert [*mine] == [*expected], name
            if (awaited, name) not in ((Database, "run"), (Database, "consume")):
                # These take an async function on one face, and a plain function on the other.
                assert mine == expected, name


@EVERY_PAIR
def test_both_faces_have_the_same_return_types(awaited: type, plain: type) -> None:
    for name, theirs, own in in_common(awaited, plain):
        if (
            inspect.isfunction(own)
            and (awaited.__name__, name) not in generate_blocking.RETURN_TYPES
        ):
            expected = of_the_blocking_face(typing.get_type_hints(theirs)["return"])
            # As text, since each module defines its own type variables.
            assert str(typing.get_type_hints(own)["return"]) == str(expected), name


def of_the_blocking_face(hint: Any) -> Any:
    """A type of the asynchronous face as a type of the blocking one."""
    faces: dict[Any, Any] = {**dict(PAIRS), Pages: BlockingPages}
    origin = typing.get_origin(hint)
    if origin in faces:
        return faces[origin][typing.get_args(hint)]
    if origin is types.UnionType:
        return functools.reduce(operator.or_, map(of_the_blocking_face, typing.get_args(hint)))
    return faces.get(hint, hint)


@EVERY_PAIR
def test_both_faces_have_the_same_docstrings(awaited: type, plain: type) -> None:
    for name, theirs, own in in_common(awaited, plain):
        assert theirs.__doc__, f"{awaited.__name__}.{name} has no docstring"
        expected = generate_blocking.adapted(inspect.getdoc(theirs) or "")
        assert inspect.getdoc(own) == expected, name
    assert inspect.getdoc(plain) != inspect.getdoc(object)


@EVERY_PAIR
def test_no_docstring_of_the_blocking_face_mentions_await(awaited: type, plain: type) -> None:
    for name, own in members(plain).items():
        assert inspect.getdoc(own), f"{plain.__name__}.{name} has no docstring"
        for word in ("async ", "await ", "trio"):
            assert word not in (inspect.getdoc(own) or ""), name


def test_a_docstring_that_mentions_await_is_adapted() -> None:
    told = "`async with db` and `async for`; await db.get(key). It belongs to one task."
    assert generate_blocking.adapted(told) == (
        "`with db` and `for`; db.get(key). It belongs to one thread."
    )


def test_help_of_an_append_lists_its_arguments_and_errors() -> None:
    told = inspect.getdoc(BlockingDatabase.append)
    assert told is not None
    for word in ("expect:", "unless, after:", "WrongVersion:", "ConditionFailed:"):
        assert word in told


def test_both_ways_to_connect_take_the_same_arguments() -> None:
    awaited = dict(inspect.signature(connect).parameters)
    assert awaited.pop("open_stream").default is None
    assert awaited == dict(inspect.signature(connect_blocking).parameters)


def test_writes_of_a_transaction_are_plain_functions_and_single_writes_are_coroutines() -> None:
    for name in ("put", "delete", "delete_range", "add", "min", "max", "append", "save_snapshot"):
        assert not inspect.iscoroutinefunction(getattr(Transaction, name)), name
        assert inspect.iscoroutinefunction(getattr(Database, name)), name
