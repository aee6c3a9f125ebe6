"""A teacher trained: a timm network, the images of a labelled set, and the file of its weights."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import timm
import torch
import torch.nn.functional as F
from omegaconf import DictConfig
from pytorch_lightning.callbacks import RichProgressBar
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from safetensors.torch import save
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader
from torchmetrics.classification import MulticlassAccuracy
from torchvision.datasets import VisionDataset
from torchvision.transforms import v2

from kdad.engine.build import describe_versions, quieten
from kdad.engine.loggers import choose_version
from kdad.engine.record import is_first_process
from kdad.engine.signals import hear_interrupts
from kdad.errors import UserError
from kdad.geometry import as_pair, simplify
from kdad.models.base import Normalise
from kdad.settings.checks import check_configuration
from kdad.settings.compose import list_choices
from kdad.settings.create import create
from kdad.speed import use_machine
from kdad.storage.atomic import atomic_write, refuse_existing
from kdad.teacher import build_network, check_name, fingerprint

# Training -------------------------------------------------------------------------------------------------------


def train_teacher(cfg: DictConfig, folder: Path) -> tuple[Path, dict[str, Any]]:
    """Train a network, test it, and write its weights into `folder`, with a JSON file of facts beside them.

    The last epoch's weights are kept; test images only measure them. Returns the file of the weights and the facts.
    Raises `UserError` for a configuration, a data set or an image size that does not suit, and where training diverges.
    """
    use_machine(cfg.speed)
    if "source" not in cfg.dataset:
        valid = ", ".join(list_choices("dataset", "pretrain"))
        raise UserError(f"dataset={cfg.dataset.name}: a set with labelled classes is needed here: {valid}")
    check_configuration(cfg, "pretrain")
    check_name(cfg.backbone.name)
    file = folder / f"{cfg.backbone.name.split('.')[0]}_{cfg.dataset.name}.safetensors"
    refuse_existing(file, cfg.overwrite)
    data: LabelledImages = create(cfg.dataset)
    data.prepare_data()
    data.setup()
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    mean, std = find_statistics(cfg.backbone.name)
    network: Any = build_network(cfg.backbone.name, cfg.image_size)  # timm's networks have methods of their own
    network.reset_classifier(data.classes)
    check_image_size(network, cfg)
    network = network.to(memory_format=torch.channels_last)
    classifier = Classifier(network, Normalise((mean, std)), data.classes, create(cfg.optimizer))
    quieten()
    trainer = create(
        cfg.trainer, default_root_dir=str(folder),
        logger=CSVLogger(str(folder), name="", version=choose_version(folder, "log")),
        callbacks=[RichProgressBar(leave=False)], enable_checkpointing=False,
    )  # fmt: skip
    start = time.perf_counter()
    with hear_interrupts(trainer):
        trainer.fit(classifier, datamodule=data)
    seconds = time.perf_counter() - start
    loss = trainer.callback_metrics["loss"].item()
    (tested,) = trainer.test(classifier, datamodule=data, verbose=False)
    state = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
    facts = {
        "backbone": cfg.backbone.name,
        "dataset": data.name,
        "classes": data.classes,
        "fingerprint": fingerprint(state),
        "accuracy": round(tested["accuracy"], 6),
        "loss": loss,
        "epochs": trainer.current_epoch,
        "steps": trainer.global_step,
        "n_train": len(data.train_set),
        "n_test": min(classifier.tested * trainer.world_size, len(data.test_set)),
        "image_size": simplify(cfg.image_size),
        "batch_size": cfg.batch_size,
        "mean": list(mean),
        "std": list(std),
        "seed": cfg.seed,
        "fit_seconds": round(seconds, 3),
        "versions": describe_versions(),
    }
    if is_first_process():
        with atomic_write(file, "wb") as stream:
            stream.write(save(state, metadata={key: str(value) for key, value in facts.items()}))
        with atomic_write(file.with_suffix(".json")) as stream:
            json.dump(facts, stream, indent=2)
    return file, facts


def find_statistics(backbone: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean and standard deviation of each channel by which timm normalises the images of a network.

    Raises `UserError` for a network of which timm states none.
    """
    statistics = timm.get_pretrained_cfg(backbone)
    if statistics is None:
        raise UserError(f"backbone.name={backbone}: timm does not say by which statistics its images are normalised")
    return statistics.mean, statistics.std


def check_image_size(network: nn.Module, cfg: DictConfig) -> None:
    """Pass one image through the network. Raises `UserError` where images of this size do not get through."""
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(1, 3, *as_pair(cfg.image_size)))
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"image_size={cfg.image_size} does not suit {cfg.backbone.name}: {error}") from error
    finally:
        network.train()


class Classifier(pl.LightningModule):
    """A network (B, 3, H, W) -> (B, classes), trained by cross-entropy with one cycle of the learning rate."""

    def __init__(self, network: nn.Module, normalise: Normalise, classes: int, optimizer: Callable[..., Optimizer]):
        super().__init__()
        self.network, self.normalise, self.optimizer = network, normalise, optimizer
        self.accuracy, self.tested = MulticlassAccuracy(classes, average="micro"), 0

    def forward(self, images: Tensor) -> Tensor:
        return self.network(self.normalise(images).contiguous(memory_format=torch.channels_last))

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        images, classes = batch
        loss = F.cross_entropy(self(images), classes)
        if not loss.isfinite():
            raise UserError(
                f"Training diverged: loss = {loss.item()} at step {self.global_step}. Lower optimizer.lr, or use "
                "trainer.precision=32-true."
            )
        self.log("loss", loss, on_step=False, on_epoch=True, prog_bar=True, batch_size=len(images), sync_dist=True)
        return loss

    def test_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        images, classes = batch
        self.accuracy(self(images), classes)
        self.tested += len(images)
        self.log("accuracy", self.accuracy, on_step=False, on_epoch=True)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer, steps = self.optimizer(self.parameters()), self.trainer.estimated_stepping_batches
        peak = optimizer.param_groups[0]["lr"]
        cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak, int(steps), cycle_momentum=False)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cycle, "interval": "step"}}


# Labelled images ------------------------------------------------------------------------------------------------


class LabelledImages(pl.LightningDataModule):
    """A torchvision classification set as batches of images (B, 3, image_size, image_size) in [0, 1] and classes (B,).

    `source` is its class; `train` and `test` are the arguments that choose the part. Training images are cropped at
    random after padding by `crop` pixels, and mirrored at random with `flip`. Raises `UserError` in `setup` for a set
    that is missing, damaged or has other labels than 0 to `classes` - 1, and where a download fails.
    """

    train_set: VisionDataset  # these two from `setup` on
    test_set: VisionDataset

    def __init__(
        self, name: str, classes: int, root: str, source: Callable[..., VisionDataset], train: dict[str, Any],
        test: dict[str, Any], download: bool, crop: int, flip: bool, image_size: int, batch_size: int, seed: int,
    ):  # fmt: skip
        super().__init__()
        self.name, self.classes, self.root, self.source = name, classes, Path(root).expanduser(), source
        self.chosen, self.download = {"train": train, "test": test}, download
        self.batch_size, self.seed = batch_size, seed
        self.crop, self.flip, self.image_size = crop, flip, image_size
        self.is_set_up = False

    def prepare_data(self) -> None:
        if self.download and not self.is_set_up:
            for part in self.chosen:
                self._open(part, download=True)

    def setup(self, stage: str | None = None) -> None:
        if self.is_set_up:
            return
        train, test = self._open("train"), self._open("test")
        random = [v2.RandomCrop(train[0][0].size[::-1], padding=self.crop)] if self.crop else []
        random += [v2.RandomHorizontalFlip()] if self.flip else []
        resize = [v2.Resize(as_pair(self.image_size), antialias=True), v2.ToDtype(torch.float32, scale=True)]
        train.transform = v2.Compose([v2.ToImage(), v2.RGB(), *random, *resize])
        test.transform = v2.Compose([v2.ToImage(), v2.RGB(), *resize])
        self.train_set, self.test_set, self.is_set_up = train, test, True

    def _open(self, part: str, download: bool = False) -> VisionDataset:
        """Return one part of the set as torchvision reads it. Raises `UserError`."""
        try:
            opened = self.source(self.root, **self.chosen[part], download=download)
        except Exception as error:  # of the network, the disk, a checksum, or whatever a damaged file leads to
            advice = "Without a network, copy" if download else "dataset.download=true downloads it; or copy"
            raise UserError(
                f"data set {self.name}: torchvision {'failed to download' if download else 'cannot read'} its {part} "
                f"images in {self.root}: {type(error).__name__}: {error}\n{advice} torchvision's folder from elsewhere "
                "and say where it is: dataset.root=<folder>"
            ) from error
        labels = torch.as_tensor(opened.targets if hasattr(opened, "targets") else opened.labels)
        if not len(labels) or not 0 <= labels.min() <= labels.max() < self.classes:
            raise UserError(
                f"data set {self.name}: {len(labels)} {part} images in {self.root}, with labels "
                f"{labels.unique().tolist()}; expected labels from 0 to {self.classes - 1}"
            )
        return opened

    def train_dataloader(self) -> DataLoader:
        order = torch.Generator().manual_seed(self.seed)
        # A last batch of one image would be too small for batch norm.
        short = len(self.train_set) > self.batch_size
        return DataLoader(self.train_set, self.batch_size, shuffle=True, generator=order, drop_last=short)

    def test_dataloader(self) -> DataLoader:
        return DataLoader(self.test_set, self.batch_size)
