"""Galleries of test images with their anomaly maps, of one detector or of several side by side."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray
from PIL import Image

from kdad.errors import UserError
from kdad.figures.style import PAGE, make_printable, use_style, wrap_text
from kdad.results.series import Series, find_file, print_remark, read_scores
from kdad.results.words import describe_metrics

GAP = 2  # pixels between the parts of a picture in maps/
NORMAL_COLUMNS = 4  # fewer columns are drawn as wide as this many, so that a gallery keeps its scale
HARDEST = "hardest"


def draw_gallery(
    shown: list[Series], images: str = HARDEST, rows: int = 6, overlay: bool = False, metrics: Sequence[str] = ()
) -> Figure:
    """Draw one row per image: in a column each the image, every run's anomaly map, and the mask where there is one.

    `images` is a number, that many spread evenly over the test; a kind of image, such as good; or hardest: those that
    the runs, on average, rank worst (`measure_misranking`), which stands beside them. Of a kind and of the hardest
    there are at most `rows`. With `overlay` the map lies over the image at half strength and the mask is its outline.
    Above a run's maps stand its `metrics`, in percent.

    Everything is read from the pictures that the runs have left in maps/, of the shape that the network has seen, where
    colours span each run's own test from
    its lowest to its highest pixel: maps of two runs are compared by where they glow, not by how much. Raises
    `UserError` where no picture is of an image that all runs show, and for runs of more than one category.
    """
    names = [one.name_run(run, len(one.runs) > 1) for one in shown for _, run in one.runs.iterrows()]
    tables = [list_pictures(run) for one in shown for _, run in one.runs.iterrows()]
    places = pd.concat([one.runs[["dataset", "category"]] for one in shown]).drop_duplicates()
    if len(places) > 1:
        raise UserError(
            f"a gallery is of one category, not of {', '.join(' '.join(map(str, row)) for row in places.values)}"
        )
    numbers = [describe_metrics(run, metrics, 1) for one in shown for _, run in one.runs.iterrows()]
    return _draw_pictures(names, numbers, tables, images, rows, overlay)


@use_style()
def _draw_pictures(
    names: list[str], numbers: list[str], tables: list[pd.DataFrame], images: str, rows: int, overlay: bool
) -> Figure:
    chosen = choose_images(find_shared_images(names, tables), images, rows)
    parts = [[split_picture(table.loc[index, "picture"]) for table in tables] for index in chosen.index]
    masks = [row[0][2] for row in parts]
    with_masks = not overlay and any(mask is not None for mask in masks)
    heads = ["image", *names, *["mask"] * with_masks]
    side = PAGE / max(NORMAL_COLUMNS, len(heads))
    below = ["", *numbers, *[""] * with_masks]
    titles = [wrap_text(head, max(8, int(side * 15))) for head in heads]
    titles = ["\n".join(filter(None, pair)) for pair in zip(titles, below, strict=True)]
    tall, wide = (np.mean([row[0][0].shape[axis] for row in parts]) for axis in (0, 1))
    height = side * tall / wide * len(chosen) + 0.14 * max(title.count("\n") + 1 for title in titles)
    layout = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0.01, hspace=0.01)
    figure = Figure((side * len(heads) + 0.3, height), layout=layout)
    axes = figure.subplots(len(chosen), len(heads), squeeze=False)
    for line, row, mask, (_, about) in zip(axes, parts, masks, chosen.iterrows(), strict=True):
        _show_picture(line[0], row[0][0])
        told = [
            make_printable(f"{about['kind']} {about['stem']}"),
            *([describe_rank(about)] if images == HARDEST else []),
        ]
        line[0].set_ylabel(
            "\n".join(wrap_text(text, max(8, int(side * tall / wide * 15))) for text in told), fontsize=6
        )
        for cell, (image, colours, _) in zip(line[1:], row, strict=False):
            _show_picture(cell, (image // 2 + colours // 2) if overlay else colours)
            if overlay and mask is not None and 0 < mask.mean() < 1:
                cell.contour(mask, levels=[0.5], colors="white", linewidths=0.7)
        if with_masks:
            black = np.zeros_like(row[0][0])
            _show_picture(line[-1], black if mask is None else np.repeat(mask[..., None], 3, axis=2) * 255)
    for cell, title in zip(axes[0], titles, strict=True):
        cell.set_title(title, fontsize=7, pad=3)
    return figure


def describe_rank(about: pd.Series) -> str:
    """Return how badly an image is ranked, as text: above how many of the anomalous images, or below of the normal."""
    where, others = (("above", "anomalous"), ("below", "normal"))[about["label"]]
    return f"{where} {100 * about['misranked']:.0f} % of {others}"


def _show_picture(cell: Axes, picture: NDArray[np.uint8]) -> None:
    cell.imshow(picture, interpolation="none")
    cell.set(xticks=[], yticks=[])
    cell.spines[:].set_visible(False)


def list_pictures(run: pd.Series) -> pd.DataFrame:
    """Return the test images for which a run has saved a picture.

    Columns are kind, stem, label, misranked and picture (its path), rows the images' indices in the test. Raises
    `UserError` where the run has left none, or one of an image that scores.csv does not know.
    """
    folder, scores = find_file(run, "maps_folder"), read_scores(run)
    ranks, found = measure_misranking(scores), {}
    for path in sorted(folder.glob("*.png")):
        number, _, rest = path.stem.partition("_")
        index = int(number) if number.isdigit() else -1
        stem = Path(scores["path"].get(index, "")).stem
        if not stem or not rest.endswith(f"_{stem}"):
            raise UserError(f"{path}: no picture of a row of {run['scores_file']}; was one of them copied here?")
        found[index] = {"kind": rest.removesuffix(f"_{stem}"), "stem": stem, "label": scores["label"][index]}
        found[index] |= {"misranked": ranks[index], "picture": path}
    if not found:
        raise UserError(f"{folder}: no pictures. Test the run again with pictures=64: python -m kdad.evaluate")
    if len(found) < len(scores):
        print_remark(
            f"{run['folder']} has pictures of {len(found)} of its {len(scores)} test images; pictures= sets how many"
        )
    return pd.DataFrame.from_dict(found, orient="index")


def measure_misranking(scores: pd.DataFrame) -> pd.Series:
    """Measure how badly each image is ranked against the images of the other label.

    Returns the part of the images of the other label that are ranked on its wrong side, in [0, 1], ties counting half;
    NaN where one label is missing. 1 minus the mean over the normal, or over the anomalous, images is the AUROC. A
    millionth of an image's rank among its own label orders images of equal parts.
    """
    parts = pd.Series(np.nan, index=scores.index)
    for label, sign in ((0, 1), (1, -1)):
        own, other = (
            np.sort(sign * scores.loc[same, "score"]) for same in (scores["label"] == label, scores["label"] != label)
        )
        mine = sign * scores.loc[scores["label"] == label, "score"]
        if len(other):
            wrong = (np.searchsorted(other, mine) + np.searchsorted(other, mine, side="right")) / 2 / len(other)
            parts[mine.index] = wrong + 1e-6 * np.searchsorted(own, mine) / len(own)
    return parts


def find_shared_images(names: list[str], tables: list[pd.DataFrame]) -> pd.DataFrame:
    """Return the images that every run has a picture of, with the mean of `misranked` over the runs.

    Raises `UserError` where there are none, or a picture is of different images in two runs.
    """
    shared = tables[0]
    for name, table in zip(names, tables, strict=True):
        shared = shared.loc[shared.index.intersection(table.index)]
        same = ["kind", "stem"]
        if shared.empty or not shared[same].equals(table.loc[shared.index, same]):
            raise UserError(f"{names[0]} and {name} have no pictures of the same test images")
    return shared.assign(misranked=sum(table.loc[shared.index, "misranked"] for table in tables) / len(tables))


def choose_images(table: pd.DataFrame, images: str, rows: int) -> pd.DataFrame:
    """Return the rows of `find_shared_images` to show: hardest first if `images` says so, else in the test's order.

    Raises `UserError` for a choice that is none, or leaves no image.
    """
    if rows < 1:
        raise UserError(f"--rows {rows}: give a number of images, at least 1")
    if images == HARDEST:
        if table["misranked"].isna().any():
            raise UserError("--images hardest needs normal and anomalous test images; give a number of images instead")
        return table.sort_values("misranked", ascending=False, kind="stable").head(rows)
    if images.isdigit():
        rows = int(images)
    elif images in set(table["kind"]):
        table = table[table["kind"] == images]
    else:
        kinds = ", ".join(sorted(set(table["kind"])))
        raise UserError(
            f"--images {images}: give {HARDEST}, a number of images, or a kind of image with pictures: {kinds}"
        )
    if rows < 1:
        raise UserError(f"--images {images}: give at least 1")
    return table.iloc[np.unique(np.linspace(0, len(table) - 1, min(rows, len(table))).round().astype(int))]


def split_picture(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8] | None]:
    """Split a picture that a run has left into its parts.

    Returns the image (H, W, 3), the map in colours (H, W, 3) and the mask (H, W) of 0 and 1, or None. Raises
    `UserError` for a file that is no such picture.
    """
    try:
        with Image.open(path) as picture:
            whole = np.array(picture.convert("RGB"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
    height, width = whole.shape[:2]
    square = (width + GAP) / (height + GAP)  # so many parts, if they are squares
    for count in (int(square), *(n for n in (3, 2) if n != square)) if square in (2, 3) else (3, 2):
        step = (width + GAP) // count  # from part to part
        gaps = [whole[:, i * step - GAP : i * step] for i in range(1, count)]
        if step * count == width + GAP and step > GAP and all((gap == 255).all() for gap in gaps):
            break
    else:
        raise UserError(f"{path}: {width} x {height} pixels are no image | map | mask of a kdad run")
    image, colours, *masks = (whole[:, i * step : (i + 1) * step - GAP] for i in range(count))
    return image, colours, (masks[0][..., 0] > 127).astype(np.uint8) if masks else None
