"""What comes from elsewhere runs no code: every way of reading a file that could is found in the source, and refused."""

import ast
import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

from kdad.storage.plain import Loader

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "kdad").rglob("*.py"))
NEVER = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"}  # they run what a file says
CALLS = {"eval", "exec", "os.system", "os.popen", "compile"}


def name(node):
    return ast.unparse(node) if isinstance(node, ast.Name | ast.Attribute) else ""


def find_unsafe(source):
    """Yield the calls and imports of a source that could run what a file holds."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            yield from (module for module in modules if module.partition(".")[0] in NEVER)
        if not isinstance(node, ast.Call):
            continue
        called, given = name(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
        if (
            called in CALLS
            or (called.endswith("torch.load") and given.get("weights_only") != "True")
            or (re.search(r"\b(np|numpy)\.(load|fromfile)$", called) and given.get("allow_pickle") == "True")
            or (called == "yaml.load" and not re.search(r"SafeLoader|, Loader", ast.unparse(node)))
            or (called in ("yaml.unsafe_load", "yaml.full_load"))
            or given.get("shell") == "True"
        ):
            yield f"line {node.lineno}: {ast.unparse(node)}"


@pytest.mark.parametrize(
    "source",
    [
        "import pickle", "from joblib import load", "torch.load(f)", "torch.load(f, weights_only=False)",
        "np.load(f, allow_pickle=True)", "yaml.load(f)", "yaml.unsafe_load(f)", "eval(text)", "subprocess.run(c, shell=True)",
    ],
)  # fmt: skip
def test_what_would_run_code_is_seen(source):
    assert list(find_unsafe(source))
    assert not list(find_unsafe("torch.load(f, weights_only=True); np.load(f); model.eval(); re.compile(x)"))


def test_no_file_is_read_so_that_it_could_run_code():
    found = {str(path.relative_to(ROOT)): list(find_unsafe(path.read_text())) for path in FILES}
    assert not {path: lines for path, lines in found.items() if lines}
    assert issubclass(Loader, yaml.constructor.SafeConstructor)
    assert not issubclass(Loader, yaml.constructor.FullConstructor)


def test_every_download_has_a_checksum():
    """In every configuration that names an address."""
    archives = 0
    for path in sorted((ROOT / "conf").rglob("*.yaml")):
        nodes = [yaml.safe_load(path.read_text())]
        while nodes:
            node = nodes.pop()
            nodes += node.values() if isinstance(node, dict) else node if isinstance(node, list) else []
            if isinstance(node, dict) and "url" in node:
                archives += 1
                assert re.fullmatch(r"[0-9a-f]{64}", node["sha256"]), path
    assert archives


def test_pinned_releases_are_those_that_the_package_takes():
    """Those of CI; each named once, by one release, and none below a bound of pyproject.toml."""
    lines = (ROOT / ".ci/constraints.txt").read_text().split()
    pinned = dict(line.split("==") for line in lines)
    assert len(pinned) == len(lines)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(text for extra in project["optional-dependencies"].values() for text in extra),
    ]
    releases = {re.sub(r"[-_.]+", "-", key).lower(): Version(value) for key, value in pinned.items()}
    checked = 0
    for requirement in map(Requirement, wanted):
        release = releases.get(re.sub(r"[-_.]+", "-", requirement.name).lower())
        if release is not None:
            assert release in requirement.specifier, requirement
            checked += 1
    assert checked > 20
