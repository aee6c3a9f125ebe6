"""Reading all of a data module's files at once, before training: a damaged one is refused then, not after it."""

import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from kdad.cache import Array
from kdad.data.images import MaskFacts
from kdad.data.loading import Pool, Split
from kdad.data.samples import Sample

if TYPE_CHECKING:
    from kdad.data.base import AnomalyDataModule

log = logging.getLogger(__name__)


def workers() -> ThreadPoolExecutor:
    """Threads, since Pillow releases the interpreter lock while it decodes and resizes."""
    return ThreadPoolExecutor(min(8, os.cpu_count() or 1))


def decode(data: "AnomalyDataModule") -> tuple[list[Pool], dict[str, Split]]:
    """(pools of images, train, val and test parts that draw from them). Fills the counts of masks in `data.facts`."""
    normal = sorted(data.train_samples + data.val_samples, key=lambda sample: sample.path)
    row = {sample.path: i for i, sample in enumerate(normal)}
    with workers() as threads:
        # One pool for training and validation: how they are divided changes nothing that is cached of them.
        pools = [Pool(_images(data, part, threads)) for part in (normal, data.test_samples)]
        masks = _masks(data, threads) if data.has_masks else None
    parts = {
        "train": (pools[0], [row[sample.path] for sample in data.train_samples], data.train_samples, None),
        "val": (pools[0], [row[sample.path] for sample in data.val_samples], data.val_samples, None),
        "test": (pools[1], list(range(len(data.test_samples))), data.test_samples, masks),
    }
    return pools, {
        part: Split(pool, torch.tensor(indices, dtype=torch.long), torch.tensor([s.label for s in samples]), masks)
        for part, (pool, indices, samples, masks) in parts.items()
    }


def _images(data: "AnomalyDataModule", samples: list[Sample], threads: ThreadPoolExecutor) -> Tensor:
    """uint8 (N,H,W,3), decoded now or by an earlier job from the same files."""
    size = data.image_size
    files = [(str(sample.path), *data.version(sample)) for sample in samples]
    what = f"{len(samples)} images of {data.name} {data.category} at {size} px"
    array = Array(("images", *files), (len(samples), size, size, 3), "uint8", what)

    def produce(_: Any) -> Iterator[list[np.ndarray]]:
        for image in threads.map(data.read_image, samples):
            yield [image.permute(1, 2, 0)[None].numpy()]

    if kept := data.store.fetch([array], produce):
        return kept[0]
    images = np.empty(array.shape, array.dtype)  # filled in place: concatenating would take the memory twice
    for i, (rows,) in enumerate(produce(None)):
        images[i] = rows[0]
    return torch.from_numpy(images)


def _masks(data: "AnomalyDataModule", threads: ThreadPoolExecutor) -> Tensor:
    """bool (n_test,1,H,W), all False for normal images; fills the counts in `data.facts`."""
    masks = torch.zeros(len(data.test_samples), 1, data.image_size, data.image_size, dtype=torch.bool)
    with_mask = [(i, sample) for i, sample in enumerate(data.test_samples) if sample.mask is not None]

    facts: list[MaskFacts] = []
    found = threads.map(lambda entry: data.read_mask(entry[1]), with_mask)
    for (i, _), (mask, fact) in zip(with_mask, found, strict=True):
        masks[i, 0] = mask
        facts.append(fact)
    meanings = {
        "vanished": f"have a region so small that nothing is left of it at {data.image_size} px",
        "nonbinary": "have grey levels; pixels above 127 count as anomalous",
        "empty": "have no anomalous pixel; their images stay anomalous, without a region",
    }
    for key, meaning in meanings.items():
        count = sum(getattr(fact, key) for fact in facts)
        data.facts[f"n_{key}_masks"] = count
        if count:
            log.warning("data set %s: %d of %d masks %s", data.name, count, len(facts), meaning)
    return masks
