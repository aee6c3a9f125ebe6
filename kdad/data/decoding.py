"""Reading all of a data module's files at once, before training: a damaged one is refused then, not after it."""

import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from kdad.data.images import read_values, resize_image
from kdad.data.intensity import Rule, find_window
from kdad.data.layout import Layout
from kdad.data.loading import Pool, Regions, Split, make_split
from kdad.data.masks import ODD_MASKS, MaskFacts
from kdad.data.oddities import find_oddities
from kdad.data.samples import Sample
from kdad.data.tiles import PictureSplit, check_pictures, count_tiles, cut_all, cut_regions, cut_tiles
from kdad.errors import UserError
from kdad.geometry import ImageSize, Tiling, as_pair, name_size
from kdad.storage.cache import Array, ArrayStore
from kdad.storage.rows import MadeRows, Table

log = logging.getLogger(__name__)
READ_AHEAD = 256  # images that threads may have decoded before they are taken: all would be as much as the set


def start_threads() -> ThreadPoolExecutor:
    """Start a pool of threads to decode images: Pillow releases the interpreter lock while it decodes and resizes."""
    return ThreadPoolExecutor(min(8, os.cpu_count() or 1))


class Decoded(NamedTuple):
    """All images and masks of a data module, with what is to be said of them."""

    pools: list[Pool]  # of normal images or their tiles, and of test images; of pictures in tiles the first alone
    rows: Mapping[Path, Sequence[int]]  # of the first pool, by the path of their sample
    test: Split | PictureSplit
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
    data: Layout, normal: Sequence[Sample], test: Sequence[Sample], store: ArrayStore, name: str, masked: bool
) -> Decoded:
    """Decode normal images and those to test, and the masks of these, if they are `masked`.

    `name` is the data set's, for people. Raises `UserError` where a file cannot be read.
    """
    size, parts = data.image_size, (normal, test)
    pools, found = [], []
    with start_threads() as threads:
        odd = find_oddities([*normal, *test], threads, data.rule)
        odd.refuse_window()
        for part in parts:
            what = f"{len(part)} images of {name} at {name_size(size)} px"
            images = decode_images(part, data, size, store, what, threads)
            regions = Regions(threads.map(data.require_roi, part)) if data.roi and part else None
            pools.append(Pool(images, regions))
            if regions:
                pools[-1].as_taken = MadeRows(partial(read_as_taken, data, part), images.shape, torch.uint8)
        masks, found = decode_masks(test, data, size, store, threads) if masked else (None, [])
    rows = {sample.path: [row] for row, sample in enumerate(normal)}
    split = make_split(pools[1], test, {sample.path: [row] for row, sample in enumerate(test)})
    split.masks = masks
    if masks is not None and pools[1].roi is not None:
        split.as_taken = make_masks(data, test, as_taken=True)
    counts, said = count_mask_facts(found, test, size) if masked else ({}, [])
    facts = odd.count() | data.rule.list_facts() | counts
    return Decoded(pools, rows, split, facts, [*odd.describe(), *said])


def decode_tiles(
    data: Layout, tiling: Tiling, normal: Sequence[Sample], test: PictureSplit, store: ArrayStore, name: str
) -> Decoded:
    """Decode normal pictures in tiles, and look at the pictures to test with their masks, keeping none of them.

    Raises as `decode_parts` does.
    """
    size = data.image_size
    with start_threads() as threads:
        odd = find_oddities([*normal, *test.samples], threads, data.rule)
        odd.refuse_window()
        counts = count_tiles(data, normal, tiling, threads)
        what = f"{sum(counts)} tiles of {len(normal)} images of {name} at {name_size(size)} px"
        images = decode_images(normal, data, size, store, what, threads, (tiling, counts))
        regions = Regions(region for tiles in cut_regions(data, normal, tiling, threads) for region in tiles) \
            if data.roi and normal else None  # fmt: skip
        found = check_pictures(data, test.samples, test.masked, threads)
    ends = np.cumsum(counts, dtype=int).tolist()
    rows = {s.path: range(end - n, end) for s, n, end in zip(normal, counts, ends, strict=True)}
    masks, said = count_mask_facts(found, test.samples, size) if test.masked else ({}, [])
    if normal and sum(counts) == len(normal):
        said = [*said, f"no picture is cut: each is one tile of tiling.size={name_size(tiling.size)}, resized"]
    facts = odd.count() | data.rule.list_facts() | masks | {"n_normal_tiles": sum(counts)}
    return Decoded([Pool(images, regions)], rows, test, facts, [*odd.describe(), *said])


def decode_images(
    samples: Sequence[Sample],
    data: Layout,
    size: ImageSize,
    store: ArrayStore,
    what: str,
    threads: ThreadPoolExecutor,
    tiles: tuple[Tiling, Sequence[int]] | None = None,
) -> Table:
    """Decode images, or load them if an earlier job has cached the same files. `what` names them to people.

    `tiles` says how pictures are cut, and into how many tiles each. Returns uint8 (N,H,W,3). Raises `UserError` where
    one cannot be read. What fits neither into memory nor on disk is decoded anew each time.
    """
    if not samples:
        return torch.empty((0, *as_pair(size), 3), dtype=torch.uint8)
    files = [(str(sample.path), *data.identify(sample)) for sample in samples]
    kind = (f"tiles {tuple(tiles[0])}",) if tiles else ("images",)
    array = Array((*kind, *files), (sum(tiles[1]) if tiles else len(samples), *as_pair(size), 3), "uint8", what)

    def produce(_: Any) -> Iterator[list[np.ndarray]]:
        if tiles:
            for cut in cut_all(data, samples, tiles[0], threads):
                yield [cut.images.permute(0, 2, 3, 1).numpy()]
            return
        for start in range(0, len(samples), READ_AHEAD):
            for image in threads.map(data.read_image, samples[start : start + READ_AHEAD]):
                yield [image.permute(1, 2, 0)[None].numpy()]

    if kept := store.fetch([array], produce):
        return kept[0]
    if not store.reserve(what, array.size):
        log.info("%s are decoded anew in each epoch", what)
        return MadeRows(list_readers(samples, data, tiles), array.shape, torch.uint8, array.key)
    images, start = np.empty(array.shape, array.dtype), 0  # filled in place: concatenating would take it twice
    for (rows,) in produce(None):
        images[start : start + len(rows)] = rows
        start += len(rows)
    return torch.from_numpy(images)


def read_as_taken(data: Layout, samples: Sequence[Sample], row: int) -> Tensor:
    """Read an image at the detector's size, uint8 (H,W,3), with what lies outside its region of interest."""
    return resize_image(data.read_picture(samples[row]), data.image_size).permute(1, 2, 0)


def list_readers(
    samples: Sequence[Sample], data: Layout, tiles: tuple[Tiling, Sequence[int]] | None
) -> Callable[[int], Tensor]:
    """Return a function that reads one row of `decode_images`, uint8 (H,W,3), by its number."""
    if tiles is None:
        return lambda row: data.read_image(samples[row]).permute(1, 2, 0)
    ends = np.cumsum(tiles[1])

    def read(row: int) -> Tensor:
        place = int(np.searchsorted(ends, row, side="right"))
        picture, inside = data.read_inside(samples[place])
        cut = cut_tiles(picture, tiles[0], data.image_size, inside)
        return cut.images[row - int(ends[place])].permute(1, 2, 0)  # counted from its end

    return read


def decode_masks(
    samples: Sequence[Sample], data: Layout, size: ImageSize, store: ArrayStore, threads: ThreadPoolExecutor
) -> tuple[Table, list[MaskFacts]]:
    """Decode the masks of samples that have one.

    Returns bool (N,1,H,W), all False for images without a mask, and the facts of each mask. Where there is no room in
    memory masks are looked at once, and decoded again as they are needed. Raises `UserError` where one cannot be read
    or does not fit its image.
    """
    shape = (len(samples), 1, *as_pair(size))
    masks = torch.zeros(shape, dtype=torch.bool) if store.reserve("masks", math.prod(shape)) else None
    with_mask = [(i, sample) for i, sample in enumerate(samples) if sample.mask is not None]
    facts: list[MaskFacts] = []
    for start in range(0, len(with_mask), READ_AHEAD):
        part = with_mask[start : start + READ_AHEAD]
        found = threads.map(lambda entry: data.read_mask(entry[1]), part)
        for (i, _), (mask, fact) in zip(part, found, strict=True):
            facts.append(fact)
            if masks is not None:
                masks[i, 0] = mask
    return make_masks(data, samples) if masks is None else masks, facts


def make_masks(data: Layout, samples: Sequence[Sample], as_taken: bool = False) -> MadeRows:
    """Return the masks of samples, bool (N,1,H,W), each read when it is asked for; see `Layout.read_mask`."""
    shape = (len(samples), 1, *as_pair(data.image_size))

    def read(row: int) -> Tensor:
        known = samples[row].mask is not None
        return data.read_mask(samples[row], as_taken)[0][None] if known else torch.zeros(shape[1:], dtype=torch.bool)

    return MadeRows(read, shape, torch.bool)


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
