"""sPRO of a test: the pixels of a set whose regions have saturation thresholds, gathered image by image."""

from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any

import pytorch_lightning as pl
from torch import Tensor

from kdad.data.samples import Sample
from kdad.metrics.ranking import area
from kdad.metrics.spro import LIMITS, Split, make_curve, split_pixels

MOVED = "corruption= has moved the masks, but not the single regions"


class SaturatedOverlap:
    """What sPRO needs of the images of a test; nothing where the set says nothing of saturation."""

    def __init__(self, data: pl.LightningDataModule | None, samples: Sequence[Sample], memory: int):
        self.regions = getattr(data, "regions", {})
        self.kinds = [sample.kind for sample in samples]
        self.memory = memory  # bytes
        self.by_image: dict[int, Split] = {}
        cut = [key for key, name in (("tiling.size", "tiling"), ("dataset.roi", "roi")) if getattr(data, name, None)]
        self.reason = f"{cut[0]}= changes the regions" if cut else ""

    def add(self, index: Tensor, anomaly_map: Tensor, mask: Tensor | None) -> None:
        """Add a batch: index (B,), anomaly_map and mask (B, 1, H, W), on any device."""
        if not self.regions or self.reason or mask is None:
            return
        # Of each pixel its score, a copy of all for the curve, and another of the images of a kind.
        needed = 3 * anomaly_map[0].numel() * anomaly_map.element_size() * len(self.kinds)
        if needed > self.memory:
            self.reason = f"its pixels need {needed / 2**30:.1f} GB: give more metrics.memory_gb"
            return
        maps, masks = anomaly_map[:, 0].float().cpu().numpy(), mask[:, 0].cpu().numpy()
        for row, image in enumerate(index.tolist()):
            regions = self.regions.get(image, [])
            if any((region.mask & ~masks[row]).any() for region in regions):
                self.reason = MOVED
                return
            self.by_image[image] = split_pixels(maps[row], regions)

    def join(self, parts: Iterable["SaturatedOverlap"]) -> None:
        """Take the images that each of several processes has seen."""
        for part in parts:
            self.by_image |= part.by_image
            self.reason = self.reason or part.reason

    def compute(self) -> dict[str, Any]:
        """Return `spro_<limit>` over all regions, and by kind against normal images and that kind's, with their mean.

        All are in [0, 1], or None with `<metric>_reason`. The mean over kinds is what MVTec's own script calls mean.
        """
        if not self.regions:
            return {}
        kinds = sorted({self.kinds[image] for image, regions in self.regions.items() if regions})
        names = [f"spro_{limit}" for limit in LIMITS]
        try:
            if self.reason:
                raise ValueError(self.reason)
            curve = make_curve(list(self.by_image.values()))
            found = {name: area(curve, limit) for name, limit in zip(names, LIMITS, strict=True)}
            for kind in kinds if len(kinds) > 1 else ():
                these = [split for image, split in self.by_image.items() if self.kinds[image] in ("good", kind)]
                curve = make_curve(these)
                found |= {f"{name}_{kind}": area(curve, limit) for name, limit in zip(names, LIMITS, strict=True)}
        except ValueError as error:  # no region, or no pixel outside them, is among those tested
            return {key: value for name in names for key, value in ((name, None), (f"{name}_reason", str(error)))}
        if len(kinds) > 1:
            found |= {f"{name}_mean": fmean(found[f"{name}_{kind}"] for kind in kinds) for name in names}
        return found
