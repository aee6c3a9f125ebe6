"""torchmetrics shells over the functions of `ranking` and `pro`: states on the CPU, AUROC and PRO by themselves.

Scores are kept as they come and ranked exactly: scale, offset and batch size change nothing. `torchmetrics.AUROC` in
contrast puts a sigmoid on any batch that holds a score outside [0, 1]. States survive processes of uneven size, or
without any data.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed
from torchmetrics import Metric

from kdad.metrics.pro import LIMIT, split_pixels
from kdad.metrics.ranking import area, rank_curve


class ListStates(Metric):
    """A metric whose states are named lists of (n, ...) CPU tensors, concatenated over batches and processes.

    Subclasses put NumPy arrays in and take them out: ranking happens in NumPy.
    """

    full_state_update = False  # `forward` merges lists instead of updating twice

    def __init__(self, *names: str) -> None:
        super().__init__(dist_sync_fn=gather_uneven)
        for name in names:
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def append(self, **states: NDArray) -> None:
        """Add one array (n, ...) to each of the named states."""
        for name, values in states.items():
            getattr(self, name).append(torch.from_numpy(values))

    def read_state(self, name: str) -> NDArray:
        """Return all values (n, ...) of a state so far; inside `compute`, those of all processes."""
        values = getattr(self, name)  # torchmetrics makes one tensor of the list while it syncs
        parts = [part.numpy() for part in (values if isinstance(values, list) else [values])]
        return np.concatenate(parts) if parts else np.empty(0)

    def _apply(self, fn: Callable, exclude_state: Sequence[str] = ()) -> torch.nn.Module:
        # `.to(device)` must not move millions of pixels: torchmetrics leaves excluded states where they are.
        return super()._apply(fn, exclude_state=(*exclude_state, *self._defaults))


def gather_uneven(values: Tensor, group: Any = None) -> list[Tensor]:
    """Gather the tensors (n, ...) of all processes, for torchmetrics' `dist_sync_fn`.

    Unlike torchmetrics' default it takes CPU tensors under NCCL, and a process that saw no batch: torchmetrics stands
    in an empty float32 tensor for its states, whose type would break the exchange or spread to the others.
    """
    gathered: list[Any] = [None] * distributed.get_world_size(group)
    distributed.all_gather_object(gathered, values, group=group)
    return [tensor for tensor in gathered if tensor.numel()] or gathered[:1]


def convert_scores(scores: Tensor) -> NDArray:
    """Convert scores to NumPy: float32 and float64 as they are, halves as float32, whole numbers as float64."""
    dtype = scores.dtype
    if dtype not in (torch.float32, torch.float64):
        dtype = torch.float32 if dtype.is_floating_point else torch.float64
    return scores.detach().to("cpu", dtype).numpy()


def convert_truths(truths: Tensor, shape: Sequence[int]) -> NDArray[np.bool_]:
    """Convert labels or masks to NumPy's bool. Raises ValueError unless they have this shape and are 0 or 1."""
    if tuple(truths.shape) != tuple(shape):
        raise ValueError(f"labels or masks must be shaped like the scores {tuple(shape)}, not {tuple(truths.shape)}")
    values = truths.detach().cpu().numpy()
    anomalous = values == 1
    if not np.array_equal(anomalous, values != 0):
        raise ValueError("labels and masks must be 0 or 1 everywhere")
    return anomalous


def convert_maps(anomaly_map: Tensor, mask: Tensor) -> tuple[NDArray, NDArray[np.bool_]]:
    """Convert maps and masks (B, 1, H, W) to NumPy. Returns scores and bools (B, H, W).

    Raises ValueError if they are of another shape, or a mask is not 0 or 1 everywhere.
    """
    anomalous, scores = convert_truths(mask, anomaly_map.shape), convert_scores(anomaly_map)
    if anomalous.ndim != 4 or anomalous.shape[1] != 1:
        raise ValueError(f"maps and masks must be (B, 1, H, W), not {anomalous.shape}")
    return scores[:, 0], anomalous[:, 0]


class AUROC(ListStates):
    """Area under the ROC curve of scores of any shape and range: a float64 scalar, NaN while a class is missing.

    `compute` raises ValueError if a score is NaN or infinite.
    """

    def __init__(self) -> None:
        super().__init__("normal", "anomalous")

    def update(self, scores: Tensor, labels: Tensor) -> None:
        """Add a batch of scores of any shape. `labels`: of that shape, 0 or False for normal, 1 or True for anomalous.

        Raises ValueError for labels of another shape or with another value.
        """
        values, anomalous = convert_scores(scores), convert_truths(labels, scores.shape)
        self.append(normal=values[~anomalous], anomalous=values[anomalous])

    def compute(self) -> Tensor:
        normal, anomalous = self.read_state("normal"), self.read_state("anomalous")
        value = area(rank_curve(normal, anomalous)) if len(normal) and len(anomalous) else np.nan
        return torch.tensor(value, dtype=torch.float64)


class PRO(ListStates):
    """Per-region overlap up to the false-positive rate `limit`: a float64 scalar, NaN while it is undefined.

    The definition and its source: see `kdad.metrics.pro.pro`. `compute` raises ValueError if a score is NaN or
    infinite.
    """

    def __init__(self, limit: float = LIMIT) -> None:
        super().__init__("normal", "anomalous", "weight")
        self.limit = limit

    def update(self, anomaly_map: Tensor, mask: Tensor) -> None:
        """Add a batch of maps and masks, both (B, 1, H, W), the masks bool.

        Raises ValueError for other shapes, and for a mask that is not 0 or 1 everywhere.
        """
        normal, anomalous, weight = split_pixels(*convert_maps(anomaly_map, mask))
        self.append(normal=normal, anomalous=anomalous, weight=weight)

    def compute(self) -> Tensor:
        normal, anomalous, weight = (self.read_state(name) for name in ("normal", "anomalous", "weight"))
        value = area(rank_curve(normal, anomalous, weight), self.limit) if len(normal) and len(anomalous) else np.nan
        return torch.tensor(value, dtype=torch.float64)
