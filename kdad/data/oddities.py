"""Images and folders that may not hold what was meant: counted and said, since they can be read all the same."""

import logging
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from kdad.data.images import SUFFIXES, has_transparency
from kdad.data.samples import Sample

log = logging.getLogger(__name__)
# Suffixes of pictures that are not read; others, such as .txt or .db, are not expected to be.
UNREAD = set(
    ".heic .heif .avif .jp2 .j2k .jpx .jxl .gif .apng .tga .dds .psd .svg .ico .raw .dng .cr2 .cr3 .nef .arw .exr .hdr "
    ".dcm .dicom .nii .npy .npz .mat".split()
)
DARK = 1 / 8  # of the range: a set of 16-bit images whose brightest value is below is told of
LOOKED_AT = 64  # 16-bit images whose values are looked at, spread evenly


class Oddities(NamedTuple):
    """What is odd about a set of images: the files of each kind, and the brightest value of dark 16-bit ones."""

    transparent: list[Path]
    several_pages: list[Path]
    dark: int | None

    def counts(self) -> dict[str, int]:
        """Return the counts for results.json, without those that are 0."""
        found = {"n_transparent_images": len(self.transparent), "n_multi_page_images": len(self.several_pages)}
        found |= {"brightest_16_bit_value": self.dark or 0}
        return {name: n for name, n in found.items() if n}

    def describe(self) -> list[str]:
        """Return a sentence on each kind of oddity found."""
        said = []
        if self.transparent:
            said.append(
                f"{len(self.transparent)} images have transparency, which is dropped: the colour under it counts. The "
                f"first is {self.transparent[0]}"
            )
        if self.several_pages:
            said.append(
                f"{len(self.several_pages)} files hold several pages or frames, of which the first is read. The first "
                f"is {self.several_pages[0]}; save the others as files of their own to take them in"
            )
        if self.dark is not None:
            said.append(
                f"the 16-bit images are dark: their brightest value is {self.dark} of 65535, as of 10- or 12-bit "
                "camera data in 16-bit files, of which few grey levels are left. Scale the values to 16 bits, or save 8"
            )
        return said


def find_oddities(samples: Sequence[Sample], threads: ThreadPoolExecutor) -> Oddities:
    """Find oddities in the headers of image files, and in the values of 16-bit ones; skip what is no image file."""
    paths = [sample.path for sample in samples if sample.path.suffix.lower() in SUFFIXES and sample.path.is_file()]
    headers = list(threads.map(_look_at_header, paths))
    deep = [path for path, (mode, _, _) in zip(paths, headers, strict=True) if mode == "I" or mode.startswith("I;16")]
    dark = None
    if deep:
        chosen = [
            deep[i] for i in np.unique(np.linspace(0, len(deep) - 1, min(LOOKED_AT, len(deep))).round().astype(int))
        ]
        brightest = max(threads.map(_find_brightest, chosen))
        dark = brightest if 0 < brightest < DARK * 65535 else None
    return Oddities(
        [path for path, (_, transparent, _) in zip(paths, headers, strict=True) if transparent],
        [path for path, (_, _, pages) in zip(paths, headers, strict=True) if pages > 1],
        dark,
    )


def _look_at_header(path: Path) -> tuple[str, bool, int]:
    """Return mode, whether there may be transparency, and pages; nothing odd where the file cannot be read."""
    try:
        with Image.open(path) as image:
            pages = getattr(image, "n_frames", 1) if image.format in ("TIFF", "GIF", "PNG", "WEBP", "MPO") else 1
            # A JPEG with a second, smaller picture for previews is one picture.
            return image.mode, has_transparency(image), 1 if image.format == "MPO" else pages
    except Exception:  # a damaged file is refused when it is read
        return "", False, 1


def _find_brightest(path: Path) -> int:
    try:
        with Image.open(path) as image:
            return int(np.array(image).max())
    except Exception:
        return 0


def find_unread(samples: Sequence[Sample]) -> list[str]:
    """Return a sentence on each folder of images that also holds pictures with suffixes that are not read."""
    said = []
    for folder in sorted({sample.path.parent for sample in samples}):
        if folder.is_dir():
            suffixes = Counter(
                p.suffix.lower() for p in folder.iterdir() if p.suffix.lower() in UNREAD and p.name[0] != "."
            )
            if suffixes:
                counted = ", ".join(f"{n} {suffix}" for suffix, n in sorted(suffixes.items()))
                said.append(
                    f"{folder}: {counted} left out. To take them in, save them as one of {', '.join(sorted(SUFFIXES))}"
                )
    return said
