"""A detector that trains on changed images: the student sees noise, and is to say what the teacher says of clean ones."""

from typing import Any

import torch
from torch import Tensor, nn

from kdad.functional import cosine_distance, upsample
from kdad.models.base import Batch, Detection, KDDetector
from kdad.teacher import at_strides


class Noisy(KDDetector):
    def __init__(self, **shared: Any):
        super().__init__(auto_levels=at_strides(8), **shared)
        (channels,), (stride,) = self.teacher.channels, self.teacher.strides
        self.student = nn.Conv2d(3, channels, kernel_size=stride, stride=stride)
        self.repair = nn.Conv2d(channels, channels, kernel_size=1)

    def training_loss(self, batch: Batch) -> dict[str, Tensor]:
        (clean,) = self.teacher_features(batch)
        noisy = batch["image"] + 0.1 * torch.randn_like(batch["image"])
        (changed,) = self.teacher_features({"image": noisy})
        guessed, repaired = self.student(self.normalise(noisy)), self.repair(changed)
        return {"loss": cosine_distance(clean, guessed).mean() + cosine_distance(clean, repaired).mean()}

    def detect(self, batch: Batch) -> Detection:
        (features,) = self.teacher_features(batch)
        distance = cosine_distance(features, self.student(self.normalise(batch["image"])))
        fused = upsample(distance, self.image_size, align_corners=False)
        return Detection(fused[:, None], fused.amax(dim=(1, 2)))
