"""When what begins and ends in a run, and what memory it takes."""

import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytorch_lightning as pl

from kdad.engine.fit import Training

EPOCHS, ENOUGH = 40, 4.0  # at most so many, and no more after so many seconds
STATUS = Path("/proc/self/status")


class Clock(pl.Callback):
    """A callback that notes when what begins and ends, and ends the training when enough is known."""

    def __init__(self) -> None:
        self.at: dict[str, float] = {}
        self.epochs: list[tuple[float, float, float]] = []  # seconds: in all, of them in steps, and in validation
        self.tests: list[tuple[float, float]] = []  # seconds: until its first batch, and of the rest
        self.images = self.validation = 0
        self.memory: dict[str, int] = {}
        self.save = 0.0

    def _note(self, name: str) -> float:
        self.at[name] = time.perf_counter()
        return self.at[name]

    def setup(self, trainer: pl.Trainer, detector: pl.LightningModule, stage: str) -> None:
        self._note("setup fit" if stage == "fit" else "setup test")
        if stage == "fit":
            self.at["clock"] = next(c.started for c in trainer.callbacks if isinstance(c, Training))  # type: ignore[attr-defined]

    def on_fit_start(self, trainer: pl.Trainer, detector: pl.LightningModule) -> None:
        self._note("fit")

    def on_train_start(self, trainer: pl.Trainer, detector: pl.LightningModule) -> None:
        self._note("train")

    def on_train_epoch_start(self, trainer: pl.Trainer, detector: pl.LightningModule) -> None:
        self._note("epoch")
        self.images = 0
        self.validation = 0

    def on_train_batch_start(self, trainer: pl.Trainer, detector: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            self._note("steps")

    def on_train_batch_end(self, trainer: pl.Trainer, detector: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.images += len(batch["image"])
        self._note("stepped")

    def on_validation_start(self, trainer: pl.Trainer, detector: pl.LightningModule) -> None:
        self._note("validation")

    def on_validation_batch_end(
        self, trainer: pl.Trainer, detector: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self.validation += len(batch["image"])

    def on_validation_end(self, trainer: pl.Trainer, detector: pl.LightningModule) -> None:
        self._note("validated")

    def on_train_epoch_end(self, trainer: pl.Trainer, detector: pl.LightningModule) -> None:
        now = self._note("epoch ended")
        validated = self.at["validated"] - self.at["validation"] if self.validation else 0.0
        self.epochs.append((now - self.at["epoch"], self.at["stepped"] - self.at["steps"], validated))
        trained = sum(epoch[0] for epoch in self.epochs[1:])
        if len(self.epochs) >= EPOCHS or (len(self.epochs) >= 2 and trained >= ENOUGH):
            trainer.should_stop = True

    def on_train_end(self, trainer: pl.Trainer, detector: pl.LightningModule) -> None:
        self.memory["training"] = read_memory()[1]
        before = time.perf_counter()
        with TemporaryDirectory() as folder:
            trainer.save_checkpoint(Path(folder) / "weights", weights_only=True)
        self.save = time.perf_counter() - before
        self._note("trained")

    def on_fit_end(self, trainer: pl.Trainer, detector: pl.LightningModule) -> None:
        self._note("decided")

    def on_test_start(self, trainer: pl.Trainer, detector: pl.LightningModule) -> None:
        self.memory["testing"] = read_memory()[0]
        self._note("test")

    def teardown(self, trainer: pl.Trainer, detector: pl.LightningModule, stage: str) -> None:
        ended = self._note("end fit" if stage == "fit" else "end test")
        if stage == "test":
            self.tests.append((self.at["test"] - self.at["setup test"], ended - self.at["test"]))


def read_memory() -> tuple[int, int]:
    """Return the memory of this process and its peak, in bytes."""
    if STATUS.is_file():
        lines = dict(line.split(":", 1) for line in STATUS.read_text().splitlines() if ":" in line)
        return int(lines["VmRSS"].split()[0]) * 1024, int(lines["VmHWM"].split()[0]) * 1024
    try:
        import resource
    except ImportError:  # on Windows
        return 0, 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return peak, peak
