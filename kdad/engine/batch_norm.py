"""What batch norm asks of a training: one value for each channel is too few, and processes go their own ways."""

from contextlib import nullcontext

import torch
from pytorch_lightning.utilities.seed import isolate_rng
from torch import distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm

from kdad.geometry import as_pair
from kdad.models.base import KDDetector


def share_buffers(detector: KDDetector) -> None:
    """Give every process the first one's buffers, which are those that a checkpoint holds.

    In training batch norm's running statistics go their own way in each process after its last step.
    """
    if distributed.is_available() and distributed.is_initialized():
        for name, buffer in detector.named_buffers():
            if not name.startswith("teacher."):
                distributed.broadcast(buffer, src=0)


@torch.no_grad()
def takes_single(detector: KDDetector) -> bool:
    """Return whether a detector can train on one image: batch norm cannot where that gives one value per channel."""
    single: list[bool] = []

    def look(norm: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        single.append(inputs[0].numel() == inputs[0].shape[1])

    norms = [m for m in detector.modules() if isinstance(m, _BatchNorm) and m.training]
    hooks = [norm.register_forward_pre_hook(look) for norm in norms]
    training = detector.training
    compiled = any(m._compiled_call_impl is not None for m in detector.modules())
    try:
        with isolate_rng(), torch.compiler.set_stance("force_eager") if compiled else nullcontext():
            detector.eval()  # so that no statistics move
            # With features in the teacher's place: its pass would tell nothing.
            features = [torch.zeros(1, *shape) for shape in detector.teacher.shapes]
            batch = {"image": torch.zeros(1, 3, *as_pair(detector.image_size)), "features": features}
            detector.training_loss(batch | {key: torch.zeros(1, dtype=torch.long) for key in ("label", "index")})
    finally:
        detector.train(training)
        for hook in hooks:
            hook.remove()
    return not any(single)
