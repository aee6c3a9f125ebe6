"""What a process takes of the machine: threads and memory."""

import ctypes
import math
import os
from pathlib import Path

import torch

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # glibc's malloc.h
SAID = ("MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")  # by the environment, or as a tunable
TUNABLES = ("glibc.malloc.mmap_max", "glibc.malloc.mmap_threshold", "glibc.malloc.trim_threshold")
QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of a container: microseconds of CPU time, and the period that they are of


def use_machine() -> None:
    """To be called by whatever computes, before it does."""
    use_threads()
    keep_memory()
    # With deterministic algorithms torch fills all new memory, lest it be read before it is written: 4 to 8 % of a step.
    torch.utils.deterministic.fill_uninitialized_memory = False


def use_threads() -> None:
    """Leave torch no more threads than this process has cores, unless OMP_NUM_THREADS says how many.

    In a container torch counts the host's cores; threads beyond its share spin while they wait for each other.
    """
    if "OMP_NUM_THREADS" not in os.environ and torch.get_num_threads() > cores():
        torch.set_num_threads(cores())


def keep_memory() -> None:
    """Let the process keep what its tensors free for the next ones, unless the environment says what is kept: see `SAID`.

    A training step frees and asks for the same sizes again and again. By default glibc returns blocks of 32 MiB and
    more to the system, which then has to hand them out, emptied, page by page: up to a tenth of a step on the CPU.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc
        return
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if not any(name in os.environ for name in SAID) and not any(name in tunables for name in TUNABLES):
        mallopt(M_MMAP_MAX, 0)  # no block is mapped by itself, to be unmapped when freed
        mallopt(M_TRIM_THRESHOLD, -1)  # nor the end of the heap given back


def cores() -> int:
    """Cores that the scheduler and a container's quota leave to this process, at least 1."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = QUOTA.read_text().split()
    except (OSError, ValueError):
        return allowed
    return allowed if quota == "max" else max(1, min(allowed, math.ceil(int(quota) / int(period))))
