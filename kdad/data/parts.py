"""The parts that a category's images are divided into, and studies of training images that are few or not clean."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from kdad.data.roi import Roi
from kdad.data.samples import Sample, fingerprint_samples, hold_out_share, join_digits, order_samples
from kdad.errors import UserError


class Parts(NamedTuple):
    """The images of a category, by what they are there for; each list in an order of its own.

    `train`, `validation` and `calibration`, of which thresholds alone are taken, are seen before a `test`.
    """

    train: list[Sample]
    validation: list[Sample]
    calibration: list[Sample]
    test: list[Sample]

    @property
    def seen(self) -> list[Sample]:
        """All that a detector sees before it is tested."""
        return [*self.train, *self.validation, *self.calibration]

    def sort(self) -> "Parts":
        """Return the same parts, those that are seen before a test sorted by path."""
        return Parts(sorted(self.train), sorted(self.validation), sorted(self.calibration), self.test)

    def count_images(self) -> dict[str, int]:
        """Return how many images each part has, as results.json says it."""
        counts = {"n_train": len(self.train), "n_val": len(self.validation), "n_test": len(self.test)}
        return counts | ({"n_calibration": len(self.calibration)} if self.calibration else {})

    def fingerprint(self, root: Path, roi: Roi | None = None) -> str:
        """Return digits of which images are in which part and of the region of interest in them, -, and of content."""
        named = {"train": self.train, "validation": self.validation, "test": self.test}
        named |= {"calibration": self.calibration} if self.calibration else {}
        names, content = fingerprint_samples(named, root)
        if roi is not None:
            # Of a folder of masks their sizes, as of images.
            regions = sorted({roi.identify(sample.path)[:2] for part in named.values() for sample in part})
            names = join_digits([f"{names} {regions}"], 16)
        return f"{names}-{content}"


def check_studies(
    shots: int | None, train_fraction: float, contamination: float, max_contamination: float | None
) -> None:
    """Raise `UserError` for values that say no part of the training images, or no share of anomalous ones."""
    if shots is not None and (not isinstance(shots, int) or isinstance(shots, bool) or shots < 1):
        raise UserError(f"dataset.shots={shots}: give a whole number of training images, at least 1, or null for all")
    if shots is not None and train_fraction != 1:
        raise UserError(f"dataset.shots={shots} with dataset.train_fraction={train_fraction}: give one of the two")
    for key, share in {"contamination": contamination, "max_contamination": max_contamination}.items():
        number = isinstance(share, int | float) and not isinstance(share, bool)
        if share is not None and not (number and 0 <= share < 1):
            raise UserError(f"dataset.{key}={share}: give a share of the training images, at least 0 and below 1")
    if max_contamination is not None and max_contamination < contamination:
        raise UserError(
            f"dataset.max_contamination={max_contamination} is below dataset.contamination={contamination}: it is the "
            "highest of a study, whose anomalous images no test of it has"
        )


def check_shots(shots: int | None, train: Sequence[Sample], root: Path) -> None:
    """Raise `UserError` where there are fewer training images than a few-shot study asks for."""
    if shots is not None and len(train) < shots:
        raise UserError(f"dataset.shots={shots}: there are only {len(train)} training images in {root}")


def take_shots(train: Sequence[Sample], shots: int, root: Path, split_seed: int) -> list[Sample]:
    """Return the training images of a few-shot study: so many of them, by split_seed; fewer are among more."""
    return order_samples(train, root, split_seed)[:shots]


def contaminate(parts: Parts, share: float, highest: float | None, root: Path, split_seed: int) -> Parts:
    """Move anomalous test images among those to train and to validate on, where they pass for normal.

    They are then this `share` of each of both parts, rounded. Which ones is decided by split_seed and their names;
    those of a smaller share are among those of a larger one. The test is left without those that the share `highest`
    would take, so that a study's tests are of the same images; null: without those that are taken. Returns the parts.
    Raises `UserError` where the test has too few, naming the largest share that it has enough for.
    """
    anomalous = order_samples([sample for sample in parts.test if sample.label], root, split_seed)
    taken, removed = _count(parts, share), sum(_count(parts, share if highest is None else highest))
    if removed >= len(anomalous):
        n, most = len(parts.train) + len(parts.validation), max(len(anomalous) - 1, 0)
        while most and _fits(parts, most / (n + most), most) < 0:
            most -= 1
        key = "contamination" if highest is None else "max_contamination"
        raise UserError(
            f"dataset.{key}={share if highest is None else highest}: {n} normal images would take {removed} anomalous "
            f"ones, and the test of {root} has {len(anomalous)}, of which one must stay. The largest share possible is "
            f"{int(1000 * most / (n + most)) / 1000}; with fewer normal images, dataset.train_fraction=, it is larger"
        )
    moved = [sample._replace(label=0, mask=None) for sample in anomalous[: sum(taken)]]
    gone = set(anomalous[:removed])
    return parts._replace(
        train=[*parts.train, *moved[: taken[0]]], validation=[*parts.validation, *moved[taken[0] :]],
        test=[sample for sample in parts.test if sample not in gone],
    )  # fmt: skip


def _count(parts: Parts, share: float) -> tuple[int, int]:
    """Return how many anomalous images make up a share of the images to train and to validate on."""
    train, validation = (round(share / (1 - share) * len(part)) for part in (parts.train, parts.validation))
    return train, validation


def _fits(parts: Parts, share: float, most: int) -> int:
    """Return how many of the `most` anomalous images a share would leave; negative where it takes more."""
    return most - sum(_count(parts, share))


def divide(
    split: tuple[list[Sample], list[Sample]],
    test: list[Sample],
    calibration_fraction: float,
    contamination: tuple[float, float | None],
    root: Path,
    split_seed: int,
) -> Parts:
    """Divide images into parts, after `split`, the images to train and to validate on. Returns the parts.

    `contamination` is a share, and the highest of a study or None, see `contaminate`. Raises `UserError` where the test
    has too few anomalous images for it.
    """
    parts = Parts(*split, [], test)
    if any(contamination):
        parts = contaminate(parts, *contamination, root, split_seed)
    if calibration_fraction:
        share = (0.0, calibration_fraction)
        kept, calibration = hold_out_share(parts.train, share, root, f"calibration {split_seed}")
        parts = parts._replace(train=kept, calibration=calibration)
    return parts
