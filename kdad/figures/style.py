"""How every figure looks, and how it is written: the same input gives the same bytes."""

from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from kdad.atomic import atomic_write

COLUMN, PAGE = 3.4, 6.9  # widths in inches of one column and of the text in two-column papers
DPI = 300
# Okabe and Ito's colours, told apart with any colour vision; the yellow, pale on white, comes last.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
NORMAL, ANOMALOUS = PALETTE[:2]
DASHES = ("-", "--", "-.", ":")  # a round of the palette each
RC = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so that every machine has it
    "font.size": 8, "axes.titlesize": 8, "axes.labelsize": 8, "legend.fontsize": 7, "legend.title_fontsize": 7,
    "xtick.labelsize": 7, "ytick.labelsize": 7, "axes.linewidth": 0.6, "lines.linewidth": 1.2,
    "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False,
    "pdf.fonttype": 42,  # TrueType, which publishers ask for
    "savefig.dpi": DPI,
}  # fmt: skip
# Neither dates nor versions.
METADATA = {"png": {"Software": None}, "pdf": {"Creator": "kdad", "Producer": None, "CreationDate": None}}


def styled():
    """Decorator and context: matplotlib's settings are kdad's, whatever the machine's are."""
    return matplotlib.rc_context({**matplotlib.rcParamsDefault, "backend": "agg", **RC})


def line_style(number: int) -> dict[str, str]:
    """Colour and dashes of the curve with this number, from 0."""
    return {"color": colour(number), "linestyle": DASHES[number // len(PALETTE) % len(DASHES)]}


def colour(number: int) -> str:
    return PALETTE[number % len(PALETTE)]


@styled()
def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write `<name>.png` and `<name>.pdf` into `folder`, each whole or not at all; returns their paths."""
    paths = []
    for kind, metadata in METADATA.items():
        paths.append(folder / f"{name}.{kind}")
        with atomic_write(paths[-1], "wb") as file:
            figure.savefig(file, format=kind, metadata=metadata)
    return paths
