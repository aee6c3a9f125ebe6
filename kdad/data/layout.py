"""How a data set lies on disk, and how an image, a mask and a region of interest are read of it.

A data set is a subclass of `AnomalyDataModule`, which adds to this categories, samples, checking, splits and loaders.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from kdad.data import checks, images, masks, samples
from kdad.data.intensity import Rule
from kdad.data.oddities import find_unread
from kdad.data.roi import Roi, blank, resize_roi
from kdad.data.samples import Sample
from kdad.geometry import ImageSize, Tiling


class Layout:
    """How one data set lies on disk."""

    layout: str = "what find_samples() of its class reads"  # folders below root, for error messages
    obtain: str = "`obtain` of its class may say where it comes from"  # and its licence
    needs_root: bool = True  # whether a missing root is refused: False where it is made, or pictures may lie elsewhere
    default_category: str = ""  # that of a configuration without one; empty: one has to be named
    mask_kind: str = "binary"  # how masks are read: see `masks.find_anomalous_pixels`
    counted: str = "images"  # what the official counts are of
    root: Path
    category: str
    image_size: ImageSize
    rule: Rule  # by which values become 8 bits
    tiling: Tiling | None  # how pictures are cut; None: they are whole
    roi: Roi | None  # the region of interest
    split_seed: int
    val_fraction: float
    train_fraction: float
    official: Mapping[str, Mapping[str, int]]

    # What a layout may change, where it brings normal images to validate on, or an image is no file of its own

    def find_validation(self) -> list[Sample]:
        """Return the normal images that the data set itself brings to validate on; none by default."""
        return []

    def read_picture(self, sample: Sample) -> Image.Image:
        """Read a picture. Returns an upright RGB image at its own size. Raises `UserError` where it cannot be read."""
        return images.read_picture(sample.path, self.rule)

    def read_mask_values(self, sample: Sample) -> np.ndarray:
        """Read an image's mask. Returns (H,W) as stored. Raises `UserError` where there is none to read."""
        return masks.decode_mask(sample.require_mask(), self.mask_kind)

    def find_left_out(self, listed: Sequence[Sample]) -> list[str]:
        """Return sentences on pictures that are not among those listed, though they lie beside them."""
        return find_unread(listed)

    def find_absent_masks(self) -> Path | None:
        """Return the folder of the category's masks if it is missing: then there are image metrics only."""
        return None

    def version(self, sample: Sample) -> tuple[int | str, ...]:
        """Return size and times of an image's file, from which a cache sees that the image has changed."""
        status = sample.path.stat()  # st_ctime_ns tells that another file took its name
        return status.st_size, status.st_mtime_ns, status.st_ctime_ns

    def find_copies(self, train: Sequence[Sample], test: Sequence[Sample]) -> list[tuple[Path, Path]]:
        """Find test images that are exact copies of training images. Returns pairs (test image, training image)."""
        return samples.find_equal_files(train, test)

    def find_contradictions(self, train: Sequence[Sample], test: Sequence[Sample]) -> list[tuple[Path, Path]]:
        """Find anomalous images that are exact copies of normal ones. Returns pairs (anomalous image, normal image)."""
        return self.find_copies([*train, *(s for s in test if not s.label)], [s for s in test if s.label])

    def look_at(self, sample: Sample) -> images.Look:
        """Find an image's size and mode, quickly. Raises `UserError` where it is damaged."""
        return images.look(sample.path, self.rule)

    def split_training(self, train: list[Sample], own: list[Sample]) -> tuple[list[Sample], list[Sample]]:
        """Split the training images. Returns (train, validation); `own` are those that the data set brings."""
        order = samples.order_samples(train, self.root, self.split_seed)
        own = samples.order_samples(own, self.root, self.split_seed)
        return samples.split_training(order, self.val_fraction, self.train_fraction, own)

    def tests_nothing(self) -> bool:
        """Return whether the configuration itself asks for no test image at all."""
        return False

    def compare_with_official(self, counts: Mapping[str, int]) -> str:
        """Compare numbers of images with the official ones. Returns a text on those that differ, or an empty one."""
        return checks.compare_counts(counts, self.official.get(self.category, {}), self.counted)

    # What follows from it

    def find_roi(self, sample: Sample, size: tuple[int, int] | None = None) -> NDArray[np.bool_] | None:
        """Find which pixels of a picture are of interest, bool (H,W); None: all. `size` is its (width, height)."""
        return self.roi.find(sample.path, size or self.look_at(sample).size) if self.roi else None

    def read_inside(self, sample: Sample) -> tuple[Image.Image, NDArray[np.bool_] | None]:
        """Read a picture, made one colour outside the region of interest. Returns it, RGB, and the region."""
        picture = self.read_picture(sample)
        inside = self.find_roi(sample, picture.size)
        return blank(picture, inside), inside

    def read_image(self, sample: Sample) -> Tensor:
        """Read an image at the detector's size. Returns uint8 (3,h,w). Raises `UserError` where it cannot be read."""
        return images.resize_image(self.read_inside(sample)[0], self.image_size)

    def require_roi(self, sample: Sample) -> Tensor:
        """Read the region of interest at the detector's size, of a data set that has one. Returns bool (1,h,w)."""
        inside = self.find_roi(sample)
        assert inside is not None
        return resize_roi(inside, self.image_size)

    def identify(self, sample: Sample) -> tuple[int | str, ...]:
        """Return all that an image at a given size depends on, for caches."""
        return *self.version(sample), *self.rule.key, *(self.roi.identify(sample.path) if self.roi else ())

    def read_anomalous_pixels(self, sample: Sample, as_taken: bool = False) -> tuple[NDArray[np.bool_], bool]:
        """Read which pixels of an image are anomalous, at the image's own size. Raises `UserError` on a bad mask.

        Returns bool (H,W), on request (`as_taken`) with what lies outside the region of interest, and whether the mask
        has grey levels.
        """
        values, mask = self.read_mask_values(sample), sample.require_mask()
        anomalous, nonbinary = masks.find_anomalous_pixels(values, self.mask_kind, mask, sample.path, self.rule)
        inside = None if as_taken else self.find_roi(sample, values.shape[::-1])
        return anomalous if inside is None else anomalous & inside, nonbinary

    def look_at_mask(self, sample: Sample) -> masks.MaskFacts:
        """Return the facts of a mask as it is tested: of pictures in tiles at its own size, where nothing vanishes."""
        if self.tiling is None:
            return self.read_mask(sample)[1]
        anomalous, nonbinary = self.read_anomalous_pixels(sample)
        facts = masks.MaskFacts(not anomalous.any(), False, bool(nonbinary), bool(anomalous.mean() > 0.5))
        return self._explain_empty(sample, facts)

    def read_mask(self, sample: Sample, as_taken: bool = False) -> tuple[Tensor, masks.MaskFacts]:
        """Read a mask at the detector's size. Returns bool (h,w) and its facts. Raises `UserError` on a bad mask."""
        anomalous, nonbinary = self.read_anomalous_pixels(sample, as_taken)
        mask, facts = masks.resize_mask(anomalous, self.image_size, nonbinary)
        return mask, self._explain_empty(sample, facts)

    def _explain_empty(self, sample: Sample, facts: masks.MaskFacts) -> masks.MaskFacts:
        outside = facts.empty and self.roi is not None and bool(self.read_anomalous_pixels(sample, True)[0].any())
        return facts._replace(empty=False, outside=True) if outside else facts
