"""Threads and memory by what the process may use."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from kdad import speed
from kdad.benchmark import measuring as benchmark
from kdad.engine import build
from kdad.engine import pretraining as pretrain
from kdad.models.stpm import STPM
from kdad.speed import fuse

pytestmark = pytest.mark.slow  # processes of their own, or many seconds

CFG = OmegaConf.create({"speed": "auto"})


@pytest.fixture
def torch_threads(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("quota", "expected"),
    [
        ("max 100000", 8),
        ("300000 100000", 3),
        ("250000 100000", 3),
        ("10000 100000", 1),
        ("9900000 100000", 8),
        (None, 8),
    ],
)
def test_cores_are_the_schedulers_within_the_containers_quota(torch_threads, tmp_path, monkeypatch, quota, expected):
    monkeypatch.setattr(speed, "QUOTA", tmp_path / "cpu.max")
    if quota:
        speed.QUOTA.write_text(quota + "\n")
    assert speed.count_cores() == expected


def test_torch_gets_no_more_threads_than_cores(torch_threads, monkeypatch):
    monkeypatch.setattr(speed, "count_cores", lambda: 3)
    torch.set_num_threads(6)
    speed.limit_threads()
    assert torch.get_num_threads() == 3
    torch.set_num_threads(2)  # fewer were asked for
    speed.limit_threads()
    assert torch.get_num_threads() == 2


def test_omp_num_threads_is_obeyed(torch_threads, monkeypatch):
    monkeypatch.setattr(speed, "count_cores", lambda: 1)
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    torch.set_num_threads(4)
    speed.limit_threads()
    assert torch.get_num_threads() == 4


@pytest.mark.parametrize(
    "starts",
    [lambda: build.build(CFG), lambda: benchmark.measure_costs(CFG), lambda: pretrain.train_teacher(CFG, None)],
)
def test_whatever_computes_uses_the_machine_first(monkeypatch, starts):
    class Used(Exception):
        pass

    def use(mode):
        raise Used

    for module in (build, benchmark, pretrain):
        monkeypatch.setattr(module, "use_machine", use)
    with pytest.raises(Used):
        starts()


def test_new_memory_is_not_filled_where_training_is_deterministic(monkeypatch):
    monkeypatch.setattr(speed, "keep_memory", lambda: None)  # for the whole of this process otherwise
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.empty(2**22).isnan().all()  # what torch fills it with
        speed.use_machine()
        assert not torch.empty(2**26).isnan().all()
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


FAULTS = """
import resource, torch
from kdad.speed import keep_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(16 * 2**20).add_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(faults())
keep_memory()
print(faults())
"""


HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({}, True),
        ({"MALLOC_ARENA_MAX": "2"}, True),  # says nothing of what is kept
        ({"MALLOC_MMAP_MAX_": "65536"}, False),
        ({"GLIBC_TUNABLES": "glibc.malloc.mmap_max=65536"}, False),
    ],
)
def test_freed_memory_is_used_again_unless_told_otherwise(given, kept):
    if HUGE_PAGES.exists() and "[always]" in HUGE_PAGES.read_text():
        pytest.skip("counts small pages, and here all are huge")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_"))} | given
    environment["THP_MEM_ALLOC_ENABLE"] = "0"
    command = [sys.executable, "-c", FAULTS]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    pages = 20 * 64 * 2**20 // os.sysconf("SC_PAGE_SIZE")
    assert before >= pages  # handed out anew, page by page
    # A small block may come to lie where the large one was, so that a new place is taken once or twice.
    assert after < pages / 4 if kept else after >= pages


HUGE = """
import kdad.speed, torch
from pathlib import Path
large = torch.ones(64 * 2**20)
inside = False
for line in Path("/proc/self/smaps").open():  # the mapping that the tensor lies in
    if "-" in line.split()[0]:
        start, end = (int(address, 16) for address in line.split()[0].split("-"))
        inside = start <= large.data_ptr() + large.nbytes // 2 < end
    elif inside and line.startswith("AnonHugePages"):
        print(line.split()[1])
"""


@pytest.mark.parametrize("given", [{}, {"THP_MEM_ALLOC_ENABLE": "0"}])
def test_large_tensors_lie_on_huge_pages_unless_told_otherwise(given):
    """torch reads the variable once, with its first tensor, which every part of kdad comes before."""
    if not HUGE_PAGES.exists() or "[madvise]" not in HUGE_PAGES.read_text():
        pytest.skip("needs Linux with huge pages for those who ask")
    environment = {k: v for k, v in os.environ.items() if k != "THP_MEM_ALLOC_ENABLE"} | given
    done = subprocess.run([sys.executable, "-c", HUGE], env=environment, capture_output=True, text=True, check=True)
    assert (int(done.stdout) > 0) == (not given)


# Adam in one pass: the same numbers as Adam in several

LAYOUTS = torch.contiguous_format, torch.channels_last


def weights(layout=torch.channels_last):
    generator = torch.Generator().manual_seed(0)
    shapes = (8, 6, 3, 3), (8,), (4, 8, 1, 1)
    drawn = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    return [
        w.contiguous(memory_format=layout if w.dim() == 4 else torch.contiguous_format).requires_grad_() for w in drawn
    ]


def take_steps(optimizer, start, stop):
    for step in range(start, stop):
        optimizer.zero_grad()
        generator = torch.Generator().manual_seed(1 + step)
        parts = [
            (w * torch.randn(w.shape, generator=generator, dtype=w.dtype)).sum()
            for w in optimizer.param_groups[0]["params"]
        ]
        sum(parts).backward()
        optimizer.step()


def trained(steps, layout=torch.channels_last):
    """By torch's Adam as it is."""
    known = weights(layout)
    optimizer = torch.optim.Adam(known, lr=0.1, betas=(0.5, 0.999))
    take_steps(optimizer, 0, steps)
    return known, optimizer.state_dict()


def fused(known, **more):
    return fuse(torch.optim.Adam(known, lr=0.1, betas=(0.5, 0.999), **more))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_it_takes_adams_steps(layout):
    known = weights(layout)
    optimizer = fused(known)
    assert optimizer.param_groups[0]["fused"] is True
    take_steps(optimizer, 0, 5)
    for found, expected in zip(known, trained(5, layout)[0], strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("stored", LAYOUTS)
def test_it_goes_on_from_moments_that_were_stored_in_either_layout(stored):
    known, state = weights(), fused(before := weights(stored))
    take_steps(state, 0, 3)
    with torch.no_grad():
        for own, other in zip(known, before, strict=True):
            own.copy_(other)
    optimizer = fused(known)
    optimizer.load_state_dict(state.state_dict())
    assert optimizer.param_groups[0]["fused"] is True
    take_steps(optimizer, 3, 6)
    for found, expected in zip(known, trained(6)[0], strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_what_is_configured_or_cannot_be_fused_stays_as_it_is():
    assert fused(weights(), fused=False).param_groups[0]["fused"] is False
    assert fused(weights(), foreach=True).param_groups[0]["fused"] is None
    assert fused([torch.zeros(2, device="meta", requires_grad=True)]).param_groups[0]["fused"] is None
    assert fuse(torch.optim.SGD(weights(), lr=0.1)).param_groups[0]["fused"] is None


@pytest.mark.parametrize("automatic", [True, False])
def test_a_detector_fuses_where_lightning_takes_the_gradients(random_resnet18, adam, automatic):
    detector = STPM(backbone=random_resnet18, optimizer=adam, image_size=64)
    detector.automatic_optimization = automatic  # otherwise a detector may make gradients that lie in another order
    assert bool(detector.configure_optimizers().param_groups[0]["fused"]) == automatic


@pytest.mark.parametrize("mode", ["auto", "off"])
def test_float32_on_a_gpu_is_float32(mode, monkeypatch):
    """Whatever torch's default is: scores would depend on how many images a batch has."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    speed.use_machine(mode)
    try:
        assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32
    finally:
        speed.use_machine("auto")


PIECES = """
import ctypes, sys
import kdad.speed, torch
from pathlib import Path
from kdad.speed import release_memory, use_machine

use_machine(sys.argv[1])
ctypes.CDLL(None).mallopt(-3, 2**25)  # blocks up to 32 MiB come from the heap, as all do that kdad keeps

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20

held = []
for _ in range(20):
    large = torch.ones(4 * 2**20)
    held.append(torch.ones(2**10))  # what stays behind each
    del large
    large = [torch.ones(4 * 2**20) for _ in range(4)]
del large
before = resident()
release_memory()
print(before - resident())
"""


@pytest.mark.parametrize(("mode", "least", "most"), [("auto", 40, 10_000), ("off", -1, 1)])
def test_memory_that_nothing_uses_goes_back_between_epochs(mode, least, most):
    done = subprocess.run([sys.executable, "-c", PIECES, mode], capture_output=True, text=True, check=True)
    assert least < float(done.stdout) < most
