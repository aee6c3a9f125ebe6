"""Real-IAD, folders as downloaded: pictures from five views, and splits that are JSON files.

Wang et al., "Real-IAD: A Real-World Multi-View Dataset for Benchmarking Versatile Industrial Anomaly Detection", CVPR
2024.
"""

import re
from collections.abc import Iterator, Sequence
from json import loads
from pathlib import Path
from typing import Any

from kdad.data.base import AnomalyDataModule
from kdad.data.checks import warn_of
from kdad.data.samples import Sample
from kdad.errors import UserError

VIEWS = ("C1", "C2", "C3", "C4", "C5")
VIEW = re.compile(r"_(C\d)_")  # in a picture's name: audiojack_0001_OK_C1_20231021.jpg
RESOLUTIONS = ("256", "512", "1024", "raw")
PARTS = ("train", "test")
NOISY = "fuiad"  # in the names of the splits that train on anomalous images, too: "fully unsupervised"


class RealIAD(AnomalyDataModule):
    """Real-IAD in the split of the folder `json`, with the pictures of some `views`, each an image of its own.

    `json` is a folder of <category>.json, in root or in its folder realiad_jsons: realiad_jsons (all views),
    realiad_jsons_sv (one view), realiad_jsons_fuiad_0.1 and the like, where that share of the training images is
    anomalous and passes for normal, which warns. `views` is all, or a list such as [C1,C2]. `resolution` names the
    folder of pictures, realiad_<resolution>. Raises `UserError` for values that there are not.
    """

    layout = (
        "realiad_1024/<category>/{OK,NG}/... and realiad_jsons/<category>.json or realiad_jsons/<split>/<category>.json"
    )
    obtain = "Real-IAD is at https://realiad4ad.github.io/Real-IAD, on request, licence CC BY-NC-SA 4.0"
    mask_kind = "grey"

    def __init__(
        self,
        *,
        json: str = "realiad_jsons",
        views: str | Sequence[str] = "all",
        resolution: int | str = 1024,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        chosen = list(VIEWS) if views == "all" else [views] if isinstance(views, str) else list(views)
        if not chosen or not set(chosen) <= set(VIEWS):
            raise UserError(f"dataset.views={views}: give all, or a list of {', '.join(VIEWS)} such as [C1,C2]")
        if str(resolution) not in RESOLUTIONS:
            raise UserError(f"dataset.resolution={resolution}: give one of {', '.join(RESOLUTIONS)}")
        self.views = None if views == "all" else set(chosen)
        self.json, self.pictures = json, self.root / f"realiad_{resolution}"

    def categories(self) -> list[str]:
        return sorted(path.stem for path in self._find_split().glob("*.json"))

    def find_samples(self) -> tuple[list[Sample], list[Sample]]:
        """Return the training and the test images of the split. Raises `UserError` on an entry that cannot be used."""
        file = self._find_split() / f"{self.category}.json"
        content = _read_object(file)
        meta = content.get("meta")
        meta = meta if isinstance(meta, dict) else {}
        folder = self.pictures / str(meta.get("prefix") or self.category)
        if not folder.is_dir():  # some readers of the set go by the category alone
            folder = self.pictures / self.category
        normal = str(meta.get("normal_class", "OK"))
        parts = {part: list(self._list_samples(file, content, part, normal, folder)) for part in PARTS}
        if noisy := sum(sample.kind != "good" for sample in parts["train"]):
            warn_of(self.name, [f"{noisy} of {len(parts['train'])} training images are anomalous, by {file}"])
        return sorted(parts["train"]), sorted(parts["test"])

    def _find_split(self) -> Path:
        """Return the folder of the split's JSON files. Raises `UserError` where there is none."""
        self.check_root()
        above = (self.root, self.root / "realiad_jsons")
        for place in above:
            if any((place / self.json).glob("*.json")):
                return place / self.json
        found = sorted({path.parent.name for place in above for path in place.glob("*/*.json")})
        raise UserError(
            f"dataset.json={self.json}: no folder of that name with <category>.json in {self.root}. Splits there: "
            f"{', '.join(found) or 'none'}. Expected: {self.layout}. {self.obtain}"
        )

    def _list_samples(
        self, file: Path, content: dict[str, Any], part: str, normal: str, folder: Path
    ) -> Iterator[Sample]:
        """Yield the images of a part, of the chosen views. Raises `UserError` with file and entry."""
        if not isinstance(content.get(part), list):
            raise UserError(f"{file}: no list {part!r} of images in it. Was it downloaded whole?")
        for number, entry in enumerate(content[part]):
            where = f"{file}, {part}[{number}]"
            name, kind = (entry.get(k) if isinstance(entry, dict) else None for k in ("image_path", "anomaly_class"))
            if not isinstance(name, str) or not isinstance(kind, str):
                raise UserError(f"{where}: expected an object with image_path and anomaly_class, found {entry!r}")
            if self.views is not None:
                view = VIEW.search(Path(name).name)
                if view is None:
                    raise UserError(f"{where}: {name} names no view, such as _C1_. dataset.views=all takes every image")
                if view[1] not in self.views:
                    continue
            path, mask = folder / name, entry.get("mask_path")
            if not path.is_file():
                raise UserError(f"{where}: no image {path}. dataset.resolution says in which folder the pictures are")
            if kind == normal:
                yield Sample(path, 0, "good")
            elif part == "test":
                yield Sample(path, 1, kind, folder / mask if mask else None)
            elif NOISY in self.json:
                yield Sample(path, 0, kind)
            else:
                raise UserError(f"{where}: trains on the anomalous image {path}: only splits of {NOISY} do so")


def _read_object(file: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object. Raises `UserError` where it cannot be read, or holds something else."""
    try:
        content = loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read the split {file}: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{file}: expected an object with train and test, found a {type(content).__name__}")
    return content
