"""From decoded images in memory to batches: whole batches at once, in an order that can be repeated."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from kdad.data.samples import Sample
from kdad.errors import UserError
from kdad.storage.rows import MadeRows, Table, list_rows

# image float32 (B,3,H,W) in [0,1], channels-last in memory; label, index long (B,); where there are any, mask bool
# (B,1,H,W), roi bool (B,1,H,W), what is of interest, and features, list of (B,C,h,w); tiles, see `tiles.py`, of a
# picture that is cut. A single sample has the same without B.
Batch = dict[str, Tensor | list[Tensor]]


class Regions:
    """Regions of interest of N images, of which many are equal: each kept once."""

    def __init__(self, each: Iterable[Tensor]) -> None:
        """Take the regions of the images in turn, bool (1,H,W) each."""
        known: dict[bytes, int] = {}
        different: list[Tensor] = []
        rows = []
        for region in each:
            key = np.packbits(region.numpy()).tobytes()
            if key not in known:
                known[key] = len(different)
                different.append(region)
            rows.append(known[key])
        self.different, self.rows = torch.stack(different), torch.tensor(rows, dtype=torch.long)

    def take(self, rows: Tensor) -> Tensor:
        """Return the regions of some images, bool (B,1,H,W)."""
        return self.different[self.rows[rows]]


class Pool:
    """Decoded images that one or more splits draw from, and what a frozen teacher says of them.

    images: uint8 (N,H,W,3), channels last; features: list of (N,h,w,C), one per level, or None; roi: the regions of
    interest, or None; as_taken: with such regions the images with what lies outside them. Images and features are
    tensors, or rows that are not in memory. Not `cacheable` are images that are changed on their way into a batch, so
    that no features of the whole pool are theirs.
    """

    def __init__(self, images: Table, roi: "Regions | None" = None) -> None:
        self.images, self.roi = images, roi
        self.as_taken: Table = images
        self.cacheable = True
        self.features: list[Table] | None = None


class Split(Dataset):
    """Rows of a pool; a batch is fetched as one gather instead of image by image.

    rows, labels: long (n,); masks: bool (n,1,H,W), a tensor or rows that are not in memory, or None; as_taken: the
    masks with what lies outside the regions of interest, where there are regions.
    """

    def __init__(self, pool: Pool, rows: Tensor, labels: Tensor, masks: Table | None = None) -> None:
        self.pool, self.rows, self.labels, self.masks = pool, rows, labels, masks
        self.as_taken: Table | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, chosen: Sequence[int], masked: bool = False) -> "Split":
        """Return a split of some of the images, with their masks if it is to be `masked`."""
        # Of a range it is a view, without a copy.
        index: Any = slice(chosen.start, chosen.stop) if isinstance(chosen, range) else torch.tensor(chosen).long()
        masks = choose_masks(self.masks, index) if masked and self.masks is not None else None
        return Split(self.pool, self.rows[index], self.labels[index], masks)

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
        if self.pool.roi is not None:
            batch["roi"] = self.pool.roi.take(rows)
        if self.pool.features is not None:
            batch["features"] = [level[rows].permute(0, 3, 1, 2) for level in self.pool.features]
        return batch


def choose_masks(table: Table, chosen: Any) -> Table:
    """Return some of the masks in a table, by a slice or their numbers (n,); those not in memory stay there."""
    if isinstance(table, Tensor):
        return table[chosen]
    numbers = list_rows(chosen, len(table))
    shape = len(numbers), *table.shape[1:]
    return MadeRows(lambda place: table[[numbers[place]]][0], shape, torch.bool)


def spread_evenly(count: int, most: int) -> list[int]:
    """Return at most so many of the numbers from 0 to below `count`, spread evenly."""
    return sorted(set(np.linspace(0, count - 1, min(count, most)).round().astype(int).tolist())) if count else []


def make_split(pool: Pool, samples: Sequence[Sample], rows: Mapping[Path, Sequence[int]]) -> Split:
    """Make a split of the images that come from some samples; `rows` are those of the pool, by a sample's path."""
    chosen = [row for sample in samples for row in rows[sample.path]]
    labels = [sample.label for sample in samples for _ in rows[sample.path]]
    return Split(pool, torch.tensor(chosen, dtype=torch.long), torch.tensor(labels, dtype=torch.long))


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


def make_ordered_loader(split: Dataset, batch_size: int) -> DataLoader:
    """Make a loader of the images of a split, see `Split` and `PictureSplit`, in its own order."""
    # A split of whole pictures has one batch for each.
    size = batch_size if hasattr(split, "__getitems__") else None
    order = InOrder(len(split), *locate_process())  # type: ignore[arg-type]
    return DataLoader(split, size, sampler=order, collate_fn=_keep_batch)


def _keep_batch(batch: Any) -> Any:
    """Leave a batch as it is: `Split` has put it together already."""
    return batch
