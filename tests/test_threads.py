"""Threads by what the process may use."""

import os

import pytest
import torch

from kdad import threads


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
    monkeypatch.setattr(threads, "QUOTA", tmp_path / "cpu.max")
    if quota:
        threads.QUOTA.write_text(quota + "\n")
    assert threads.cores() == expected


def test_torch_gets_no_more_threads_than_cores(torch_threads, monkeypatch):
    monkeypatch.setattr(threads, "cores", lambda: 3)
    torch.set_num_threads(6)
    threads.use_threads()
    assert torch.get_num_threads() == 3
    torch.set_num_threads(2)  # fewer were asked for
    threads.use_threads()
    assert torch.get_num_threads() == 2


def test_omp_num_threads_is_obeyed(torch_threads, monkeypatch):
    monkeypatch.setattr(threads, "cores", lambda: 1)
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    torch.set_num_threads(4)
    threads.use_threads()
    assert torch.get_num_threads() == 4
