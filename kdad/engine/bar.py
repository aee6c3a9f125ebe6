"""The progress bar of training and testing: one line in 80 columns, epochs counted from 1, losses alone beside it."""

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import RichProgressBar
from pytorch_lightning.callbacks.progress.rich_progress import (
    BatchesProcessedColumn,
    CustomBarColumn,
    CustomTimeColumn,
)
from rich.console import Console
from rich.progress import TextColumn

BESIDE = 72  # columns that `Epoch 100/200`, batches, times and two losses take


class ProgressBar(RichProgressBar):
    """Lightning's bar with what a user needs: `Epoch 3/30`, batches, time gone and left, the loss."""

    def __init__(self) -> None:
        super().__init__(leave=False)

    def _get_train_description(self, current_epoch: int) -> str:
        last = self.trainer.max_epochs
        return f"Epoch {current_epoch + 1}" + (f"/{last}" if last is not None and last > 0 else "")

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        """Return what stands beside the bar, without the name that a logger gives its folder."""
        return {key: value for key, value in super().get_metrics(trainer, pl_module).items() if key != "v_num"}

    def configure_columns(self, trainer: pl.Trainer) -> list:
        """Return the columns: what is at work, the bar, batches, time gone and left; the losses follow."""
        theme = self.theme
        return [
            TextColumn("[progress.description]{task.description}"),
            CustomBarColumn(
                bar_width=max(8, min(40, Console().width - BESIDE)),
                complete_style=theme.progress_bar,
                finished_style=theme.progress_bar_finished,
                pulse_style=theme.progress_bar_pulse,
            ),
            BatchesProcessedColumn(style=theme.batch_progress),
            CustomTimeColumn(style=theme.time),
        ]
