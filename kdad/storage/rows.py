"""Arrays of more rows than memory holds: indexed as a tensor is, each row read or made when it is asked for."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

Rows = slice | Sequence[int] | Tensor


class Table(Protocol):
    """What `FileRows`, `MadeRows` and a tensor have in common: rows of a shape, taken by their numbers."""

    @property
    def shape(self) -> Sequence[int]: ...

    def __getitem__(self, rows: Rows, /) -> Tensor: ...

    def __len__(self) -> int: ...


class FileRows:
    """The rows of a .npy file. They are read, not mapped: pages of a mapped file would count as this process's memory.

    The file may be removed meanwhile. `key` stands for the content. Raises OSError or ValueError where the file is
    missing or not whole.
    """

    def __init__(self, path: Path, key: str):
        mapped = np.lib.format.open_memmap(path, mode="r")  # which checks header and length, and reads nothing
        if not mapped.flags.c_contiguous:
            raise ValueError("its rows do not lie one after the other")
        self.shape, self.key, self.dtype = mapped.shape, key, mapped.dtype
        self._start, self._bytes = mapped.offset, mapped.nbytes // max(1, len(mapped))
        self._file = path.open("rb")

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Rows) -> Tensor:
        numbers = list_rows(rows, len(self))
        found = np.empty((len(numbers), *self.shape[1:]), self.dtype)
        for place, row in enumerate(numbers):
            view = found[place].reshape(-1).view(np.uint8).data
            if os.preadv(self._file.fileno(), [view], self._start + row * self._bytes) != self._bytes:
                raise OSError(f"{self._file.name} is no longer whole: kdad cache clear removes it")
        return torch.from_numpy(found)


class MadeRows:
    """Rows that `make` makes anew each time, on threads; `key` stands for the content."""

    def __init__(self, make: Callable[[int], Tensor], shape: Sequence[int], dtype: torch.dtype, key: str = ""):
        self.make, self.shape, self.dtype, self.key = make, tuple(shape), dtype, key

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Rows) -> Tensor:
        numbers = list_rows(rows, len(self))
        found = torch.empty((len(numbers), *self.shape[1:]), dtype=self.dtype)
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
            for place, row in enumerate(threads.map(self.make, numbers)):
                found[place] = row
        return found


def list_rows(rows: Rows, count: int) -> list[int]:
    """Return the numbers of the rows that an index names, of so many."""
    if isinstance(rows, slice):
        return list(range(count))[rows]
    return rows.tolist() if isinstance(rows, Tensor) else list(rows)
