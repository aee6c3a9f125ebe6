"""Every trick that kdad plays on the machine, each with what it was measured to be worth; `speed=off` turns all off.

| trick | worth, on two Xeon cores (experiments/speed) |
|---|---|
| `limit_threads` | many times where a container has fewer cores than its host: threads beyond them spin |
| `keep_memory` | 0.72 instead of 0.81 s for a step of STPM (ResNet-18, 128 px); 797 MiB instead of 453 (AMD EPYC) |
| `release_memory` | 90 MiB of these 797; epochs as fast (AMD EPYC) |
| no fill of new memory | 4 to 8 % of a step |
| `fuse` | RD's step 1.06 times as fast, in bf16 1.24 times |
| `lay_out` (channels last) | convolutions 1.3 to 4 times as fast |
| `Contiguous` | RD's and DSKD's step 1.08 times as fast at 128 px, 1.16 at 64 px, 0.97 at 512 px |
| huge pages (`kdad/__init__.py`) | part of `keep_memory`; THP_MEM_ALLOC_ENABLE=0 turns it off alone |

Decoded images and teacher features that are kept have a room and a switch of their own: `kdad/storage`,
`cache.storage=off`.
"""

import ctypes
import math
import os
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Adam, AdamW, Optimizer

from kdad.errors import UserError

MODES = ("auto", "off")
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # glibc's malloc.h
SAID = ("MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")  # by the environment, or as a tunable
TUNABLES = ("glibc.malloc.mmap_max", "glibc.malloc.mmap_threshold", "glibc.malloc.trim_threshold")
QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of a container: microseconds of CPU time, and the period that they are of

_used = True


def use_machine(mode: str | bool = "auto") -> None:
    """Turn the speed tricks on from here on or, with "off", all of them off. Call this before anything is computed.

    Memory that an earlier call lets the process keep stays kept. Raises `UserError` for another mode.
    """
    global _used
    mode = "off" if mode is False else mode  # which off is to YAML
    if mode not in MODES:
        raise UserError(f"speed={mode}: give one of {', '.join(MODES)}")
    _used = mode == "auto"
    keep_float32()
    # With deterministic algorithms torch fills all new memory, lest it be read before it is written.
    torch.utils.deterministic.fill_uninitialized_memory = not _used  # type: ignore[attr-defined]
    if _used:
        limit_threads()
        keep_memory()


def keep_float32() -> None:
    """Let a GPU compute float32 as float32, where torch's default rounds what convolutions multiply to ten bits (TF32).

    On an H100 that moved scores by a thousandth, by how many images a batch has: `trainer.precision=bf16-mixed` is the
    faster way that says so.
    """
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def limit_threads() -> None:
    """Leave torch no more threads than this process has cores, unless OMP_NUM_THREADS says how many.

    In a container torch counts the host's cores; threads beyond its share spin while they wait for each other.
    """
    if "OMP_NUM_THREADS" not in os.environ and torch.get_num_threads() > count_cores():
        torch.set_num_threads(count_cores())


def keep_memory() -> None:
    """Let the process keep the memory that its tensors free for the next ones.

    Where the environment says what is kept (see `SAID`), that holds. A training step frees and asks for the same sizes
    again and again. By default glibc returns blocks of 32 MiB and more to the system, which then has to hand them out,
    emptied, page by page: up to a tenth of a step on the CPU.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc
        return
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if not any(name in os.environ for name in SAID) and not any(name in tunables for name in TUNABLES):
        mallopt(M_MMAP_MAX, 0)  # no block is mapped by itself, to be unmapped when freed
        mallopt(M_TRIM_THRESHOLD, -1)  # nor the end of the heap given back


def release_memory() -> None:
    """Give the memory that `keep_memory` keeps, and nothing uses, back to the system; the next step takes it anew.

    Between phases, whose tensors are of other sizes, and between epochs: what is kept lies in more and smaller pieces
    from step to step, so that new blocks find no room there and the process grows.
    """
    if not _used:
        return
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):  # not glibc
        return


def count_cores() -> int:
    """Return how many cores the scheduler and a container's quota leave to this process, at least 1."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = QUOTA.read_text().split()
    except (OSError, ValueError):
        return allowed
    return allowed if quota == "max" else max(1, min(allowed, math.ceil(int(quota) / int(period))))


def fuse(optimizer: Optimizer) -> Optimizer:
    """Let Adam or AdamW, with weights on a CPU, pass over memory once per step instead of six times.

    Returns the optimiser, changed in place; others are left as they are. `optimizer.fused` of the configuration
    overrules it. The gradients must be autograd's, which lie in memory as their weights do: torch's fused update takes
    numbers in the order they lie in, whatever their strides.
    """
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    able = _used and torch.__version__ >= "2.4" and type(optimizer) in (Adam, AdamW)
    if able and all(weight.device.type == "cpu" for weight in weights):
        for group in optimizer.param_groups:
            if group["fused"] is None and not any(group[key] for key in ("foreach", "capturable", "differentiable")):
                group["fused"] = True
        optimizer.register_load_state_dict_post_hook(_lay_out_moments)
    return optimizer


def _lay_out_moments(optimizer: Optimizer) -> None:
    """Give an optimiser's moments the weights' memory layout: a checkpoint's keep the layout that it was saved with."""
    for weight, state in optimizer.state.items():
        for key, value in state.items():
            if torch.is_tensor(value) and value.shape == weight.shape:
                state[key] = torch.empty_like(weight, dtype=value.dtype).copy_(value)


class Contiguous(nn.Sequential):
    """Layers on maps that lie channel by channel in memory.

    On a CPU, channels last is slower with many channels on maps below 8 x 8, and as fast at 8 x 8.
    """

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.contiguous() if _used else x)


def lay_out(network: nn.Module) -> None:
    """Lay out a network's weights as is fastest for convolutions on a CPU: channels last, except in `Contiguous`."""
    if not _used:
        return
    network.to(memory_format=torch.channels_last)
    for module in network.modules():
        if isinstance(module, Contiguous):
            module.to(memory_format=torch.contiguous_format)
