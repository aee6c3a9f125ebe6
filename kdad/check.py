"""What a data set holds, before any training: `python -m kdad.check dataset=<name> [category=<name>]`.

Prints a row for each category and split: images, masks, sizes, modes, what cannot be read, exact copies of training
images in the test. Without `category` it takes all. Exits with status 2 where something cannot be read or is missing.

    kdad check dataset=folder dataset.root=pictures
"""

import re
import sys
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

from omegaconf import DictConfig, ListConfig, OmegaConf
from rich.box import SIMPLE
from rich.console import Console, JustifyMethod
from rich.progress import track
from rich.table import Table

from kdad.engine.categories import create_set
from kdad.engine.early import check_place
from kdad.engine.launch import launch_without_folder
from kdad.errors import UserError
from kdad.settings.checks import check_configuration

if TYPE_CHECKING:
    from kdad.data.base import AnomalyDataModule
    from kdad.data.inspection import Part

COLUMNS = ("images", "anomalous", "masks", "sizes", "modes", "unreadable", "copies")
NUMBERS = ("images", "anomalous", "unreadable", "copies")
SHOWN = 3  # files that one key is wrong for


def main() -> None:
    """Run `kdad check`, which is `python -m kdad.check`."""
    launch_without_folder(check_data_set, "run")


def check_data_set(cfg: DictConfig) -> None:
    """Print what each category and split holds. Raises `UserError` where something is wrong with the files."""
    checked = cfg.copy()
    OmegaConf.set_struct(checked, False)
    for group in ("model", "backbone", "optimizer", "trainer", "logger"):
        checked[group] = {}  # what their targets are is not looked up: that imports networks
    check_configuration(checked, "run")
    check_place(cfg, with_category=cfg.category not in (None, "all"))
    from kdad.data.decoding import count_mask_facts, start_threads  # with torch, which a refusal need not wait for
    from kdad.data.inspection import inspect_category
    from kdad.data.oddities import find_oddities

    console = Console(width=None if sys.stdout.isatty() else 120)
    data = create_set(cfg)
    known = data.categories()
    if cfg.category is None or (cfg.category == "all" and "all" not in known):
        names = [name for name in known if name != "all"] or known  # beside others, all is their sum
    else:
        names = list(map(str, cfg.category)) if isinstance(cfg.category, ListConfig) else [data.category]
    if not set(names) <= set(known) or not names:
        for name in names or [data.category]:
            create_set(cfg, category=name).check()  # says what is wrong with it
    table = Table(title=f"{data.name}: {data.root}", box=SIMPLE)
    for heading in ("category", "split", *COLUMNS):
        justify: JustifyMethod = "right" if heading in NUMBERS else "left"
        table.add_column(heading, no_wrap=heading in ("category", "split"), justify=justify)
    total: Counter[str] = Counter()
    problems: list[str] = []
    remarks: list[str] = []
    for name in track(names, f"Reading {data.name}", transient=True, console=console):
        category = create_set(cfg, category=name)
        try:
            parts = inspect_category(category)
        except UserError as error:
            problems.append(str(error))
            table.add_row(name, "-")
            continue
        counts = Counter({part.split: len(part.samples) for part in parts})
        total += counts
        if differs := category.compare_with_official(counts):
            remarks.append(f"{name}: {differs}")
        if folder := category.find_absent_masks():
            remarks.append(f"{name}: no folder {folder}: image metrics only")
        for part in parts:
            table.add_row(name, *make_row(part))
            problems += part.unreadable or ([] if part.samples else [describe_empty(category, part)])
            remarks += describe_copies(name, part)
            said = count_mask_facts(part.masks, part.masked, category.image_size)[1]
            remarks += [f"{name}: {sentence}" for sentence in said]
        samples = [sample for part in parts for sample in part.samples]
        with start_threads() as threads:
            found = find_oddities(samples, threads, category.rule)
            odd = [*category.find_left_out(samples), *found.describe(), *found.describe_ranges()]
            try:
                found.refuse_window()
            except UserError as error:
                problems.append(str(error))
        remarks += [f"{name}: {said}" for said in odd]
        suffixes = Counter(sample.path.suffix.lower() for sample in samples)
        if len(suffixes) > 1:
            remarks.append(f"{name}: {', '.join(f'{n} {suffix}' for suffix, n in sorted(suffixes.items()))}")
    console.print(table)
    if data.official and set(names) == set(known):
        remarks.append(compare_with_official(total, data.official, names))
    for remark in remarks:
        console.print(remark, soft_wrap=True, highlight=False, markup=False)
    if problems := list(dict.fromkeys(problems)):  # one for each file, also of a video with many frames
        head = f"{len(problems)} problem{'s' * (len(problems) > 1)} with {data.name}:"
        raise UserError("\n".join([head, *shorten(problems)]))


def shorten(problems: list[str]) -> list[str]:
    """Return the messages, of a mistake in a key, which concerns each file alike, the first `SHOWN` and a count."""
    alike: dict[str, list[str]] = {}
    for problem in problems:
        alike.setdefault(re.sub(r"\S*/\S*|\d[\d.]*", "", problem), []).append(problem)
    said = []
    for group in alike.values():
        shown = SHOWN if "dataset." in group[0] else len(group)
        said += [*group[:shown], *([f"... and {len(group) - shown} more like the last"] if group[shown:] else [])]
    return said


def make_row(part: "Part") -> list[str]:
    """Return the cells of a split in the table, after that of the category."""
    return [
        part.split,
        str(len(part.samples)),
        str(part.n_anomalous),
        f"{len(part.masks)}" + (f" ({empty} empty)" if (empty := sum(mask.empty for mask in part.masks)) else ""),
        _format_sizes(sorted(part.sizes)),
        ", ".join(sorted(part.modes)),
        str(len(part.unreadable)),
        str(len(part.copies)) if part.split == "test" else "",
    ]


def _format_sizes(sizes: list[tuple[int, int]]) -> str:
    """Write the image sizes as text: each of them if they are few, else the ranges of width and height."""
    if len(sizes) < 3:
        return ", ".join(f"{width} x {height}" for width, height in sizes)
    widths, heights = zip(*sizes, strict=True)
    return f"{min(widths)}-{max(widths)} x {min(heights)}-{max(heights)}"


def describe_copies(name: str, part: "Part") -> list[str]:
    """Say how many test images are copies of training images or both normal and anomalous, and which the first is.

    Returns a line on each, none where there is no copy.
    """
    said = []
    if part.copies:
        (test, train), n = part.copies[0], len(part.copies)
        said.append(f"{name}: {n} test images are exact copies of training images; the first is {test}, of {train}")
    if part.contradictions:
        from kdad.data.checks import describe_contradictions

        said.append(f"{name}: {describe_contradictions(part.contradictions)}")
    return said


def describe_empty(data: "AnomalyDataModule", part: "Part") -> str:
    """Say where the images of an empty split should be, and how to get them."""
    return f"{data.category}: no {part.split} images in {data.root}. Expected: {data.layout}. {data.obtain}"


def compare_with_official(total: Mapping[str, int], official: Mapping[str, Mapping[str, int]], names: list[str]) -> str:
    """Say in one line how many images there are in all, how many there should be, and which categories are absent."""
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
