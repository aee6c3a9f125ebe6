"""What a category of a data set holds, file by file, without keeping any: see `check.py` for the command."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from kdad.data.base import AnomalyDataModule
from kdad.data.decoding import workers
from kdad.data.images import Look
from kdad.data.samples import Sample
from kdad.errors import UserError

CHUNK = 16  # samples that a thread takes at a time: some data sets have many and tiny ones


@dataclass
class Part:
    """One split of one category."""

    split: str  # train, validation or test
    samples: list[Sample] = field(default_factory=list)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)  # (width, height)
    modes: Counter[str] = field(default_factory=Counter)
    n_masks: int = 0
    n_empty_masks: int = 0
    unreadable: list[str] = field(default_factory=list)  # of images and masks, one message each
    copies: list[tuple[Path, Path]] = field(default_factory=list)  # test images, and the training images they are

    @property
    def n_anomalous(self) -> int:
        return sum(sample.label for sample in self.samples)


def inspect(data: AnomalyDataModule) -> list[Part]:
    """The splits of `data.category`, as the data set has them: none held out, none left out.

    Raises UserError where the layout is not as expected; a file that cannot be used is reported instead.
    """
    train, test = data.find_samples()
    found = {"train": train, "validation": data.find_validation(), "test": test}
    parts = [_inspect(data, split, samples) for split, samples in found.items() if samples or split != "validation"]
    try:
        parts[-1].copies = data.copies(train + found["validation"], test)
    except UserError as error:
        if not any(part.unreadable for part in parts):
            parts[-1].unreadable.append(str(error))
    return parts


def _inspect(data: AnomalyDataModule, split: str, samples: Sequence[Sample]) -> Part:
    part = Part(split, list(samples))
    has_masks = any(sample.mask is not None for sample in samples)
    chunks = [samples[start : start + CHUNK] for start in range(0, len(samples), CHUNK)]
    with workers() as threads:
        found = threads.map(lambda c: [(_look(data, s), _mask(data, s, has_masks)) for s in c], chunks)
        for seen, mask in chain.from_iterable(found):
            if isinstance(seen, Look):
                part.sizes[seen.size] += 1
                part.modes[seen.mode] += 1
            if isinstance(mask, bool):
                part.n_masks += 1
                part.n_empty_masks += not mask
            part.unreadable += [problem for problem in (seen, mask) if isinstance(problem, str)]
    return part


def _look(data: AnomalyDataModule, sample: Sample) -> Look | str:
    try:
        return data.look(sample)
    except UserError as error:
        return str(error)


def _mask(data: AnomalyDataModule, sample: Sample, has_masks: bool) -> bool | str | None:
    """Whether it has an anomalous pixel, or what is wrong with it; None where there should be none."""
    if not has_masks or not sample.label:
        return None
    if sample.mask is None or not sample.mask.exists():
        return f"no mask {sample.mask or 'file'} for the anomalous image {sample.path}"
    try:
        return bool(data.anomalous_pixels(sample)[0].any())
    except UserError as error:
        return str(error)
