"""From decoded images in memory to batches: whole batches at once, in an order that can be repeated."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler


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
    """Rows of a pool. Fetches a batch as one gather instead of image by image.

    rows, labels: long (n,); masks: bool (n,1,H,W) or None.
    """

    def __init__(self, pool: Pool, rows: Tensor, labels: Tensor, masks: Tensor | None = None) -> None:
        self.pool, self.rows, self.labels, self.masks = pool, rows, labels, masks

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """One sample, without the batch dimension."""
        batch = self.__getitems__([index])
        features = {"features": [f[0] for f in batch.pop("features")]} if "features" in batch else {}
        return {key: value[0] for key, value in batch.items()} | features

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor | list[Tensor]]:
        """image float32 (B,3,H,W) in [0,1], channels-last in memory; label, index (B,); mask (B,1,H,W) and features
        (list of (B,C,h,w)) where there are any.
        """
        index = torch.as_tensor(indices, dtype=torch.long)
        rows = self.rows[index]
        image = self.pool.images[rows].permute(0, 3, 1, 2).float().div_(255)
        batch = {"image": image, "label": self.labels[index], "index": index}
        if self.masks is not None:
            batch["mask"] = self.masks[index]
        if self.pool.features is not None:
            batch["features"] = [level[rows] for level in self.pool.features]
        return batch


class TrainOrder(Sampler[int]):
    """A permutation of range(n) that depends on (seed, epoch) alone.

    With several processes each takes every world_size-th entry of the same permutation; the few
    left over are not seen in this epoch, so that all processes take the same number of steps.
    """

    def __init__(self, n: int, seed: int, rank: int = 0, world_size: int = 1) -> None:
        self.n, self.seed, self.rank, self.world_size = n, seed, rank, world_size
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before every epoch."""
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


def processes() -> tuple[int, int]:
    """(rank, world size) of this process."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def train_loader(
    split: Split, batch_size: int, seed: int, augmented: Callable[[Split, TrainOrder], Dataset] | None = None
) -> DataLoader:
    """`augmented` is what makes a split of changed images, by the epoch of its order."""
    sampler = TrainOrder(len(split), seed, *processes())
    # Batch norm cannot train on one value per channel, which is what a single image gives at 1 x 1:
    # a last batch of one image is left out, unless it is the only batch.
    single = len(sampler) > batch_size and len(sampler) % batch_size == 1
    images = augmented(split, sampler) if augmented else split
    return DataLoader(images, batch_size, sampler=sampler, drop_last=single, collate_fn=_as_fetched)


def ordered_loader(split: Split, batch_size: int) -> DataLoader:
    return DataLoader(split, batch_size, sampler=InOrder(len(split), *processes()), collate_fn=_as_fetched)


def _as_fetched(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return batch
