"""Magnetic Tile Defects, folders as downloaded.

Huang, Qiu, Guo, Wang and Yuan, "Surface defect saliency of magnetic tile", The Visual Computer 36, 2020.
"""

from typing import Any

from kdad.data.base import AnomalyDataModule
from kdad.data.images import list_images
from kdad.data.samples import Sample, order_samples
from kdad.errors import UserError

TRAIN_SHARE = 0.8  # of the normal images


class MTD(AnomalyDataModule):
    """80 % of MT_Free to train; the rest of it and all anomalous images to test.

    Masks are grey-level PNGs, anomalous above 127. Four masks of MT_Uneven are empty: these images
    stay anomalous, without a region. `max_train` keeps the first so many training images in the
    order of the split: smaller sets are nested in larger ones, and the test images stay the same.
    Raises `UserError` for a `max_train` that is no number of images.
    """

    layout = "MT_Free/Imgs, MT_Blowhole/Imgs, MT_Break/Imgs, ... with <stem>.jpg and its mask <stem>.png"
    obtain = "Magnetic Tile Defects is at https://github.com/abin24/Magnetic-tile-defect-datasets, for research use"
    default_category = "all"
    mask_kind = "grey"

    def __init__(self, *, max_train: int | None = None, **common: Any) -> None:
        super().__init__(**common)
        if max_train is not None and max_train < 1:
            raise UserError(f"dataset.max_train is {max_train}: it is a number of images, or null for all")
        self.max_train = max_train
        if max_train is not None:
            self.official = {}

    def categories(self) -> list[str]:
        self.check_root()
        return ["all"] if (self.root / "MT_Free" / "Imgs").is_dir() else []

    def find_samples(self) -> tuple[list[Sample], list[Sample]]:
        normal: list[Sample] = []
        anomalous: list[Sample] = []
        for folder in sorted(self.root.glob("MT_*/Imgs")):
            kind = folder.parent.name.removeprefix("MT_").lower()
            for path in list_images(folder):
                if path.suffix.lower() == ".png":  # a mask
                    continue
                if kind == "free":
                    normal.append(Sample(path, 0, kind, None))
                else:
                    anomalous.append(Sample(path, 1, kind, path.with_suffix(".png")))
        order = order_samples(normal, self.root, self.split_seed)
        n_train = round(TRAIN_SHARE * len(order))
        return sorted(order[:n_train][: self.max_train]), sorted(order[n_train:] + anomalous)
