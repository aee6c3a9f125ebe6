"""What README and docs tell a reader to type, the commands of their bash blocks and their Python; and how to type it."""

import re
import shlex
import sys
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from kdad.__main__ import PACKAGES

ROOT = Path(__file__).parents[2]
# What a command needs in order to be one, and no mention of it: data, a checkpoint, an experiment, a paper
WHOLE = re.compile(r" (dataset|ckpt_path|\+experiment)=| --paper ")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


class Command(NamedTuple):
    """One command as printed: its words, without comments."""

    page: str
    words: tuple[str, ...]

    @property
    def verb(self):
        """What follows `kdad`, or None of another command."""
        words = self.words
        if words[0] == "kdad":
            return words[1]
        if words[:2] == ("python", "-m") and words[2].startswith("kdad."):
            return words[2].removeprefix("kdad.")
        return None

    @property
    def arguments(self):
        return list(self.words[2 if self.words[0] == "kdad" else 3 :])

    def __str__(self):
        return f"{self.page}: {shlex.join(self.words)}"


def read_blocks(page, language):
    """Return the texts of a page's blocks of a language, as they would be pasted."""
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def split_line(line):
    """Return the commands of a line of a shell, each as words; a variable becomes its name, and `srun` is left out."""
    words, found = shlex.split(line, comments=True), []
    for word in [*words, "&&"]:
        if word in ("&&", "|"):
            if found:
                yield tuple(found)
            found = []
        elif found or word != "srun":
            found.append(word.replace("$KDAD_DATA", "data").replace("$", ""))


def start(verb, words):
    """Run a command of kdad in this process, and return its exit status. It leaves `sys.argv` as it was typed."""
    sys.argv = [f"kdad {verb}", *words]
    try:
        import_module(f"kdad.{verb}.__main__" if verb in PACKAGES else f"kdad.{verb}").main()
    except SystemExit as stopped:
        return stopped.code
    return 0


def list_lines(page):
    """Yield the lines of a page's bash blocks, and the commands of kdad in its text that say all that they need."""
    for block in read_blocks(page, "bash"):
        yield from block.replace("\\\n", " ").splitlines()
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for line in re.findall(r"`(kdad \w+ [^`]+)`", text.replace("\n", " ")):
        if WHOLE.search(line) and not re.search(r"<|\.\.\.|=$", line):
            yield line


COMMANDS = [
    Command(page.relative_to(ROOT).as_posix(), words)
    for page in PAGES
    for line in list_lines(page)
    for words in split_line(line)
]
PYTHON = [
    (page.relative_to(ROOT).as_posix(), number, block)
    for page in PAGES
    for number, block in enumerate(read_blocks(page, "python"))
]
