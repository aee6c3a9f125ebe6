"""AUROC and PRO by themselves, as torchmetrics objects: shells that keep scores over `ranking` and `pro`.

Scores are kept as they come, on the CPU, and ranked exactly: scale, offset and batch size change nothing.
`torchmetrics.AUROC` in contrast puts a sigmoid on any batch that holds a score outside [0, 1].
"""

import numpy as np
import torch
from torch import Tensor

from kdad.metrics.pro import LIMIT, split
from kdad.metrics.ranking import area, rank_curve
from kdad.metrics.states import ListStates, map_arrays, score_array, truth_array


class AUROC(ListStates):
    """Area under the ROC curve of scores of any shape and range: a float64 scalar, NaN while a class is missing."""

    def __init__(self) -> None:
        super().__init__("normal", "anomalous")

    def update(self, scores: Tensor, labels: Tensor) -> None:
        """`labels`: shaped like the scores, 0 or False for normal, 1 or True for anomalous."""
        values, anomalous = score_array(scores), truth_array(labels, scores.shape)
        self.append(normal=values[~anomalous], anomalous=values[anomalous])

    def compute(self) -> Tensor:
        normal, anomalous = self.array("normal"), self.array("anomalous")
        value = area(rank_curve(normal, anomalous)) if len(normal) and len(anomalous) else np.nan
        return torch.tensor(value, dtype=torch.float64)


class PRO(ListStates):
    """Per-region overlap up to the false-positive rate `limit`: a float64 scalar, NaN while it is undefined.

    See `kdad.metrics.pro` for the definition and its source.
    """

    def __init__(self, limit: float = LIMIT) -> None:
        super().__init__("normal", "anomalous", "weight")
        self.limit = limit

    def update(self, anomaly_map: Tensor, mask: Tensor) -> None:
        """Both (B, 1, H, W); the mask bool."""
        normal, anomalous, weight = split(*map_arrays(anomaly_map, mask))
        self.append(normal=normal, anomalous=anomalous, weight=weight)

    def compute(self) -> Tensor:
        normal, anomalous, weight = (self.array(name) for name in ("normal", "anomalous", "weight"))
        value = area(rank_curve(normal, anomalous, weight), self.limit) if len(normal) and len(anomalous) else np.nan
        return torch.tensor(value, dtype=torch.float64)
