"""Arrays that are computed once: decoded images, teacher features. `python -m kdad.cache` lists and clears those on disk.

In memory within a budget, where later jobs of a sweep find them; else in files that are memory-mapped; else
nowhere, and the caller computes anew each time. A file takes its name only when it is whole, so that a killed job
leaves nothing that is believed, and jobs that build the same array at once leave one of two equal files.
"""

import argparse
import errno
import hashlib
import logging
import os
import shutil
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from kdad.errors import UserError

log = logging.getLogger(__name__)
STORAGES = ("auto", "memory", "disk", "off")
GB = 2**30
_MEMORY: OrderedDict[str, Tensor] = OrderedDict()  # of this process, least recently used first


class Array(NamedTuple):
    """One array to keep: `identity` is all that its values depend on, `what` says it to people."""

    identity: tuple
    shape: tuple[int, ...]
    dtype: str
    what: str

    @property
    def key(self) -> str:
        return hashlib.sha256(repr((self.identity, self.shape, self.dtype)).encode()).hexdigest()[:32]

    @property
    def size(self) -> int:
        return int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize


# Yields rows of each array asked for (by position), in order, a chunk at a time.
Produce = Callable[[Sequence[int]], Iterator[Sequence[np.ndarray]]]


class ArrayStore:
    """Keeps arrays in one of `STORAGES`; auto is memory, else disk, else nowhere.

    `memory_gb` and `disk_gb` bound what is kept (memory: of this process; disk: of `folder`). `report` counts for
    results.json: where arrays are, bytes, hits and misses.
    """

    def __init__(self, storage: str = "auto", memory_gb: float = 4.0, disk_gb: float = 20.0, folder: str = "~/.cache/kdad"):
        if storage not in STORAGES:
            raise UserError(f"cache.storage={storage}: give one of {', '.join(STORAGES)}")
        self.storage, self.memory, self.disk = storage, memory_gb * GB, disk_gb * GB
        self.folder = Path(folder).expanduser() / "arrays"
        self.report = {"storage": "off", "bytes": 0, "hits": 0, "misses": 0}

    def fetch(self, arrays: Sequence[Array], produce: Produce) -> list[Tensor] | None:
        """The arrays, from the cache or from `produce`, which is asked for the missing ones alone.

        None where they are to be kept nowhere.
        """
        found = {i: hit for i, array in enumerate(arrays) if (hit := self._find(array)) is not None}
        missing = [i for i in range(len(arrays)) if i not in found]
        for i, tensor in zip(missing, self._make([arrays[i] for i in missing], lambda: produce(missing)), strict=False):
            found[i] = tensor
        if len(found) < len(arrays):
            return None
        self.report["hits"] += len(arrays) - len(missing)
        self.report["misses"] += len(missing)
        self.report["bytes"] += sum(array.size for array in arrays)
        return [found[i] for i in range(len(arrays))]

    def _find(self, array: Array) -> Tensor | None:
        if self.storage in ("auto", "memory") and array.key in _MEMORY:
            _MEMORY.move_to_end(array.key)
            self.report["storage"] = "memory"
            return _MEMORY[array.key]
        path = self._path(array)
        if self.storage in ("auto", "disk") and path.is_file():
            os.utime(path)  # the time of last use, for eviction
            self.report["storage"] = "disk"
            return torch.from_numpy(np.load(path, mmap_mode="c"))
        return None

    def _make(self, arrays: list[Array], produce: Callable[[], Iterator[Sequence[np.ndarray]]]) -> list[Tensor]:
        """Empty where there is no place."""
        size = sum(array.size for array in arrays)
        if not arrays or self.storage == "off":
            return []
        if self.storage in ("auto", "memory") and size <= self.memory:
            self.report["storage"] = "memory"
            return self._in_memory(arrays, produce(), size)
        if self.storage in ("auto", "disk") and size <= self.disk:
            try:
                self._on_disk(arrays, produce(), size)
                return [self._find(array) for array in arrays]
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EFBIG):
                    raise
                log.warning("cannot cache %s in %s: %s; computing anew instead", arrays[0].what, self.folder, error)
        else:
            log.warning("%s would take %.1f GB, beyond the cache's budget; computing anew instead", arrays[0].what, size / GB)
        self.report["storage"] = "streamed"
        return []

    def _in_memory(self, arrays: list[Array], chunks: Iterator[Sequence[np.ndarray]], size: int) -> list[Tensor]:
        while _MEMORY and size + sum(t.nbytes for t in _MEMORY.values()) > self.memory:
            _MEMORY.popitem(last=False)
        made = [np.empty(array.shape, array.dtype) for array in arrays]
        start = 0
        for rows in chunks:
            for target, part in zip(made, rows, strict=True):
                target[start : start + len(part)] = part
            start += len(rows[0])
        tensors = [torch.from_numpy(target) for target in made]
        _MEMORY.update({array.key: tensor for array, tensor in zip(arrays, tensors, strict=True)})
        return tensors

    def _on_disk(self, arrays: list[Array], chunks: Iterator[Sequence[np.ndarray]], size: int) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._evict(size)
        with ExitStack() as stack:
            files = []
            for array in arrays:
                descriptor, name = tempfile.mkstemp(dir=self.folder, prefix=".building.")
                stack.callback(Path(name).unlink, missing_ok=True)
                file = stack.enter_context(os.fdopen(descriptor, "wb"))
                header = {"descr": np.dtype(array.dtype).str, "fortran_order": False, "shape": array.shape}
                np.lib.format.write_array_header_1_0(file, header)
                files.append((file, name))
            # Plain writes, since a full disk shows in a memory map as a bus error instead of an exception.
            for rows in chunks:
                for (file, _), part in zip(files, rows, strict=True):
                    file.write(np.ascontiguousarray(part).data)
            for array, (file, name) in zip(arrays, files, strict=True):
                file.flush()
                os.fsync(file.fileno())
                self._path(array).with_suffix(".txt").write_text(array.what, encoding="utf-8")
                os.replace(name, self._path(array))

    def _evict(self, size: int) -> None:
        """Make room below the budget by removing what was not used for longest, and what killed jobs left."""
        for left in self.folder.glob(".building.*"):
            if time.time() - left.stat().st_mtime > 24 * 3600:
                left.unlink(missing_ok=True)
        files = sorted(self.folder.glob("*.npy"), key=lambda p: p.stat().st_mtime)
        excess = size + sum(p.stat().st_size for p in files) - self.disk
        for path in files:
            if excess <= 0:
                break
            excess -= path.stat().st_size
            remove(path)

    def _path(self, array: Array) -> Path:
        return self.folder / f"{array.key}.npy"


def remove(path: Path) -> None:
    """Remove an array from disk. Jobs that have it mapped keep it until they end."""
    path.unlink(missing_ok=True)
    path.with_suffix(".txt").unlink(missing_ok=True)


def content_hash(tensor: Tensor) -> str:
    """Thirty-two hex digits of a tensor's bytes."""
    return hashlib.blake2b(tensor.contiguous().numpy().data, digest_size=16).hexdigest()


def main(arguments: Sequence[str] | None = None) -> None:
    """`python -m kdad.cache [list|clear]`."""
    default = os.environ.get("XDG_CACHE_HOME", "~/.cache") + "/kdad"
    parser = argparse.ArgumentParser(prog="python -m kdad.cache", description="What kdad keeps on disk between runs.")
    parser.add_argument("action", choices=("list", "clear"), nargs="?", default="list")
    parser.add_argument("--folder", default=default, help=f"the cache.folder of the runs (default {default})")
    chosen = parser.parse_args(arguments)
    folder = Path(chosen.folder).expanduser() / "arrays"
    files = sorted(folder.glob("*.npy"))
    total = sum(p.stat().st_size for p in files) / GB
    if chosen.action == "clear":
        shutil.rmtree(folder, ignore_errors=True)
        print(f"Removed {len(files)} arrays, {total:.2f} GB, from {folder}")
        return
    for path in files:
        text = path.with_suffix(".txt")
        what = text.read_text(encoding="utf-8") if text.is_file() else ""
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(path.stat().st_mtime))
        print(f"{path.stat().st_size / GB:8.3f} GB  {used}  {what}")
    print(f"{len(files)} arrays, {total:.2f} GB, in {folder}")


if __name__ == "__main__":
    main()
