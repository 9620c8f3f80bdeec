"""Generates the blocking client from the asynchronous one.

    class Database:                                   class BlockingDatabase:
        async def get(self, key): ...        -->          def get(self, key):
                                                              return step(self._core.get(key))

Every public method of a class becomes a method of its blocking class, with the same signature and
the same docstring, without `async` and `await`. So the two clients cannot drift apart, and type
checkers and `help` see plain code. The rest of `headwater.blocking` is written by hand: iterating
over pages, calling handlers, and running projections.

    make blocking        write all generated modules
"""

import ast
import builtins
import functools
import importlib
import inspect
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Final

CLIENT: Final = Path(__file__).parent

GENERATED: Final = {
    "headwater.blocking.reads": ["headwater.reads.reads.Reads"],
    "headwater.blocking.history": [
        "headwater.reads.history.History",
        "headwater.reads.commit_reads.CommitReads",
    ],
    "headwater.blocking.past": ["headwater.reads.past.Past"],
    "headwater.blocking.single_writes": ["headwater.transactions.single_writes.SingleWrites"],
    "headwater.blocking.transaction": ["headwater.transactions.transaction.Transaction"],
    "headwater.blocking.subscription": [
        "headwater.feeds.subscription.Events",
        "headwater.feeds.subscription.Subscription",
        "headwater.feeds.key_feed.KeyFeed",
    ],
    "headwater.blocking.delivery": ["headwater.groups.delivery.Delivery"],
    "headwater.blocking.membership": ["headwater.groups.membership.Membership"],
    "headwater.blocking.administration": ["headwater.accounts.administration.Administration"],
    "headwater.blocking.connections": ["headwater.accounts.connections.Connections"],
    "headwater.blocking.rights": ["headwater.accounts.rights.Rights"],
    "headwater.blocking.groups": ["headwater.groups.administration.Groups"],
    "headwater.blocking.models": [
        "headwater.projections.models.Model",
        "headwater.projections.models.ReadModel",
    ],
    "headwater.blocking.projections": ["headwater.projections.projections.Projections"],
    "headwater.blocking.database": ["headwater.database.Database"],
    "headwater.aggregates.blocking_aggregates": ["headwater.aggregates.aggregates.Aggregates"],
}
"""The modules that are generated, and the classes that each is made of."""

HAND_WRITTEN: Final = {"Pages": "headwater.blocking.pages"}
"""Classes whose blocking class is written by hand, and where it is."""

INTERNAL: Final = {
    "Delivery": {"check_mine", "claim", "settle"},
    "KeyFeed": {"deliver", "lose"},
    "Membership": {"deliver", "lose"},
    "Projections": {"define", "defined", "run"},
    "Subscription": {"deliver", "lose", "next_event"},
    "Transaction": {"settle", "settle_deliveries", "prepare"},
}
"""Public methods that only the client itself calls. The blocking class does not have them."""

NOTES: Final = {
    "KeyFeed": "It has a connection of its own, because waiting for a change blocks it.",
    "Database": (
        "Each request has a connection to itself until it is answered, so threads do not wait for "
        "each\nother."
    ),
    "Membership": "It has a connection of its own, because waiting for an event blocks it.",
    "Subscription": "It has a connection of its own, because waiting for an event blocks it.",
}
"""Sentences to add to the docstring of a blocking class."""

BODIES: Final = {
    ("Database", "__init__"): "self._core = Database(address, options, BlockingRuntime())",
    ("Database", "run"): """\
        return step(
            self._core.run(
                in_blocking_transaction(function),
                *arguments,
                isolation=isolation,
                attempts=attempts,
                deadline=deadline,
            )
        )""",
    ("Database", "projection"): """\
        if effects is not None:
            effects = stepped_effects(name, effects)
        return with_blocking_handler(name, {call})""",
    ("Database", "consume"): (
        "consume_in_threads(self._core, group, handler, concurrency=concurrency, "
        "until_caught_up=until_caught_up)"
    ),
    ("Database", "lock"): "return BlockingLock(self._core, name, ttl)",
    ("Database", "subscribe"): """\
        # The overloads have no way to call it that passes all arguments on.
        subscribe: Callable[..., Subscription | KeyFeed] = self._core.subscribe
        core = subscribe({arguments})
        if isinstance(core, KeyFeed):
            return BlockingKeyFeed(core)
        return BlockingSubscription(core)""",
    ("Database", "run_projections"): (
        "return RunningProjections(self._core, self._core.projections, names)"
    ),
    ("Delivery", "claimed"): "return self._core",
}
"""Methods that do more than forward."""

RETURN_TYPES: Final = {
    ("Database", "lock"): "BlockingLock",
    ("Database", "run_projections"): "RunningProjections",
    ("Delivery", "claimed"): "Delivery",
}
"""Return types of methods that return something else than the asynchronous method."""

MODULES: Final = {
    "consume_in_threads": "headwater.blocking.consuming",
    "BlockingLock": "headwater.blocking.lock",
    "KeyFeed": "headwater.feeds.key_feed",
    "Subscription": "headwater.feeds.subscription",
    "BlockingRuntime": "headwater.transport.blocking_runtime",
    "RunningProjections": "headwater.blocking.running_projections",
    "in_blocking_transaction": "headwater.blocking.handlers",
    "step": "headwater.transport.stepping",
    "stepped_effects": "headwater.blocking.handlers",
    "with_blocking_handler": "headwater.blocking.handlers",
}
"""The modules of names that only generated code uses."""

REPLACEMENTS: Final = (
    (r"\basync (with|for|def)\b", r"\1"),
    (r"\bawait ", ""),
    (r"\btask(s?)\b", r"thread\1"),
)
"""Regular expressions and replacements that adapt a docstring to the blocking client."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


def adapted(docstring: str) -> str:
    """The docstring of an asynchronous method, adapted to the blocking client."""
    for pattern, replacement in REPLACEMENTS:
        docstring = re.sub(pattern, replacement, docstring)
    return docstring


def blocking_name(name: str) -> str:
    """The name of the blocking class of a class."""
    return f"Blocking{name}"


@functools.cache
def blocking_modules() -> dict[str, str]:
    """The module of each blocking class, by the name of the class that it wraps."""
    made = {
        path.rpartition(".")[2]: module for module, paths in GENERATED.items() for path in paths
    }
    return {**made, **HAND_WRITTEN}


@functools.cache
def tree_of(module: ModuleType) -> ast.Module:
    """The source of a module, parsed."""
    return ast.parse(inspect.getsource(module))


@functools.cache
def imports_of(module: ModuleType) -> dict[str, str]:
    """The names that a module imports, each with the module that it comes from."""
    return {
        alias.asname or alias.name: node.module
        for node in ast.walk(tree_of(module))
        if isinstance(node, ast.ImportFrom) and node.module is not None
        for alias in node.names
    }


def class_node(cls: type) -> ast.ClassDef:
    """A class, parsed."""
    module = inspect.getmodule(cls)
    assert module is not None
    for node in tree_of(module).body:
        if isinstance(node, ast.ClassDef) and node.name == cls.__name__:
            return node
    raise AssertionError(f"{cls} is not at the top of its module")


class BlockingTypes(ast.NodeTransformer):
    """Replaces asynchronous types in an annotation by blocking ones."""

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        # A type in quotes. Annotations here contain no other strings.
        if isinstance(node.value, str):
            return rewritten(ast.parse(node.value, mode="eval").body)
        return node

    def visit_Name(self, node: ast.Name) -> ast.AST:
        if node.id in blocking_modules():
            return ast.Name(blocking_name(node.id))
        return node

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        if isinstance(node.value, ast.Name) and node.value.id == "Awaitable":
            return rewritten(node.slice)
        return self.generic_visit(node)


def rewritten(annotation: ast.expr) -> ast.expr:
    """An annotation with blocking types in place of asynchronous ones."""
    # A starred annotation, of *arguments, is no expression by itself.
    starred = isinstance(annotation, ast.Starred)
    plain = annotation.value if isinstance(annotation, ast.Starred) else annotation
    copied = ast.parse(ast.unparse(plain), mode="eval").body
    changed = BlockingTypes().visit(copied)
    assert isinstance(changed, ast.expr)
    return ast.Starred(changed) if starred else changed


@dataclass
class Generated:
    """A module that is being generated.

    Attributes:
        name: of the module.
        needs: the names that its code uses, by the module that they come from.
        variables: type variables, as they are defined.
        classes: the code of its classes.
    """

    name: str
    needs: dict[str, set[str]] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)
    classes: list[str] = field(default_factory=list)

    def need(self, name: str, place: str) -> None:
        """Import a name, unless the module has it."""
        if place != self.name:
            self.needs.setdefault(place, set()).add(name)

    def need_all(self, expression: ast.AST, module: ModuleType) -> None:
        """Import the names in an expression from where *module* imports or defines them."""
        for node in ast.walk(expression):
            if not isinstance(node, ast.Name) or hasattr(builtins, node.id):
                continue
            core = node.id.removeprefix("Blocking")
            if node.id in MODULES:
                self.need(node.id, MODULES[node.id])
            elif core != node.id and core in blocking_modules():
                self.need(node.id, blocking_modules()[core])
            elif node.id in imports_of(module):
                self.need(node.id, imports_of(module)[node.id])
            else:
                self._need_own(node.id, module)

    def need_modules(self, body: str) -> None:
        """Import what a body of BODIES uses."""
        for name, place in MODULES.items():
            if re.search(rf"\b{name}\b", body):
                self.need(name, place)

    def _need_own(self, name: str, module: ModuleType) -> None:
        for node in tree_of(module).body:
            if (
                isinstance(node, ast.Assign)
                and ast.unparse(node.targets[0]) == name
                and isinstance(node.value, ast.Call)
                and ast.unparse(node.value.func) in ("TypeVar", "TypeVarTuple")
            ):
                self.variables[name] = ast.unparse(node)
                self.need(ast.unparse(node.value.func), "typing")
                for bound in node.value.keywords:
                    self.need_all(bound.value, module)
                return
        self.need(name, module.__name__)

    def source(self) -> str:
        """The module's code, not formatted yet."""
        wrapped = ", ".join(path.rpartition(".")[2] for path in GENERATED[self.name])
        imports = [
            f"from {place} import {', '.join(sorted(names))}"
            for place, names in sorted(self.needs.items())
        ]
        return "\n".join(
            [
                f'"""{wrapped} without an event loop. Generated by client/generate_blocking.py."""',
                "",
                *imports,
                "",
                *self.variables.values(),
                *self.classes,
            ]
        )


def is_overload(function: Function) -> bool:
    """Whether a function only tells type checkers of one way to call it."""
    return any(ast.unparse(each) == "overload" for each in function.decorator_list)


def overloads(cls: type, name: str) -> Iterator[tuple[Function, ModuleType]]:
    """The overloads of a method."""
    for base in cls.__mro__:
        module = inspect.getmodule(base)
        if module is None or not module.__name__.startswith("headwater."):
            continue
        found = [
            node
            for node in class_node(base).body
            if isinstance(node, Function) and node.name == name
        ]
        if found:
            yield from ((node, module) for node in found if is_overload(node))
            return


def own_functions(cls: type) -> Iterator[tuple[Function, ModuleType]]:
    """The functions of a class, and of those bases that have no blocking class."""
    mapped = {base for base in cls.__mro__[1:] if base.__name__ in blocking_modules()}
    covered = {base for wrapped in mapped for base in wrapped.__mro__}
    seen: set[str] = set()
    for base in cls.__mro__:
        module = inspect.getmodule(base)
        if base in covered or module is None or not module.__name__.startswith("headwater."):
            continue
        for node in class_node(base).body:
            if isinstance(node, Function) and node.name not in seen and not is_overload(node):
                seen.add(node.name)
                yield node, module


def public_attributes(cls: type) -> Iterator[tuple[str, ast.expr, ModuleType]]:
    """The attributes that __init__ assigns, with their types."""
    covered = [base for base in cls.__mro__[1:] if base.__name__ in blocking_modules()]
    theirs = {name for base in covered for name, _, _ in public_attributes(base)}
    for function, module in _inits(cls, covered):
        arguments = [*function.args.args, *function.args.kwonlyargs]
        types = {argument.arg: argument.annotation for argument in arguments}
        for node in ast.walk(function):
            match node:
                case ast.AnnAssign(target=ast.Attribute(attr=name)):
                    pass
                case ast.Assign(targets=[ast.Attribute(attr=name)]):
                    pass
                case _:
                    continue
            if not name.startswith("_") and name not in theirs:
                yield name, _type_of(node, types), module


def _inits(cls: type, covered: list[type]) -> Iterator[tuple[Function, ModuleType]]:
    """The __init__ of a class, and those of its bases, except of *covered* ones."""
    theirs = {each for base in covered for each in base.__mro__}
    for base in cls.__mro__:
        module = inspect.getmodule(base)
        if base in theirs or module is None or not module.__name__.startswith("headwater."):
            continue
        for node in class_node(base).body:
            if isinstance(node, Function) and node.name == "__init__":
                yield node, module


def _type_of(node: ast.AST, types: dict[str, ast.expr | None]) -> ast.expr:
    """The type of an assignment: its annotation, or the type of its value."""
    match node:
        case ast.AnnAssign(annotation=annotation):
            return annotation
        case ast.Assign(value=ast.Name(id=name)) if (known := types.get(name)) is not None:
            return known
        case ast.Assign(value=ast.Call(func=ast.Name() as made)):
            return made
        case ast.Assign(value=ast.Constant(value=bool())):
            return ast.Name("bool")
        case _:
            raise AssertionError(f"cannot tell the type of {ast.unparse(node)}")


def attribute_docs(cls: type) -> dict[str, str]:
    """The descriptions of attributes in the docstring of a class."""
    docstring = inspect.getdoc(cls) or ""
    _, _, section = docstring.partition("Attributes:\n")
    docs: dict[str, str] = {}
    for entry in re.findall(r"^    (\S.*(?:\n        .*)*)", section, re.MULTILINE):
        names, _, text = " ".join(entry.split()).partition(": ")
        for name in names.split(", "):
            first, stop, rest = (text[:1].upper() + text[1:]).partition(". ")
            more = f"\n\n{textwrap.fill(rest, 88)}" if rest else ""
            docs[name] = f"{first}{stop.strip()}{more}"
    return docs


def forwarded(function: Function) -> str:
    """The arguments of a call that passes on all arguments of a function."""
    arguments = function.args
    given = [argument.arg for argument in arguments.args[1:]]
    if arguments.vararg is not None:
        given.append(f"*{arguments.vararg.arg}")
    given += [f"{argument.arg}={argument.arg}" for argument in arguments.kwonlyargs]
    return ", ".join(given)


def quoted(docstring: str) -> str:
    """A docstring as code."""
    return f'"""{docstring}"""' if "\n" not in docstring else f'"""{docstring}\n"""'


def signature(
    generated: Generated, cls: type, function: Function, module: ModuleType
) -> tuple[ast.arguments, ast.expr]:
    """The arguments and the return type of a method of the blocking class."""
    parsed = ast.parse(f"def f({ast.unparse(function.args)}): ...").body[0]
    assert isinstance(parsed, ast.FunctionDef)
    arguments = parsed.args
    for argument in (
        *arguments.args,
        *arguments.kwonlyargs,
        *([arguments.vararg] if arguments.vararg else []),
    ):
        if argument.annotation is not None:
            argument.annotation = rewritten(argument.annotation)
    place = (cls.__name__, function.name)
    assert function.returns is not None, place
    returns = rewritten(function.returns)
    if place in RETURN_TYPES:
        returns = ast.parse(RETURN_TYPES[place], mode="eval").body
    generated.need_all(arguments, module)
    generated.need_all(returns, module)
    return arguments, returns


def method(
    generated: Generated, cls: type, function: Function, module: ModuleType
) -> Iterator[str]:
    """The lines of a method of the blocking class."""
    place = (cls.__name__, function.name)
    arguments, returns = signature(generated, cls, function, module)
    is_variadic = False
    for overload, found in overloads(cls, function.name):
        is_variadic |= overload.args.vararg is not None
        generated.need("overload", "typing")
        theirs = signature(generated, cls, overload, found)
        yield "    @overload"
        yield f"    def {function.name}({ast.unparse(theirs[0])}) -> {ast.unparse(theirs[1])}: ..."
    is_property = any(ast.unparse(each) == "property" for each in function.decorator_list)
    call = f"self._core.{function.name}"
    if not is_property:
        call += f"({forwarded(function)})"
    if isinstance(function, ast.AsyncFunctionDef):
        call = f"step({call})"
        generated.need("step", MODULES["step"])
    body = BODIES.get(place)
    if body is None:
        wrapper = ast.unparse(returns).partition("[")[0]
        if wrapper.removeprefix("Blocking") in blocking_modules():
            call = f"{wrapper}({call})"
        is_nothing = isinstance(returns, ast.Constant) and returns.value is None
        body = call if is_nothing else f"return {call}"
    else:
        body = body.replace("{call}", call).replace("{arguments}", forwarded(function))
        generated.need_modules(body)
    if is_property:
        yield "    @property"
    # As in the source: mypy takes no signature with *Ts for one that *arguments can have.
    ignore = "  # type: ignore[misc]\n" if is_variadic else ""
    yield f"    def {function.name}({ignore}{ast.unparse(arguments)}) -> {ast.unparse(returns)}:"
    docstring = ast.get_docstring(function)
    if docstring is not None:
        yield textwrap.indent(quoted(adapted(docstring)), " " * 8)
    yield textwrap.indent(textwrap.dedent(body), " " * 8)
    yield ""


CONTEXT: Final = """
    def __enter__(self) -> "{name}":
        step(self._core.__aenter__())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        step(self._core.__aexit__(kind, error, trace))
"""

NEXT: Final = """
    def __next__(self) -> {item}:
        try:
            return {call}
        except StopAsyncIteration:
            raise StopIteration from None
"""


def generate_class(generated: Generated, cls: type) -> None:
    """Add the blocking class of a class."""
    module = inspect.getmodule(cls)
    assert module is not None
    name = blocking_name(cls.__name__)
    generated.need(cls.__name__, module.__name__)
    functions = {function.name: (function, found) for function, found in own_functions(cls)}
    parents = [base for base in cls.__bases__ if base.__name__ in blocking_modules()]
    bases = [blocking_name(parent.__name__) for parent in parents]
    for base in bases:
        generated.need_all(ast.Name(base), module)
    core = cls.__name__
    generic = [node for node in class_node(cls).bases if ast.unparse(node).startswith("Generic[")]
    for node in generic:
        generated.need_all(node, module)
        bases.append(ast.unparse(node))
        core += ast.unparse(node).removeprefix("Generic")
    if "__anext__" in functions:
        function, found = functions["__anext__"]
        assert function.returns is not None
        item = rewritten(function.returns)
        generated.need_all(item, found)
        generated.need("Iterator", "collections.abc")
        bases.append(f"Iterator[{ast.unparse(item)}]")
    lines = [f"class {name}({', '.join(bases)}):" if bases else f"class {name}:"]
    docstring = adapted(inspect.getdoc(cls) or "")
    if cls.__name__ in NOTES:
        first, _, rest = docstring.partition("\n")
        docstring = f"{first}\n\n{NOTES[cls.__name__]}" + (f"\n{rest}" if rest else "")
    lines += [textwrap.indent(quoted(docstring), "    "), ""]
    if parents:
        lines += [f"    _core: {core}", ""]
    if (cls.__name__, "__init__") in BODIES:
        lines += _special_init(generated, cls, *functions["__init__"])
    else:
        assign = "super().__init__(core)" if parents else "self._core = core"
        lines += [f"    def __init__(self, core: {core}) -> None:", f"        {assign}"]
    if "__aenter__" in functions:
        generated.need("TracebackType", "types")
        generated.need("step", MODULES["step"])
        lines.append(CONTEXT.format(name=name))
    if "__anext__" in functions:
        call = "step(self._core.__anext__())"
        generated.need("step", MODULES["step"])
        wrapper = ast.unparse(item)
        if wrapper.removeprefix("Blocking") in blocking_modules():
            call = f"{wrapper}({call})"
        lines.append(NEXT.format(item=wrapper, call=call))
    if "__repr__" in functions:
        lines.append("    def __repr__(self) -> str:\n        return repr(self._core)\n")
    lines += attributes(generated, cls)
    for function, found in functions.values():
        if function.name.startswith("_") or function.name in INTERNAL.get(cls.__name__, ()):
            continue
        lines += method(generated, cls, function, found)
    generated.classes.append("\n".join(["", *lines]))


def _special_init(
    generated: Generated, cls: type, function: Function, module: ModuleType
) -> Iterator[str]:
    """An __init__ that makes the wrapped object. It has no argument for the runtime."""
    arguments = [argument for argument in function.args.args if argument.arg != "runtime"]
    for argument in arguments:
        if argument.annotation is not None:
            generated.need_all(argument.annotation, module)
    body = BODIES[cls.__name__, "__init__"]
    generated.need_modules(body)
    yield f"    def __init__({', '.join(map(ast.unparse, arguments))}) -> None:"
    yield f"        {body}"


def attributes(generated: Generated, cls: type) -> Iterator[str]:
    """Properties for the public attributes of the wrapped object."""
    docs = attribute_docs(cls)
    for name, kind, module in public_attributes(cls):
        annotation = rewritten(kind)
        generated.need_all(annotation, module)
        yield "    @property"
        yield f"    def {name}(self) -> {ast.unparse(annotation)}:"
        if name in docs:
            yield textwrap.indent(quoted(docs[name]), " " * 8)
        yield f"        return self._core.{name}"
        yield ""


def load(path: str) -> type:
    """The class of a full name."""
    module, _, name = path.rpartition(".")
    loaded = getattr(importlib.import_module(module), name)
    assert isinstance(loaded, type)
    return loaded


def generate(name: str) -> str:
    """The code of a module, not formatted yet."""
    generated = Generated(name)
    for path in GENERATED[name]:
        generate_class(generated, load(path))
    return generated.source()


def path_of(name: str) -> Path:
    """The file of a module."""
    return CLIENT / f"{name.replace('.', '/')}.py"


def main() -> None:
    """Write all modules, and format them."""
    # headwater/__init__.py imports the generated modules, which may be missing or broken. An empty
    # package in its place lets the asynchronous modules be imported anyway.
    package = ModuleType("headwater")
    package.__path__ = [str(CLIENT / "headwater")]
    sys.modules["headwater"] = package
    for name in GENERATED:
        path_of(name).write_text(generate(name))
    files = [str(path_of(name)) for name in GENERATED]
    for command in (["check", "--quiet", "--fix", "--select", "I"], ["format", "--quiet"]):
        subprocess.run([sys.executable, "-m", "ruff", *command, *files], check=True)  # noqa: S603


if __name__ == "__main__":
    main()
