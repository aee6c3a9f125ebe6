"""Reading all of a data module's files at once, before training: a damaged one is refused then, not after it."""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from kdad.data.images import MaskFacts
from kdad.data.samples import Sample
from kdad.storage.cache import Array, ArrayStore

log = logging.getLogger(__name__)


def start_threads() -> ThreadPoolExecutor:
    """Start a pool of threads to decode images: Pillow releases the interpreter lock while it decodes and resizes."""
    return ThreadPoolExecutor(min(8, os.cpu_count() or 1))


class Readers(NamedTuple):
    """How a layout reads one of its files."""

    image: Callable[[Sample], Tensor]  # uint8 (3,size,size)
    mask: Callable[[Sample], tuple[Tensor, MaskFacts]]  # bool (size,size)
    version: Callable[[Sample], tuple[int | str, ...]]  # tells whether a file was changed since it was cached


def decode_images(
    samples: Sequence[Sample], read: Readers, size: int, store: ArrayStore, what: str, threads: ThreadPoolExecutor
) -> Tensor:
    """Decode images, or load them if an earlier job has cached the same files. `what` names them to people.

    Returns uint8 (N,size,size,3). Raises `UserError` where one cannot be read.
    """
    if not samples:
        return torch.empty((0, size, size, 3), dtype=torch.uint8)
    files = [(str(sample.path), *read.version(sample)) for sample in samples]
    array = Array(("images", *files), (len(samples), size, size, 3), "uint8", what)

    def produce(_: Any) -> Iterator[list[np.ndarray]]:
        for image in threads.map(read.image, samples):
            yield [image.permute(1, 2, 0)[None].numpy()]

    if kept := store.fetch([array], produce):
        return kept[0]
    images = np.empty(array.shape, array.dtype)  # filled in place: concatenating would take the memory twice
    for i, (rows,) in enumerate(produce(None)):
        images[i] = rows[0]
    return torch.from_numpy(images)


def decode_masks(
    samples: Sequence[Sample], read: Readers, size: int, threads: ThreadPoolExecutor
) -> tuple[Tensor, list[MaskFacts]]:
    """Decode the masks of samples that have one.

    Returns bool (N,1,size,size), all False for images without a mask, and the facts of each mask. Raises `UserError`
    where one cannot be read or does not fit its image.
    """
    masks = torch.zeros(len(samples), 1, size, size, dtype=torch.bool)
    with_mask = [(i, sample) for i, sample in enumerate(samples) if sample.mask is not None]
    facts: list[MaskFacts] = []
    found = threads.map(lambda entry: read.mask(entry[1]), with_mask)
    for (i, _), (mask, fact) in zip(with_mask, found, strict=True):
        masks[i, 0] = mask
        facts.append(fact)
    return masks, facts


def count_mask_facts(facts: Sequence[MaskFacts], name: str, size: int) -> dict[str, int]:
    """Count the masks that are odd in some way, and warn of them. Returns {n_<way>_masks: count} for results.json."""
    meanings = {
        "vanished": f"have a region so small that nothing is left of it at {size} px",
        "nonbinary": "have grey levels; pixels above 127 count as anomalous",
        "large": "call more than half of the image anomalous: are they the wrong way round?",
        "empty": "have no anomalous pixel; their images stay anomalous, without a region",
    }
    counts = {}
    for key, meaning in meanings.items():
        count = sum(getattr(fact, key) for fact in facts)
        counts[f"n_{key}_masks"] = count
        if count:
            log.warning("data set %s: %d of %d masks %s", name, count, len(facts), meaning)
    return counts
