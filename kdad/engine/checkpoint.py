"""A checkpoint file: what it holds, which command made it, and how its weights are loaded."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kdad.engine.record import is_same_data, name_category
from kdad.errors import UserError
from kdad.inference.files import OWN, find_checkpoint, read_checkpoint
from kdad.settings.compose import OPTIONAL, resolve
from kdad.settings.keys import find_key
from kdad.settings.overrides import add_missing, split, unquote
from kdad.settings.roles import DECIDING, find_differences, select
from kdad.settings.targets import is_known_class

if TYPE_CHECKING:
    from torch import Tensor

    from kdad.data.base import AnomalyDataModule
    from kdad.models.base import KDDetector

SUFFIX = ".ckpt"
WRITING = ("cache.folder", "dataset.download")  # keys that say where something is written to


class Checkpoint:
    """What a checkpoint holds: `path`, where it lies, and `content`, as Lightning and the detector wrote it."""

    def __init__(self, path: Path, content: dict[str, Any]):
        self.path, self.content = path, content
        self._made_by: dict[str, Any] = content["kdad"]

    @classmethod
    def load(cls, path: str | Path) -> "Checkpoint":
        """Read a file, of a run's folder the weights that were tested, without running code.

        Raises `UserError` if it is missing, damaged or no checkpoint of kdad's.
        """
        path = _find_file(path)
        return cls(path, read_checkpoint(path))

    @classmethod
    def load_origin(cls, path: str | Path) -> "Checkpoint":
        """Read as `load` does, but keep only what made it, without weights: once, for as long as the file is the same.

        A command line asks for it again and again, and each reading goes through the whole file.
        """
        path = _find_file(path)
        return cls(path, _read_origin(path, *_describe_state(path)))

    @property
    def overrides(self) -> list[str]:
        """The command line that made it, without Hydra's own part."""
        return list(self._made_by.get("overrides", []))

    def add_to(self, overrides: list[str]) -> list[str]:
        """Return what its command line adds to another one, but for what says where something is written to.

        Raises `UserError` where that names code that is not a known class: who gives a checkpoint away could else have
        code run, or a folder filled, where it is tested.
        """
        added = [override for override in add_missing(overrides, self.overrides) if split(override)[0] not in WRITING]
        for override in added:
            key, value = split(override)
            harmless = key.endswith("._target_") and is_known_class(unquote(value))
            if key.startswith("hydra") or ("_target_" in override and not harmless):
                raise UserError(
                    f"{self.path}: its command line says {override}, which could run code. If you trust it, give that "
                    "on your own command line; kdad predict needs no command line"
                )
        return added

    @cached_property
    def config(self) -> dict[str, Any]:
        """The resolved configuration that made it; empty where none was recorded. Raises `UserError`."""
        try:
            return resolve(OmegaConf.create(self._made_by.get("config", {})))
        except OmegaConfBaseException as error:
            reason = str(error).partition("\n")[0]
            raise UserError(
                f"ckpt_path={self.path}: its configuration cannot be read: {reason}. Was it changed?"
            ) from None

    @property
    def has_teacher(self) -> bool:
        """Whether it holds the teacher's weights, too."""
        return OWN in self.content

    @property
    def epochs(self) -> int:
        """How many epochs of training it has behind it."""
        return self.content["epoch"] + 1

    @property
    def tested_epoch(self) -> int:
        """The number of epochs behind its weights: as `tested` records it, in other checkpoints all epochs so far."""
        return self._made_by.get("tested_epoch", self.epochs)

    @property
    def parts(self) -> dict[str, list[str]]:
        """The names of the images that it has seen, by what they were there for; empty of version 0.1."""
        return dict(self._made_by.get("parts", {}))

    @property
    def seen(self) -> list[str]:
        """The names of the images that it has seen before it was tested; empty of version 0.1."""
        return [name for part in self.parts.values() for name in part]

    @property
    def rule(self) -> dict[str, Any] | None:
        """How values of its images became 8 bits, see `kdad.data.intensity`; None of earlier ones."""
        return self._made_by.get("rule")

    def describe_data(self) -> str:
        """Return the name of the data set that it was trained on, and the category."""
        return f"{self.config['dataset']['name']} {name_category(self.config['dataset'].get('category')) or ''}".strip()

    def describe_changed_data(self, data: "AnomalyDataModule") -> str:
        """Return how the data differ from those that it was trained on; empty where they are the same or unknown.

        Raises `UserError` where images that it has seen would be tested, or used for something else than before.
        """
        if not self.seen or is_same_data(self._made_by.get("data_fingerprint", ""), data.fingerprint):
            return ""
        if tested := data.find_seen(self.seen):
            raise UserError(
                f"{len(tested)} images that {self.path} was trained on are test images now; the first is {tested[0]}. "
                "Their scores would mean nothing. Give the data as they were, or train anew"
            )
        parts = data.list_parts()
        was = {name: part for part, names in self.parts.items() for name in names}
        is_now = {name: part for part, names in parts.items() for name in names}
        if moved := [name for name, part in was.items() if is_now.get(name, part) != part]:
            raise UserError(
                f"{len(moved)} images have another part now than when {self.path} was trained; the first, {moved[0]}, "
                f"was for {was[moved[0]]} and would be for {is_now[moved[0]]}. Give the data as they were, or train "
                "anew"
            )
        before, now = set(was), set(is_now)
        return f"data ({len(now - before)} images to train or validate on are new, {len(before - now)} are gone)"

    @contextmanager
    def explain_root(self) -> Iterator[None]:
        """Add to a `UserError` of the block where the data lay that it was trained on, if they are not there now."""
        root = self.config.get("dataset", {}).get("root")
        try:
            yield
        except UserError as error:
            if not root or Path(root).is_dir():
                raise
            raise UserError(f"{error}\n{self.path} was trained on data in {root}, which is not there") from error

    def has_other_data(self, data: "AnomalyDataModule") -> bool:
        """Return whether images have changed since it was trained; of version 0.1 that is unknown, and False."""
        return bool(data.train_samples) and not is_same_data(self._made_by.get("data_fingerprint"), data.fingerprint)

    @property
    def provenance(self) -> dict[str, Any]:
        """What the detector says of itself in every checkpoint that it writes."""
        return self._made_by

    def differences(self, config: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
        """Return what decides results and differs between its own and another configuration: key -> (its, other)."""
        return find_differences(self.config, config)

    def fill_in(self, cfg: DictConfig, overrides: Iterable[str]) -> None:
        """Set each key that the command line does not name to this checkpoint's value, since defaults may have changed.

        `overrides` are the command line as typed. What repeats the checkpoint's own is no wish for today's defaults; a
        group that is chosen anew stands for all of its keys, an experiment or debug= for every key. The data are taken
        from where they were, if they are still there.
        """
        own = {split(override)[0]: override for override in self.overrides}  # of several, the last counts
        typed = {split(override)[0] for override in overrides if own.get(split(override)[0]) != override}
        if typed & set(OPTIONAL):
            return
        if "dataset" in typed:
            typed.add("category")
        root = self.config.get("dataset", {}).get("root")
        if root and not typed & {"dataset", "dataset.root"} and Path(root).is_dir():
            OmegaConf.update(cfg, "dataset.root", root, merge=False)
        for name, (trained, _) in self.differences(select(resolve(cfg), DECIDING, copies=False)).items():
            parts = name.split(".")
            if typed & {".".join(parts[: n + 1]) for n in range(len(parts))}:
                continue
            if parts[-1] != "_target_" or is_known_class(str(trained)):  # which imports it
                OmegaConf.update(cfg, name, trained, merge=False)

    def changed_when_resumed(self, config: Mapping[str, Any]) -> list[str]:
        """Return the keys whose values differ from those it was trained with, or that changed at an earlier resume.

        How long training lasts is no such key where no schedule depends on it, since the epochs are then the same ones;
        nor is the way to the teacher, which is recognised by its weights.
        """
        scheduled = bool(self.content.get("lr_schedulers"))

        def is_same(name: str) -> bool:
            key = find_key(name)
            return key.recognised or (key.lasting and not (scheduled and name == "trainer.max_epochs"))

        changed = {name for name in self.differences(config) if not is_same(name)}
        return sorted(changed | set(self._made_by.get("changed_when_resumed", [])))

    def restore(self, detector: "KDDetector", keep: "Mapping[str, Tensor] | None" = None) -> None:
        """Load the weights and statistics into a detector; `keep` are tensors, by name, to load in place of its own.

        Raises `UserError` for a checkpoint of another teacher, or of other networks.
        """
        from kdad.inference.trained import restore  # with torch and timm, which reading a file does without

        restore(self.content, detector, self.path, keep or {})

    def files_to_go_on(self, max_epochs: int, average_epochs: int, best_state: str | None) -> list[Path]:
        """Return the files beside it that resumed training needs: the best epoch's, and those averaged later.

        `best_state` names the state of the callback that keeps the best epoch, if there is one. Raises `UserError`
        where training cannot go on from it, or a file is missing.
        """
        if "optimizer_states" not in self.content:
            raise UserError(
                f"ckpt_path={self.path} holds weights alone: training goes on from last.ckpt; python -m kdad.evaluate "
                "tests this one"
            )
        if 0 <= max_epochs < self.epochs:
            raise UserError(
                f"trainer.max_epochs={max_epochs}: {self.path} has {self.epochs} epochs behind it already. Give as "
                "many or more"
            )
        files = []
        kept = self.content["callbacks"].get(best_state, {}).get("best_model_path") if best_state else None
        if kept:
            files.append(self.path.parent / Path(kept).name)
            if not files[0].is_file():
                raise UserError(
                    f"{files[0]}: no such file. It holds the lowest validation loss until then; {self.path} needs it"
                )
        if average_epochs > 1:
            first = max(1, max_epochs - average_epochs + 1)
            files += find_epochs(self.path.parent, range(first, self.epochs + 1))
        return files

    def earlier_epochs(self, average_epochs: int) -> list[Path]:
        """Return the checkpoints whose tests are averaged with its own. Raises `UserError` if one is missing."""
        return find_earlier(self.path.parent, self.tested_epoch, average_epochs)


def _find_file(path: str | Path) -> Path:
    path = Path(path).expanduser()
    return (find_checkpoint(path) if path.is_dir() else path).absolute()


def _describe_state(path: Path) -> tuple[int, ...]:
    """Return a file's size and time, which tell that it has changed; nothing of one that is not there."""
    return (path.stat().st_size, path.stat().st_mtime_ns) if path.is_file() else ()


@lru_cache(maxsize=1)
def _read_origin(path: Path, *state: int) -> dict[str, Any]:
    content = read_checkpoint(path)
    return {name: content[name] for name in ("kdad", "epoch")}


def locate_epoch(folder: Path, epoch: int) -> Path:
    """Return where the weights of one epoch are kept."""
    return folder / f"epoch_{epoch}{SUFFIX}"


def find_epochs(folder: Path, epochs: Iterable[int]) -> list[Path]:
    """Return the files that hold the weights of these epochs. Raises `UserError` if one is missing."""
    found = [locate_epoch(folder, epoch) for epoch in epochs]
    for path in found:
        if not path.is_file():
            raise UserError(
                f"{path}: no such file. average_epochs counts this epoch's weights in; give average_epochs=1 for the "
                "last epoch's alone"
            )
    return found


def find_earlier(folder: Path, epoch: int, average_epochs: int) -> list[Path]:
    """Return the files with the weights of up to `average_epochs` - 1 epochs before this one.

    Raises `UserError` if one is missing.
    """
    return find_epochs(folder, range(max(1, epoch - average_epochs + 1), epoch))
