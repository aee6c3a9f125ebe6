"""Which file is the mask of which of one's own pictures."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from kdad.data.images import SUFFIXES, list_images
from kdad.errors import UserError


class Unmasked(NamedTuple):
    """An anomalous image, and the named folder that it lies in, or somewhere below."""

    path: Path
    folder: Path

    @property
    def kind(self) -> str:
        """The first folder below the named one or, for an image right in that, the named folder itself."""
        first, *below = self.path.relative_to(self.folder).parts
        return first if below else self.folder.name

    def locate_masks(self, masks: Path) -> Path:
        """Return the folder of its mask: the first that there is, of the most telling path to the least."""
        below = self.path.parent.relative_to(self.folder)
        places = (masks / self.folder.name / below, masks / below, masks / self.kind)
        return next((place for place in places if place.is_dir()), masks)


def find_masks(masks: Path, images: Sequence[Unmasked], taken: Sequence[Path]) -> dict[Path, Path]:
    """Find the masks of images in a folder of masks; `taken` are folders of images, which are no masks.

    Returns {image: mask}. Raises `UserError` unless each image has one of its own.
    """
    places = {image.path: image.locate_masks(masks) for image in images}
    listings = {place: _list_masks(place, taken) for place in dict.fromkeys(places.values())}
    found: dict[Path, Path] = {}
    owners: dict[Path, Path] = {}
    for path, place in places.items():
        files = listings[place]
        candidates = files.get(f"{path.stem}_mask", []) + files.get(path.stem, [])
        if not candidates:
            continue
        mask, *others = candidates
        if others:
            raise UserError(f"{mask} and {others[0]} could both be the mask of {path}: keep one")
        if mask in owners:
            raise UserError(
                f"{mask} would be the mask of both {owners[mask]} and {path}: "
                f"put masks into {masks}/<kind>, or rename one of the images"
            )
        found[path], owners[mask] = mask, path
    if missing := [path for path in places if path not in found]:
        path, place = missing[0], places[missing[0]]
        raise UserError(
            f"no mask for the anomalous image {path} ({len(missing)} of {len(images)} are missing). Looked for "
            f"{place / path.stem}_mask.* and {place / path.stem}.* ({', '.join(sorted(SUFFIXES))}). "
            "dataset.masks=null goes without masks"
        )
    return found


def _list_masks(place: Path, taken: Sequence[Path]) -> dict[str, list[Path]]:
    """List the files in a folder of masks. Returns {stem: paths}. Raises `UserError` where it holds images, too."""
    if any(place.samefile(folder) for folder in taken):
        raise UserError(f"dataset.masks: {place} holds images to train or test on: masks need a folder apart")
    files: dict[str, list[Path]] = {}
    for path in list_images(place):
        files.setdefault(path.stem, []).append(path)
    return files
