"""`trainer.precision=auto`: whether bf16 is faster on this machine, measured."""

import time
from collections.abc import Callable
from functools import cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor

FULL, HALF = "32-true", "bf16-mixed"
WORTH = 1.2  # times as fast as float32, below which bf16's rounding is not worth it


def choose_precision(accelerator: str) -> str:
    """Return bf16-mixed where it makes convolutions faster by a fifth on that accelerator, else 32-true.

    It says which, and why. A processor without units for bf16 is many times slower with it.
    """
    on_gpu = accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    if accelerator not in ("auto", "gpu", "cuda", "cpu"):
        print(f"kdad: trainer.precision=auto: {FULL}, since bf16 is not timed with trainer.accelerator={accelerator}")
        return FULL
    factor = measure_bf16("cuda" if on_gpu else "cpu")
    chosen = HALF if factor >= WORTH else FULL
    print(f"kdad: trainer.precision=auto: {chosen}, since a convolution in bf16 is {factor:.2g} times as fast here")
    return chosen


@cache
def measure_bf16(device: str) -> float:
    """Return how many times as fast as in float32 a convolution and its gradients are with bf16, on "cpu" or "cuda".

    Of each the fastest of three after one that warms up; no random number is drawn.
    """
    layout = torch.channels_last
    images = torch.ones(8, 64, 32, 32, device=device).to(memory_format=layout).requires_grad_()
    weights = torch.full((64, 64, 3, 3), 1 / 576, device=device).to(memory_format=layout).requires_grad_()
    slow, fast = (time_step(partial(convolve, images, weights, half), device) for half in (False, True))
    return slow / fast


def convolve(images: Tensor, weights: Tensor, half: bool) -> None:
    """Do one convolution and compute its gradients, in bf16 where autocast does so."""
    with torch.autocast(images.device.type, torch.bfloat16, enabled=half):
        found = F.conv2d(images, weights, padding=1)
    found.float().mean().backward()


def time_step(step: Callable[[], None], device: str) -> float:
    """Return the seconds that the fastest of three steps takes, after one that is not timed."""
    seconds = []
    for _ in range(4):
        began = time.perf_counter()
        step()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return min(seconds[1:])
