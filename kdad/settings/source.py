"""What a class says of itself, read from its source: to import it takes seconds, which a refusal need not wait for."""

import ast
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

PACKAGE = "__init__.py"
Found = ast.ClassDef | ast.FunctionDef


def read_parameters(target: str) -> list[str] | None:
    """Return the keyword arguments of a class or function, those of its parents too where it passes `**keywords` on.

    None where its source does not tell: then only its import does.
    """
    names: list[str] = []
    for _, found in _list_owners(target):
        init = found if isinstance(found, ast.FunctionDef) else _find_init(found)
        if isinstance(found, ast.ClassDef) and found.decorator_list:
            return None  # such as a dataclass, whose __init__ is written nowhere
        if init:
            taken = (*init.args.args, *init.args.kwonlyargs)
            names += [argument.arg for argument in taken if argument.arg != "self"]
            if init.args.kwarg is None:
                return names
    return None


def read_constant(target: str, name: str) -> Any:
    """Return what a class, or the first of its parents that does, gives this name in its body.

    Returns the constant, of an expression its text, None where there is no such name.
    """
    for _, found in _list_owners(target):
        for node in found.body:
            named = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
            value = getattr(node, "value", None)
            if isinstance(named, ast.Name) and named.id == name and value is not None:
                try:
                    return ast.literal_eval(value)
                except ValueError:
                    return ast.unparse(value)
    return None


def read_defaults(target: str) -> dict[str, Any]:
    """Return the defaults of a class's keyword-only arguments that are constants, by their names."""
    for _, found in _list_owners(target):
        if isinstance(found, ast.ClassDef) and (init := _find_init(found)):
            pairs = zip(init.args.kwonlyargs, init.args.kw_defaults, strict=True)
            return {argument.arg: value.value for argument, value in pairs if isinstance(value, ast.Constant)}
    return {}


def _find_init(found: ast.ClassDef) -> ast.FunctionDef | None:
    return next((n for n in found.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)


def _list_owners(target: str) -> Iterator[tuple[str, Found]]:
    """Yield a class and its parents, nearest first, each with its module; it ends at one whose source is not found."""
    waiting = [target]
    while waiting:
        place = _find(waiting.pop(0))
        if place is None:
            return
        yield place
        module, found = place
        if isinstance(found, ast.ClassDef):
            waiting += [_name_in_full(module, ast.unparse(base)) for base in found.bases]


@cache
def _find(target: str) -> tuple[str, Found] | None:
    """Find where a class or function is written, through the modules that only import it."""
    module, _, name = target.rpartition(".")
    for node in _list_statements(module):
        if isinstance(node, Found) and node.name == name:
            return module, node
    full = _name_in_full(module, name)
    return _find(full) if full != target else None


def _name_in_full(module: str, name: str) -> str:
    """Return what a name in a module, such as `pl.Trainer`, stands for: with the module that it is imported from."""
    first, dot, rest = name.partition(".")
    for node in _list_statements(module):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if first == (alias.asname or alias.name):
                    return f"{_locate(node, module)}.{alias.name}{dot}{rest}"
        if isinstance(node, ast.Import):
            for alias in node.names:
                if first == alias.asname:
                    return f"{alias.name}{dot}{rest}"
    return f"{module}.{name}"


def _locate(node: ast.ImportFrom, module: str) -> str:
    """Return the module that names are imported from, in full also where it is given by dots from this one."""
    if not node.level:
        return str(node.module)
    file = _find_file(module)
    above = module.split(".")
    above = above[: len(above) - node.level + bool(file and file.name == PACKAGE)]
    return ".".join([*above, *([node.module] if node.module else [])])


def _list_statements(module: str) -> Iterator[ast.stmt]:
    """Yield a module's own statements, and those in its `if`: of names that are imported for type checkers alone."""
    for node in _parse(module):
        yield node
        if isinstance(node, ast.If):
            yield from node.body


@cache
def _parse(module: str) -> list[ast.stmt]:
    """Parse a module's file. Empty where there is none."""
    file = _find_file(module)
    try:
        return ast.parse(file.read_text(encoding="utf-8")).body if file else []
    except (OSError, ValueError, SyntaxError):
        return []


def _find_file(module: str) -> Path | None:
    """Find the file of a module below a package; None where there is none."""
    first, *inside = module.split(".")
    try:
        spec = find_spec(first)  # of a dotted name, the packages above it would be imported
    except (ImportError, ValueError):
        return None
    if not spec or not spec.submodule_search_locations:
        return None
    place = Path(spec.submodule_search_locations[0], *inside)
    return next((file for file in (place / PACKAGE, place.with_suffix(".py")) if file.is_file()), None)
