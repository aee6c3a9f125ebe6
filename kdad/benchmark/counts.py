"""What a forward pass takes: operations, memory, and the sizes of weights and checkpoint."""

import io
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from torch.utils.weak import WeakIdKeyDictionary

from kdad.models.base import KDDetector


class Count(TorchDispatchMode):
    """A counter of what runs while it is active.

    `flops` is of all operations: two per multiply-add, by torch's own formulas, which know convolutions, matrix
    products and attention, forward and backward; element-wise operations, pooling and resizing count nothing.
    `peak_bytes` is the largest sum of tensors alive at once, of those made meanwhile, without what a kernel needs
    within itself. Use under `torch.no_grad()`: inference mode hides what operations are made of. (torch's
    `FlopCounterMode` has the same formulas, but stops at a gradient by the input, which MKD takes.)
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops, self.peak_bytes = 0, 0
        self._alive = WeakIdKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if func.overloadpacket in flop_registry:
            self.flops += int(flop_registry[func.overloadpacket](*args, **kwargs, out_val=out))
        given = list_storages((args, kwargs))
        for storage in list_storages(out):
            if not any(storage is other for other in given):  # a view of a weight is no new memory
                self._alive[storage] = True
        self.peak_bytes = max(self.peak_bytes, sum(storage.nbytes() for storage in self._alive))
        return out


def count_operations(detector: nn.Module, images: Tensor) -> Count:
    """Return the counts of one forward pass."""
    with torch.no_grad(), Count() as counted:
        detector(images)
    return counted


def list_storages(values: Any) -> list[torch.UntypedStorage]:
    """Return the storages of all tensors in nested containers."""
    return [leaf.untyped_storage() for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def count_tensor_bytes(module: nn.Module) -> int:
    """Return the size of a module's parameters and buffers."""
    return sum(t.numel() * t.element_size() for t in [*module.parameters(), *module.buffers()])


def count_checkpoint_bytes(detector: KDDetector) -> int:
    """Return the size of the weights in a run's tested.ckpt: those trained, since the teacher is not stored."""
    checkpoint = {"state_dict": detector.state_dict()}
    detector.on_save_checkpoint(checkpoint)
    file = io.BytesIO()
    torch.save(checkpoint, file)
    return file.tell()


def measure_peak_bytes(detector: nn.Module, images: Tensor) -> int:
    """Return the bytes that one forward pass takes beyond weights and images; on a GPU, as its allocator counts."""
    if images.device.type == "cpu":
        return count_operations(detector, images).peak_bytes
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    with torch.inference_mode():
        detector(images)
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before
