"""The picture of a judgement: heat over the photograph, the contour of what is anomalous, score and decision."""

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

COLOURS = matplotlib.colormaps["inferno"]
CALM, FULL = 0.35, 0.75  # normalised values of a pixel: without any heat below the one, with all of it from the other
OPACITY = 0.7  # of full heat: the photograph stays visible
CONTOUR = (0, 255, 255)
LETTERS = 0.045  # of the picture's shorter side, and at least SMALLEST
SMALLEST = 11


def draw_overlay(
    image: Image.Image,
    values: NDArray[np.float64],
    mask: NDArray[np.bool_],
    text: str,
    alarm: bool,
    strength: float = OPACITY,
) -> Image.Image:
    """Draw heat, contour and a text over a picture of H x W pixels, RGB at its own size.

    `values` (H, W) are the pixels' normalised values, of the same scale for all pictures of a detector: a normal one
    has no heat. `mask` (H, W) is what the contour encloses, `alarm` the colour of the text's ground, `strength` the
    opacity of full heat, in [0, 1]; an empty text is not written.
    """
    photograph = np.asarray(image, dtype=np.float32)
    heat = np.clip((values - CALM) / (FULL - CALM), 0, 1).astype(np.float32)
    colour = COLOURS(heat)[..., :3].astype(np.float32) * 255
    opacity = (strength * heat)[..., None]
    mixed = photograph * (1 - opacity) + colour * opacity
    mixed[find_contour(mask, max(1, round(min(image.size) / 200)))] = CONTOUR
    drawn = Image.fromarray(mixed.round().clip(0, 255).astype(np.uint8))
    if text:
        write_text(drawn, text, alarm)
    return drawn


def find_contour(mask: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    """Return the edge of a region, bool (H, W), `width` pixels wide and inside it; the picture's border is none."""
    return mask & ~ndimage.binary_erosion(mask, iterations=width, border_value=1)


def write_text(image: Image.Image, text: str, alarm: bool) -> None:
    """Write a caption into the upper left corner, on a colour that tells an alarm, unless it would take half of it."""
    size = max(SMALLEST, round(LETTERS * min(image.size)))
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(size)
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    margin = max(2, size // 4)
    width, height = int(right - left) + 2 * margin, int(bottom - top) + 2 * margin
    if width > image.width or height > image.height / 2:
        return
    draw.rectangle((0, 0, width, height), fill=(190, 30, 30) if alarm else (30, 110, 60))
    draw.text((margin - left, margin - top), text, font=font, fill="white")
