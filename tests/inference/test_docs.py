"""The Python that README and docs print runs as printed."""

import re
from pathlib import Path

import pytest
from PIL import Image

from tests.inference.trained import train

ROOT = Path(__file__).parents[2]
BLOCKS = [
    (name, block)
    for name in ("README.md", "docs/use.md")
    for block in re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(), re.S)
    if "from kdad import load" in block
]


@pytest.mark.parametrize(("name", "block"), BLOCKS, ids=[name for name, _ in BLOCKS])
def test_the_example_runs(name, block, tmp_path, monkeypatch, capsys):
    trained = train("rd", tmp_path)
    for picture in ("part.png", "a.png", "b.png"):
        Image.open(trained.pictures / "normal/0.png").save(tmp_path / picture)
    monkeypatch.chdir(tmp_path)
    exec(compile(block, name, "exec"), {})
    assert Image.open("overlay.png").size == (90, 70) and capsys.readouterr().out


def test_both_have_an_example():
    assert {name for name, _ in BLOCKS} == {"README.md", "docs/use.md"}
