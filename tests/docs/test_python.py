"""The Python that README and docs print runs as printed."""

import pytest
from PIL import Image

from tests.docs.blocks import PYTHON

# What another test runs: by a word of the block
ELSEWHERE = {
    "def open_file": "tests/export/test_export.py",
    "class Mine": "tests/end_to_end/test_plugins.py",
    "class Odd": "tests/docs/test_extending.py",
    "class Dice": "tests/docs/test_extending.py",
}
HERE = [(page, number, block) for page, number, block in PYTHON if not any(word in block for word in ELSEWHERE)]


@pytest.mark.parametrize(("page", "number", "block"), HERE, ids=[f"{page}-{number}" for page, number, _ in HERE])
def test_a_block_runs(page, number, block, at_printed, monkeypatch, capsys):
    if "httpx.post" in block:
        client = serve(monkeypatch)
        monkeypatch.setattr("httpx.post", lambda url, **given: client.post(url.partition("7860")[2], **given))
    (at_printed / "overlay.png").unlink(missing_ok=True)
    exec(compile(block, f"{page}, block {number}", "exec"), {"__name__": "printed"})
    assert capsys.readouterr().out
    if "overlay.png" in block:
        assert Image.open("overlay.png").size == (90, 70)


def serve(monkeypatch):
    """Return a client of the server that `kdad app` would start."""
    pytest.importorskip("fastapi", reason="needs fastapi: pip install 'kdad[app]'")
    from fastapi.testclient import TestClient

    from kdad import load
    from kdad.app.batching import Batcher
    from kdad.app.server import build_server

    return TestClient(build_server({"rd-all": Batcher(load("run", "cpu"))}, 20, "127.0.0.1"), "http://127.0.0.1")


def test_pages_have_examples():
    assert {"README.md", "docs/index.md", "docs/use.md", "docs/export.md", "docs/app.md"} <= {
        page for page, *_ in PYTHON
    }
