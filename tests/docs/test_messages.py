"""The messages that the docs explain are those of the code."""

import ast
import re

import pytest

from tests.docs.blocks import ROOT

PAGE = ROOT / "docs/troubleshooting.md"
MESSAGES = re.findall(r"^### `(.+)`$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)


@pytest.fixture(scope="module")
def texts():
    """The texts in the code, those of formatted ones with `...` for each value."""
    found = []
    for path in (ROOT / "kdad").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(v.value if isinstance(v, ast.Constant) else "..." for v in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(re.sub(r"%[sdg]|%\.\dg", "...", node.value))
    return "\n".join(found)


def test_there_are_messages():
    assert len(MESSAGES) > 30 and len(set(MESSAGES)) == len(MESSAGES)


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_is_in_the_code(message, texts):
    parts = [part for part in message.split("...") if len(part.strip(" .:,")) > 3]
    assert parts
    for part in parts:
        assert part.strip() in texts, part
