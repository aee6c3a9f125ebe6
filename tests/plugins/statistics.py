"""Statistics before and after fit, as in EfficientAD: features are standardised, scores are quantile-scaled."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from kdad.functional import upsample
from kdad.models.base import Batch, Detection, KDDetector
from kdad.teacher import at_strides


class Statistics(KDDetector):
    def __init__(self, **shared: Any):
        super().__init__(auto_levels=at_strides(8), **shared)
        channels = self.teacher.channels[0]
        self.student = nn.Conv2d(3, channels, kernel_size=8, stride=8)
        self.register_buffer("mean", torch.zeros(1, channels, 1, 1))
        self.register_buffer("std", torch.ones(1, channels, 1, 1))
        self.register_buffer("highest", torch.ones(()))

    @torch.no_grad()
    def before_fit(self, batches: Iterable[Batch]) -> None:
        features = torch.cat([self.teacher_features(batch)[0] for batch in batches])
        self.mean, self.std = features.mean((0, 2, 3), keepdim=True), features.std((0, 2, 3), keepdim=True) + 1e-6

    @torch.no_grad()
    def after_fit(self, batches: Iterable[Batch]) -> None:
        self.highest = torch.cat([self.errors(batch).amax(dim=(1, 2)) for batch in batches]).max()

    def errors(self, batch: Batch) -> Tensor:
        (features,) = self.teacher_features(batch)
        standard = (features - self.mean) / self.std
        return (standard - self.student(self.normalise(batch["image"]))).square().mean(dim=1)

    def training_loss(self, batch: Batch) -> dict[str, Tensor]:
        return {"loss": self.errors(batch).mean()}

    def detect(self, batch: Batch) -> Detection:
        fused = upsample(self.errors(batch) / self.highest, self.image_size, align_corners=False)
        return Detection(fused[:, None], fused.amax(dim=(1, 2)))
