"""Text of plain values that may come from anywhere."""

import pytest

from kdad.storage.plain import parse_json, parse_yaml


def test_what_is_in_order():
    assert parse_json('{"a": [1, null]}') == parse_yaml("a: [1, null]") == {"a": [1, None]}


@pytest.mark.parametrize("text", ["[" * 100_000, "{", '{"a": ' + "9" * 5000 + "}"])
def test_json_that_cannot_be_read(text):
    with pytest.raises(ValueError):  # noqa: PT011
        parse_json(text)


def test_yaml_that_runs_code_or_does_not_end(tmp_path):
    """Nine lines that stand for 43 million values: whoever copies them never ends."""
    laughs = ["a0: &a0 [x,x,x,x,x,x,x,x,x]"] + [f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)]
    for text, message in (
        ("\n".join(laughs), "more than 100000 values"), ("[" * 5000, "."), ("? [a]\n: b", "."), ("&a [*a]", "."),
        (f"!!python/object/apply:os.system ['touch {tmp_path}/ran']", "could not determine a constructor"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            parse_yaml(text)
    assert not (tmp_path / "ran").exists()
