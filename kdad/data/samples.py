"""Which images are trained on, held out and tested: lists of files, before any is decoded."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

from kdad.errors import UserError

BLOCK, READ = 4096, 1000  # bytes, and files, that a fingerprint looks at


class Sample(NamedTuple):
    """One image of a data set.

    `path` is its file; `label` 0 normal or 1 anomalous, from the folder, never from the mask; `kind` "good", or the
    kind of anomaly; `mask` the file of its mask, None for a normal image or in a set without masks.
    """

    path: Path
    label: int
    kind: str
    mask: Path | None = None

    def require_mask(self) -> Path:
        """Return the path of the mask. Raises `UserError` where the image has none."""
        if self.mask is None:
            raise UserError(f"no mask file for the image {self.path}")
        return self.mask


def name_file(path: Path, root: Path) -> str:
    """Return a file's path below root, or folder/file outside it: the same wherever the data set lies."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else f"{path.parent.name}/{path.name}"


def identify(path: Path, root: Path) -> str:
    """Return a file's path from root, also outside it: a name that no other file has."""
    below = f"{root}{os.sep}"
    name = str(path).removeprefix(below) if str(path).startswith(below) else os.path.relpath(path, root)
    return name.replace(os.sep, "/")


def hash_name(sample: Sample, root: Path, split_seed: int | str) -> str:
    """Return the hex digits that decide an image's part in a split, from split_seed and its name alone."""
    return hashlib.sha256(f"{split_seed}/{name_file(sample.path, root)}".encode(errors="surrogateescape")).hexdigest()


def order_samples(samples: Sequence[Sample], root: Path, split_seed: int) -> list[Sample]:
    """Shuffle samples, by split_seed and their paths below root alone, whatever order they are given in."""
    return sorted(samples, key=lambda sample: hash_name(sample, root, split_seed))


def hold_out_share(
    normal: Sequence[Sample], share: tuple[float, float], root: Path, split_seed: int | str
) -> tuple[list[Sample], list[Sample]]:
    """Hold out images whose hashed name, as a number from 0 to 1, lies in an interval. Returns (kept, held out).

    Where an image goes depends on its own name and split_seed, not on which others there are: in a folder that grows,
    none changes sides. Each side has one image at least, of two or more: where a side would be empty, the nearest one.
    """
    low, high = share
    place = {sample: int(hash_name(sample, root, split_seed)[:13], 16) / 16**13 for sample in normal}
    order = sorted(normal, key=lambda sample: place[sample])
    held = [sample for sample in order if low <= place[sample] < high]
    if high > low and not held:
        held = [min(order, key=lambda sample: abs(place[sample] - (low + high) / 2))]
    if len(held) == len(order):
        held.remove(max(held, key=lambda sample: abs(place[sample] - (low + high) / 2)))
    return [sample for sample in order if sample not in set(held)], held


def fingerprint_samples(parts: Mapping[str, Sequence[Sample]], root: Path) -> tuple[str, str]:
    """Return digits of which images are in which part, by name, size, label and mask, and digits of what they hold."""
    lines: list[str] = []
    files: dict[str, Path] = {}
    for part, samples in parts.items():
        for sample in samples:
            mask = identify(sample.mask, root) if sample.mask else ""
            names = {identify(path, root): path for path in (sample.path, sample.mask) if path}
            sizes = [path.stat().st_size if path.is_file() else 0 for path in names.values()]
            lines.append(f"{part} {sample.label} {identify(sample.path, root)} {mask} {sizes}")
            files |= {name: path for (name, path), size in zip(names.items(), sizes, strict=True) if size}
    return join_digits(sorted(lines), 16), hash_content(files)


def hash_content(files: Mapping[str, Path]) -> str:
    """Return digits of a beginning, a middle and an end of files, which are given by name; of many of `READ` of them.

    Pictures without compression keep their size when others take their names.
    """
    found = []
    for name in sorted(files, key=lambda name: hashlib.sha256(name.encode(errors="surrogateescape")).digest())[:READ]:
        try:
            status = files[name].stat()
            found.append(f"{name} {_read_blocks(files[name], status.st_size, status.st_mtime_ns)}")
        except OSError:  # which is said when it is decoded
            found.append(name)
    return join_digits(found, 8)


@lru_cache(16 * READ)  # the jobs of a sweep ask for the same files
def _read_blocks(path: Path, size: int, changed: int) -> list[int]:
    with path.open("rb") as file:
        return [crc32(file.read(BLOCK)) for place in (0, size // 2, size - BLOCK) if file.seek(max(0, place)) >= 0]


def join_digits(lines: Iterable[str], count: int) -> str:
    """Return so many hex digits that differ where lines do."""
    return hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()[:count]


def hold_out(normal: Sequence[Sample], n_test: int, root: Path, split_seed: int) -> tuple[list[Sample], list[Sample]]:
    """Hold out the first `n_test` normal samples, in the order of `order_samples`, to test. Returns (train, test)."""
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
    return keep_fraction(order[n_val:], train_fraction), keep_fraction(own or order[:n_val], train_fraction)


def keep_fraction(part: Sequence[Sample], fraction: float) -> list[Sample]:
    """Return the first `fraction` of the samples, at least one."""
    return list(part[: max(1, round(fraction * len(part)))])


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
