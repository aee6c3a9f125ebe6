"""Where a data set lies and how to get it: what can be refused before its class is imported."""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from kdad.errors import UserError


class Place(NamedTuple):
    """What an error message needs to know of a data set."""

    name: str
    root: Path
    layout: str  # the folders expected below root
    obtain: str  # where to get it, and its licence


def check_folder(place: Place, downloadable: bool) -> None:
    """Raise `UserError` where the data set's folder is missing; the message says how to get it."""
    if not place.root.is_dir():
        raise UserError(
            f"data set {place.name}: no folder {place.root}. dataset.root=<folder> says where it is; KDAD_DATA "
            f"sets the parent of the default. Expected below it: {place.layout}. {place.obtain}."
            + (" dataset.download=true downloads it." if downloadable else "")
        )


def check_category(place: Place, category: str, categories: Sequence[str]) -> None:
    """Raise `UserError` unless `category` is one of the data set's; the message names the nearest."""
    listed = ", ".join(categories)
    if not categories:
        raise UserError(
            f"data set {place.name}: {place.root} has no category. Expected: {place.layout}. {place.obtain}."
        )
    if not category:
        raise UserError(f"data set {place.name}: category=<name> is needed, one of {listed} (in {place.root})")
    if category not in categories:
        near = difflib.get_close_matches(category, categories, 1, cutoff=0.5)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise UserError(
            f"data set {place.name}: no category {category} in {place.root}.{hint} It has: {listed}. "
            f"dataset.root=<folder> says where others are. {place.obtain}."
        )


def list_folders(folder: Path) -> list[Path]:
    """List the folders directly in `folder`, sorted, hidden ones left out; none where it does not exist."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def list_categories(root: Path, needed: str) -> list[str]:
    """List the names of the folders in `root` that have a folder, below them, of what is needed, such as train/good."""
    first = Path(needed).parts[0]
    return sorted(folder.name for folder in list_folders(root) if (folder / first).is_dir())


def describe_folders(named: Mapping[str, Any]) -> str:
    """Say which folders a category of MVTec's layout has, by its keys train, validation, test and masks."""
    folders = (f"<category>/{named[key]}" for key in ("train", "validation", "test", "masks") if named.get(key))
    return ", ".join(folders).replace("{kind}", "<kind>").replace("{stem}", "<stem>")
