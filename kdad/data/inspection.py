"""What a category's files hold, read one by one: images, masks, sizes, copies, and what is wrong with them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from kdad.data.base import AnomalyDataModule
from kdad.data.decoding import start_threads
from kdad.data.images import Look
from kdad.data.masks import MaskFacts
from kdad.data.samples import Sample
from kdad.errors import UserError

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


def inspect_category(data: AnomalyDataModule) -> list[Part]:
    """Read every file of a category and say what its splits hold, as the data set has them.

    Nothing is held out or left out. Raises `UserError` where the layout is not as expected; a file that cannot be used
    is listed in its split instead.
    """
    train, test = data.list_samples()
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
    """Return size and mode of an image, or what is wrong with it or with its region of interest."""
    try:
        seen = data.look_at(sample)
        data.find_roi(sample, seen.size)
        return seen
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
