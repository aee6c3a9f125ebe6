"""MVTec AD's layout, and every other that differs from it by the names of its folders.

Bergmann et al., "MVTec AD - A Comprehensive Real-World Dataset for Unsupervised Anomaly Detection", CVPR 2019.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from kdad.data.base import AnomalyDataModule
from kdad.data.download import Archive
from kdad.data.images import list_image_folders, list_images
from kdad.data.masks import MASK_KINDS, MaskFacts
from kdad.data.oddities import find_unread
from kdad.data.place import describe_folders, list_categories, list_folders
from kdad.data.regions import Region, Saturation, read_regions, read_saturations
from kdad.data.samples import Sample
from kdad.errors import UserError


class MVTec(AnomalyDataModule):
    """One folder per category below root. A further set of this type is one YAML with this class as `_target_`.

    `train`, `validation` and `test` are folders below the category's, images directly in them; `{kind}` in `test`
    stands for one folder per kind, of which `normal` is the normal one. `masks` is the mask of an anomalous image:
    `{kind}` and `{stem}` are the image's, a suffix `.*` is any image suffix, and where it is a folder all masks in it
    count together. A set whose folder of masks is missing, which warns, or with `masks=None`, is read without
    masks: image metrics only. `mask_kind` is how masks are read, see `masks.find_anomalous_pixels`. `saturation` is a
    file below the category's folder that says how much of a region is enough, for sPRO, where each mask in an image's
    folder is of a region; after `setup()` they are in `regions`. `obtain` says where to get the set, and `archive`
    (url, sha256) what `download` fetches, if its terms allow that. Raises `UserError` for folders and a `mask_kind`
    that cannot be.
    """

    obtain = "It is a set of your own"

    def __init__(
        self,
        *,
        train: str = "train/good",
        validation: str | None = None,
        test: str = "test/{kind}",
        normal: str = "good",
        masks: str | None = "ground_truth/{kind}/{stem}_mask.png",
        mask_kind: str = "binary",
        saturation: str | None = None,
        obtain: str | None = None,
        archive: Mapping[str, str] | None = None,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        if not Path(train).parts:
            raise UserError(f"dataset.train={train}: name a folder below the category's")
        if Path(test).parts.count("{kind}") != 1:
            raise UserError(f"dataset.test={test}: it needs one folder called {{kind}}, such as test/{{kind}}")
        if masks is not None:
            try:
                masks.format(kind="", stem="")
            except (KeyError, IndexError, ValueError) as error:
                raise UserError(f"dataset.masks={masks}: only {{kind}} and {{stem}} can stand in it") from error
        if mask_kind not in MASK_KINDS:
            raise UserError(f"dataset.mask_kind={mask_kind}: give one of {', '.join(MASK_KINDS)}")
        self.train, self.validation, self.test, self.normal, self.masks = train, validation, test, normal, masks
        self.mask_kind, self.saturation = mask_kind, saturation
        self.regions: dict[int, list[Region]] = {}  # of test images, by index
        self.obtain = obtain or self.obtain
        self.archive = Archive(**archive) if archive else None
        self.layout = describe_folders({"train": train, "validation": validation, "test": test, "masks": masks})

    def categories(self) -> list[str]:
        self.check_root()
        return list_categories(self.root, self.train if self.trains else self.test)

    def find_samples(self) -> tuple[list[Sample], list[Sample]]:
        """Return the training and the test images of the category, each list sorted by path.

        Raises `UserError` where the training folder holds another kind than the normal one.
        """
        folder = self.root / self.category
        first, *below = Path(self.train).parts
        for kind in list_folders(folder / first):
            if below and kind.name != below[0] and Path(self.test).parts[0] != first:
                raise UserError(f"{kind}: training images are normal ones, in {folder / self.train} only")
        train = [Sample(path, 0, "good") for path in list_images(folder / self.train)]
        test = []
        before, after = self.test.split("{kind}")
        for kind in list_folders(folder / before):
            images = list_images(kind / after.strip("/"))
            if kind.name == self.normal:
                test += [Sample(path, 0, "good") for path in images]
            else:
                masks = self._find_masks(folder, kind.name, images)
                test += [Sample(path, 1, kind.name, mask) for path, mask in zip(images, masks, strict=True)]
        return train, test

    def find_left_out(self, listed: Sequence[Sample]) -> list[str]:
        folder, (before, after) = self.root / self.category, self.test.split("{kind}")
        above = {folder / Path(self.train).parts[0], folder / before} - {folder}
        kinds = {folder / self.train, *(kind / after.strip("/") for kind in list_folders(folder / before))}
        read = {sample.path.parent for sample in listed}
        below = {place for parent in read for place in list_image_folders(parent)}
        strays = [path for place in sorted((above | below) - read) for path in list_images(place)]
        said = find_unread(listed, above | kinds)
        if strays:
            said.append(
                f"{len(strays)} pictures of category {self.category} are left out, since they lie in no folder of the "
                f"layout ({self.layout}). The first is {strays[0]}: move them into one"
            )
        if (file := self.saturation_file) and not file.is_file() and any(sample.mask for sample in listed):
            said.append(f"no saturation thresholds {file}: without sPRO")
        return said

    @property
    def saturation_file(self) -> Path | None:
        """The file of saturation thresholds, which may be missing; None for a set that has none."""
        return self.root / self.category / self.saturation if self.saturation else None

    @cached_property
    def saturations(self) -> Mapping[int, Saturation] | None:
        """How much of each kind of defect is enough; None without a file. Raises `UserError` for a bad one."""
        file = self.saturation_file
        return read_saturations(file) if file and file.is_file() else None

    def look_at_mask(self, sample: Sample) -> MaskFacts:
        if self.saturations is not None and sample.mask is not None:
            read_regions(sample.mask, self.saturations, self.image_size)  # raises where one has no threshold
        return super().look_at_mask(sample)

    def find_validation(self) -> list[Sample]:
        if self.validation is None:
            return []
        folder = self.root / self.category / self.validation
        return [Sample(path, 0, "good") for path in list_images(folder)]

    def setup(self, stage: str | None = None) -> None:
        super().setup(stage)
        if self.regions or not self.has_masks or self.saturations is None:
            return
        with ThreadPoolExecutor() as threads:  # Pillow decodes without holding the interpreter lock
            read = partial(read_regions, saturations=self.saturations, size=self.image_size)
            anomalous = {index: sample.mask for index, sample in enumerate(self.test_samples) if sample.mask}
            self.regions = dict(zip(anomalous, threads.map(read, anomalous.values()), strict=True))
        lost = sum(len(list_images(mask)) for mask in anomalous.values()) - sum(map(len, self.regions.values()))
        self.facts |= {"n_vanished_regions": lost} if lost else {}

    def find_absent_masks(self) -> Path | None:
        if self.masks is None:
            return None
        folder = self.root / self.category / self.masks.split("{")[0]
        return None if folder.is_dir() else folder

    def _find_masks(self, folder: Path, kind: str, images: list[Path]) -> Sequence[Path | None]:
        """Return the path of each image's mask, whether it exists or not; None where the set has no masks.

        Raises `UserError` where two files could be the mask of one image.
        """
        if self.masks is None or self.find_absent_masks():
            return [None] * len(images)
        masks = [folder / self.masks.format(kind=kind, stem=image.stem) for image in images]
        if not masks or masks[0].suffix != ".*":
            self._advise(masks, images)
            return masks
        found: dict[Path, Path] = {}
        for file in (file for place in {mask.parent for mask in masks} for file in list_images(place)):
            other = found.setdefault(file.with_suffix(""), file)
            if other != file:
                raise UserError(f"{other} and {file} could both be the mask of an image: keep one")
        return [found.get(mask.with_suffix(""), mask) for mask in masks]

    def _advise(self, masks: Sequence[Path], images: Sequence[Path]) -> None:
        """Raise `UserError` where a mask is missing, but one of another name or suffix lies in its place."""
        for mask, image in zip(masks, images, strict=True):
            if mask.exists():
                continue
            for other in list_images(mask.parent):
                if other.stem in (image.stem, f"{image.stem}_mask"):
                    name = other.name.replace(image.stem, "{stem}", 1)
                    pattern = (Path(self.masks or "").parent / name).as_posix()
                    raise UserError(
                        f"no mask {mask} for the anomalous image {image}, but there is {other}: if that is it, give "
                        f"'dataset.masks=\"{pattern}\"'"
                    )
