"""The names of the API page: each says shapes, errors and what it returns; its examples run."""

import doctest
import inspect
import re
from importlib import import_module

import pytest

import kdad
from tests.docs.blocks import ROOT

TEXT = (ROOT / "docs/api.md").read_text(encoding="utf-8")
SHAPE = re.compile(r"\((B|H|P|n|V|T|N|C|3|levels|side|\.\.\.)[,)]|H x W|scalar|list of|each|shape", re.IGNORECASE)
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


def test_there_are_names():
    assert len(NAMES) > 70


@pytest.mark.parametrize("name", NAMES)
def test_a_name_says_what_it_takes_gives_and_raises(name):
    found = find(name)
    said = inspect.getdoc(found) or ""
    assert said and not said.startswith("dict("), "no docstring"
    function = found.fget if isinstance(found, property) else found
    if not inspect.isfunction(function):
        return
    owner = inspect.getdoc(find(name.rpartition(".")[0])) or ""  # a method's class may say it for all
    source = inspect.getsource(function)
    raised = set(re.findall(r"raise (\w+)\(", source)) - {"NotImplementedError", "RuntimeError"}
    for error in raised:
        assert error in said or error in owner, f"it raises {error}"
    types = " ".join(str(kind) for kind in inspect.get_annotations(function).values())
    if re.search(r"Tensor|NDArray|ndarray|ArrayLike", types):
        assert SHAPE.search(said), "no shape"


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_run(name, at_printed):
    tests = doctest.DocTestFinder().find(import_module(name), globs=vars(import_module(name)) | {"kdad": kdad})
    tests = [test for test in tests if test.examples]
    runner = doctest.DocTestRunner()
    assert tests and not sum(runner.run(test).failed for test in tests)
