"""Reading all of a data module's files at once, before training: a damaged one is refused then, not after it."""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from kdad.data.images import read_values
from kdad.data.intensity import AUTO, Rule, find_window
from kdad.data.masks import ODD_MASKS, MaskFacts
from kdad.data.oddities import find_oddities
from kdad.data.samples import Sample
from kdad.errors import UserError
from kdad.geometry import ImageSize, as_pair, name_size
from kdad.storage.cache import Array, ArrayStore

log = logging.getLogger(__name__)


def start_threads() -> ThreadPoolExecutor:
    """Start a pool of threads to decode images: Pillow releases the interpreter lock while it decodes and resizes."""
    return ThreadPoolExecutor(min(8, os.cpu_count() or 1))


class Readers(NamedTuple):
    """How a layout reads one of its files."""

    image: Callable[[Sample], Tensor]  # uint8 (3,H,W)
    mask: Callable[[Sample], tuple[Tensor, MaskFacts]]  # bool (H,W)
    version: Callable[[Sample], tuple[int | str, ...]]  # tells whether a file was changed since it was cached
    rule: Rule = AUTO  # by which values become 8 bits


class Decoded(NamedTuple):
    """All images and masks of a data module, with what is to be said of them."""

    images: list[Tensor]  # of each list of samples, uint8 (N,H,W,3)
    masks: Tensor | None  # of the last list, bool (N,1,H,W)
    facts: dict[str, float]  # for results.json
    said: list[str]  # sentences on what may not be meant


def fix_rule(rule: Rule, samples: Sequence[Sample]) -> Rule:
    """Return a rule with its window, found over training images if it is one of percentiles. Raises `UserError`."""
    if not rule.percentiles:
        return rule
    if not samples:
        raise UserError(
            f"dataset.intensity={rule.intensity} is found over training images, and there are none: give the window "
            "that was found in training, dataset.intensity=window:<lo>,<hi>"
        )
    with start_threads() as threads:
        found = find_window(rule, threads.map(lambda s: read_values(s.path, rule), samples), len(samples))
    log.info("dataset.intensity=%s is %s over %d training images", rule.intensity, found.describe(), len(samples))
    return found


def decode_parts(
    parts: Sequence[Sequence[Sample]], read: Readers, size: ImageSize, store: ArrayStore, name: str, masked: bool
) -> Decoded:
    """Decode the images of each of the parts, and the masks of the last, if it is `masked`.

    `name` is the data set's, for people. Raises `UserError` where a file cannot be read.
    """
    with start_threads() as threads:
        odd = find_oddities([sample for part in parts for sample in part], threads, read.rule)
        images = [
            decode_images(part, read, size, store, f"{len(part)} images of {name} at {name_size(size)} px", threads)
            for part in parts
        ]
        if not masked:
            return Decoded(images, None, odd.count() | read.rule.list_facts(), odd.describe())
        masks, found = decode_masks(parts[-1], read, size, threads)
    counts, said = count_mask_facts(found, parts[-1], size)
    return Decoded(images, masks, odd.count() | read.rule.list_facts() | counts, [*odd.describe(), *said])


def decode_images(
    samples: Sequence[Sample], read: Readers, size: ImageSize, store: ArrayStore, what: str, threads: ThreadPoolExecutor
) -> Tensor:
    """Decode images, or load them if an earlier job has cached the same files. `what` names them to people.

    Returns uint8 (N,H,W,3). Raises `UserError` where one cannot be read.
    """
    if not samples:
        return torch.empty((0, *as_pair(size), 3), dtype=torch.uint8)
    files = [(str(sample.path), *read.version(sample), *read.rule.key) for sample in samples]
    array = Array(("images", *files), (len(samples), *as_pair(size), 3), "uint8", what)

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
    samples: Sequence[Sample], read: Readers, size: ImageSize, threads: ThreadPoolExecutor
) -> tuple[Tensor, list[MaskFacts]]:
    """Decode the masks of samples that have one.

    Returns bool (N,1,H,W), all False for images without a mask, and the facts of each mask. Raises `UserError`
    where one cannot be read or does not fit its image.
    """
    masks = torch.zeros(len(samples), 1, *as_pair(size), dtype=torch.bool)
    with_mask = [(i, sample) for i, sample in enumerate(samples) if sample.mask is not None]
    facts: list[MaskFacts] = []
    found = threads.map(lambda entry: read.mask(entry[1]), with_mask)
    for (i, _), (mask, fact) in zip(with_mask, found, strict=True):
        masks[i, 0] = mask
        facts.append(fact)
    return masks, facts


def count_mask_facts(
    facts: Sequence[MaskFacts], samples: Sequence[Sample], size: ImageSize
) -> tuple[dict[str, int], list[str]]:
    """Count the masks of samples that are odd in some way.

    Returns {n_<way>_masks: count} for results.json, and a sentence on each way, which names the first file.
    """
    masked = [sample for sample in samples if sample.mask is not None]
    counts, said = {}, []
    for key, meaning in ODD_MASKS.items():
        odd = [sample.mask for fact, sample in zip(facts, masked, strict=True) if getattr(fact, key)]
        counts[f"n_{key}_masks"] = len(odd)
        if odd:
            said.append(
                f"{len(odd)} of {len(facts)} masks {meaning.format(size=name_size(size))}. The first is {odd[0]}"
            )
    return counts, said
