"""Skips across levels and two optimisers, as in RD++ and SK-RD4AD: two students, each stepped by its own."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from kdad.functional import cosine_distance, fuse_sum
from kdad.models.base import Batch, Detection, KDDetector
from kdad.teacher import at_strides


class Skips(KDDetector):
    def __init__(self, **shared: Any):
        super().__init__(auto_levels=at_strides(4, 8, 16), **shared)
        self.automatic_optimization = False
        first, second, third = self.teacher.channels
        self.near = nn.Conv2d(first, second, kernel_size=1)
        self.skip = nn.Conv2d(first + second, third, kernel_size=1)

    def distance_maps(self, batch: Batch) -> list[Tensor]:
        first, second, third = self.teacher_features(batch)
        near = self.near(F.avg_pool2d(first, 2))
        joined = [F.avg_pool2d(first, 4), F.avg_pool2d(near.detach(), 2)]
        return [cosine_distance(second, near), cosine_distance(third, self.skip(torch.cat(joined, dim=1)))]

    def training_loss(self, batch: Batch) -> dict[str, Tensor]:
        near, skip = (m.mean() for m in self.distance_maps(batch))
        return {"loss": near + skip, "loss_near": near, "loss_skip": skip}

    def training_step(self, batch: Batch, batch_index: int) -> None:
        losses = self.log_losses(self.training_loss(batch), len(batch["image"]))
        for optimizer in self.optimizers():
            optimizer.zero_grad()
        self.manual_backward(losses["loss"])
        for optimizer in self.optimizers():
            optimizer.step()

    def configure_optimizers(self) -> list[Optimizer]:
        return [self.optimizer(self.near.parameters()), self.optimizer(self.skip.parameters())]

    def detect(self, batch: Batch) -> Detection:
        fused = fuse_sum(self.distance_maps(batch), self.image_size, align_corners=False)
        return Detection(fused[:, None], fused.amax(dim=(1, 2)))
