"""What a data set holds, before any training: `python -m kdad.data.check dataset=<name> [category=<name>]`.

Prints a row for each category and split: images, masks, sizes, modes, what cannot be read, exact copies of training
images in the test. Without `category` it takes all. Exits with status 2 where something cannot be read or is missing.
An entry point, as kdad/run.py is; nothing imports it.
"""

import sys
from collections import Counter
from collections.abc import Mapping
from tempfile import TemporaryDirectory

from omegaconf import DictConfig, OmegaConf
from rich.box import SIMPLE
from rich.console import Console
from rich.progress import track
from rich.table import Table

from kdad.cli import create, launch
from kdad.configuration import check_configuration
from kdad.data.base import AnomalyDataModule
from kdad.data.inspection import Part, inspect
from kdad.errors import UserError

COLUMNS = ("images", "anomalous", "masks", "sizes", "modes", "unreadable", "copies")
NUMBERS = ("images", "anomalous", "unreadable", "copies")


def main() -> None:
    with TemporaryDirectory() as folder:  # of Hydra's own files: a check leaves none behind
        sys.argv += [f"hydra.run.dir={folder}", f"hydra.sweep.dir={folder}"]
        launch(check, "run")


def check(cfg: DictConfig) -> None:
    """Print the table. Raises UserError where something is wrong with the files."""
    checked = cfg.copy()
    OmegaConf.set_struct(checked, False)
    for group in ("model", "backbone", "optimizer", "trainer", "logger"):
        checked[group] = {}  # what their targets are is not looked up: that imports networks
    check_configuration(checked, "run")
    console = Console(width=None if sys.stdout.isatty() else 120)
    data = create(cfg.dataset)
    names = found = data.categories()
    if cfg.category is None or (cfg.category == "all" and "all" not in found):
        names = [name for name in found if name != "all"] or found  # beside others, all is their sum
    else:
        names = [data.category]
    if not set(names) <= set(found) or not names:
        data.check()  # says what is wrong with it
    table = Table(title=f"{data.name}: {data.root}", box=SIMPLE)
    for heading in ("category", "split", *COLUMNS):
        justify = "right" if heading in NUMBERS else "left"
        table.add_column(heading, no_wrap=heading in ("category", "split"), justify=justify)
    total, problems, remarks = Counter(), [], []
    for name in track(names, f"Reading {data.name}", transient=True, console=console):
        part_of = create(cfg.dataset, category=name)
        try:
            parts = inspect(part_of)
        except UserError as error:
            problems.append(str(error))
            table.add_row(name, "-")
            continue
        counts = Counter({part.split: len(part.samples) for part in parts})
        total += counts
        if differs := part_of.unofficial(counts):
            remarks.append(f"{name}: {differs}")
        if folder := part_of.absent_masks():
            remarks.append(f"{name}: no folder {folder}: image metrics only")
        for part in parts:
            table.add_row(name, *row(part))
            problems += part.unreadable or ([] if part.samples else [missing(part_of, part)])
            remarks += copies(name, part)
    console.print(table)
    if data.official and set(names) == set(found):
        remarks.append(overall(total, data.official, names))
    for remark in remarks:
        console.print(remark, soft_wrap=True, highlight=False, markup=False)
    if problems := list(dict.fromkeys(problems)):  # one for each file, also of a video with many frames
        raise UserError("\n".join([f"{len(problems)} problems with {data.name}:", *problems]))


def row(part: Part) -> list[str]:
    """Cells of the table, after the category."""
    return [
        part.split,
        str(len(part.samples)),
        str(part.n_anomalous),
        f"{part.n_masks}" + (f" ({part.n_empty_masks} empty)" if part.n_empty_masks else ""),
        _sizes(sorted(part.sizes)),
        ", ".join(sorted(part.modes)),
        str(len(part.unreadable)),
        str(len(part.copies)) if part.split == "test" else "",
    ]


def _sizes(found: list[tuple[int, int]]) -> str:
    """All of them if they are few, else from where to where they go."""
    if len(found) < 3:
        return ", ".join(f"{width} x {height}" for width, height in found)
    widths, heights = zip(*found, strict=True)
    return f"{min(widths)}-{max(widths)} x {min(heights)}-{max(heights)}"


def copies(name: str, part: Part) -> list[str]:
    """A line on the first of them."""
    if not part.copies:
        return []
    test, train = part.copies[0]
    n = len(part.copies)
    return [f"{name}: {n} test images are exact copies of training images; the first is {test}, of {train}"]


def missing(data: AnomalyDataModule, part: Part) -> str:
    """What to say of a part without images."""
    return f"{data.category}: no {part.split} images in {data.root}. Expected: {data.layout}. {data.obtain}"


def overall(total: Mapping[str, int], official: Mapping[str, Mapping[str, int]], names: list[str]) -> str:
    """One line on all categories together, and what is officially there."""
    expected: Counter[str] = Counter()
    for counts in official.values():
        expected.update(counts)
    known = [split for split in total if all(split in counts for counts in official.values())]
    line = "In all: " + ", ".join(f"{n:,} {split}" for split, n in total.items())
    if known:
        line += "; officially " + ", ".join(f"{expected[split]:,} {split}" for split in known)
    if absent := sorted(set(official) - set(names)):
        line += f". Not here: {', '.join(absent)}"
    return line


if __name__ == "__main__":
    main()
