"""Images and folders that may not hold what was meant: counted and said, since they can be read all the same."""

import struct
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from kdad.data.images import FORMATS, SUFFIXES, has_transparency, is_deep
from kdad.data.intensity import AUTO, Rule
from kdad.data.samples import Sample
from kdad.errors import UserError

# Files that are no pictures, so that nobody expects them to be read: by suffix, or by name where they have none
NO_PICTURES = set(
    ".txt .md .rst .json .jsonl .csv .tsv .xml .yaml .yml .toml .ini .cfg .db .log .pdf .html .htm .doc .docx .xls "
    ".xlsx .ods .odt .rtf .bib .py .sh .bat .ipynb .zip .tar .gz .7z .sha256 .md5 .lnk .url .ckpt .pt .pth "
    ".safetensors".split()
)
NO_PICTURES_BY_NAME = {"readme", "license", "licence", "copying", "notice", "citation", "authors", "makefile"}
CAMERA_BITS = (10, 12, 14)  # of cameras whose pictures are kept in files of 16 bits
DIM, BRIGHT = 2**12, 2**14  # below the first a 16-bit image may be a camera's of 12 bits, but not at the second
LOOKED_AT = 64  # 16-bit images whose values are looked at, spread evenly


class Header(NamedTuple):
    """What the header of an image file tells."""

    transparent: bool = False  # or it may be, by its palette
    several_pages: bool = False
    deep: bool = False  # more than 8 bits a channel
    floating: bool = False  # numbers with a point


class Oddities:
    """What is odd about a set of images, of each kind the number and the first file."""

    def __init__(self, rule: Rule = AUTO) -> None:
        self.rule = rule
        self.n = 0
        self.counts: Counter[str] = Counter()
        self.first: dict[str, Path] = {}
        self.ranges: dict[str, tuple[float, float]] = {}  # of values as stored, of those deep images looked at

    def add(self, path: Path, header: Header, values: tuple[float, float] | None = None) -> None:
        """Add an image; `values` are its smallest and largest, of 65535, if it is deep and was looked at."""
        self.n += 1
        for kind, found in header._asdict().items():
            if found:
                self.counts[kind] += 1
                self.first.setdefault(kind, path)
        if header.deep and values is not None:
            kind = "floating-point" if header.floating else "16-bit"
            low, high = self.ranges.get(kind, values)
            self.ranges[kind] = min(low, values[0]), max(high, values[1])
            if kind == "16-bit" and 0 < values[1] < DIM:
                self.counts["dim"] += 1
                self.first.setdefault("dim", path)

    @property
    def brightest(self) -> int:
        """The largest value of the 16-bit images that were looked at; -1 without any."""
        return int(self.ranges.get("16-bit", (-1, -1))[1])

    @property
    def bits(self) -> int | None:
        """How many bits of the 16 the deep images use, if they are those of a camera; None for all, or for none.

        None, too, where a rule says what is white.
        """
        if self.rule.intensity != "auto":
            return None
        return next((n for n in CAMERA_BITS if 0 < self.brightest < 2**n), None)

    def count(self) -> dict[str, int]:
        """Return the counts for results.json, without those that are 0."""
        found = {
            "n_transparent_images": self.counts["transparent"],
            "n_multi_page_images": self.counts["several_pages"],
        }
        found |= {"brightest_16_bit_value": self.brightest if self.bits else 0}
        return {name: n for name, n in found.items() if n}

    def describe(self) -> list[str]:
        """Return a sentence on each kind of oddity found."""
        said = []
        if n := self.counts["transparent"]:
            said.append(
                f"{n} images have transparency, which is dropped: the colour under it counts. The first is "
                f"{self.first['transparent']}"
            )
        if n := self.counts["several_pages"]:
            which = f"page {self.rule.page}, counted from 0," if self.rule.page else "the first"
            said.append(
                f"{n} files hold several pages or frames, of which {which} is read. The first is "
                f"{self.first['several_pages']}; training with dataset.page=<number> reads another one. To take in "
                "several, save them as files of their own"
            )
        if self.bits:
            said.append(
                f"the 16-bit images are dark: no value reaches {2**self.bits} of 65535, as of {self.bits}-bit camera "
                f"data in 16-bit files, of which few grey levels are left. The first is {self.first['deep']}. "
                f"Of grey, training with dataset.intensity=window:0,{2**self.bits - 1} keeps them; "
                "save colours with 8 bits"
            )
        if self.rule.intensity == "auto" and self.brightest >= BRIGHT and (n := self.counts["dim"]):
            said.append(
                f"no value above {DIM - 1} in {n} of the 16-bit images that were looked at, while others reach "
                f"{self.brightest}: camera data of 12 bits come out 16 times darker than data of 16. The first is "
                f"{self.first['dim']}. If that is so, save all with values of one depth"
            )
        if self.rule.window and self.rule.window[1] > 255 and self.n and not self.counts["deep"]:
            said.append(
                f"none of {self.n} images is deeper than 8 bits, but {self.rule.describe()} is of deeper ones: they "
                "are darker than they are meant to be, and may be black"
            )
        if self.rule.window and 0 < (n := self.counts["deep"]) < self.n:
            said.append(
                f"{n} of {self.n} images are deep, the others of 8 bits: {self.rule.describe()} is of the values as "
                "stored, and cannot be meant for both"
            )
        return said

    def refuse_window(self) -> None:
        """Raise `UserError` where no image that was looked at has a value within the rule's window."""
        if not self.rule.window or not self.n:
            return
        shallow = [(0.0, 255.0)] if self.counts["deep"] < self.n else []
        ranges = [*self.ranges.values(), *shallow]
        low, high = self.rule.window
        if ranges and all(top <= low or bottom >= high for bottom, top in ranges):
            found = f"{min(bottom for bottom, _ in ranges):.6g} to {max(top for _, top in ranges):.6g}"
            raise UserError(
                f"dataset.intensity={self.rule.describe()}: the values of the images go from {found}, so that every "
                "image is black or white. Give a window that holds them"
            )

    def describe_ranges(self) -> list[str]:
        """Return a sentence on the values as stored of each kind of deep images, of those that were looked at."""
        return [f"values of {kind} images: {low:.6g} to {high:.6g}" for kind, (low, high) in self.ranges.items()]


def find_oddities(samples: Sequence[Sample], threads: ThreadPoolExecutor, rule: Rule = AUTO) -> Oddities:
    """Find oddities in the headers of image files, and in the values of 16-bit ones; skip what is no image file."""
    paths = [sample.path for sample in samples if sample.path.suffix.lower() in SUFFIXES and sample.path.is_file()]
    headers = list(threads.map(read_header, paths))
    deep = [path for path, header in zip(paths, headers, strict=True) if header.deep]
    chosen = [deep[i] for i in np.unique(np.linspace(0, len(deep) - 1, min(LOOKED_AT, len(deep))).astype(int))]
    ranges = dict(zip(chosen, threads.map(lambda path: _find_range(path, rule), chosen), strict=True))
    found = Oddities(rule)
    for path, header in zip(paths, headers, strict=True):
        found.add(path, header, ranges.get(path))
    return found


def read_header(path: Path) -> Header:
    """Read what is odd about an image file from its header; nothing where it cannot be read."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            # A JPEG with a second, smaller picture for previews is one picture.
            pages = getattr(image, "n_frames", 1) if image.format in ("TIFF", "GIF", "PNG", "WEBP") else 1
            deep = is_deep(image.mode) or _read_depth(image, path) > 8
            return Header(has_transparency(image), pages > 1, deep, image.mode == "F")
    except Exception:  # a damaged file is refused when it is read
        return Header()


def _read_depth(image: Image.Image, path: Path) -> int:
    """Return the bits of a channel as stored: of colours Pillow gives the upper eight, and does not say so."""
    if image.format == "PNG":
        with path.open("rb") as file:
            return struct.unpack(">24xB", file.read(25))[0]
    if image.format == "TIFF":
        stored = image.tag_v2.get(258, 8)  # type: ignore[attr-defined]  # BitsPerSample
        return max(stored) if isinstance(stored, tuple) else stored
    return 8


def _find_range(path: Path, rule: Rule) -> tuple[float, float] | None:
    try:
        with Image.open(path, formats=FORMATS) as image:
            image.seek(rule.page)
            values = np.array(image)
    except Exception:
        return None
    if values.dtype != np.uint8:
        return float(values.min()), float(values.max())
    return 256 * float(values[..., :3].min()), 256 * float(values[..., :3].max()) + 255


def find_range(image: Image.Image) -> tuple[float, float]:
    """Return the least that an RGB image of 8 bits can have had as smallest and largest value in a file of 16 bits."""
    values = np.asarray(image)
    return max(0, 257 * int(values.min()) - 128), max(0, 257 * int(values.max()) - 128)


def find_unread(samples: Sequence[Sample], places: Iterable[Path] = ()) -> list[str]:
    """Return a sentence on each folder, of samples or of `places`, with files that may be pictures and are not read."""
    said = []
    for folder in sorted({sample.path.parent for sample in samples} | set(places)):
        if folder.is_dir():
            found = Counter(path.suffix.lower() or "without a suffix" for path in folder.iterdir() if is_unread(path))
            if found:
                counted = ", ".join(f"{n} {suffix}" for suffix, n in sorted(found.items()))
                said.append(
                    f"{folder}: {counted} left out. To take them in, save them as one of {', '.join(sorted(SUFFIXES))}"
                )
    return said


def is_unread(path: Path) -> bool:
    """Return whether a file may be a picture, but is none of those that are read."""
    suffix = path.suffix.lower()
    if path.name[0] in ".~" or suffix in SUFFIXES or suffix in NO_PICTURES or not path.is_file():
        return False
    return bool(suffix) or path.stem.lower() not in NO_PICTURES_BY_NAME
