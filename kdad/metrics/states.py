"""torchmetrics states that stay on the CPU and survive processes of uneven size, or without any data."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed
from torchmetrics import Metric


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

    def array(self, name: str) -> NDArray:
        """All values (n, ...) of a state so far; of all processes inside `compute`."""
        values = getattr(self, name)  # torchmetrics makes one tensor of the list while it syncs
        parts = [part.numpy() for part in (values if isinstance(values, list) else [values])]
        return np.concatenate(parts) if parts else np.empty(0)

    def _apply(self, fn: Callable, exclude_state: Sequence[str] = ()) -> torch.nn.Module:
        # `.to(device)` must not move millions of pixels: torchmetrics leaves excluded states where they are.
        return super()._apply(fn, exclude_state=(*exclude_state, *self._defaults))


def gather_uneven(values: Tensor, group: Any = None) -> list[Tensor]:
    """`dist_sync_fn`: the tensors (n, ...) of all processes.

    Unlike torchmetrics' default it takes CPU tensors under NCCL, and a process that saw no batch: torchmetrics stands
    in an empty float32 tensor for its states, whose type would break the exchange or spread to the others.
    """
    gathered: list[Any] = [None] * distributed.get_world_size(group)
    distributed.all_gather_object(gathered, values, group=group)
    return [tensor for tensor in gathered if tensor.numel()] or gathered[:1]


def score_array(scores: Tensor) -> NDArray:
    """The scores on the CPU: float32 and float64 as they are, halves as float32, whole numbers as float64."""
    dtype = scores.dtype
    if dtype not in (torch.float32, torch.float64):
        dtype = torch.float32 if dtype.is_floating_point else torch.float64
    return scores.detach().to("cpu", dtype).numpy()


def truth_array(truths: Tensor, shape: Sequence[int]) -> NDArray[np.bool_]:
    """Labels or masks as bool, on the CPU. ValueError unless they are of this shape and 0 or 1 everywhere."""
    if tuple(truths.shape) != tuple(shape):
        raise ValueError(f"labels or masks must be shaped like the scores {tuple(shape)}, not {tuple(truths.shape)}")
    values = truths.detach().cpu().numpy()
    anomalous = values == 1
    if not np.array_equal(anomalous, values != 0):
        raise ValueError("labels and masks must be 0 or 1 everywhere")
    return anomalous


def map_arrays(anomaly_map: Tensor, mask: Tensor) -> tuple[NDArray, NDArray[np.bool_]]:
    """Scores and truths (B, H, W) of maps and masks (B, 1, H, W); ValueError if they are anything else."""
    anomalous, scores = truth_array(mask, anomaly_map.shape), score_array(anomaly_map)
    if anomalous.ndim != 4 or anomalous.shape[1] != 1:
        raise ValueError(f"maps and masks must be (B, 1, H, W), not {anomalous.shape}")
    return scores[:, 0], anomalous[:, 0]
