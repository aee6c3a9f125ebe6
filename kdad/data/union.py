"""Several categories as one data set: a detector is trained on all of them together, and tested on each."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from kdad.data import checks
from kdad.data.base import AnomalyDataModule
from kdad.data.images import Look
from kdad.data.samples import Sample, join_digits
from kdad.errors import UserError

SHARED = ("name", "root", "image_size", "batch_size", "split_seed", "seed", "augment", "max_megapixels")


class Union(AnomalyDataModule):
    """The union of some categories of a data set: `parts`, the data module of each, alike in all else.

    Each part lists, checks and divides its own images. The union decodes them, trains on them in one shuffled order,
    larger categories more often, as UniAD does (You et al., NeurIPS 2022), and takes thresholds from all of them.
    `divide_test` gives the parts back, to be tested one by one.
    """

    def __init__(self, parts: Sequence[AnomalyDataModule]) -> None:
        first = parts[0]
        shared = {key: getattr(first, key) for key in SHARED}
        super().__init__(category="+".join(part.category for part in parts), **shared)
        self.parts, self.mask_kind, self.rule = list(parts), first.mask_kind, first.rule
        self.tiling, self.roi = first.tiling, first.roi
        self.owners: dict[Path, AnomalyDataModule] = {}  # which part reads an image

    def categories(self) -> list[str]:
        """Return the names of the categories, in the order of the parts."""
        return [part.category for part in self.parts]

    def check(self) -> None:
        """Check each category, and join their lists. Raises `UserError`, also where two share an image."""
        for part in self.parts:
            part.trains, part.store = self.trains, self.store
            part.batch_size = 1  # whether the images fill a batch is asked of the union
            part.check()
            part.batch_size = self.batch_size
            for sample in (*part.train_samples, *part.val_samples, *part.calibration_samples, *part.test_samples):
                if (other := self.owners.setdefault(sample.path, part)) is not part:
                    raise UserError(
                        f"unified=true: {sample.path} is an image of category {other.category} and of {part.category}, "
                        "and may be normal in one and anomalous in the other. Give categories that share no image, or "
                        "unified=false"
                    )
        self.train_samples = sorted(sample for part in self.parts for sample in part.train_samples)
        self.val_samples = sorted(sample for part in self.parts for sample in part.val_samples)
        self.calibration_samples = sorted(sample for part in self.parts for sample in part.calibration_samples)
        self.test_samples = [sample for part in self.parts for sample in part.test_samples]
        self.has_masks = any(part.has_masks for part in self.parts)
        facts: Counter[str] = Counter()
        for part in self.parts:
            facts.update(part.facts)
        self.facts |= facts
        prints = [part.fingerprint.split("-") for part in self.parts]
        names = [f"{part.category} {names}" for part, (names, _) in zip(self.parts, prints, strict=True)]
        self.fingerprint = f"{join_digits(names, 16)}-{join_digits([content for _, content in prints], 8)}"
        if self.trains and not self.tiling:
            checks.warn_of_few(self.name, self.train_samples, self.batch_size)

    def read_picture(self, sample: Sample) -> Image.Image:
        part = self.owners[sample.path]
        part.rule = self.rule  # whose window is found over the images of all
        return part.read_picture(sample)

    def look_at(self, sample: Sample) -> Look:
        return self.owners[sample.path].look_at(sample)

    def read_mask_values(self, sample: Sample) -> np.ndarray:
        return self.owners[sample.path].read_mask_values(sample)

    def version(self, sample: Sample) -> tuple[int | str, ...]:
        return self.owners[sample.path].version(sample)

    def divide_test(self) -> Iterator[AnomalyDataModule]:
        """Yield each category's own data module, ready to be tested: its part of what is decoded, without a copy."""
        start = 0
        for part in self.parts:
            rows = range(start, start + len(part.test_samples))
            part.splits = {"test": self.splits["test"].take(rows, part.has_masks)}
            start = rows.stop
            yield part
