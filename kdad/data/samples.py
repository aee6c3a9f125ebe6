"""Which images are trained on, held out and tested: lists of files, before any is decoded."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from kdad.errors import UserError


class Sample(NamedTuple):
    """One image of a data set."""

    path: Path
    label: int  # 0 normal, 1 anomalous: from the folder, never from the mask
    kind: str  # "good", or the kind of anomaly
    mask: Path | None = None  # None: a normal image, or a set without masks

    def require_mask(self) -> Path:
        """Return the path of the mask. Raises `UserError` where the image has none."""
        if self.mask is None:
            raise UserError(f"no mask file for the image {self.path}")
        return self.mask


def order_samples(samples: Sequence[Sample], root: Path, split_seed: int) -> list[Sample]:
    """Shuffle samples, by split_seed and their paths below root alone, whatever order they are given in.

    An image outside root counts with its whole path.
    """

    def key(sample: Sample) -> str:
        name = sample.path.relative_to(root) if sample.path.is_relative_to(root) else sample.path
        return hashlib.sha256(f"{split_seed}/{name.as_posix()}".encode()).hexdigest()

    return sorted(samples, key=key)


def hold_out(normal: Sequence[Sample], n_test: int, root: Path, split_seed: int) -> tuple[list[Sample], list[Sample]]:
    """Hold out `n_test` normal samples for the test: the first as `order_samples` has them. Returns (train, test)."""
    order = order_samples(normal, root, split_seed)
    return order[n_test:], order[:n_test]


def split_training(
    order: Sequence[Sample], val_fraction: float, train_fraction: float, own: Sequence[Sample] = ()
) -> tuple[list[Sample], list[Sample]]:
    """Split the training images into some to train on and some to validate on. Returns (train, validation).

    `order` is all training images as `order_samples` has them: two or more to have validation. `own`, in such an order
    too, are validation images that the data set brings: with some, none are held out.

    STPM, Sec. 5.4, trains on "only 5% and 10% anomaly-free images", for when "only a few training images are
    available": what is left out is not validated on either. So `train_fraction` keeps the first so many
    of both parts, which leaves their proportion as it was and nests smaller subsets in larger ones. A
    part keeps at least one image.
    """
    if own:
        val_fraction = 0.0
    n_val = min(max(1, round(val_fraction * len(order))), len(order) - 1) if val_fraction else 0

    def keep(part: Sequence[Sample]) -> list[Sample]:
        return list(part[: max(1, round(train_fraction * len(part)))])

    return keep(order[n_val:]), keep(own or order[:n_val])


def find_equal_files(train: Sequence[Sample], test: Sequence[Sample]) -> list[tuple[Path, Path]]:
    """Find test images whose file has exactly the bytes of a training image's.

    Returns a pair (test image, training image) for each. Raises `UserError` where a file cannot be read.
    """
    by_size: dict[int, list[Path]] = defaultdict(list)
    for sample in train:
        by_size[_read_size(sample.path)].append(sample.path)
    originals: dict[int, dict[bytes, Path]] = {}
    pairs = []
    for sample in test:
        size = _read_size(sample.path)
        if size not in by_size:  # most files differ in size already and are not read
            continue
        if size not in originals:
            originals[size] = {_hash_file(path): path for path in by_size[size]}
        original = originals[size].get(_hash_file(sample.path))
        if original:
            pairs.append((sample.path, original))
    return pairs


def _read_size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise UserError(f"cannot read image {path}: {error}") from error


def _hash_file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise UserError(f"cannot read image {path}: {error}") from error
