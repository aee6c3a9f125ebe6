"""Maps of several detectors side by side: a row for each test image that several have kept a picture of."""

import io
from collections.abc import Iterator
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any, cast

import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from kdad.errors import UserError
from kdad.figures.gallery import list_pictures, split_picture
from kdad.figures.robustness import drop_corruption
from kdad.page.embedded import Links, encode_webp
from kdad.results.series import is_corrupted, name_detector

HEIGHT = 160  # pixels that a part of a row is high, at most
Cell = dict[str, str] | None


def embed_sides(table: pd.DataFrame, pictures: int) -> Iterator[dict[str, Any]]:
    """Collect, for each category, the test images that several detectors or settings have a picture of.

    `table` has the columns of `describe_runs` and `number`. A detector is shown by its first seed that has pictures.
    Yields a group with name, runs, heads (one for each detector), rows and notes; of a category there are at most
    `pictures` rows, half of them normal, and how many are left out is said. Corrupted tests are not shown.
    """
    clean = table[(table["status"] == "ok") & ~is_corrupted(table)] if pictures else table.iloc[:0]
    for (dataset, category), rows in clean.groupby(["dataset", "category"], sort=False):
        shown, notes = _list_shown(rows)
        shared = _find_shared([kept for _, kept in shown])
        if shared.empty:
            continue
        chosen = _choose_hardest(shared, pictures)
        prefix = f"image-{rows['number'].min()}"
        heads = [_describe_head(run, len(rows[rows["key"] == run["key"]]) > 1) for run, _ in shown]
        lines = [_embed_row(f"{prefix}-{i}", image, shown, heads) for i, image in enumerate(chosen.index)]
        masks = any(line["mask"] for line in lines)
        for line in lines:
            line["cells"] += [line["mask"]] * masks
        if more := len(shared) - len(chosen):
            notes.append(f"{more} of {len(shared)} such images left out; --pictures sets how many there are.")
        yield {
            "name": f"{dataset} {category}", "place": (dataset, category), "runs": rows["number"].tolist(),
            "heads": heads, "rows": lines, "masks": masks, "notes": notes,
        }  # fmt: skip


def find_links(run: pd.Series, groups: list[dict[str, Any]]) -> Links:
    """Return the anchors of those test images of a run that have a row; none of a corrupted test's, which differ."""
    if is_corrupted(pd.DataFrame([run])).any():
        return {}
    own = [group for group in groups if group["place"] == (run["dataset"], run["category"])]
    return {line["image"]: line["id"] for group in own for line in group["rows"]}


def _list_shown(rows: pd.DataFrame) -> tuple[list[tuple[pd.Series, pd.DataFrame]], list[str]]:
    """Return the run that each detector and setting is shown by, with its pictures; and why others are not shown."""
    shown, notes = [], []
    for _, seeds in rows.sort_values("number").groupby(["model", "key"], sort=False):
        problems = []
        for _, run in seeds.sort_values("seed", kind="stable").iterrows():
            try:
                with redirect_stderr(io.StringIO()):  # how many have a picture is said in the run's own part
                    kept = list_pictures(run)
                split_picture(kept["picture"].iloc[0])
            except UserError as error:
                problems.append(f"Run {run['number']} is not shown: {error}")
                continue
            shown.append((run, kept.reset_index(names="index").set_index(["index", "kind", "stem"])))
            break
        else:
            notes += problems
    return shown, notes


def _find_shared(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """Return the images that at least two have a picture of: label, and `misranked`, the mean over those."""
    every = pd.concat([table[["label", "misranked"]] for table in tables]) if tables else pd.DataFrame()
    if every.empty:
        return every
    grouped = every.groupby(level=[0, 1, 2])
    return grouped.mean()[grouped.size() > 1]


def _choose_hardest(shared: pd.DataFrame, pictures: int) -> pd.DataFrame:
    ordered = shared.sort_values("misranked", ascending=False, kind="stable")
    normal = ordered[ordered["label"] == 0].head(-(-pictures // 2))
    return pd.concat([normal, ordered[ordered["label"] == 1].head(pictures // 2)])


def _describe_head(run: pd.Series, several: bool) -> dict[str, Any]:
    seed = f", seed {run['seed']:.0f}" if several and pd.notna(run["seed"]) else ""
    name = f"{name_detector(run['model'])}{seed}, run {run['number']}"
    return {"name": name, "number": run["number"], "settings": ", ".join(drop_corruption(run["settings"]))}


def _embed_row(
    anchor: str, image: tuple[int, str, str], shown: list[tuple[pd.Series, pd.DataFrame]], heads: list[dict[str, Any]]
) -> dict[str, Any]:
    """Return a row: its anchor, name, cells (the image, then each detector's map, None where it has none) and mask."""
    name = f"{image[1]} {image[2]}"
    first: Cell = None
    mask: Cell = None
    maps: list[Cell] = []
    for (_, kept), head in zip(shown, heads, strict=True):
        parts = _read_parts(kept, image)
        maps.append(_embed(parts[1], f"{name}, anomaly map of {head['name']}") if parts else None)
        if parts and first is None:
            first = _embed(parts[0], f"{name}, test image")
        if parts and parts[2] is not None and mask is None:
            mask = _embed(255 * parts[2], f"{name}, mask")
    return {"id": anchor, "image": image, "name": name, "cells": [first, *maps], "mask": mask}


def _read_parts(kept: pd.DataFrame, image: tuple[int, str, str]) -> tuple[NDArray, NDArray, NDArray | None] | None:
    """Return image, map and mask of a test image; None where the run has no picture of it that can be read."""
    if image not in kept.index:
        return None
    try:
        return split_picture(cast(Path, kept.at[image, "picture"]))
    except UserError:
        return None  # its own part of the page says so


def _embed(part: NDArray, caption: str) -> dict[str, str]:
    return {"uri": encode_webp(Image.fromarray(part).convert("RGB"), HEIGHT), "caption": caption}
