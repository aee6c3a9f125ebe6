"""The names of the API page: each says shapes, errors and what it returns; its examples run."""

import ast
import doctest
import inspect
import re
import textwrap
from dataclasses import is_dataclass
from functools import cached_property
from importlib import import_module
from itertools import pairwise
from types import FunctionType

import pytest

import kdad
from kdad.data.layout import Layout
from kdad.settings.keys import BY_NAME
from tests.docs.blocks import ROOT

TEXT = (ROOT / "docs/api.md").read_text(encoding="utf-8")
SHAPE = re.compile(r"\((B|T|H|P|n|V|N|C|\d|levels|side|\.\.\.)[,)]|H x W|scalar|of any shape", re.IGNORECASE)
ARRAY = re.compile(r"Tensor|NDArray|ndarray|ArrayLike")
GIVES = re.compile(r"\b(return|yield)s?\b|->", re.IGNORECASE)
CANNOT_RAISE = {"kdad.metrics.ranking.auroc"}  # it asks `area` for the whole curve, which there always is
LEADS_ON = re.compile(r"see `([\w.]+)`")
ROOMS = ("kdad", "kdad.data", "kdad.metrics", "kdad.published", "kdad.teacher")
# What has examples; those of a trained detector run in a folder that has one, `run`
EXAMPLES = ["kdad.functional", "kdad.metrics.pro", "kdad.metrics.ranking", "kdad.published", "kdad.inference.decision",
            "kdad.inference.detector", "kdad.teacher.levels"]  # fmt: skip


def find(name):
    """Return the object of a dotted name."""
    parts = name.split(".")
    for split in range(len(parts), 0, -1):
        try:
            found = import_module(".".join(parts[:split]))
        except ModuleNotFoundError:
            continue
        for part in parts[split:]:
            found = getattr(found, part)
        return found
    raise ModuleNotFoundError(name)


def list_names():
    """Yield the names of the page that are functions or classes, members that it names among them."""
    for name, options in re.findall(r"^::: (\S+)\n((?:    .*\n)*)", TEXT, re.MULTILINE):
        found, members = find(name), re.search(r"members: \[(.*)\]", options)
        if members:
            yield from (f"{name}.{member}" for member in members[1].split(", "))
        elif inspect.ismodule(found):
            yield from (f"{name}.{key}" for key, value in vars(found).items()
                        if inspect.isfunction(value) and value.__module__ == name and not key.startswith("_"))  # fmt: skip
        if not inspect.ismodule(found):
            yield name


NAMES = list(dict.fromkeys(list_names()))
LAST = {name.rpartition(".")[2] for name in (*NAMES, *re.findall(r"^::: (\S+)", TEXT, re.MULTILINE))}


def read_docstring(name):
    """What the page shows of a name; of a type or a value that is called so, the text below it in its file."""
    found = find(name)
    if inspect.isclass(found) or inspect.isroutine(found) or isinstance(found, property | cached_property):
        return inspect.getdoc(found) or ""
    module, _, last = name.rpartition(".")
    place = ROOT / module.replace(".", "/")
    for file in [place.with_suffix(".py")] if place.with_suffix(".py").exists() else place.glob("*.py"):
        for before, after in pairwise(ast.parse(file.read_text(encoding="utf-8")).body):
            named = ast.unparse(before).partition("=")[0].strip().partition(":")[0] == last
            if named and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                return inspect.cleandoc(after.value.value)
    return ""


def read_function(found):
    """The function behind a name: a property's getter, a class's own constructor; None of a class without one."""
    if inspect.isclass(found):
        plain = is_dataclass(found) or not isinstance(vars(found).get("__init__"), FunctionType)
        return None if plain else found.__init__
    return found.fget if isinstance(found, property) else getattr(found, "func", found)


def list_raised(function, owner=None, depth=3):
    """Names of the errors that a function raises, or what it calls of kdad outside any `try`, so many calls deep."""
    raised = set()
    waiting = [ast.parse(textwrap.dedent(inspect.getsource(function)))]
    while waiting:
        node = waiting.pop()
        waiting += (
            [*node.finalbody, *node.orelse, *node.handlers] if isinstance(node, ast.Try) else ast.iter_child_nodes(node)
        )
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            raised |= {name for name in [ast.unparse(node.exc.func)] if name.endswith("Error")}
        if depth and isinstance(node, ast.Call):
            called = find_called(node.func, function, owner)
            raised |= list_raised(*called, depth - 1) if called else set()
    return raised - {"NotImplementedError", "RuntimeError"}


def find_called(node, function, owner):
    """The function of kdad that is called, and the class whose `self` it has; None of any other."""
    called = None
    if isinstance(node, ast.Name):
        called, owner = function.__globals__.get(node.id), None
    elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        inside = owner if node.value.id == "self" else function.__globals__.get(node.value.id)
        called = inspect.getattr_static(inside, node.attr, None) if inside is not None else None
    if inspect.isclass(called):
        called, owner = read_function(called), called
    is_own = isinstance(called, FunctionType) and called.__module__.startswith("kdad") and called is not function
    return (called, owner) if is_own else None


def list_arguments(found):
    """Names that the page must explain: a constructor's arguments, the fields of a named tuple or a dataclass."""
    if getattr(found, "_fields", None):
        return list(found._fields)
    if is_dataclass(found):
        return list(found.__dataclass_fields__)
    function = read_function(found)
    taken = inspect.signature(function).parameters if function else {}
    taken = [name for name, about in taken.items() if name != "self" and about.kind is not about.VAR_KEYWORD]
    # The reference of the configuration, to which the page leads from here, explains these.
    return [name for name in taken if not (issubclass(found, Layout) and f"dataset.{name}" in BY_NAME)]


def test_every_public_name_is_on_the_page():
    public = [f"{room}.{name}" for room in ROOMS for name in import_module(room).__all__]
    missing = [name for name in public if not name.endswith("__") and callable(find(name)) and name not in NAMES]
    assert [name for name in missing if name != "kdad.data.AnomalyDataModule"] == []  # there by its full name
    assert {"load", "Detector", "Result"} <= set(dir(kdad))


@pytest.mark.parametrize("name", [name for name in NAMES if name.count(".") > 1])
def test_a_member_is_its_class_s_own(name):
    """One that is inherited is not rendered, and nothing says so."""
    owner = find(name.rpartition(".")[0])
    assert not inspect.isclass(owner) or name.rpartition(".")[2] in vars(owner)


@pytest.mark.parametrize("name", [name for name in NAMES if inspect.isclass(find(name))])
def test_a_class_says_what_it_is_made_of_and_what_its_constructor_raises(name):
    found = find(name)
    said = read_docstring(name)
    unsaid = [key for key in list_arguments(found) if not re.search(rf"`{key}\b|^ +{key}:", said, re.MULTILINE)]
    assert unsaid == []
    function = read_function(found)
    for error in list_raised(function, found) if function else ():
        assert error in said, f"its constructor raises {error}"


@pytest.mark.parametrize("name", NAMES)
def test_a_name_says_what_it_takes_gives_and_raises(name):
    found = find(name)
    said = read_docstring(name)
    assert said and not said.startswith("dict("), "no docstring"
    for other in LEADS_ON.findall(said):
        assert other.rpartition(".")[2] in LAST, f"{other} is not on the page"
    function = read_function(found)
    if inspect.isclass(found) or not inspect.isfunction(function):
        return
    owner = find(name.rpartition(".")[0])
    raised = set() if name in CANNOT_RAISE else list_raised(function, owner if inspect.isclass(owner) else None)
    for error in raised:
        assert error in said or error in (inspect.getdoc(owner) or ""), f"it raises {error}"
    types = inspect.get_annotations(function)
    if ARRAY.search(" ".join(map(str, types.values()))):
        assert SHAPE.search(said), "no shape"
    if types.get("return") is not None and not isinstance(found, property | cached_property):
        assert GIVES.search(said), "it does not say what it returns"


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_run(name, at_printed):
    tests = doctest.DocTestFinder().find(import_module(name), globs=vars(import_module(name)) | {"kdad": kdad})
    tests = [test for test in tests if test.examples]
    runner = doctest.DocTestRunner()
    assert tests and not sum(runner.run(test).failed for test in tests)
