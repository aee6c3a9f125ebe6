"""The server that tests start commands from gives them what `python -m` does."""

import subprocess
import sys

import pytest

from tests.processes import run_module, start_module

pytestmark = pytest.mark.training  # starts commands
SAYS = """
import os, sys
if __name__ == "__main__":
    print(sys.argv[1:], os.getcwd(), os.environ.get("KDAD_SAYS"), repr(sys.stdin.read()), __spec__.name)
    print("to stderr", file=sys.stderr)
    sys.exit(3)
"""


@pytest.mark.parametrize("module", ["says", "package"])
def test_as_python_m(module, tmp_path, monkeypatch):
    """The same words, streams and status, also of a package, and of an environment that changed since the start."""
    (tmp_path / "package").mkdir()
    (tmp_path / "package/__init__.py").touch()
    for name in ("says.py", "package/__main__.py"):
        (tmp_path / name).write_text(SAYS)
    for value in ("one", "two"):
        monkeypatch.setenv("KDAD_SAYS", value)
        command = [sys.executable, "-m", module, "a=1", "b c"]
        expected = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        found = run_module(module, ["a=1", "b c"], tmp_path)
        assert expected.returncode == 3 and value in expected.stdout
        assert (found.returncode, found.stdout, found.stderr) == (3, expected.stdout, expected.stderr)


def test_one_that_is_imported_already(tmp_path):
    """No word of runpy's about it, and its own refusal, of a module and of a package."""
    for module in ("kdad.run", "kdad.predict"):
        found = run_module(module, ["nonsense=1"], tmp_path)
        assert found.returncode == 2 and "nonsense" in found.stderr
        assert "RuntimeWarning" not in found.stderr and "Traceback" not in found.stderr


def test_it_can_be_killed(tmp_path):
    (tmp_path / "sleeps.py").write_text("import time\ntime.sleep(60)")
    process = start_module("sleeps", [], tmp_path)
    process.kill()
    process.join(30)
    assert process.exitcode == -9
