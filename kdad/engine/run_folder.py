"""A run's folder: the names of its files, whose they are, one job at a time in it, and whether what is there is whole.

Nobody else spells these names. kdad removes and replaces only what it has written itself: each file that a job writes
is first noted in the folder's marker. Reading needs neither torch nor Lightning, so that reports are quick.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import IO, Any

from omegaconf import DictConfig, OmegaConf

from kdad.engine.record import Record, is_first_process, is_same_data
from kdad.errors import UserError
from kdad.settings.compose import resolve
from kdad.settings.roles import config_hash
from kdad.storage.atomic import atomic_write
from kdad.storage.lock import LOCK, hold_folder
from kdad.storage.plain import parse_json, parse_yaml
from kdad.storage.written import MARKER, WrittenFiles

RESULTS = "results.json"
# What a job writes; version 0.1, which kept no marker, has written these in a folder whose config.yaml is of a run.
OUTPUTS = re.compile(
    r"(results|refused)\.json|config\.yaml|scores\.csv|curves\.npz|maps/\d{5}_.+\.png"
    r"|checkpoints/(last|tested|best|epoch_\d+)\.ckpt"
)
OF_VARIANTS = re.compile(r"variants/[\w-]+/(\w+\.(json|yaml|csv|npz)|maps/\d{5}_.+\.png)")
EPOCH = re.compile(r"epoch_(\d+)\.ckpt")


class RunFolder:
    """The folder of one job; it need not exist yet."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.results = self.path / RESULTS
        self.refusal = self.path / "refused.json"  # why a job was refused here, beside another one's complete results
        self.config = self.path / "config.yaml"
        self.scores = self.path / "scores.csv"
        self.defects = self.path / "defects.csv"
        self.curves = self.path / "curves.npz"
        self.maps = self.path / "maps"
        self.variants = self.path / "variants"
        self.categories = self.path / "categories"  # of a unified run
        self.evaluations = self.path / "evaluations"
        self.checkpoints = self.path / "checkpoints"
        self.written = WrittenFiles(self.path)

    def __str__(self) -> str:
        return str(self.path)

    @classmethod
    def around(cls, checkpoint: str | Path) -> "RunFolder | None":
        """Return the folder of the run that a checkpoint lies in; None where it lies in no folder that kdad made."""
        path = Path(checkpoint).expanduser().absolute()
        folder = cls(path.parent.parent)
        return folder if folder.owns(path) and folder.is_ours() else None

    def checkpoint(self, name: str) -> Path:
        """Return the path of a checkpoint by its name: last (to go on from), tested, or best (lowest val_loss)."""
        return self.checkpoints / f"{name}.ckpt"

    def owns(self, checkpoint: Path) -> bool:
        """Return whether a checkpoint lies in this run's folder of checkpoints."""
        return checkpoint.resolve().parent == self.checkpoints.resolve()

    def variant(self, name: str) -> "RunFolder":
        """Return the folder of one variant: a further test of the run's weights, by its name."""
        return RunFolder(self.variants / name)

    def category(self, name: str) -> "RunFolder":
        """Return the folder of what a unified run, or a variant or evaluation of it, says of one category."""
        return RunFolder(self.categories / name)

    # What is there

    def read(self) -> dict[str, Any]:
        """Return what results.json holds; nothing where there is none, or where it is not kdad's."""
        try:
            found = parse_json(self.results.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def read_config(self) -> dict[str, Any]:
        """Return the resolved configuration of the job; nothing where there is none that can be read."""
        try:
            parse_yaml(self.config.read_text(encoding="utf-8"))  # which refuses what would never end
            return resolve(DictConfig(OmegaConf.load(self.config)))
        except Exception:  # others' files bear any name, and OmegaConf raises nearly anything
            return {}

    def read_hash(self, results: dict[str, Any] | None = None) -> str | None:
        """Return the hash of the configuration that a job had here; None where none is recorded.

        Version 0.1 counted other keys in, and a job that was killed has left no results: these are told by what
        config.yaml holds.
        """
        results = self.read() if results is None else results
        if results and not str(results.get("versions")).startswith("kdad 0.1."):
            return results.get("config_hash")
        config = self.read_config() if self.is_ours() and (not results or results.get("config_hash")) else {}
        return config_hash(config) if config else None

    def is_complete(self, of: str | None = None, results: dict[str, Any] | None = None) -> bool:
        """Return whether complete results lie here, of the configuration with this hash if one is given."""
        results = self.read() if results is None else results
        return results.get("status") == "ok" and (of is None or of == self.read_hash(results))

    def is_interrupted(self) -> bool:
        """Return whether training has begun here, and may go on from `last`, but has come to no results."""
        return self.checkpoint("last") in self.list_written() and not self.is_complete()

    def is_trained(self, of: str, on: str | None = None) -> bool:
        """Return whether a run, not a test alone, of this configuration has left complete results here.

        `on` is the fingerprint of the data; None, or none in the results, as of version 0.1, for any.
        """
        results = self.read()  # once: a search asks this of every run
        same = is_same_data(results.get("data_fingerprint"), on)
        return same and "fit_seconds" in results and self.is_complete(of, results)

    def list_absent(self, results: dict[str, Any] | None = None) -> list[str]:
        """Return the categories of a unified run whose own results, which it has had, are not there."""
        names = (self.read() if results is None else results).get("category_names")
        return [n for n in map(str, names or []) if not self.category(n).results.is_file()]

    def siblings(self) -> Iterator["RunFolder"]:
        """Yield this folder, then `<folder>_2`, `<folder>_3` and so on, whether they exist or not."""
        yield self
        yield from (RunFolder(self.path.with_name(f"{self.path.name}_{i}")) for i in count(2))

    def find_free(self, of: str) -> "RunFolder":
        """Return the first folder, of this one and its siblings, that a job of this configuration may write to.

        It has no results, or is one where such a job has failed or was interrupted. A sweep that has grown numbers its
        jobs anew, and what lies under the number may be another job's, whose failure stays on record as its results do.
        What is not kdad's stays, too.
        """
        places = (place for place in self.siblings() if not place.is_complete() and not place.find_foreign())
        return next(place for place in places if place.read_hash() in (None, of))

    # Whose it is

    def is_ours(self) -> bool:
        """Return whether kdad has made this folder, or at least written into it."""
        return self.written.marker.is_file() or self._is_of_0_1()

    def list_written(self) -> list[Path]:
        """Return the files here that kdad has written and that are still there."""
        if self.written.marker.is_file() or not self._is_of_0_1():
            return [path for path in self.written.read() if path.is_file()]
        names = {path.relative_to(self.path).as_posix(): path for path in self.path.rglob("*") if path.is_file()}
        return [path for name, path in names.items() if OUTPUTS.fullmatch(name) or OF_VARIANTS.fullmatch(name)]

    def _is_of_0_1(self) -> bool:
        config = self.read_config()
        groups = [config.get(key) for key in ("model", "dataset", "backbone")]
        return all(isinstance(group, dict) and "_target_" in group for group in groups)

    def find_foreign(self) -> list[Path]:
        """Return the files that kdad did not write but a job would overwrite, and links in the place of its folders."""
        folders = [self.maps, self.variants, self.categories, self.checkpoints]
        blocked = [folder for folder in folders if folder.is_symlink() or (folder.exists() and not folder.is_dir())]
        if blocked or (self.path.exists() and not self.path.is_dir()):
            return blocked or [self.path]
        there = [path for place in (self.path, self.maps, self.checkpoints) for path in place.glob("*")]
        ours = set(self.list_written())
        foreign = (p for p in there if p not in ours and OUTPUTS.fullmatch(p.relative_to(self.path).as_posix()))
        below = (path for place in self.categories.glob("*") for path in RunFolder(place).find_foreign())
        return sorted([*foreign, *below])

    def refuse_to_replace(self, overwrite: bool, of: str | None = None) -> None:
        """Refuse a folder whose content a job would replace without being asked. Raises `UserError`.

        What kdad has not written is never replaced; complete results, of the configuration with the hash `of` or of
        another one, only with `overwrite`.
        """
        if foreign := self.find_foreign():
            raise UserError(
                f"{foreign[0]} was not written by kdad, which would write there. Give another folder: "
                "hydra.run.dir=<folder>, or with -m hydra.sweep.dir=<folder>"
            )
        if self.is_complete() and not overwrite:
            same = of is not None and of == self.read_hash()
            raise UserError(
                f"{self.path} holds complete results of {'this very' if same else 'another'} configuration. Give "
                + ("skip_done=true to leave it at that, " if same else "")
                + "another folder by hydra.run.dir=<folder> (with -m hydra.sweep.dir=<folder>), or overwrite=true to "
                "replace them"
            )

    def refuse_to_begin_again(self, overwrite: bool) -> None:
        """Refuse a folder whose interrupted training a new one would remove, unless `overwrite`. Raises `UserError`."""
        if self.is_interrupted() and not overwrite:
            last = self.checkpoint("last")
            raise UserError(
                f"{self.path} holds a training that was interrupted. Go on with it by ckpt_path={last}; give another "
                "folder by hydra.run.dir=<folder>; or overwrite=true removes it"
            )

    # One job's time in it

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Keep other jobs out while the block runs. Raises `UserError` where one is at work here.

        A folder with others' files in the place of kdad's is left as it is: a job there is refused.
        """
        with hold_folder(self.path, needed=is_first_process() and not self.find_foreign()):
            yield

    @contextmanager
    def record(self, cfg: DictConfig, and_refusals: bool = True) -> Iterator[Record]:
        """Yield the record of a job, which is written as results.json when the block ends, however it ends.

        `status` is ok, or failed with `error`; a kill leaves none. A job that is refused before it has claimed the
        folder leaves the reason in results.json, beside another job's checkpoints or complete results in refused.json,
        and beside files that are not kdad's nowhere; nowhere at all without `and_refusals`.
        """
        record = Record()
        try:
            yield record
            record.finish()
        except BaseException as error:
            record.fail(error)
            raise
        finally:
            if is_first_process() and (record.claimed or and_refusals):
                refused = not record.claimed and (self.is_complete() or self.is_interrupted())
                if record.claimed or not self.find_foreign():
                    if not record.claimed and not refused:
                        self.claim(cfg, record, keep_checkpoints=True)
                    self.write_results(record.results, self.refusal if refused else self.results)

    def claim(self, cfg: DictConfig, record: Record, keep_checkpoints: bool) -> None:
        """Make the folder a job's, once nothing is refused any more: clear it and write config.yaml."""
        record.claimed = True
        if is_first_process():
            self.clear(keep_checkpoints)
            if "config_hash" in record.results:  # else it may not even resolve
                self.write_config(cfg)

    def write_config(self, cfg: DictConfig) -> None:
        """Write config.yaml, every interpolation replaced by its value."""
        with self.write(self.config) as file:
            file.write(OmegaConf.to_yaml(cfg, resolve=True))

    def write_results(self, results: dict[str, Any], path: Path | None = None) -> None:
        """Write results.json, whole or not at all; of several processes the first does."""
        if is_first_process():
            with self.write(path or self.results) as file:
                json.dump(results, file, indent=2)

    @contextmanager
    def write(self, path: Path, mode: str = "w") -> Iterator[IO]:
        """Open one of the folder's files, noted as kdad's, which takes its name only when the block ends well."""
        self.note(path)
        with atomic_write(path, mode) as file:
            yield file

    def note(self, *paths: Path) -> None:
        """Note files that are about to be written as kdad's own."""
        if not self.written.marker.exists():  # what version 0.1 has written stays recognised
            paths = (*self.list_written(), *paths)
        self.written.add(paths)

    def clear(self, keep_checkpoints: bool = False) -> None:
        """Remove what earlier jobs wrote here, except logs; remove a folder only when nothing else is left in it."""
        self.written.remove_left()
        written = self.list_written()
        kept = [path for path in written if keep_checkpoints and path.parent == self.checkpoints]
        for path in written:
            if path not in kept:
                path.unlink()
        for folder in (*self.variants.glob("*"), *self.categories.glob("*")):
            if folder.is_dir() and not folder.is_symlink() and RunFolder(folder).is_ours():
                RunFolder(folder).clear()
                for name in (MARKER, LOCK):
                    (folder / name).unlink(missing_ok=True)
                with suppress(OSError):
                    folder.rmdir()
        for folder in (self.maps, self.variants, self.categories, self.checkpoints):
            with suppress(OSError):  # not there, or something else is in it
                folder.rmdir()
        self.written.replace(kept)

    def remove_epochs(self, up_to: int) -> None:
        """Remove the weights of single epochs up to this one, left over from when the run was shorter."""
        for path in self.list_written():
            found = EPOCH.fullmatch(path.name) if path.parent == self.checkpoints else None
            if found and int(found[1]) <= up_to:
                path.unlink()
