"""A metric from outside the package: the share of anomalous pixels above a threshold."""

import torch
from torch import Tensor
from torchmetrics import Metric


class Share(Metric):
    """It spoils what it is given, which must cost nobody anything."""

    counts: Tensor

    def __init__(self, threshold: float = 0.5) -> None:
        super().__init__()
        self.threshold = threshold
        self.add_state("counts", default=torch.zeros(2), dist_reduce_fx="sum")

    def update(self, maps: Tensor, masks: Tensor, scores: Tensor, labels: Tensor) -> None:
        self.counts += torch.tensor([((maps > self.threshold) & masks).sum(), masks.sum()])
        for values in (maps, masks, scores, labels):
            values.zero_()

    def compute(self) -> Tensor:
        return self.counts[0] / self.counts[1]
