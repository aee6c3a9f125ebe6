"""One's own pictures: folders of normal and of anomalous images, named by the user."""

import logging
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from kdad.data.base import AnomalyDataModule
from kdad.data.images import SUFFIXES, list_image_folders, list_images
from kdad.data.listed import Listed, read_list
from kdad.data.mask_files import Unmasked, find_masks
from kdad.data.masks import MASK_KINDS
from kdad.data.place import list_folders
from kdad.data.samples import Sample, hold_out, hold_out_share, keep_fraction
from kdad.errors import UserError

log = logging.getLogger(__name__)
SPLITS = ("name", "count")
Name = str | os.PathLike
Folders = Name | list[Name] | tuple[Name, ...] | None


class Folder(AnomalyDataModule):
    """`normal` to train, `normal_test` and `anomalous` to test: each one folder or several, below root or absolute.

    Images lie directly in these folders, or with `recursive` at any depth. Without `normal_test`, `test_fraction` of
    the normal images is held out: those whose name says so, by its hash, or with `split_by` count the first so many in
    the order of hashes, as version 0.1 did, where images change sides when the folder grows.

    The kind of an anomalous image is its folder's name, with `recursive` that of the first folder below the named one,
    if it lies in one; its mask is `<stem>_mask` or `<stem>`, with any image suffix, in the first of
    `<masks>/<named folder>/<path below it>`, `<masks>/<path below it>`, `<masks>/<kind>` and `masks` that there is;
    `mask_kind` says how it is read, see `masks.find_anomalous_pixels`. Without `masks`: image metrics only.

    `list` is a CSV file that names the images instead, see `listed.read_list`; what it does not say of the part of
    a normal image is decided as above. Raises `UserError` for an argument outside its range, and for folders beside a
    list.
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
        recursive: bool = False,
        list: Name | None = None,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        if not 0 <= test_fraction <= 1:
            raise UserError(f"dataset.test_fraction is {test_fraction}: it must be from 0 to 1")
        if mask_kind not in MASK_KINDS:
            raise UserError(f"dataset.mask_kind={mask_kind}: give one of {', '.join(MASK_KINDS)}")
        if split_by not in SPLITS:
            raise UserError(f"dataset.split_by={split_by}: give one of {', '.join(SPLITS)}")
        self.split_by, self.mask_kind, self.recursive = split_by, mask_kind, recursive
        self.test_fraction = test_fraction
        named = {"normal": normal, "normal_test": normal_test, "anomalous": anomalous}
        self.folders = {key: self._locate_all(value) for key, value in named.items()}  # key: [absolute path, ...]
        if not self.folders["normal"]:
            raise UserError("dataset.normal names no folder: it says where the normal training images are")
        self.masks = None if masks is None else self._locate(masks)
        self.list = None if list is None else self._locate(list)
        others = {"normal": normal != "normal", "anomalous": anomalous not in ("anomalous", None)}
        others |= {"normal_test": bool(normal_test), "masks": masks is not None, "recursive": recursive}
        for key in (key for key, given in others.items() if given and self.list):
            raise UserError(f"dataset.{key} with dataset.list={list}: the list alone says what is what, leave one out")

    def _locate(self, name: Name) -> Path:
        return self.root / Path(str(name)).expanduser()  # str: on the command line, a folder called 1 is a number

    def _locate_all(self, value: Folders) -> list[Path]:
        names = [] if value is None else value if isinstance(value, list | tuple) else [value]
        return [self._locate(name) for name in names]

    def categories(self) -> list[str]:
        if self.list:
            if not self.list.is_file():
                raise UserError(
                    f"dataset.list: no file {self.list}. It is looked for below dataset.root, here {self.root}, unless "
                    "its path is absolute; dataset.root=. is the current folder"
                )
            return ["all"]
        named = [folder for folders in self.folders.values() for folder in folders]
        if any(folder.is_relative_to(self.root) for folder in named):
            self.check_root()
        return ["all"]

    def find_samples(self) -> tuple[list[Sample], list[Sample]]:
        """Return the training and the test images, each list sorted by path.

        Raises `UserError` where a folder is missing, empty, named twice or holds more than its key says.
        """
        if self.list:
            return self._split_listed(self._listed)
        self._check_folders()
        train, test = (
            [Sample(path, 0, "good") for folder in self.folders[key] for path in self._list_images(folder)]
            for key in ("normal", "normal_test")
        )
        if not self.folders["normal_test"]:
            train, test = self._hold_out(train)
        anomalous = [
            Unmasked(path, folder) for folder in self.folders["anomalous"] for path in self._list_images(folder)
        ]
        masks = self._find_masks(anomalous)
        self._tell_unused()
        test += [Sample(image.path, 1, image.kind, masks.get(image.path)) for image in anomalous]
        return sorted(train), sorted(test)

    def _tell_unused(self) -> None:
        """Tell of folders of images beside the named ones: a kind, or the masks, may have been forgotten."""
        named = [*(folder for folders in self.folders.values() for folder in folders), *filter(None, [self.masks])]
        if unused := [
            folder.name for folder in list_folders(self.root)
            if not any(one.is_relative_to(folder) or folder.is_relative_to(one) for one in named)
            and (list_images(folder) or list_image_folders(folder))
        ]:  # fmt: skip
            log.warning("data set %s: folders of images that no key names: %s. dataset.anomalous=[...] and "
                        "dataset.masks= would name kinds and masks", self.name, _join(unused))  # fmt: skip

    def _list_images(self, folder: Path) -> list[Path]:
        """List the images of a named folder: right in it or, if `recursive`, also at any depth below it."""
        below = list_image_folders(folder) if self.recursive else []
        return [path for place in (folder, *below) for path in list_images(place)]

    def _find_masks(self, anomalous: list[Unmasked]) -> dict[Path, Path]:
        if self.masks is None:
            return {}
        _check_exists("masks", self.masks)
        return find_masks(self.masks, anomalous, [folder for folders in self.folders.values() for folder in folders])

    @cached_property
    def _listed(self) -> Listed:
        return read_list(self.list or Path())

    def _split_listed(self, listed: Listed) -> tuple[list[Sample], list[Sample]]:
        """Return (train, test) of a list. Raises `UserError` where it has nothing to train on, or to test."""
        train, test = listed.choose("train"), listed.choose("test")
        if not listed.has_splits:
            normal, test = listed.choose("normal"), listed.choose("anomalous")
            train, held_out = self._hold_out(normal) if normal else ([], [])
            test = sorted(test + held_out)
        what = "row whose split is {}" if listed.has_splits else "normal row to {}"
        if not train and self.trains and (listed.has_splits or self.test_fraction < 1):
            raise UserError(f"dataset.list: {self.list} has no {what.format('train')}: there is nothing to train on")
        if not test and not self.tests_nothing():
            raise UserError(
                f"dataset.list: {self.list} has no {what.format('test')}: name some, normal and anomalous ones"
            )
        return sorted(train), test

    def find_validation(self) -> list[Sample]:
        return self._listed.choose("validation") if self.list else []

    def find_left_out(self, listed: Sequence[Sample]) -> list[str]:
        return [] if self.list else super().find_left_out(listed)  # a list is as long as it was meant to be

    def _hold_out(self, train: list[Sample]) -> tuple[list[Sample], list[Sample]]:
        """Split the normal images. Returns (train, test). Raises `UserError` where none would be left to train on."""
        if not self.test_fraction:
            return train, []
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
        if self.list:
            named: Sequence[Any] = [row for row in self._listed.rows if row.split or row.sample.label]
        else:
            named = self.folders["anomalous"] + self.folders["normal_test"]
        return self.trains and not named and not self.test_fraction

    def split_training(self, train: list[Sample], own: list[Sample]) -> tuple[list[Sample], list[Sample]]:
        """Split the training images. Returns (train, validation), so that none changes sides when the folder grows."""
        if self.split_by == "count" or own:
            return super().split_training(train, own)
        all_train = self._listed.has_splits if self.list else bool(self.folders["normal_test"])
        tested = 0.0 if all_train else self.test_fraction
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
        if self.recursive:
            self._check_apart(seen)
        for key in ("normal_test", "anomalous") if not self.recursive else ():
            for folder in self.folders[key]:
                if below := [other for other in list_image_folders(folder) if other.resolve() not in named]:
                    raise UserError(
                        f"dataset.{key}: images are taken from {folder} itself, but there are some below it too: "
                        f"{_join(below)}. Name these folders as well, move their images up, or dataset.recursive=true "
                        "takes all that is below"
                    )
        for key, folders in self.folders.items():
            for folder in folders:
                if not self._list_images(folder):
                    below = list_image_folders(folder)
                    hint = f" Folders below it have some: {_join(below)}; name these" if below else ""
                    hint += ", or dataset.recursive=true" if below else ""
                    raise UserError(f"dataset.{key}: no images in {folder} ({', '.join(sorted(SUFFIXES))}).{hint}")
        for folder in self.folders["anomalous"]:
            if any(Unmasked(path, folder).kind == "good" for path in self._list_images(folder)):
                good = folder if folder.name == "good" else folder / "good"
                raise UserError(f"dataset.anomalous: {good} is called good, as normal images are: rename it")

    def _check_apart(self, named: dict[Path, str]) -> None:
        """Raise `UserError` where a folder, of masks too, lies below another one, which would take its images in."""
        inner = named | ({self.masks.resolve(): "masks"} if self.masks else {})
        for folder, key in inner.items():
            for outer in (parent for parent in folder.parents if parent in named):
                raise UserError(
                    f"dataset.{key}: {folder} lies below {outer} of dataset.{named[outer]}, all of which "
                    "dataset.recursive=true takes in. Name folders that lie apart"
                )

    def _check_only_normal(self, folder: Path) -> None:
        others = [] if self.recursive else list_image_folders(folder)
        if folder.parent.name == "train":  # beside train/good nothing else is expected, as in MVTec AD's layout
            named = self.folders["normal"] + self.folders["normal_test"]
            others += [other for other in list_folders(folder.parent) if other not in named and list_images(other)]
        if others:
            raise UserError(
                f"dataset.normal: {folder} should hold normal training images, right in it and nothing else, "
                f"but there is {_join(others)}. Move other kinds out of the training folder, or name the folder "
                "of normal images alone: dataset.normal=<folder>. If all below it is normal, dataset.recursive=true "
                "takes that in"
            )


def _check_exists(key: str, folder: Path) -> None:
    if not folder.is_dir():
        beside = [other.name for other in list_folders(folder.parent)]
        has = f"{folder.parent} has: {_join(beside, 20)}" if beside else f"{folder.parent} has no folders"
        if halved := [name for name in beside if name.startswith(f"{folder.name},")]:
            has += f". In a list, a name with a comma has quotes of its own: 'dataset.{key}=[\"{halved[0]}\"]'"
        if key == "anomalous" and beside:
            has += ". Several kinds are a list, 'dataset.anomalous=[a,b]'; null: there are normal images alone"
        raise UserError(f"dataset.{key}: no folder {folder}. {has}")


def _join(folders: Sequence[str | Path], most: int = 5) -> str:
    more = f" and {len(folders) - most} more" if len(folders) > most else ""
    return ", ".join(map(str, folders[:most])) + more
