"""Rows that are not in memory: what they give is what a tensor would."""

import numpy as np
import pytest
import torch

from kdad.storage.rows import FileRows, MadeRows


@pytest.fixture(params=["uint8", "float32", "bool"])
def values(request):
    return (np.random.default_rng(0).random((20, 3, 4)) * 2).astype(request.param)


def make(kind, values, tmp_path):
    if kind == "made":
        return MadeRows(lambda row: torch.from_numpy(values[row]), values.shape, torch.from_numpy(values).dtype)
    np.save(tmp_path / "a.npy", values)
    return FileRows(tmp_path / "a.npy", "key")


@pytest.mark.parametrize("kind", ["file", "made"])
@pytest.mark.parametrize("rows", [
    slice(3, 9), slice(0, 0), [5, 0, 5], torch.tensor([19, 2]), slice(None), range(2, 4)
])  # fmt: skip
def test_rows_are_those_of_the_array(tmp_path, kind, rows, values):
    table = make(kind, values, tmp_path)
    expected = torch.from_numpy(values)[list(rows) if isinstance(rows, range) else rows]
    assert len(table) == 20 and tuple(table.shape) == (20, 3, 4)
    found = table[rows]
    assert found.dtype == expected.dtype and torch.equal(found, expected)


def test_a_file_that_is_removed_meanwhile_is_still_read(tmp_path, values):
    table = make("file", values, tmp_path)
    (tmp_path / "a.npy").unlink()
    assert torch.equal(table[:], torch.from_numpy(values))


def test_a_file_that_is_cut_is_refused(tmp_path, values):
    make("file", values, tmp_path)
    whole = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(whole[:-5])
    with pytest.raises(ValueError, match=r"mmap|size"):
        FileRows(tmp_path / "a.npy", "key")


def test_a_file_does_not_fill_memory(tmp_path):
    """200 MB read row by row leave this process as large as it was; a memory map's pages would count."""
    rows = np.lib.format.open_memmap(tmp_path / "a.npy", "w+", "uint8", (200, 1_000_000))
    rows[:] = 7
    rows.flush()
    del rows
    table = FileRows(tmp_path / "a.npy", "key")

    def measure():
        pages = dict(line.split(":") for line in open("/proc/self/status") if ":" in line)
        return int(pages["VmRSS"].split()[0]) / 1024

    before = measure()
    assert all(table[[row]].sum() == 7_000_000 for row in range(200))
    assert measure() - before < 50
