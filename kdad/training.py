"""What accompanies a fit: seeds by epoch, checkpoints, and the choice of the weights that are tested."""

import shutil
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins import TorchCheckpointIO
from pytorch_lightning.callbacks import ModelCheckpoint

from kdad.atomic import atomic_write
from kdad.errors import UserError

MONITORS = (None, "val_loss")  # both come from normal training images


class Training(pl.Callback):
    """Writes `last.ckpt` to resume from, and `tested.ckpt` with the weights and statistics that are tested.

    `last.ckpt` is written at the end of an epoch, at most once in `checkpoint_seconds`, and after the last epoch.
    With a `best` checkpoint callback its weights are the ones tested, otherwise the last epoch's. `average_epochs`
    above 1 keeps the weights of each of so many last epochs, for `earlier_epochs`. Random numbers drawn from torch in
    an epoch depend on (seed, epoch) alone, so that a resumed run repeats them.
    """

    def __init__(
        self, folder: Path, seed: int, checkpoint_seconds: float, best: ModelCheckpoint | None, average_epochs: int = 1
    ):
        self.folder, self.seed, self.checkpoint_seconds, self.best = folder, seed, checkpoint_seconds, best
        self.average_epochs = average_epochs
        self.saved = time.monotonic()
        self.resumed_epochs = 0  # that the checkpoint to go on from has behind it
        self.beside: list[Path] = []  # what goes on with it
        self.tested_epoch: int | None = None
        self.started = time.perf_counter()
        self.earlier_seconds = 0.0  # of the run that is gone on with, until its checkpoint was written

    def seconds(self) -> float:
        """Since `started`, and before in a run that was interrupted."""
        return self.earlier_seconds + time.perf_counter() - self.started

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.earlier_seconds = state_dict["seconds"]

    def setup(self, trainer: pl.Trainer, detector: pl.LightningModule, stage: str) -> None:
        trainer.strategy.checkpoint_io = AtomicCheckpoints()

    def go_on(self, checkpoint: dict[str, Any], path: Path, max_epochs: int) -> None:
        """To be called before a fit that goes on from `path`. Raises `UserError` where it cannot."""
        if "optimizer_states" not in checkpoint:
            raise UserError(
                f"ckpt_path={path} holds weights alone: training goes on from last.ckpt; python -m kdad.evaluate tests "
                "this one"
            )
        self.resumed_epochs = checkpoint["epoch"] + 1
        if 0 <= max_epochs < self.resumed_epochs:
            raise UserError(
                f"trainer.max_epochs={max_epochs}: {path} has {self.resumed_epochs} epochs behind it already. Give as "
                "many or more"
            )
        kept = checkpoint["callbacks"].get(self.best.state_key, {}).get("best_model_path") if self.best else None
        if kept:
            self.beside.append(path.parent / Path(kept).name)
            if not self.beside[0].is_file():
                raise UserError(
                    f"{self.beside[0]}: no such file. It holds the lowest validation loss until then; {path} needs it"
                )
        if self.average_epochs > 1:
            first = max(1, max_epochs - self.average_epochs + 1)
            self.beside += weights_of(path.parent, range(first, self.resumed_epochs + 1))

    def on_fit_start(self, trainer: pl.Trainer, detector: pl.LightningModule) -> None:
        if self.beside:
            for path in self.beside if trainer.is_global_zero else ():
                if path.resolve() != (self.folder / path.name).resolve():  # results go to another folder
                    self.folder.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(path, self.folder / path.name)
            trainer.strategy.barrier()
        if self.resumed_epochs == trainer.max_epochs:
            # Killed between its last epoch and its results: Lightning would skip the fit, and `on_train_end` with it.
            self.choose_tested(trainer, detector, trainer.max_epochs)

    def on_train_epoch_start(self, trainer: pl.Trainer, detector: pl.LightningModule) -> None:
        torch.manual_seed(self.seed * 1_000_003 + trainer.current_epoch)

    def on_train_epoch_end(self, trainer: pl.Trainer, detector: pl.LightningModule) -> None:
        epoch = trainer.current_epoch + 1
        final = epoch == trainer.max_epochs
        if self.average_epochs > 1 and epoch > trainer.max_epochs - self.average_epochs:
            trainer.save_checkpoint(self.folder / f"epoch_{epoch}.ckpt", weights_only=True)
        # Every process must take part in saving, so that the first one's clock decides for all.
        if trainer.strategy.broadcast(final or time.monotonic() - self.saved >= self.checkpoint_seconds):
            trainer.save_checkpoint(self.folder / "last.ckpt", weights_only=False)
            self.saved = time.monotonic()

    def on_train_end(self, trainer: pl.Trainer, detector: pl.LightningModule) -> None:
        self.choose_tested(trainer, detector, trainer.current_epoch)

    def choose_tested(self, trainer: pl.Trainer, detector: Any, epochs: int) -> None:
        """Load the weights to test, take the statistics after fit, and write `tested.ckpt`."""
        self.tested_epoch = epochs
        if self.best is not None and self.best.best_model_path:
            checkpoint = load_checkpoint(Path(self.best.best_model_path))
            detector.on_load_checkpoint(checkpoint)
            detector.load_state_dict(checkpoint["state_dict"])
            self.tested_epoch = checkpoint["epoch"] + 1
        data, before = trainer.datamodule, {name: value.clone() for name, value in detector.named_buffers()}
        detector.after_fit(detector.batches(data.val_dataloader() or data.train_dataloader()))
        # Earlier epochs are tested with these, so that they need no pass over the images each.
        taken = [name for name, value in detector.named_buffers() if not torch.equal(value, before[name])]
        detector.provenance = {**detector.provenance, "tested_epoch": self.tested_epoch, "statistics": taken}
        trainer.save_checkpoint(self.folder / "tested.ckpt", weights_only=True)
        if trainer.is_global_zero:  # of a run that was shorter once
            for path in self.folder.glob("epoch_*.ckpt"):
                if int(path.stem.removeprefix("epoch_")) <= epochs - self.average_epochs:
                    path.unlink()


class BestCheckpoint(ModelCheckpoint):
    """Keeps the weights of the lowest `monitor` in `best.ckpt`, also after the run's folder was moved."""

    def __init__(self, folder: Path, monitor: str):
        super().__init__(
            folder, "best", monitor=monitor, save_weights_only=True, enable_version_counter=False,
            save_on_train_epoch_end=False,  # right after validation, so that last.ckpt knows of it
        )  # fmt: skip

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        def here(path: str) -> str:
            return path and str(Path(self.dirpath) / Path(path).name)

        moved = {key: here(state_dict[key]) for key in ("best_model_path", "kth_best_model_path")}
        models = {here(path): loss for path, loss in state_dict["best_k_models"].items()}
        super().load_state_dict({**state_dict, **moved, "best_k_models": models, "dirpath": self.dirpath})


class AtomicCheckpoints(TorchCheckpointIO):
    """Written beside their place first. Lightning writes to the system's temporary folder, and a move from there to
    another file system is a copy, which a kill would leave truncated in the place of the good checkpoint.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        with atomic_write(Path(path), "wb") as file:
            torch.save(checkpoint, file)

    def load_checkpoint(self, path: str | Path, *args: Any, **keywords: Any) -> dict[str, Any]:
        return super().load_checkpoint(path, *args, **{**keywords, "weights_only": True})


def best_checkpoint(folder: Path, monitor: str | None, n_val: int, average_epochs: int = 1) -> BestCheckpoint | None:
    """The callback that keeps the weights of the lowest validation loss; None where the last epoch's are tested."""
    if monitor not in MONITORS:
        raise UserError(f"monitor={monitor}: only training images may choose a checkpoint: give val_loss or null")
    if monitor is None:
        return None
    if average_epochs > 1:
        raise UserError(
            f"monitor={monitor} tests one epoch's weights, average_epochs={average_epochs} those of the last "
            f"{average_epochs}: give monitor=null or average_epochs=1"
        )
    if not n_val:
        raise UserError(f"monitor={monitor} needs validation images: set val_fraction above 0 (found {n_val} images)")
    return BestCheckpoint(folder, monitor)


def check_average(average_epochs: int, trainer: Mapping[str, Any]) -> None:
    """Raises `UserError` where the last epochs cannot be told before they are over."""
    limits = [f"trainer.{key}" for key in ("max_steps", "max_time") if trainer.get(key) not in (None, -1)]
    if average_epochs > 1 and (limits or trainer["max_epochs"] < 0):
        raise UserError(
            f"average_epochs={average_epochs} needs to know which epochs are the last: end training by "
            f"trainer.max_epochs alone, found {', '.join(limits) or trainer['max_epochs']}; or give average_epochs=1"
        )


def earlier_epochs(path: Path, epoch: int, average_epochs: int) -> list[Path]:
    """The checkpoints whose tests are averaged with that of `path`, of weights that have `epoch` epochs behind them.

    Those of the `average_epochs` - 1 epochs before it, as far as there were so many. Raises `UserError` if one is
    missing.
    """
    return weights_of(path.parent, range(max(1, epoch - average_epochs + 1), epoch))


def weights_of(folder: Path, epochs: Iterable[int]) -> list[Path]:
    """The files that `Training` keeps these epochs' weights in. Raises `UserError` if one is missing."""
    found = [folder / f"epoch_{epoch}.ckpt" for epoch in epochs]
    for path in found:
        if not path.is_file():
            raise UserError(
                f"{path}: no such file. average_epochs counts this epoch's weights in; give average_epochs=1 for the "
                "last epoch's alone"
            )
    return found


def load_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint's content, read without running code. Raises `UserError` if it is missing, damaged or no such file."""
    if not path.is_file():
        raise UserError(f"ckpt_path={path}: no such file (looked for {path.absolute()})")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(
            f"ckpt_path={path}: cannot be read as a checkpoint of plain values ({type(error).__name__}: "
            f"{str(error).splitlines()[0][:200]}). Files that would run code are refused."
        ) from error
    if not isinstance(checkpoint, dict) or not {"state_dict", "teacher", "kdad"} <= checkpoint.keys():
        raise UserError(f"ckpt_path={path}: not a checkpoint written by kdad")
    return checkpoint
