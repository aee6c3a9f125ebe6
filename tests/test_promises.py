"""The page of promises names tests that there are."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAMED = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", (ROOT / "docs/promises.md").read_text(encoding="utf-8"))


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_it_is_there(file, name):
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    found = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    assert name in found if name else any(test.startswith("test_") for test in found)


def test_every_promise_has_one():
    rows = [
        line for line in (ROOT / "docs/promises.md").read_text(encoding="utf-8").splitlines() if line.startswith("| ")
    ]
    promises = [row for row in rows[1:] if not row.startswith(("| **", "|---"))]
    assert len(promises) > 20 and all("`tests/" in row for row in promises)
