"""What a detector says of one picture: score, map and, by its thresholds, a decision."""

import os
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image

from kdad.errors import UserError
from kdad.inference.decision import Decision


class Result:
    """What a detector says of one picture of H x W pixels.

    `score` is the raw image score, as in a run's scores.csv; `map` the anomaly map (h, w) at the detector's size;
    higher means more anomalous. `image` is the picture, upright RGB, `decision` the detector's. `normalised` in (0, 1)
    has 0.5 at the threshold, `is_anomalous` says on which side; both are None without a decision. `source` is the path,
    where the picture was given as one. With a region of interest, `roi` (H, W) bool, nothing is found outside it.
    """

    def __init__(
        self,
        score: float,
        map: NDArray[np.float32],
        image: Image.Image,
        decision: Decision | None,
        source: Any,
        roi: NDArray[np.bool_] | None = None,
    ):
        self.score, self.map, self.image, self.decision, self.roi = score, map, image, decision, roi
        self.source = Path(source) if isinstance(source, str | os.PathLike) else None

    def __repr__(self) -> str:
        if self.decision is None:
            return f"Result(score={self.score:.6g}, without a decision)"
        word = "anomalous" if self.is_anomalous else "normal"
        return f"Result(score={self.score:.6g}, normalised={self.normalised:.3f}, {word})"

    @property
    def normalised(self) -> float | None:
        """The score in (0, 1), 0.5 at the threshold; comparable between detectors. None without a decision."""
        return None if self.decision is None else float(self.decision.image.normalise(self.score))

    @property
    def is_anomalous(self) -> bool | None:
        """Whether the score exceeds the threshold. None without a decision."""
        return None if self.decision is None else self.score > self.decision.image_threshold

    @cached_property
    def anomaly_map(self) -> NDArray[np.float32]:
        """The anomaly map at the picture's own size, float32 (H, W), upright as the picture is shown."""
        width, height = self.image.size
        if self.map.shape == (height, width):
            return self.map
        wanted = torch.from_numpy(self.map)[None, None]
        sized = F.interpolate(wanted, (height, width), mode="bilinear", align_corners=False, antialias=True)
        found = sized[0, 0].numpy()
        return found if self.roi is None else found * self.roi

    @property
    def mask(self) -> NDArray[np.bool_] | None:
        """Which pixels exceed the threshold of pixels, bool (H, W). None without a decision."""
        if self.decision is None:
            return None
        above = self.anomaly_map > self.decision.pixel_threshold
        return above if self.roi is None else above & self.roi

    @property
    def area(self) -> float | None:
        """The share of the pixels of interest that exceed their threshold, in [0, 1]. None without a decision."""
        mask = self.mask
        return None if mask is None else float(mask.mean() if self.roi is None else mask[self.roi].mean())

    def overlay(self) -> Image.Image:
        """Draw heat, contour, score and decision over the picture, RGB at its own size.

        Colours have one scale for all pictures of a detector, so that a normal one looks calm. Raises `UserError`
        without a decision, from which that scale comes.
        """
        from kdad.inference.overlay import draw_overlay  # matplotlib takes half a second

        if self.decision is None or self.mask is None:
            raise UserError(
                "an overlay's colours come from the decision, which this checkpoint has not: kdad calibrate"
            )
        values = self.decision.pixel.normalise(self.anomaly_map.astype(np.float64))
        normalised = float(self.decision.image.normalise(self.score))
        shown = np.floor(100 * normalised) / 100  # down: 0.498 is normal, 0.50 would not be
        text = f"{shown:.2f} {'anomalous' if self.is_anomalous else 'normal'}"
        return draw_overlay(self.image, values, self.mask, text, bool(self.is_anomalous))
