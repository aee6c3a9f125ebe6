"""How every figure looks, and how it is written: the same input gives the same bytes."""

import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypedDict
from zlib import crc32

import matplotlib
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

from kdad.storage.atomic import atomic_write

COLUMN, PAGE = 3.4, 6.9  # widths in inches of one column and of the text in two-column papers
DPI = 300
# Okabe and Ito's colours, told apart with any colour vision; the yellow, pale on white, comes last.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
NORMAL, ANOMALOUS = PALETTE[:2]
DETECTORS = ("rd", "stpm", "mkd", "dskd")  # have the palette's first colours; others share the rest by their names
DASHES = ("-", "--", "-.", ":")
RC: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so that every machine has it
    "font.size": 8, "axes.titlesize": 8, "axes.labelsize": 8, "legend.fontsize": 7, "legend.title_fontsize": 7,
    "xtick.labelsize": 7, "ytick.labelsize": 7, "axes.linewidth": 0.6, "lines.linewidth": 1.2,
    "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False,
    "pdf.fonttype": 42,  # TrueType, which publishers ask for
    "savefig.dpi": DPI,
}  # fmt: skip
# Neither dates nor versions.
METADATA = {"png": {"Software": None}, "pdf": {"Creator": "kdad", "Producer": None, "CreationDate": None}}


class LineStyle(TypedDict):
    """Arguments of matplotlib's `plot`."""

    color: str
    linestyle: str


@contextmanager
def use_style() -> Iterator[None]:
    """Use kdad's settings of matplotlib, whatever the machine's are, in a block or in a decorated function."""
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, "backend": "agg", **RC}):
        yield


def choose_styles(models: Sequence[str]) -> list[LineStyle]:
    """Choose colour and dashes of the curves or bars of a figure, given each one's detector, in their order.

    A detector has one colour in every figure. Those that share a colour are told apart by shade and dashes.
    """
    styles: list[LineStyle] = []
    hues = [find_colour(model) for model in models]
    for number, hue in enumerate(hues):
        before = hues[:number].count(hue)
        styles.append({"color": lighten(hue, before), "linestyle": DASHES[before % len(DASHES)]})
    return styles


def find_colour(model: str) -> str:
    """Return the colour of a detector, by its name alone."""
    if model in DETECTORS:
        return PALETTE[DETECTORS.index(model)]
    return PALETTE[len(DETECTORS) + crc32(model.encode()) % (len(PALETTE) - len(DETECTORS))]


def lighten(colour: str, steps: int) -> str:
    """Mix a colour with white, a fifth for each of up to three steps. Returns #rrggbb."""
    part = 0.22 * (steps % 4)
    red, green, blue = ((1 - part) * value + part for value in to_rgb(colour))
    return to_hex((red, green, blue))


def make_printable(text: str) -> str:
    """Return a text that can be drawn: with a mark in the place of bytes of a file's name that are no UTF-8."""
    return text.encode(errors="surrogateescape").decode(errors="replace")


def wrap_text(text: str, width: int) -> str:
    """Break a text into lines of at most `width` characters."""
    return textwrap.fill(text, width)


@use_style()
def save_figure(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write `<name>.png` and `<name>.pdf` into `folder`, each whole or not at all. Returns their paths."""
    paths = []
    if engine := figure.get_layout_engine():
        engine.execute(figure)
        figure.set_layout_engine(None)  # as it is now: each file would be laid out anew, and drawn twice for that
    for kind, metadata in METADATA.items():
        paths.append(folder / f"{name}.{kind}")
        with atomic_write(paths[-1], "wb") as file:
            figure.savefig(file, format=kind, metadata=metadata)
    return paths
