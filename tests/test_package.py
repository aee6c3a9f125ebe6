"""The package: its version, what its files hold, what it needs, and that the page of installation says so."""

import ast
import csv
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import kdad

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
LATE = {ROOT / "kdad/app/page.py", ROOT / "kdad/app/server.py"}  # imported once kdad app has found what they need


def normalise(name):
    """Return a distribution's name as PEP 503 has it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def list_names(requirements):
    return {normalise(Requirement(text).name) for text in requirements}


# Its version ----------------------------------------------------------------------------------------------


def test_the_version_stands_in_one_place_and_is_told_elsewhere():
    """In `kdad/__init__.py`, where pyproject.toml takes it from; changelog and citation tell the last release."""
    assert PROJECT["dynamic"] == ["version"] and "version" not in PROJECT
    released = re.search(r"^## \[(\d[\d.]*)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)[1]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["version"] == released
    assert kdad.__version__ == released or ".dev" in kdad.__version__


# What its files hold --------------------------------------------------------------------------------------


def list_files(*folders):
    files = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    return {path.relative_to(ROOT).as_posix() for path in files if "__pycache__" not in path.parts}


def list_packed(builder):
    """Return where the files of a build would lie in it, by hatchling's own list: nothing is built."""
    return {Path(file.distribution_path).as_posix() for file in builder.recurse_included_files()}


def test_the_wheel_holds_every_file_that_kdad_reads():
    wheel = pytest.importorskip("hatchling.builders.wheel", reason="needs hatchling: pip install 'kdad[test]'")
    builder = wheel.WheelBuilder(str(ROOT))
    wanted = list_files("kdad") | {f"kdad/{file}" for file in list_files("conf")}
    assert {"kdad/published/index.csv", "kdad/page/templates/report.css", "kdad/conf/run.yaml"} < wanted
    packed = list_packed(builder)
    assert wanted - packed == set()
    assert {file for file in packed if not file.startswith("kdad/")} == set()
    assert builder.metadata.core.license_files == ["LICENSE"]


def test_the_source_distribution_holds_what_builds_and_tests_it():
    sdist = pytest.importorskip("hatchling.builders.sdist", reason="needs hatchling: pip install 'kdad[test]'")
    wanted = list_files("kdad", "conf", "docs", "tests", "experiments/sweeps")
    wanted |= {"LICENSE", "README.md", "CHANGELOG.md", "CITATION.cff", "Makefile", "mkdocs.yml"}
    assert wanted - list_packed(sdist.SdistBuilder(str(ROOT))) == set()


# What it needs --------------------------------------------------------------------------------------------


def list_imports(path):
    """Yield the packages that a file imports, each with whether that is as soon as the file itself is imported."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inner = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    inner += [node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)]
    late = {child for node in inner for child in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module]
            yield from ((name.partition(".")[0], node not in late) for name in names)


def test_what_is_imported_is_declared():
    """What every installation has is a dependency, and used; what an extra brings is imported where it is asked for."""
    known = packages_distributions()
    mandatory, optional = list_names(PROJECT["dependencies"]), set().union(*map(list_names, EXTRAS.values())) - {"kdad"}
    used = set()
    for path in sorted((ROOT / "kdad").rglob("*.py")):
        for name, at_once in list_imports(path):
            if name == "kdad" or name in sys.stdlib_module_names:
                continue
            owners = {normalise(owner) for owner in known.get(name, [name])}
            used |= owners
            assert owners & (mandatory | optional), f"{path} imports {name}, which pyproject.toml does not name"
            assert not at_once or owners & mandatory or path in LATE, f"{path} needs {name} before it is asked for"
    assert mandatory - used == set()
    assert "wandb" not in {
        name for path in (ROOT / "kdad").rglob("*.py") for name, at_once in list_imports(path) if at_once
    }


# What the page says ---------------------------------------------------------------------------------------


def test_the_table_of_extras_is_that_of_the_package():
    """Each extra has a row, which names what it installs, and each row is an extra's; sizes are those measured."""
    text = (ROOT / "docs/install.md").read_text(encoding="utf-8")
    found = re.findall(r"^\| `(\w+)` \|.*?\|(.*?)\| (.*?) \|$", text, re.MULTILINE)
    rows = {name: cell for name, cell, _ in found}
    assert list(rows) == list(EXTRAS)
    with (ROOT / "experiments/install/sizes.csv").open(encoding="utf-8") as file:
        sizes = dict(csv.reader(file))
    assert {name: size for name, _, size in found} == {name: sizes[name] for name in EXTRAS}
    assert f"{sizes['kdad']} MB beside PyTorch, which takes {int(sizes['PyTorch']) / 1000:.1f} GB" in text
    for extra, cell in rows.items():
        wanted = list_names(EXTRAS[extra]) - {"kdad"}
        within = {name for text in EXTRAS[extra] for name in Requirement(text).extras if "kdad[" in text}
        assert {normalise(word) for word in re.findall(r"[\w.-]+", cell)} >= wanted | within, extra


TOP = {
    ".ci", ".gitignore", ".pre-commit-config.yaml", "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "LICENSE",
    "Makefile", "README.md",
    "conf", "docs", "experiments", "kdad", "mkdocs.yml", "pyproject.toml", "tests",
}  # fmt: skip


def test_nothing_strays_into_the_repository():
    """What a script writes where it should not, such as a folder called --help, is not committed."""
    if not (ROOT / ".git").exists():
        pytest.skip("needs the repository")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {line.partition("/")[0] for line in listed.splitlines()} == TOP
