"""What README and docs say was measured stands in the file that they link to."""

import re

import pytest

from tests.docs.blocks import PAGES, ROOT

# A link into experiments/, with its text; the file's part that it names is not looked at
LINK = re.compile(r"\[([^]]*)\]\(([^)#]*experiments/[^)#]*)(?:#[^)]*)?\)")
UNIT = re.compile(r"(?<![\w.,-])\d+(?= (?:images a second|images/s|MiB|s|min|minutes|%)(?!\w))")
DECIMAL = re.compile(r"(?<![\w.])\d+(?:\.\d+)?")


def read_numbers(text):
    return DECIMAL.findall(text)


def is_among(number, found):
    """Whether one of the numbers found rounds to this one."""
    half = 10 ** -len(number.partition(".")[2]) / 2
    return any(abs(float(other) - float(number)) <= half + 1e-9 for other in found)


def list_claims():
    """Each paragraph, or row of a table, that links to a file of experiments/: what it says, and what the files have.

    Of the paragraph those numbers count that have decimals or a unit, of the links' own text all.
    """
    for page in PAGES:
        for text in re.split(r"\n\s*\n|\n(?=[-|])", page.read_text(encoding="utf-8")):
            if links := LINK.findall(text):
                files = [(page.parent / target).resolve() for _, target in links]
                files = [file / "README.md" if file.is_dir() else file for file in files]
                told = re.sub(r"`[^`]*`|\]\([^)]*\)", "", text)
                numbers = {n for n in read_numbers(told) if "." in n} | set(UNIT.findall(told))
                numbers |= {n for name, _ in links for n in read_numbers(name)}
                if numbers:
                    yield pytest.param(numbers, files, id=f"{page.relative_to(ROOT)}: {text[:60]!r}")


CLAIMS = list(list_claims())


def test_there_are_claims():
    assert len(CLAIMS) > 8


@pytest.mark.parametrize(("numbers", "files"), CLAIMS)
def test_a_number_stands_in_the_file_that_is_linked_to(numbers, files):
    texts = [file.read_text(encoding="utf-8") for file in files if file.suffix in (".md", ".csv")]
    found = [n for text in texts for n in read_numbers(re.sub(r"(?<=\d),(?=\d{3}\b)", "", text))]
    assert not {number for number in numbers if not is_among(number, found)}
