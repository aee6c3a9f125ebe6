"""Teacher features computed once for a data set instead of once an epoch."""

import logging
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from kdad.data.loading import Pool
from kdad.geometry import name_size
from kdad.models.base import KDDetector
from kdad.storage.cache import Array, ArrayStore, hash_content
from kdad.storage.rows import Table

log = logging.getLogger(__name__)
BATCH = 32


def attach_features(detector: KDDetector, pools: Sequence[Pool], store: ArrayStore, device: torch.device) -> None:
    """Give the batches of pools the teacher's features, level by level, from the cache or one pass over the images.

    Left out where they are no function of an image file alone (`detector.cacheable`, `Pool.cacheable`), and on an
    accelerator unless a storage is named: there the teacher is faster than the way of its features into the device's
    memory.
    """
    if not detector.cacheable or (store.storage == "auto" and device.type != "cpu"):
        return
    for pool in pools:
        if not pool.cacheable:
            continue
        pool.features = _features(detector, pool, store, device)
    log.info("teacher features: %s", store.report)


@torch.no_grad()
def _features(detector: KDDetector, pool: Pool, store: ArrayStore, device: torch.device) -> list[Table] | None:
    teacher, normalise = detector.teacher, detector.normalise
    statistics = (normalise.mean.flatten().tolist(), normalise.std.flatten().tolist())
    images = hash_content(pool.images)
    n, size = len(pool.images), name_size(tuple(pool.images.shape[1:3]))
    arrays = [
        Array(
            # The name too: networks of the same weights may differ in strides or padding.
            ("features", teacher.name, fingerprint, path, statistics, images, device.type),
            (n, *shape[1:], shape[0]), "float32",
            f"{teacher.tag} {path} of {n} images at {size} px",
        )
        for fingerprint, path, shape in zip(teacher.level_fingerprints, teacher.paths, teacher.shapes, strict=True)
    ]  # fmt: skip

    def produce(levels: Sequence[int]) -> Iterator[list[np.ndarray]]:
        home = next(teacher.parameters()).device
        teacher.to(device), normalise.to(device)
        for start in range(0, n, BATCH):
            batch = pool.images[start : start + BATCH].to(device).permute(0, 3, 1, 2).float().div_(255)
            found = teacher(normalise(batch))
            # Channels last, as convolutions on a CPU like their input.
            yield [found[level].permute(0, 2, 3, 1).cpu().numpy() for level in levels]
        teacher.to(home), normalise.to(home)

    return store.fetch(arrays, produce)
