"""The notebook runs from its first cell to its last, with settings so small that its numbers mean nothing."""

import os

import pytest

from tests.docs.blocks import ROOT

FILE = ROOT / "docs/compare.ipynb"
TINY = {"SIZE = 128": "SIZE = 64", "EPOCHS = 20": "EPOCHS = 1"}
# The command runs in the notebook's process, which has imported what it needs.
PROCESS = 'subprocess.run([sys.executable, "-m", f"kdad.{verb}", *arguments], check=True)'
HERE = """from importlib import import_module
    module = import_module(f"kdad.{verb}" if verb == "run" else f"kdad.{verb}.__main__")
    sys.argv = [verb, *arguments]
    module.main()"""


@pytest.mark.slow
def test_the_notebook_runs(lite0, tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat", reason="needs nbformat: pip install 'kdad[test]'")
    nbclient = pytest.importorskip("nbclient", reason="needs nbclient: pip install 'kdad[test]'")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    notebook = nbformat.read(FILE, as_version=4)
    settings = next(cell for cell in notebook.cells if cell.cell_type == "code")
    for printed, tiny in TINY.items():
        assert printed in settings.source
        settings.source = settings.source.replace(printed, tiny)
    (commands,) = (cell for cell in notebook.cells if PROCESS in cell.source)
    commands.source = commands.source.replace(PROCESS, HERE)
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    said = "".join(
        output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []) if "text" in output
    )
    assert "false alarms of 20" in said
    first, second = map(float, said.strip().splitlines()[-1].split())
    assert first == pytest.approx(second, rel=1e-3)
    assert len(list(tmp_path.rglob("tested.calibrated.onnx"))) == 1


def test_the_notebook_holds_no_output():
    nbformat = pytest.importorskip("nbformat", reason="needs nbformat: pip install 'kdad[test]'")
    notebook = nbformat.read(FILE, as_version=4)
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells)
