"""Public functions with more than four parameters describe each in a section of their docstring (numpydoc)."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import xconsensus

ROOT = Path(xconsensus.__file__).parent
MANY = 4
Function = ast.FunctionDef | ast.AsyncFunctionDef


def public_functions(scope: ast.AST) -> Iterator[Function]:
    """Functions of a module or class, and methods of its classes, without those whose names begin with _."""
    for node in ast.iter_child_nodes(scope):
        if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_"):
            if isinstance(node, Function):
                yield node
            else:
                yield from public_functions(node)


def parameters(function: Function) -> list[str]:
    given = function.args
    several = [each for each in (given.vararg, given.kwarg) if each]
    names = [each.arg for each in [*given.posonlyargs, *given.args, *given.kwonlyargs, *several]]
    return [name for name in names if name not in ("self", "cls")]


def described(docstring: str) -> list[str]:
    """The names in the section ``Parameters``: ``name : text`` or ``name, name : text`` at its left edge."""
    _, _, section = docstring.partition("Parameters\n----------\n")
    found = re.findall(r"^(\w+(?:, \w+)*) : ", section.partition("\n\n")[0], re.MULTILINE)
    return [name for names in found for name in names.split(", ")]


def test_functions_of_many_parameters_describe_each() -> None:
    for module in ROOT.rglob("*.py"):
        for function in public_functions(ast.parse(module.read_text())):
            if len(names := parameters(function)) > MANY:
                found = described(ast.get_docstring(function) or "")
                assert sorted(found) == sorted(names), f"{module}: {function.name}"


def test_a_docstring_without_the_section_is_found() -> None:
    assert described("Draw what `a` says.\n\nb : a line.") == []
    assert described("Draw.\n\nParameters\n----------\na, b : two.\n    c : more of it.\nd : one.\n\ne : no.") == [
        "a",
        "b",
        "d",
    ]
