"""One's own pictures: folders of normal and of anomalous images, named by the user."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kdad.data.base import AnomalyDataModule
from kdad.data.images import SUFFIXES, list_folders, list_image_folders, list_images
from kdad.data.masks import MASK_KINDS
from kdad.data.samples import Sample, hold_out, hold_out_share, keep_fraction
from kdad.errors import UserError

SPLITS = ("name", "count")
Name = str | os.PathLike
Folders = Name | list[Name] | tuple[Name, ...] | None


class Folder(AnomalyDataModule):
    """`normal` to train, `normal_test` and `anomalous` to test: each one folder or several, below root or absolute.

    Images lie directly in these folders. Without `normal_test`, `test_fraction` of the normal images is
    held out: those whose name says so, by its hash, or with `split_by` count the first so many in the order of
    hashes, as version 0.1 did, where images change sides when the folder grows.

    The kind of an anomalous image is its folder's name; its mask is `<stem>_mask` or `<stem>`, with any image suffix,
    in `<masks>/<kind>` or, where there is no such folder, in `masks`; `mask_kind` says how it is read, see
    `masks.find_anomalous_pixels`. Without `masks`: image metrics only.
    """

    layout = "the folders that dataset.normal, .normal_test, .anomalous and .masks name, with images directly in them"
    obtain = "The pictures are your own: dataset.normal=<folder below root> names the normal ones, and so on"
    default_category = "all"

    def __init__(
        self,
        *,
        normal: Folders = "normal",
        normal_test: Folders = None,
        anomalous: Folders = "anomalous",
        masks: Name | None = None,
        mask_kind: str = "auto",
        test_fraction: float = 0.2,
        split_by: str = "name",
        **common: Any,
    ) -> None:
        super().__init__(**common)
        if not 0 <= test_fraction <= 1:
            raise UserError(f"dataset.test_fraction is {test_fraction}: it must be from 0 to 1")
        if mask_kind not in MASK_KINDS:
            raise UserError(f"dataset.mask_kind={mask_kind}: give one of {', '.join(MASK_KINDS)}")
        if split_by not in SPLITS:
            raise UserError(f"dataset.split_by={split_by}: give one of {', '.join(SPLITS)}")
        self.split_by, self.mask_kind = split_by, mask_kind
        self.test_fraction = test_fraction
        named = {"normal": normal, "normal_test": normal_test, "anomalous": anomalous}
        self.folders = {key: self._locate_all(value) for key, value in named.items()}  # key: [absolute path, ...]
        if not self.folders["normal"]:
            raise UserError("dataset.normal names no folder: it says where the normal training images are")
        self.masks = None if masks is None else self._locate(masks)

    def _locate(self, name: Name) -> Path:
        return self.root / Path(str(name)).expanduser()  # str: on the command line, a folder called 1 is a number

    def _locate_all(self, value: Folders) -> list[Path]:
        names = [] if value is None else value if isinstance(value, list | tuple) else [value]
        return [self._locate(name) for name in names]

    def categories(self) -> list[str]:
        named = [folder for folders in self.folders.values() for folder in folders]
        if any(folder.is_relative_to(self.root) for folder in named):
            self.check_root()
        return ["all"]

    def find_samples(self) -> tuple[list[Sample], list[Sample]]:
        """Return the training and the test images, each list sorted by path.

        Raises `UserError` where a folder is missing, empty, named twice or holds more than its key says.
        """
        self._check_folders()
        train, test = self._split_normal()
        kinds = [(folder.name, list_images(folder)) for folder in self.folders["anomalous"]]
        images = [(path, kind) for kind, paths in kinds for path in paths]
        masks = self._find_masks(images)
        test += [Sample(path, 1, kind, masks.get(path)) for path, kind in images]
        return sorted(train), sorted(test)

    def _split_normal(self) -> tuple[list[Sample], list[Sample]]:
        """Split the normal images. Returns (train, test). Raises `UserError` where none would be left to train on."""
        train, test = (
            [Sample(path, 0, "good") for folder in self.folders[key] for path in list_images(folder)]
            for key in ("normal", "normal_test")
        )
        if self.folders["normal_test"] or not self.test_fraction:
            return train, test
        if self.test_fraction == 1:
            return [], train
        if len(train) == 1:
            raise UserError(
                f"{train[0].path} is the only normal image and dataset.test_fraction is {self.test_fraction}: nothing "
                "would be left to train on. dataset.normal_test=<folder> names other images; "
                "dataset.test_fraction=0 tests on no normal image"
            )
        if self.split_by == "count":
            n_test = min(max(1, round(self.test_fraction * len(train))), len(train) - 1)
            return hold_out(train, n_test, self.root, self.split_seed)
        return hold_out_share(train, (0.0, self.test_fraction), self.root, self.split_seed)

    def tests_nothing(self) -> bool:
        named = self.folders["anomalous"] + self.folders["normal_test"]
        return self.trains and not named and not self.test_fraction

    def split_training(self, train: list[Sample], own: list[Sample]) -> tuple[list[Sample], list[Sample]]:
        """Split the training images. Returns (train, validation), so that none changes sides when the folder grows."""
        if self.split_by == "count":
            return super().split_training(train, own)
        tested = 0.0 if self.folders["normal_test"] else self.test_fraction
        share = tested, tested + (1 - tested) * self.val_fraction
        kept, held_out = hold_out_share(train, share, self.root, self.split_seed)
        return keep_fraction(kept, self.train_fraction), keep_fraction(
            held_out, self.train_fraction
        ) if held_out else []

    # Checking

    def _check_folders(self) -> None:
        seen: dict[Path, str] = {}
        for key, folders in self.folders.items():
            if key == "normal" and not self.trains:
                folders[:] = [folder for folder in folders if folder.is_dir()]
            for folder in folders:
                _check_exists(key, folder)
                place = folder.resolve()
                if place in seen:
                    raise UserError(f"{folder} is named twice: in dataset.{seen[place]} and in dataset.{key}")
                seen[place] = key
        for folder in self.folders["normal"]:
            self._check_only_normal(folder)
        named = {folder.resolve() for folders in self.folders.values() for folder in folders}
        for key in ("normal_test", "anomalous"):
            for folder in self.folders[key]:
                if below := [other for other in list_image_folders(folder) if other.resolve() not in named]:
                    raise UserError(
                        f"dataset.{key}: images are taken from {folder} itself, but there are some below it too: "
                        f"{_join(below)}. Name these folders as well, or move their images up"
                    )
        for key, folders in self.folders.items():
            for folder in folders:
                if not list_images(folder):
                    below = list_image_folders(folder)
                    hint = f" Folders below it have some: {_join(below)}; name these" if below else ""
                    raise UserError(f"dataset.{key}: no images in {folder} ({_list_suffixes()}).{hint}")
        for folder in self.folders["anomalous"]:
            if folder.name == "good":
                raise UserError(f"dataset.anomalous: {folder} is called good, as normal images are: rename it")

    def _check_only_normal(self, folder: Path) -> None:
        others = list_image_folders(folder)
        if folder.parent.name == "train":  # beside train/good nothing else is expected, as in MVTec AD's layout
            named = self.folders["normal"] + self.folders["normal_test"]
            others += [other for other in list_folders(folder.parent) if other not in named and list_images(other)]
        if others:
            raise UserError(
                f"dataset.normal: {folder} should hold normal training images, right in it and nothing else, "
                f"but there is {_join(others)}. Move other kinds out of the training folder, or name the folder "
                "of normal images alone: dataset.normal=<folder>"
            )

    # Masks

    def _find_masks(self, images: list[tuple[Path, str]]) -> dict[Path, Path]:
        """Find the masks of images (path, kind). Returns {path: mask}, empty without `masks`.

        Raises `UserError` unless each image has one of its own.
        """
        if self.masks is None:
            return {}
        _check_exists("masks", self.masks)
        places = {folder.name: _find_mask_folder(self.masks, folder.name) for folder in self.folders["anomalous"]}
        listings = {kind: self._list_masks(place) for kind, place in places.items()}
        found: dict[Path, Path] = {}
        owners: dict[Path, Path] = {}
        for path, kind in images:
            files = listings[kind]
            masks = files.get(f"{path.stem}_mask", []) + files.get(path.stem, [])
            if not masks:
                continue
            mask, *others = masks
            if others:
                raise UserError(f"{mask} and {others[0]} could both be the mask of {path}: keep one")
            if mask in owners:
                raise UserError(
                    f"{mask} would be the mask of both {owners[mask]} and {path}: "
                    f"put masks into {self.masks}/<kind>, or rename one of the images"
                )
            found[path], owners[mask] = mask, path
        missing = [(path, kind) for path, kind in images if path not in found]
        if missing:
            path, kind = missing[0]
            place = places[kind]
            raise UserError(
                f"no mask for the anomalous image {path} ({len(missing)} of {len(images)} are missing). Looked for "
                f"{place / path.stem}_mask.* and {place / path.stem}.* ({_list_suffixes()}). "
                "dataset.masks=null goes without masks"
            )
        return found

    def _list_masks(self, place: Path) -> dict[str, list[Path]]:
        """List the files in a folder of masks. Returns {stem: paths}. Raises `UserError` where it holds images, too."""
        if any(place.samefile(folder) for folders in self.folders.values() for folder in folders):
            raise UserError(f"dataset.masks: {place} holds images to train or test on: masks need a folder apart")
        files: dict[str, list[Path]] = {}
        for path in list_images(place):
            files.setdefault(path.stem, []).append(path)
        return files


def _find_mask_folder(masks: Path, kind: str) -> Path:
    return masks / kind if (masks / kind).is_dir() else masks


def _check_exists(key: str, folder: Path) -> None:
    if not folder.is_dir():
        beside = [other.name for other in list_folders(folder.parent)]
        has = f"{folder.parent} has: {_join(beside, 20)}" if beside else f"{folder.parent} has no folders"
        raise UserError(f"dataset.{key}: no folder {folder}. {has}")


def _join(folders: Sequence[str | Path], most: int = 5) -> str:
    more = f" and {len(folders) - most} more" if len(folders) > most else ""
    return ", ".join(map(str, folders[:most])) + more


def _list_suffixes() -> str:
    return ", ".join(sorted(SUFFIXES))
