"""What a data set holds, before any training: `python -m kdad.check dataset=<name> [category=<name>]`.

Prints a row for each category and split: images, masks, sizes, modes, what cannot be read, exact copies of training
images in the test. Without `category` it takes all. Exits with status 2 where something cannot be read or is missing.

    kdad check dataset=folder dataset.root=pictures
"""

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from omegaconf import DictConfig, ListConfig, OmegaConf
from rich.box import SIMPLE
from rich.console import Console, JustifyMethod
from rich.progress import track
from rich.table import Table

from kdad.data.base import AnomalyDataModule
from kdad.data.checks import describe_contradictions
from kdad.data.decoding import count_mask_facts, start_threads
from kdad.data.images import Look
from kdad.data.masks import MaskFacts
from kdad.data.oddities import find_oddities
from kdad.data.samples import Sample
from kdad.engine.launch import launch_without_folder
from kdad.errors import UserError
from kdad.settings.checks import check_configuration
from kdad.settings.create import create

COLUMNS = ("images", "anomalous", "masks", "sizes", "modes", "unreadable", "copies")
NUMBERS = ("images", "anomalous", "unreadable", "copies")
CHUNK = 16  # samples that a thread takes at a time: some data sets have many and tiny ones


@dataclass
class Part:
    """One split of one category, and what was found in it."""

    split: str  # train, validation or test
    samples: list[Sample] = field(default_factory=list)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)  # (width, height)
    modes: Counter[str] = field(default_factory=Counter)
    masks: list[MaskFacts] = field(default_factory=list)
    masked: list[Sample] = field(default_factory=list)  # whose masks these are
    unreadable: list[str] = field(default_factory=list)  # of images and masks, one message each
    copies: list[tuple[Path, Path]] = field(default_factory=list)  # test images, and the training images they are
    contradictions: list[tuple[Path, Path]] = field(default_factory=list)  # anomalous images that are normal ones, too

    @property
    def n_anomalous(self) -> int:
        """How many of the images are anomalous."""
        return sum(sample.label for sample in self.samples)


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
    console = Console(width=None if sys.stdout.isatty() else 120)
    data = create(cfg.dataset)
    known = data.categories()
    if cfg.category is None or (cfg.category == "all" and "all" not in known):
        names = [name for name in known if name != "all"] or known  # beside others, all is their sum
    else:
        names = list(map(str, cfg.category)) if isinstance(cfg.category, ListConfig) else [data.category]
    if not set(names) <= set(known) or not names:
        for name in names or [data.category]:
            create(cfg.dataset, category=name).check()  # says what is wrong with it
    table = Table(title=f"{data.name}: {data.root}", box=SIMPLE)
    for heading in ("category", "split", *COLUMNS):
        justify: JustifyMethod = "right" if heading in NUMBERS else "left"
        table.add_column(heading, no_wrap=heading in ("category", "split"), justify=justify)
    total: Counter[str] = Counter()
    problems: list[str] = []
    remarks: list[str] = []
    for name in track(names, f"Reading {data.name}", transient=True, console=console):
        category = create(cfg.dataset, category=name)
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
        raise UserError("\n".join([f"{len(problems)} problems with {data.name}:", *problems]))


def make_row(part: Part) -> list[str]:
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


def describe_copies(name: str, part: Part) -> list[str]:
    """Say how many test images are copies of training images or both normal and anomalous, and which the first is.

    Returns a line on each, none where there is no copy.
    """
    said = []
    if part.copies:
        (test, train), n = part.copies[0], len(part.copies)
        said.append(f"{name}: {n} test images are exact copies of training images; the first is {test}, of {train}")
    if part.contradictions:
        said.append(f"{name}: {describe_contradictions(part.contradictions)}")
    return said


def describe_empty(data: AnomalyDataModule, part: Part) -> str:
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


def inspect_category(data: AnomalyDataModule) -> list[Part]:
    """Read every file of a category and say what its splits hold, as the data set has them.

    Nothing is held out or left out. Raises `UserError` where the layout is not as expected; a file that cannot be used
    is listed in its split instead.
    """
    train, test = data.find_samples()
    splits = {"train": train, "validation": data.find_validation(), "test": test}
    parts = [
        _inspect_split(data, split, samples) for split, samples in splits.items() if samples or split != "validation"
    ]
    try:
        parts[-1].copies = data.find_copies(train + splits["validation"], test)
        parts[-1].contradictions = data.find_contradictions(train + splits["validation"], test)
    except UserError as error:
        if not any(part.unreadable for part in parts):
            parts[-1].unreadable.append(str(error))
    return parts


def _inspect_split(data: AnomalyDataModule, split: str, samples: Sequence[Sample]) -> Part:
    part = Part(split, list(samples))
    has_masks = any(sample.mask is not None for sample in samples)
    chunks = [samples[start : start + CHUNK] for start in range(0, len(samples), CHUNK)]
    with start_threads() as threads:
        looks = threads.map(lambda c: [(_look_at(data, s), _check_mask(data, s, has_masks)) for s in c], chunks)
        for sample, (seen, mask) in zip(samples, chain.from_iterable(looks), strict=True):
            if isinstance(seen, Look):
                part.sizes[seen.size] += 1
                part.modes[seen.mode] += 1
            part.unreadable += [problem for problem in (seen, mask) if isinstance(problem, str)]
            if isinstance(mask, MaskFacts):
                part.masks.append(mask)
                part.masked.append(sample)
    return part


def _look_at(data: AnomalyDataModule, sample: Sample) -> Look | str:
    """Return size and mode of an image, or what is wrong with it."""
    try:
        return data.look_at(sample)
    except UserError as error:
        return str(error)


def _check_mask(data: AnomalyDataModule, sample: Sample, has_masks: bool) -> MaskFacts | str | None:
    """Return what is odd about a mask, or what is wrong with it; None where there should be none."""
    if not has_masks or not sample.label:
        return None
    if sample.mask is None or not sample.mask.exists():
        return f"no mask {sample.mask or 'file'} for the anomalous image {sample.path}"
    try:
        return data.look_at_mask(sample)
    except UserError as error:
        return str(error)


if __name__ == "__main__":
    main()
