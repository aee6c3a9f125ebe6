"""The table at the head of each model file against the tests that carry its equations' markers."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODELS = sorted(p for p in (ROOT / "kdad" / "models").glob("*.py") if p.stem not in ("__init__", "base", "steps"))


def table(path: Path) -> dict[int, tuple[str, str]]:
    """Equation number -> (function, remark), from the module docstring's table."""
    rows = re.findall(
        r"^\| Eq\. \((\d+)\)[^|]*\| ([^|]*)\| ([^|]*)\|", ast.get_docstring(ast.parse(path.read_text())), re.M
    )
    return {int(number): (function.strip(), remark.strip()) for number, function, remark in rows}


def marked(paper: str) -> set[int]:
    found = set()
    for path in (ROOT / "tests" / "equations").glob("test_*.py"):
        pattern = rf"^@pytest\.mark\.equation\(\"{paper}\", (\d+)\)\n(?:@.*\n)*def test_"
        found |= {int(n) for n in re.findall(pattern, path.read_text(), re.M)}
    return found


@pytest.mark.parametrize("path", MODELS, ids=lambda p: p.stem)
def test_tables_and_markers_agree(path):
    rows = table(path)
    assert rows, f"{path} has no table of equations"
    computed = {n for n, (function, _) in rows.items() if function not in ("", "-")}
    assert computed == marked(path.stem)


@pytest.mark.parametrize("path", MODELS, ids=lambda p: p.stem)
def test_functions_of_the_table_exist_and_name_their_equation(path):
    functions = {
        n.name: ast.get_docstring(n) or ""
        for n in ast.walk(ast.parse(path.read_text()))
        if isinstance(n, ast.FunctionDef)
    }
    for number, (function, _) in table(path).items():
        if function not in ("", "-"):
            assert functions[function].startswith(f"Eq. ({number})"), (function, number)
