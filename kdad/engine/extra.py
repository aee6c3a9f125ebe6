"""Metrics of one's own, of `metrics.extra`: tried out before training, then updated beside kdad's in the test."""

import logging
import math
from collections.abc import Mapping
from typing import Any

import torch
from omegaconf import DictConfig
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor, distributed
from torchmetrics import Metric

from kdad.data.base import AnomalyDataModule
from kdad.errors import UserError
from kdad.geometry import as_pair
from kdad.metrics.modules import gather_uneven
from kdad.settings.create import create

log = logging.getLogger(__name__)
TRIED = 4  # images of the trial, half of them anomalous


class ExtraMetrics:
    """The metrics by their names: `extra_<name>` of results.json.

    Each is a `torchmetrics.Metric` with `update(maps, masks, scores, labels)`: maps (B,1,H,W) float, masks (B,1,H,W)
    bool, or None where the data set has none, scores (B,) float and labels (B,) whole numbers, 1 anomalous; all on the
    CPU, and copies. `compute()` returns one number. One that fails in the test costs no other result: it has none, with
    the reason. With several processes torchmetrics gathers the states.
    """

    def __init__(self, metrics: Mapping[str, Metric] | None = None):
        self.metrics = metrics or {}
        self.begin()

    def begin(self) -> None:
        """Prepare for a new test."""
        self.reasons: dict[str, str] = {}  # why a metric has no value
        self.images = 0
        for metric in self.metrics.values():
            metric.reset()

    def add(self, maps: Tensor, masks: Tensor | None, scores: Tensor, labels: Tensor) -> None:
        """Add a batch: maps and masks (B,1,H,W), scores and labels (B,), on any device."""
        self.images += len(maps)
        for name, metric in self.metrics.items():
            if name in self.reasons:
                continue
            try:
                metric.update(*copy_batch(maps, masks, scores, labels))
            except Exception as error:  # whatever another's code raises
                self.reasons[name] = f"update() raised {describe(error)}"
                log.warning("metrics.extra.%s has no value: %s", name, self.reasons[name])

    def compute(self) -> dict[str, Any]:
        """Return `extra_<name>`, a float, or None with `extra_<name>_reason`, for each; all processes must call it."""
        found: dict[str, Any] = {}
        reasons, images = self.reasons, self.images
        if self.metrics and distributed.is_available() and distributed.is_initialized():
            parts: list[Any] = [None] * distributed.get_world_size()
            distributed.all_gather_object(parts, (reasons, images))
            reasons, images = {k: v for part in parts for k, v in part[0].items()}, sum(part[1] for part in parts)
        for name, metric in self.metrics.items():
            try:
                value = None if name in reasons or not images else read_number(metric.compute())
                reason = reasons.get(name, "no image in the test set")
            except Exception as error:
                value, reason = None, f"compute() raised {describe(error)}"
            if value is not None and not math.isfinite(value):
                value, reason = None, f"compute() returned {value}"
            found |= {f"extra_{name}": value} | ({f"extra_{name}_reason": reason} if value is None else {})
        return found


def create_extra(cfg: DictConfig) -> ExtraMetrics:
    """Create the metrics of a configuration. Raises `UserError` where one cannot be, or is no torchmetrics.Metric."""
    return ExtraMetrics({str(name): create_metric(str(name), node) for name, node in read_nodes(cfg).items()})


def read_nodes(cfg: DictConfig) -> Mapping[Any, DictConfig]:
    """Return `metrics.extra`, which configurations of before have not."""
    return cfg.metrics.get("extra") or {}


def create_metric(name: str, node: DictConfig) -> Metric:
    """Create one metric. Raises `UserError` where it cannot be, or is no torchmetrics.Metric."""
    try:
        metric = create(node)
    except UserError as error:
        raise UserError(f"metrics.extra.{name}: {error}") from error
    except Exception as error:
        raise UserError(f"metrics.extra.{name}: {node._target_} raised {describe(error.__cause__ or error)}") from error
    if not isinstance(metric, Metric):
        raise UserError(f"metrics.extra.{name}: {node._target_} is no torchmetrics.Metric. Give a subclass of it")
    if metric.dist_sync_fn is None:
        metric.dist_sync_fn = gather_uneven  # states are on the CPU, which torchmetrics' own cannot gather under NCCL
    return metric


def try_out(cfg: DictConfig, data: AnomalyDataModule) -> None:
    """Give each metric a batch of made-up maps as the test will, and drop it. Raises `UserError` where one fails.

    It costs a moment before training, instead of a value after it.
    """
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand((TRIED, 1, *as_pair(cfg.image_size)), generator=generator)
    labels = torch.arange(TRIED) % 2
    masks = (maps > 0.5) & labels.bool()[:, None, None, None]
    for name, node in read_nodes(cfg).items():
        metric, step = create_metric(str(name), node), "update(maps, masks, scores, labels)"
        try:
            with isolate_rng():
                metric.update(*copy_batch(maps, masks if data.has_masks else None, maps.amax(dim=(1, 2, 3)), labels))
                step = "compute()"
                read_number(metric.compute())
        except Exception as error:
            why = "" if data.has_masks else ". The data set has no masks: masks is None"
            raise UserError(f"metrics.extra.{name}: {node._target_}.{step} raised {describe(error)}{why}") from error


def copy_batch(
    maps: Tensor, masks: Tensor | None, scores: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """Return a batch on the CPU that others may change: halves become float32, masks bool, labels whole numbers."""
    floats = [values.detach().to("cpu", copy=True) for values in (maps, scores)]
    floats = [values if values.dtype == torch.float64 else values.float() for values in floats]
    truths = None if masks is None else masks.to("cpu", torch.bool, copy=True)
    return floats[0], truths, floats[1], labels.to("cpu", torch.int64, copy=True)


def read_number(value: Any) -> float:
    """Return a number, or a tensor or array of one, as a float. Raises ValueError for anything else."""
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        shape = f" of shape {(*value.shape,)}" if hasattr(value, "shape") else ""
        raise ValueError(f"it must return one number, and returned {type(value).__name__}{shape}") from None


def describe(error: BaseException) -> str:
    """Return an error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
