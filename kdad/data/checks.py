"""Checks of a data set before any image is decoded: what is refused, and what is only warned of."""

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from kdad.data.download import Archive
from kdad.data.place import Place
from kdad.data.roi import Roi
from kdad.data.samples import Sample
from kdad.errors import UserError
from kdad.geometry import ImageSize, as_pair

log = logging.getLogger(__name__)


def check_numbers(
    image_size: ImageSize, batch_size: int, val_fraction: float, train_fraction: float, calibration_fraction: float
) -> None:
    """Raise `UserError` for a size or a fraction outside its range."""
    for key, value in {"image_size": min(as_pair(image_size)), "batch_size": batch_size}.items():
        if value < 1:
            raise UserError(f"{key} is {value}: it must be at least 1")
    for key, fraction in {"val_fraction": val_fraction, "calibration_fraction": calibration_fraction}.items():
        if not 0 <= fraction < 1:
            raise UserError(f"{key} is {fraction}: it must be at least 0 and below 1")
    if not 0 < train_fraction <= 1:
        raise UserError(f"train_fraction is {train_fraction}: it must be above 0 and at most 1")


def check_augmentation(name: str, known: Collection[str]) -> None:
    """Raise `UserError` where there is no augmentation of this name."""
    if name not in known:
        raise UserError(f"dataset.augment is {name}: give one of {', '.join(known)}")


def check_roi(roi: Roi | None, augment: str) -> None:
    """Raise `UserError` where training images would be moved away from the region of interest."""
    if roi and augment != "none":
        raise UserError(
            f"dataset.augment={augment} moves training images, and dataset.roi says where in them to look: leave one "
            "of them out"
        )


def check_official(official: Mapping[str, Mapping[str, int]]) -> None:
    """Raise `UserError` where official counts name a part other than train, validation and test."""
    for key, counts in official.items():
        if unknown := set(counts) - {"train", "validation", "test"}:
            raise UserError(f"dataset.official.{key}: no part {min(unknown)}; it has train, validation and test")


def check_samples(owner: str, found: Any) -> None:
    """Raise `UserError` unless `find_samples` of a class has returned images to train on, all normal, and to test."""
    said = f"{owner}.find_samples() must return two lists of Sample, the images to train on and those to test"
    if not isinstance(found, tuple | list) or len(found) != 2 or not all(isinstance(part, list) for part in found):
        raise UserError(f"{said}. It returned {found!r:.160}")
    for sample in chain(*found):
        if not isinstance(sample, Sample) or not isinstance(sample.path, Path) or sample.label not in (0, 1):
            raise UserError(f"{said}, with a Path, and a label that is 0 or 1. It has {sample!r:.160}")
        if not isinstance(sample.mask, Path | None):
            raise UserError(f"{said}, with a Path of the mask, or None. It has {sample!r:.160}")
    if odd := next((sample for sample in found[0] if sample.label), None):
        raise UserError(f"{said}. Its first list, of normal images, has one that is anomalous: {odd.path}")


def require_archive(place: Place, archive: Archive | None) -> Archive:
    """Return the archive that a data set is downloaded from. Raises `UserError` where it has none."""
    if archive is None:
        raise UserError(
            f"data set {place.name} is not downloaded by kdad: {place.obtain}. Get it there and unpack it into "
            f"{place.root}, or say where it is: dataset.root=<folder>"
        )
    return archive


def check_parts(place: Place, category: str, parts: Mapping[str, Sequence[Sample]]) -> None:
    """Raise `UserError` where a category has no image in one of the parts, which are named as messages call them."""
    for part, samples in parts.items():
        if not samples:
            raise UserError(
                f"data set {place.name}, category {category}: no {part} images in {place.root}. "
                f"Expected: {place.layout}"
            )


def check_masks(test: Sequence[Sample]) -> None:
    """Raise `UserError` where an anomalous image has no mask."""
    anomalous = [sample for sample in test if sample.label == 1]
    missing = [sample for sample in anomalous if sample.mask is None or not sample.mask.exists()]
    if missing:
        raise UserError(
            f"no mask {missing[0].mask or 'file'} for the anomalous image {missing[0].path} "
            f"({len(missing)} of {len(anomalous)} are missing)"
        )


def check_single(place: Place, category: str, train: Sequence[Sample], val_fraction: float) -> None:
    """Raise `UserError` where the only training image would be held out to validate on."""
    if val_fraction and len(train) == 1:
        raise UserError(
            f"data set {place.name}, category {category}: {train[0].path} is the only training image and "
            f"val_fraction is {val_fraction}: nothing would be left to train on. val_fraction=0 trains on it"
        )


def compare_counts(counts: Mapping[str, int], official: Mapping[str, int], counted: str) -> str:
    """Compare the numbers of each part with the official ones; `counted` names what was counted.

    Returns a text on the parts that differ, empty where none does.
    """
    differ = ((counts[part], part, n) for part, n in official.items() if counts[part] != n)
    return "; ".join(f"{found} {part} {counted}, officially {n}" for found, part, n in differ)


def warn_of_counts(place: Place, category: str, differences: str) -> None:
    """Warn of the differences that `compare_counts` found, if it found any."""
    if differences:
        log.warning("data set %s, category %s: %s", place.name, category, differences)


def warn_of_absent_masks(place: Place, category: str, folder: Path | None) -> None:
    """Warn where the folder of a category's masks is missing; `folder` is None where it is not."""
    if folder:
        log.warning("data set %s, category %s: no folder %s: image metrics only", place.name, category, folder)


def warn_of_copies(name: str, pairs: Sequence[tuple[Path, Path]], n_test: int) -> None:
    """Warn where test images are copies of training images. `pairs`: (test image, training image)."""
    if pairs:
        log.warning(
            "data set %s: %d of %d test images are exact copies of training images; the first is %s, a copy of %s",
            name, len(pairs), n_test, *pairs[0],
        )  # fmt: skip


def describe_contradictions(pairs: Sequence[tuple[Path, Path]]) -> str:
    """Say how many pictures are given as normal and as anomalous. `pairs`: (anomalous image, normal image)."""
    return (
        f"{len(pairs)} anomalous images are exact copies of normal images; the first is {pairs[0][0]}, a copy of "
        f"{pairs[0][1]}: a picture cannot be both"
    )


def warn_of_few(name: str, train: Sequence[Sample], batch_size: int) -> None:
    """Warn where there is one training image only, or fewer than fill a batch."""
    if len(train) == 1:
        log.warning("data set %s: one training image only, %s", name, train[0].path)
    elif batch_size > len(train):
        log.warning(
            "data set %s: batch_size is %d but there are %d training images: each epoch is one batch of %d",
            name, batch_size, len(train), len(train),
        )  # fmt: skip


def warn_of(name: str, sentences: Iterable[str]) -> None:
    """Log each sentence as a warning: it tells of something that may be intended, but often is not."""
    for said in sentences:
        log.warning("data set %s: %s", name, said)
