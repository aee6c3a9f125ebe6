"""From decoded images in memory to batches: whole batches at once, in an order that can be repeated."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from kdad.data.samples import Sample
from kdad.errors import UserError

# image float32 (B,3,H,W) in [0,1], channels-last in memory; label, index long (B,); where there are any, mask bool
# (B,1,H,W) and features, list of (B,C,h,w). A single sample has the same without B.
Batch = dict[str, Tensor | list[Tensor]]


class Pool:
    """Decoded images that one or more splits draw from, and what a frozen teacher says of them.

    images: uint8 (N,H,W,3), channels last; features: list of (N,C,h,w), one per level, or None. Not `cacheable` are
    images that are changed on their way into a batch, so that no features of the whole pool are theirs.
    """

    def __init__(self, images: Tensor) -> None:
        self.images = images
        self.cacheable = True
        self.features: list[Tensor] | None = None


class Split(Dataset):
    """Rows of a pool; a batch is fetched as one gather instead of image by image.

    rows, labels: long (n,); masks: bool (n,1,H,W) or None.
    """

    def __init__(self, pool: Pool, rows: Tensor, labels: Tensor, masks: Tensor | None = None) -> None:
        self.pool, self.rows, self.labels, self.masks = pool, rows, labels, masks

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, chosen: Sequence[int]) -> "Split":
        """Return a split of some of the images, without their masks."""
        index = torch.as_tensor(chosen, dtype=torch.long)
        return Split(self.pool, self.rows[index], self.labels[index])

    def __getitem__(self, index: int) -> Batch:
        """Return one sample, without the batch dimension."""
        batch = self.__getitems__([index])
        features: Batch = {"features": [f[0] for f in batch.pop("features")]} if "features" in batch else {}
        return {key: value[0] for key, value in batch.items()} | features

    def __getitems__(self, indices: list[int]) -> Batch:
        """Return the samples at `indices` as one batch: see `Batch`."""
        index = torch.as_tensor(indices, dtype=torch.long)
        rows = self.rows[index]
        image = self.pool.images[rows].permute(0, 3, 1, 2).float().div_(255)
        batch: Batch = {"image": image, "label": self.labels[index], "index": index}
        if self.masks is not None:
            batch["mask"] = self.masks[index]
        if self.pool.features is not None:
            batch["features"] = [level[rows] for level in self.pool.features]
        return batch


def spread_evenly(count: int, most: int) -> list[int]:
    """Return at most so many of the numbers from 0 to below `count`, spread evenly."""
    return sorted(set(np.linspace(0, count - 1, min(count, most)).round().astype(int).tolist())) if count else []


def make_splits(
    pools: Sequence[Pool],
    normal: Sequence[Sample],
    parts: Mapping[str, Sequence[Sample]],
    test: Sequence[Sample],
    masks: Tensor | None,
) -> dict[str, Split]:
    """Make the splits of two pools: the `parts` of the pool of `normal` images, by name, and `test` of the other.

    The images of a pool are in the order of its samples. masks: bool (n,1,H,W) of the test images, or None.
    """
    row = {sample.path: i for i, sample in enumerate(normal)}

    def make_split(pool: Pool, rows: Sequence[int], samples: Sequence[Sample], of_split: Tensor | None) -> Split:
        labels = torch.tensor([sample.label for sample in samples])
        return Split(pool, torch.tensor(rows, dtype=torch.long), labels, of_split)

    made = {
        name: make_split(pools[0], [row[sample.path] for sample in part], part, None) for name, part in parts.items()
    }
    return made | {"test": make_split(pools[1], range(len(test)), test, masks)}


class TrainOrder(Sampler[int]):
    """A permutation of range(n) that depends on (seed, epoch) alone.

    With several processes each takes every world_size-th entry of the same permutation; the few
    left over are not seen in this epoch, so that all processes take the same number of steps.
    """

    def __init__(self, n: int, seed: int, rank: int = 0, world_size: int = 1) -> None:
        self.n, self.seed, self.rank, self.world_size = n, seed, rank, world_size
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Take the order of this epoch from here on. Lightning calls it before every epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.n // self.world_size

    def __iter__(self) -> Iterator[int]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.n)
        yield from order[self.rank :: self.world_size][: len(self)].tolist()


class InOrder(Sampler[int]):
    """0, 1, 2, ...; of several processes each takes every world_size-th, none padded with repeats."""

    def __init__(self, n: int, rank: int = 0, world_size: int = 1) -> None:
        self.indices = range(rank, n, world_size)

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)


Augment = Callable[[Split, TrainOrder], Dataset]  # makes a split of changed images, by the epoch of its order


def locate_process() -> tuple[int, int]:
    """Return which of several processes this one is, and how many there are: (rank, world size)."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def make_train_loader(
    split: Split, batch_size: int, seed: int, augment: Augment | None = None, takes_single: bool = True
) -> DataLoader:
    """Make a loader of training images, in another order each epoch, changed by `augment` if it is given.

    A last batch of one image is left out unless the detector `takes_single` images. Raises `UserError` where there
    would be no other batch.
    """
    sampler = TrainOrder(len(split), seed, *locate_process())
    if not takes_single and (batch_size == 1 or len(sampler) == 1):
        raise UserError(
            f"batch_size={batch_size} with {len(sampler)} training images gives batches of one image, which batch norm "
            "cannot train on where its maps are 1 x 1. Give a larger batch_size, image_size or training set"
        )
    drop_last = not takes_single and len(sampler) % batch_size == 1
    images = augment(split, sampler) if augment else split
    return DataLoader(images, batch_size, sampler=sampler, drop_last=drop_last, collate_fn=_keep_batch)


def make_ordered_loader(split: Split, batch_size: int) -> DataLoader:
    """Make a loader of a split's images in the split's own order."""
    return DataLoader(split, batch_size, sampler=InOrder(len(split), *locate_process()), collate_fn=_keep_batch)


def _keep_batch(batch: Any) -> Any:
    """Leave a batch as it is: `Split` has put it together already."""
    return batch
