"""Training images changed at random, as a function of seed, epoch and image alone: a resumed run repeats them."""

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import affine

from kdad.data.loading import Augment, Batch, Split, TrainOrder

DEGREES, SCALES = 20.0, (0.9, 1.05)


class RotateScale(Dataset):
    """A split whose images are turned by up to 20 degrees either way and scaled by 0.9 to 1.05, with black around.

    MKD, Sec. 4.2.3: "20-degree rotation in addition to scaling in the range of [0.9, 1.05]".
    """

    def __init__(self, split: Split, order: TrainOrder) -> None:
        self.split, self.order = split, order

    def __len__(self) -> int:
        return len(self.split)

    def __getitems__(self, indices: list[int]) -> Batch:
        batch = self.split.__getitems__(indices)
        # The 1 tells these numbers from those that TrainOrder draws.
        generator = np.random.default_rng([self.order.seed, self.order.epoch, 1])
        low, high = (-DEGREES, SCALES[0]), (DEGREES, SCALES[1])
        draws = generator.uniform(low, high, (len(self.split), 2))[indices]
        images = [rotate_scale(image, *draw) for image, draw in zip(batch["image"], draws.tolist(), strict=True)]
        batch["image"] = torch.stack(images).contiguous(memory_format=torch.channels_last)
        return batch

    def __getitem__(self, index: int) -> Batch:
        return {key: value[0] for key, value in self.__getitems__([index]).items()}


def rotate_scale(image: Tensor, degrees: float, scale: float) -> Tensor:
    """Turn and scale an image (3,H,W) about its centre, bilinearly; positive degrees turn it clockwise.

    Returns (3,H,W), black where the image does not reach.
    """
    return affine(image, degrees, [0, 0], scale, [0.0], interpolation=InterpolationMode.BILINEAR)


AUGMENTATIONS: dict[str, Augment | None] = {"none": None, "rotate_scale": RotateScale}
