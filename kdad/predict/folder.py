"""Where predictions go: a journal that survives a kill, the table made of it, and the pictures beside."""

import csv
import json
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from kdad.data.roi import Roi
from kdad.engine.run_folder import RunFolder
from kdad.errors import UserError
from kdad.inference.inputs import Item
from kdad.inference.result import Result
from kdad.storage.tensors import hash_file

if TYPE_CHECKING:
    from kdad.inference.detector import Result

COLUMNS = ("path", "score", "normalised_score", "decision", "area")
OVERLAYS, MAPS = ("all", "anomalous", "none"), ("none", "npy", "tiff16", "mvtec_ad2")
PRIVATE = ("test_private", "test_private_mixed")  # MVTec AD 2's folders of pictures whose masks its server alone has
JOURNAL = ".judged"  # one line of JSON for each file, in the order in which they were judged
AHEAD = 16  # pictures that wait to be drawn and written
ENDINGS = (".png", ".npy", ".tiff")  # of pictures


class PredictionFolder:
    """The folder of one call of `kdad predict`, or of several that go on with each other."""

    def __init__(self, path: Path, overlays: str, maps: str, masks: bool):
        if overlays not in OVERLAYS:
            raise UserError(f"overlays={overlays}: give one of {', '.join(OVERLAYS)}")
        if maps not in MAPS:
            raise UserError(f"maps={maps}: give one of {', '.join(MAPS)}")
        self.folder, self.overlays, self.maps, self.masks = RunFolder(path), overlays, maps, masks
        self.roi: Roi | None = None
        self.path, self.journal = path, path / JOURNAL
        self.unreadable = path / "unreadable.csv"
        self.rows: dict[str, dict[str, Any]] = {}  # by path
        self._owners: dict[str, str] = {}  # paths of inputs, by the names of their pictures
        self._files: set[str] = set()  # these pictures, and the folders that they lie in
        self._folders: set[str] = set()
        self._threads = ThreadPoolExecutor(2)
        self._waiting: list[Future[None]] = []

    def open(self, checkpoint: Path, skip_done: bool, overwrite: bool, roi: Roi | None = None) -> None:
        """Begin, or with `skip_done` go on with what an earlier call has judged, in the same regions of interest.

        Raises `UserError` where the folder holds something else, predictions of another checkpoint, or, without being
        asked to go on or to overwrite, any predictions.
        """
        folder, made_by = self.folder, {"checkpoint": str(checkpoint), "sha256": hash_file(checkpoint)}
        if folder.results.exists() or folder.config.exists():
            raise UserError(f"{self.path} is a run's folder. Give another one: hydra.run.dir=<folder>")
        ours = set(folder.list_written())
        places = (folder.scores, self.unreadable, self.journal)
        if foreign := [place for place in places if place.exists() and place not in ours]:
            raise UserError(f"{foreign[0]} was not written by kdad: give another folder, hydra.run.dir=<folder>")
        lines = read_journal(self.journal)
        if lines and overwrite:
            folder.clear()
            lines = []
        if lines and not skip_done:
            raise UserError(
                f"{self.path} holds predictions already. skip_done=true goes on with them, overwrite=true replaces "
                "them, hydra.run.dir=<folder> gives another folder"
            )
        if lines and lines[0].get("sha256") != made_by["sha256"]:
            raise UserError(
                f"{self.path} holds predictions of another checkpoint, {lines[0].get('checkpoint')}: overwrite=true "
                "replaces them, hydra.run.dir=<folder> gives another folder"
            )
        self.roi = roi
        folder.written.remove_left()
        folder.note(*places)
        self.rows = {line["path"]: line for line in lines[1:] if "path" in line}
        for path, row in self.rows.items():
            if "name" in row:
                self._take_name(row["name"], path)
        with self.journal.open("w", encoding="utf-8") as file:  # without a line that a kill has cut
            file.writelines(json.dumps(line) + "\n" for line in [made_by, *self.rows.values()])

    def count(self, items: Iterable[Item]) -> int:
        """Return how many items there are. Raises `UserError` where maps are for a server that has no place for one."""
        number = 0
        for item in items:
            number += 1
            if self.maps == "mvtec_ad2":
                name_for_server(item.path)
        return number

    def is_done(self, item: Item) -> bool:
        """Return whether this file, unchanged, has been judged and all its pictures written."""
        row = self.rows.get(str(item.path))
        try:
            same = row is not None and row["file"] == describe_file(item.path, self.roi)
        except (OSError, UserError):
            return False
        return same and row is not None and "name" in row and all(place.exists() for place in self._places(row))

    def add(self, item: Item, found: "Result | UserError") -> None:
        """Write down what was found of a file; its pictures follow on threads."""
        try:
            file = describe_file(item.path, self.roi)
        except (OSError, UserError):  # which `found` says
            file = []
        row: dict[str, Any] = {"path": str(item.path), "file": file}
        if isinstance(found, UserError):
            row["error"] = str(found)
        else:
            decided = found.is_anomalous
            row["name"] = self._choose_name(item)
            row |= {"score": found.score, "normalised_score": found.normalised}
            row |= {"decision": None if decided is None else int(decided), "area": found.area}
            self._waiting.append(self._threads.submit(self._draw, found, row))
        while len(self._waiting) > AHEAD:
            self._waiting.pop(0).result()
        self.rows[row["path"]] = row
        with self.journal.open("a", encoding="utf-8") as journal:
            journal.write(json.dumps(row) + "\n")

    def list_rows(self, order: Iterable[str]) -> list[dict[str, Any]]:
        """Return the rows of the tables: first those of the paths in `order`, then what earlier calls have judged.

        Of the latter, files that are gone are left out.
        """
        first = dict.fromkeys(path for path in order if path in self.rows)
        others = [path for path in self.rows if path not in first and os.path.lexists(path)]
        return [self.rows[path] for path in (*first, *others)]

    def write_tables(self, order: Iterable[str]) -> None:
        """Write scores.csv and unreadable.csv, whole or not at all; `order` are the paths in the order of the input."""
        rows = self.list_rows(order)
        with self.folder.write(self.folder.scores) as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(COLUMNS)
            for row in rows:
                if "error" not in row:
                    cells = (row["score"], row["normalised_score"], row["decision"], row["area"])
                    table.writerow([row["path"], *("" if cell is None else repr(cell) for cell in cells)])
        with self.folder.write(self.unreadable) as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(("path", "reason"))
            table.writerows((row["path"], row["error"]) for row in rows if "error" in row)

    def finish(self) -> None:
        """Wait for what is still being drawn. Raises what stopped one of them."""
        self._threads.shutdown()
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            future.result()

    def _choose_name(self, item: Item) -> str:
        """Return the name of a file's pictures, which no other file, and no folder of one, has in this folder."""
        name, number = item.name, 2
        while clash := self._find_clash(name, str(item.path)):
            parts, place = list(Path(item.name).parts), len(clash.parts) - 1
            parts[place] = f"{number}_{parts[place]}"
            name, number = Path(*parts).as_posix(), number + 1
        self._take_name(name, str(item.path))
        return name

    def _find_clash(self, name: str, path: str) -> Path | None:
        """Return what of a name is not free for this file's pictures: a folder that it begins with, or all of it."""
        folders = reversed(Path(name).parents)
        if folder := next((folder for folder in folders if folder.as_posix() in self._files), None):
            return folder
        taken = self._owners.get(name, path) != path or not self._folders.isdisjoint(list_pictures(name))
        return Path(name) if taken else None

    def _take_name(self, name: str, path: str) -> None:
        self._owners[name] = path
        self._files.update(list_pictures(name))
        self._folders.update(parent.as_posix() for parent in Path(name).parents)

    def _places(self, row: dict[str, Any]) -> Iterator[Path]:
        """Yield where the pictures of a file go."""
        decided, name = row["decision"] is not None, row["name"]
        server = name_for_server(Path(row["path"])) if self.maps == "mvtec_ad2" else None
        if decided and (self.overlays == "all" or (self.overlays == "anomalous" and row["decision"])):
            yield self.path / "overlays" / name_picture(name, ".png")
        if server:
            yield self.path / "anomaly_images" / server.with_suffix(".tiff")
        elif self.maps != "none":
            yield self.path / "maps" / name_picture(name, ".npy" if self.maps == "npy" else ".tiff")
        if self.masks and decided and server:
            yield self.path / "anomaly_images_thresholded" / server.with_suffix(".png")
        elif self.masks and decided:
            yield self.path / "masks" / name_picture(name, ".png")

    def _draw(self, found: "Result", row: dict[str, Any]) -> None:
        for place in self._places(row):
            with self.folder.write(place, "wb") as file:
                if place.suffix == ".npy":
                    np.save(file, found.anomaly_map)
                elif place.suffix == ".tiff":
                    from tifffile import imwrite

                    content = BytesIO()  # the writer wants a file with a name, or one in memory
                    imwrite(content, found.anomaly_map.astype(np.float16))
                    file.write(content.getvalue())
                elif not place.is_relative_to(self.path / "overlays"):
                    Image.fromarray(np.asarray(found.mask, dtype=np.uint8) * 255).save(file, format="png")
                else:
                    found.overlay().save(file, format="png", compress_level=1)  # in a third of the time


def read_journal(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a journal up to the first one that a kill has cut; none where there is no journal."""
    lines: list[dict[str, Any]] = []
    if path.is_file():
        for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                line = json.loads(text)
            except ValueError:
                break
            if not isinstance(line, dict):
                break
            lines.append(line)
    return lines


def describe_file(path: Path, roi: Roi | None = None) -> list[int | str]:
    """Return a picture's size and time, which tell that it has changed, and what tells its region of interest.

    Raises `UserError` where it has none.
    """
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, *(roi.identify(path) if roi else ())]


def name_for_server(path: Path) -> Path:
    """Return what MVTec AD 2's server calls a picture's map, <object>/<test>/<file>, from where the picture lies.

    Raises `UserError` for a picture that lies in none of the set's private tests.
    """
    path = path.absolute()
    if path.parent.name not in PRIVATE:
        raise UserError(
            f"maps=mvtec_ad2: {path} does not lie in <object>/{PRIVATE[0]} or <object>/{PRIVATE[1]}, as that "
            "set's server needs it. maps=tiff16 writes the same maps of any picture"
        )
    return Path(*path.parts[-3:])


def list_pictures(name: str) -> list[str]:
    """Return what the pictures of a file of this name can be called."""
    return [name_picture(name, ending) for ending in ENDINGS]


def name_picture(name: str, suffix: str) -> str:
    """Return a name for an output picture that no other input shares: where that can be, the input's own."""
    path = Path(name)
    if path.suffix == suffix and not Path(path.stem).suffix:
        return name
    return name + suffix if path.suffix else name + 2 * suffix
