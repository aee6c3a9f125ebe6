"""A fifth detector in a dozen lines: a 1x1 convolution predicts the deepest level from the one above it."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from kdad.functional import cosine_distance, upsample
from kdad.models.base import Batch, Detection, KDDetector
from kdad.teacher import at_strides


class Plain(KDDetector):
    def __init__(self, **shared: Any):
        super().__init__(auto_levels=at_strides(8, 16), **shared)
        self.student = nn.Conv2d(*self.teacher.channels, kernel_size=1)

    def distances(self, batch: Batch) -> Tensor:
        shallow, deep = self.teacher_features(batch)
        return cosine_distance(deep, self.student(F.avg_pool2d(shallow, 2)))

    def training_loss(self, batch: Batch) -> dict[str, Tensor]:
        return {"loss": self.distances(batch).mean()}

    def detect(self, batch: Batch) -> Detection:
        fused = upsample(self.distances(batch), self.image_size, align_corners=False)
        return Detection(fused[:, None], fused.amax(dim=(1, 2)))
