"""Threads and memory by what the process may use."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kdad import machine


@pytest.fixture
def torch_threads(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("quota", "expected"),
    [("max 100000", 8), ("300000 100000", 3), ("250000 100000", 3), ("10000 100000", 1), ("9900000 100000", 8), (None, 8)],
)
def test_cores_are_the_schedulers_within_the_containers_quota(torch_threads, tmp_path, monkeypatch, quota, expected):
    monkeypatch.setattr(machine, "QUOTA", tmp_path / "cpu.max")
    if quota:
        machine.QUOTA.write_text(quota + "\n")
    assert machine.cores() == expected


def test_torch_gets_no_more_threads_than_cores(torch_threads, monkeypatch):
    monkeypatch.setattr(machine, "cores", lambda: 3)
    torch.set_num_threads(6)
    machine.use_threads()
    assert torch.get_num_threads() == 3
    torch.set_num_threads(2)  # fewer were asked for
    machine.use_threads()
    assert torch.get_num_threads() == 2


def test_omp_num_threads_is_obeyed(torch_threads, monkeypatch):
    monkeypatch.setattr(machine, "cores", lambda: 1)
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    torch.set_num_threads(4)
    machine.use_threads()
    assert torch.get_num_threads() == 4


FAULTS = """
import resource, torch
from kdad.machine import keep_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(16 * 2**20).add_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(faults())
keep_memory()
print(faults())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
@pytest.mark.parametrize("given", [{}, {"MALLOC_MMAP_MAX_": "65536"}])
def test_freed_memory_is_used_again_unless_told_otherwise(given):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")} | {"THP_MEM_ALLOC_ENABLE": "0"} | given
    command = [sys.executable, "-c", FAULTS]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    pages = 20 * 64 * 2**20 // os.sysconf("SC_PAGE_SIZE")
    assert before >= pages  # handed out anew, page by page
    # A small block may come to lie where the large one was, so that a new place is taken once or twice.
    assert after >= pages if given else after < pages / 4


HUGE = """
import kdad.run, torch
from pathlib import Path
large = torch.ones(64 * 2**20)
print(next(int(line.split()[1]) for line in Path("/proc/self/smaps_rollup").open() if line.startswith("AnonHugePages")))
"""


@pytest.mark.parametrize("given", [{}, {"THP_MEM_ALLOC_ENABLE": "0"}])
def test_large_tensors_lie_on_huge_pages_unless_told_otherwise(given):
    """Of the command as it is imported: torch reads the variable once, with its first tensor."""
    modes = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not modes.exists() or "[madvise]" not in modes.read_text() or not Path("/proc/self/smaps_rollup").exists():
        pytest.skip("needs Linux with huge pages for those who ask")
    environment = {k: v for k, v in os.environ.items() if k != "THP_MEM_ALLOC_ENABLE"} | given
    done = subprocess.run([sys.executable, "-c", HUGE], env=environment, capture_output=True, text=True, check=True)
    assert (int(done.stdout) > 0) == (not given)
