"""What accompanies a fit: seeds by epoch, checkpoints, and the choice of the weights that are tested."""

import shutil
import signal
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.utilities.exceptions import SIGTERMException

from kdad.data.base import AnomalyDataModule
from kdad.engine import signals
from kdad.engine.atomic_checkpoints import AtomicCheckpoints
from kdad.engine.batch_norm import share_buffers
from kdad.engine.checkpoint import Checkpoint, find_earlier, locate_epoch
from kdad.engine.combinations import check_monitor, check_validation
from kdad.engine.run_folder import RunFolder
from kdad.engine.search import TRAINING
from kdad.engine.signals import Stop, hear_interrupts
from kdad.errors import UserError
from kdad.inference.decision import Decision
from kdad.models.base import KDDetector

MONITORS = (None, "val_loss", "val_map")  # all come from normal training images


class Training(pl.Callback):
    """A callback that writes `last` to resume from, and `tested` with the weights and statistics that are tested.

    `last` is written at the end of an epoch, at most once in `checkpoint_seconds`, after the last epoch, and after the
    first in whose like a signal would not wait for the end (`GRACE`), so that there is something to go on from.
    With a `best` checkpoint callback its weights are the ones tested, otherwise the last epoch's. `average_epochs`
    above 1 keeps the weights of each of so many last epochs, to be tested too; `decide` gives the thresholds that go
    with the tested weights. Random numbers drawn from torch in
    an epoch depend on (seed, epoch) alone, so that a resumed run repeats them.
    """

    def __init__(
        self,
        folder: RunFolder,
        seed: int,
        checkpoint_seconds: float,
        best: ModelCheckpoint | None,
        average_epochs: int = 1,
        decide: Callable[[pl.Trainer, KDDetector], Decision | None] = lambda trainer, detector: None,
    ):
        self.folder, self.seed, self.checkpoint_seconds, self.best = folder, seed, checkpoint_seconds, best
        self.average_epochs, self.decide = average_epochs, decide
        self.saved = self.began = time.monotonic()  # when `last` was written, and the epoch began
        self.kept = False  # whether `last` was written
        self.stop, self.listening = Stop(), ExitStack()
        self.resumed_epochs = self.resumed_steps = 0  # that the checkpoint to go on from has behind it
        self.beside: list[Path] = []  # what goes on with it
        self.tested_epoch: int | None = None
        self.started = time.perf_counter()
        self.losses: dict[str, float] = {}  # of the last epoch
        self.earlier_seconds = 0.0  # of the run that is gone on with, until its checkpoint was written

    def seconds(self) -> float:
        """Return the seconds since `started`, and those before in a run that was interrupted."""
        return self.earlier_seconds + time.perf_counter() - self.started

    def start_clock(self) -> None:
        """Count the seconds of training from here on."""
        self.started = time.perf_counter()

    def earlier_epochs(self) -> list[Path]:
        """Return the checkpoints of earlier epochs whose metrics are averaged with the last. Raises `UserError`."""
        return find_earlier(self.folder.checkpoints, self.tested_epoch or 0, self.average_epochs)

    def teardown(self, trainer: pl.Trainer, detector: pl.LightningModule, stage: str) -> None:
        self.listening.close()

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds(), "losses": self.losses}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.earlier_seconds = state_dict["seconds"]
        self.losses = state_dict.get("losses", {})

    def setup(self, trainer: pl.Trainer, detector: pl.LightningModule, stage: str) -> None:
        trainer.strategy.checkpoint_io = AtomicCheckpoints()

    def go_on(self, checkpoint: Checkpoint, max_epochs: int) -> None:
        """Prepare a fit that goes on from a checkpoint. Raises `UserError` where it cannot."""
        best_state = self.best.state_key if self.best else None
        self.beside = checkpoint.files_to_go_on(max_epochs, self.average_epochs, best_state)
        self.resumed_epochs, self.resumed_steps = checkpoint.epochs, checkpoint.content["global_step"]

    def on_fit_start(self, trainer: pl.Trainer, detector: pl.LightningModule) -> None:
        if trainer.world_size == 1:  # several processes are ended together, by Lightning
            self.listening.enter_context(self.stop.listen())
        if self.beside:
            for path in self.beside if trainer.is_global_zero else ():
                place = self.folder.checkpoints / path.name
                if path.resolve() != place.resolve():  # results go to another folder
                    self.folder.note(place)
                    place.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(path, place)
            trainer.strategy.barrier()
        ended = self.resumed_epochs == trainer.max_epochs or 0 <= trainer.max_steps <= self.resumed_steps
        if self.resumed_epochs and ended:
            # Killed between its last epoch and its results: Lightning would skip the fit, and `on_train_end` with it.
            self.choose_tested(trainer, detector, self.resumed_epochs)

    def on_fit_end(self, trainer: pl.Trainer, detector: pl.LightningModule) -> None:
        if self.tested_epoch is None:  # skipped, too, where trainer.max_time is over
            self.choose_tested(trainer, detector, self.resumed_epochs)

    def on_train_start(self, trainer: pl.Trainer, detector: pl.LightningModule) -> None:
        if trainer.world_size == 1:  # anew: Lightning has put its own before it, which ends in the middle of an epoch
            self.listening.enter_context(self.stop.listen())
        for callback in trainer.callbacks:  # type: ignore[attr-defined]  # Lightning makes it when it is asked for
            if isinstance(callback, EarlyStopping) and callback.wait_count >= callback.patience:
                trainer.should_stop = True  # it had ended so before it was killed, and would train an epoch more

    def on_train_epoch_start(self, trainer: pl.Trainer, detector: pl.LightningModule) -> None:
        self.began = time.monotonic()

    def on_train_batch_start(
        self, trainer: pl.Trainer, detector: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        # Not at the epoch's start: a loader draws a number when it begins, which in a resumed run it has done before.
        if batch_idx == 0:
            torch.manual_seed(self.seed * 1_000_003 + trainer.current_epoch)

    def on_train_batch_end(
        self, trainer: pl.Trainer, detector: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.stop.end_if_asked(epoch_is_over=False)

    def on_train_epoch_end(self, trainer: pl.Trainer, detector: pl.LightningModule) -> None:
        epoch = trainer.current_epoch + 1
        self.losses = read_losses(trainer)
        # Also where patience, trainer.max_steps or max_time ends it: a checkpoint made later would count an epoch more.
        final = trainer.should_stop or epoch == trainer.max_epochs or trainer.global_step == trainer.max_steps
        if self.average_epochs > 1 and epoch > (trainer.max_epochs or 0) - self.average_epochs:
            self.save(trainer, locate_epoch(self.folder.checkpoints, epoch), weights_only=True)
        # Every process must take part in saving, so that the first one's clock decides for all.
        now = time.monotonic()
        first = not self.kept and now - self.began > signals.GRACE
        due = final or self.stop.number or first or now - self.saved >= self.checkpoint_seconds
        if trainer.strategy.broadcast(bool(due)):
            self.save(trainer, self.folder.checkpoint("last"), weights_only=False)
            self.saved, self.kept = time.monotonic(), True
        self.stop.end_if_asked(epoch_is_over=True)

    def save(self, trainer: pl.Trainer, path: Path, weights_only: bool) -> None:
        """Write a checkpoint; every process takes part, the first one writes."""
        if trainer.is_global_zero:
            self.folder.note(path)
        trainer.save_checkpoint(path, weights_only=weights_only)

    def read_lowest(self) -> dict[str, float]:
        """Return the lowest value of what chooses the weights that are tested, by its name; nothing without such."""
        lowest = self.best.best_model_score if self.best else None
        return {} if self.best is None or lowest is None else {str(self.best.monitor): lowest.item()}

    def on_train_end(self, trainer: pl.Trainer, detector: pl.LightningModule) -> None:
        self.choose_tested(trainer, detector, trainer.current_epoch)

    def choose_tested(self, trainer: pl.Trainer, detector: Any, epochs: int) -> None:
        """Load the weights to test, take the statistics after fit, and write `tested`."""
        self.tested_epoch = epochs
        if self.best is not None and self.best.best_model_path:
            checkpoint = Checkpoint.load(self.best.best_model_path)
            checkpoint.restore(detector)
            self.tested_epoch = checkpoint.epochs
        share_buffers(detector)
        data: AnomalyDataModule = trainer.datamodule  # type: ignore[attr-defined]
        before = {name: value.clone() for name, value in detector.named_buffers()}
        detector.after_fit(detector.move_batches(data.val_dataloader() or data.train_dataloader()))
        # Earlier epochs are tested with these, so that they need no pass over the images each.
        taken = [name for name, value in detector.named_buffers() if not torch.equal(value, before[name])]
        decision = self.decide(trainer, detector)
        detector.provenance |= {"tested_epoch": self.tested_epoch, "statistics": taken}
        detector.provenance["decision"] = decision.to_plain() if decision else None
        self.save(trainer, self.folder.checkpoint("tested"), weights_only=True)
        if trainer.is_global_zero:
            self.folder.remove_epochs(up_to=epochs - self.average_epochs)


class BestCheckpoint(ModelCheckpoint):
    """A callback that keeps the weights of the lowest `monitor` in the folder's `best`, wherever that was moved to."""

    def __init__(self, folder: RunFolder, monitor: str):
        path = folder.checkpoint("best")
        self.run_folder = folder
        super().__init__(
            path.parent, path.stem, monitor=monitor, save_weights_only=True, enable_version_counter=False,
            save_on_train_epoch_end=False,  # right after validation, so that `last` knows of it
        )  # fmt: skip

    def _save_checkpoint(self, trainer: pl.Trainer, filepath: str) -> None:
        if trainer.is_global_zero:
            self.run_folder.note(self.run_folder.checkpoints / Path(filepath).name)  # Lightning has resolved links
        super()._save_checkpoint(trainer, filepath)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        def here(path: str) -> str:
            return path and str(Path(str(self.dirpath)) / Path(path).name)

        moved = {key: here(state_dict[key]) for key in ("best_model_path", "kth_best_model_path")}
        models = {here(path): loss for path, loss in state_dict["best_k_models"].items()}
        super().load_state_dict({**state_dict, **moved, "best_k_models": models, "dirpath": self.dirpath})


def watch_best(folder: RunFolder, monitor: str | None, n_val: int, average_epochs: int = 1) -> BestCheckpoint | None:
    """Return the callback that keeps the weights of the lowest validation loss; None where the last epoch's are tested.

    Raises `UserError` where there is nothing to choose by, or nothing to choose.
    """
    if monitor not in MONITORS:
        raise UserError(
            f"monitor={monitor}: only training images may choose a checkpoint: give val_loss, val_map or null"
        )
    if monitor is None:
        return None
    check_monitor(monitor, average_epochs)
    check_validation("monitor", monitor, n_val)
    return BestCheckpoint(folder, monitor)


def stop_early(patience: int | None, n_val: int) -> list[EarlyStopping]:
    """Return a list with the callback that ends training after `patience` epochs without a lower validation loss.

    It is empty without patience. Raises `UserError` where there are no validation images.
    """
    if patience is None:
        return []
    check_validation("patience", patience, n_val)
    # Right after validation, so that the last checkpoint knows that it is the last.
    return [EarlyStopping("val_loss", patience=patience, check_finite=False, check_on_train_epoch_end=False)]


def fit(
    trainer: pl.Trainer, detector: KDDetector, data: AnomalyDataModule, training: Training, resume: Path | None
) -> dict[str, Any]:
    """Train, or go on from a checkpoint, and return what results.json says of it.

    Raises `SystemExit` where a signal ends it.
    """
    try:
        with hear_interrupts(trainer):
            trainer.fit(detector, datamodule=data, ckpt_path=resume)
    except SIGTERMException:  # of several processes, which Lightning ends together
        sys.exit(128 + signal.SIGTERM)
    finally:
        training.listening.close()  # after Lightning, which puts back the handlers that it has found
    training.stop.end_if_asked(epoch_is_over=True)  # where a signal came after the last epoch
    return {
        "epochs": max(trainer.current_epoch, training.resumed_epochs),
        "tested_epoch": training.tested_epoch,
        "fit_seconds": round(training.seconds(), 3),
        **training.losses,
        **read_losses(trainer),
        **training.read_lowest(),
    }


def read_losses(trainer: pl.Trainer) -> dict[str, float]:
    """Return the last epoch's mean losses, of those epochs that this process has trained."""
    return {key: trainer.callback_metrics[key].item() for key in TRAINING if key in trainer.callback_metrics}
