"""Arrays that are computed once: decoded images, teacher features.

In memory within a budget, where later jobs of a sweep find them; else in files, of which rows are read as they are
needed; else nowhere, and the caller computes anew each time. A file takes its name only when it is whole, so that a
killed job leaves nothing that is believed, and jobs that build the same array at once leave one of two equal files.
"""

import hashlib
import logging
import os
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

import kdad
from kdad.errors import UserError
from kdad.storage.files import GB, list_files, read_note, remove, write_note
from kdad.storage.rows import FileRows, MadeRows, Table

log = logging.getLogger(__name__)
STORAGES = ("auto", "memory", "disk", "off")
# What else values depend on: the code that decodes and computes. Files on disk outlive an upgrade.
CODE = (kdad.__version__, *(version(name) for name in ("torch", "timm", "pillow")))
_MEMORY: OrderedDict[str, Tensor] = OrderedDict()  # of this process, least recently used first
_SECONDS: dict[str, float] = {}  # that making them took


class Array(NamedTuple):
    """One array to keep: `identity` holds all that its values depend on, `what` names it to people."""

    identity: tuple
    shape: tuple[int, ...]
    dtype: str
    what: str

    @property
    def key(self) -> str:
        """Its name in the cache, of 32 hex digits."""
        return hashlib.sha256(repr((CODE, self.identity, self.shape, self.dtype)).encode()).hexdigest()[:32]

    @property
    def size(self) -> int:
        """Its size in bytes."""
        return int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize


# Yields rows of each array asked for (by position), in order, a chunk at a time.
Produce = Callable[[Sequence[int]], Iterator[Sequence[np.ndarray]]]


class ArrayStore:
    """A place for arrays, one of `STORAGES`: auto is memory, else disk, else nowhere.

    `memory_gb` and `disk_gb` bound what is kept (memory: of this process; disk: of `folder`). One store serves one
    job: what it has handed out from memory counts until the job ends. `report` counts for results.json: where arrays
    are, bytes, hits and misses; `seconds` that making took, and those that finding has `saved`, as making them had
    taken.
    """

    def __init__(
        self,
        storage: str = "auto",
        memory_gb: float = 4.0,
        disk_gb: float = 20.0,
        folder: str | os.PathLike = "~/.cache/kdad",
    ):
        if storage not in STORAGES:
            raise UserError(f"cache.storage={storage}: give one of {', '.join(STORAGES)}")
        for key, value in {"memory_gb": memory_gb, "disk_gb": disk_gb}.items():
            if not isinstance(value, int | float) or isinstance(value, bool) or not value >= 0:
                raise UserError(f"cache.{key}={value}: give a number of gigabytes, at least 0")
        self.storage, self.memory, self.disk = storage, memory_gb * GB, disk_gb * GB
        self.folder = Path(folder).expanduser() / "arrays"
        self.report: dict[str, Any] = {
            "storage": "off",
            "bytes": 0,
            "hits": 0,
            "misses": 0,
            "seconds": 0.0,
            "saved": 0.0,
        }
        self._held: dict[str, int] = {}  # bytes in memory that this job uses, by key
        self._places: dict[str, None] = {}  # in the order of first use

    def describe(self) -> dict[str, Any]:
        """Return the report as results.json has it: `cache_<word>`, seconds to the thousandth."""
        return {f"cache_{key}": round(v, 3) if isinstance(v, float) else v for key, v in self.report.items()}

    def fetch(self, arrays: Sequence[Array], produce: Produce) -> list[Table] | None:
        """Fetch arrays from the cache, or from `produce` those that are missing there.

        Returns for each a tensor, or rows of a file; None where they are to be kept nowhere.
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

    def _find(self, array: Array) -> Table | None:
        if self.storage in ("auto", "memory") and array.key in _MEMORY:
            _MEMORY.move_to_end(array.key)
            self._held[array.key] = array.size
            self._note("memory")
            self.report["saved"] += _SECONDS.get(array.key, 0)
            return _MEMORY[array.key]
        if self.storage in ("auto", "disk"):
            path = self.locate(array)
            try:
                found = FileRows(path, array.key)
                if (found.shape, found.dtype) != (array.shape, np.dtype(array.dtype)):
                    raise ValueError(f"it holds {found.dtype} of shape {found.shape}")
            except FileNotFoundError:
                return None
            except Exception as error:  # a damaged header is Python text, which raises nearly anything
                log.warning("cannot read %s from %s (%s); computing it anew", array.what, path, error)
                return None
            with suppress(OSError):  # removed in the meantime, or another user's
                os.utime(path)  # the time of last use, for eviction
            self._note("disk")
            self.report["saved"] += read_note(path)[1]
            return found
        return None

    def _note(self, place: str) -> None:
        self._places[place] = None
        self.report["storage"] = ", ".join(self._places)

    def _make(self, arrays: list[Array], produce: Callable[[], Iterator[Sequence[np.ndarray]]]) -> list[Table]:
        """Make arrays in the first place that has room for them; returns none where no place has."""
        size = sum(array.size for array in arrays)
        if not arrays or self.storage == "off":
            return []
        if self.storage in ("auto", "memory") and size + sum(self._held.values()) <= self.memory:
            self._note("memory")
            return self._put_in_memory(arrays, produce(), size)
        if self.storage in ("auto", "disk") and size <= self.disk:
            try:
                made = self._put_on_disk(arrays, produce(), size)
                self._note("disk")
                return made
            except OSError as error:  # full, read-only, cleared meanwhile: nothing that should stop a job
                log.warning("cannot cache %s in %s: %s; computing anew instead", arrays[0].what, self.folder, error)
        else:
            what = arrays[0].what
            log.warning("%s would take %.1f GB, beyond the cache's budget; computing anew instead", what, size / GB)
        self._note("streamed")
        return []

    def reserve(self, name: str, size: int) -> bool:
        """Set so many bytes of the memory aside for what is no array of the store. Returns whether there is room."""
        if size + sum(self._held.values()) > self.memory:
            return False
        self._drop_others(size)
        self._held[name] = size
        return True

    def _drop_others(self, size: int) -> None:
        """Make room in memory: drop the least recently used arrays that this job does not use."""
        for key in [k for k in _MEMORY if k not in self._held]:
            if size + sum(t.nbytes for t in _MEMORY.values()) <= self.memory:
                break
            del _MEMORY[key]

    def _put_in_memory(self, arrays: list[Array], chunks: Iterator[Sequence[np.ndarray]], size: int) -> list[Table]:
        self._drop_others(size)
        made = [np.empty(array.shape, array.dtype) for array in arrays]
        start, began = 0, time.perf_counter()
        for rows in chunks:
            for target, part in zip(made, rows, strict=True):
                target[start : start + len(part)] = part
            start += len(rows[0])
        tensors = [torch.from_numpy(target) for target in made]
        seconds = self._share_seconds(began, arrays)
        for array, tensor in zip(arrays, tensors, strict=True):
            _MEMORY[array.key], self._held[array.key] = tensor, array.size
            _SECONDS[array.key] = seconds[array.key]
        return list(tensors)

    def _put_on_disk(self, arrays: list[Array], chunks: Iterator[Sequence[np.ndarray]], size: int) -> list[Table]:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._evict(size)
        kept: list[Table] = []
        began = time.perf_counter()
        with ExitStack() as stack:
            files = []
            for array in arrays:
                path = self.folder / f".building.{secrets.token_hex(8)}"
                stack.callback(path.unlink, missing_ok=True)
                file = stack.enter_context(path.open("xb"))
                header = {"descr": np.dtype(array.dtype).str, "fortran_order": False, "shape": array.shape}
                np.lib.format.write_array_header_1_0(file, header)
                files.append((file, path))
            # Plain writes, since a full disk shows in a memory map as a bus error instead of an exception.
            for rows in chunks:
                for (file, _), part in zip(files, rows, strict=True):
                    file.write(np.ascontiguousarray(part).data)
            seconds = self._share_seconds(began, arrays)
            for array, (file, path) in zip(arrays, files, strict=True):
                file.flush()
                os.fsync(file.fileno())
                # Opened while it is this job's alone: under its name another job may remove it at any time.
                kept.append(FileRows(path, array.key))
                write_note(self.locate(array), array.what, seconds[array.key])
                path.replace(self.locate(array))
        return kept

    def _share_seconds(self, began: float, arrays: list[Array]) -> dict[str, float]:
        """Return of each array that was made since then, together, its share of the seconds, by size."""
        seconds = time.perf_counter() - began
        self.report["seconds"] += seconds
        total = sum(array.size for array in arrays) or 1
        return {array.key: seconds * array.size / total for array in arrays}

    def _evict(self, size: int) -> None:
        """Make room within the budget: remove the least recently used arrays, and what killed jobs left behind."""
        for path, used, _ in list_files(self.folder, ".building.*"):
            if time.time() - used > 24 * 3600:
                path.unlink(missing_ok=True)
        files = sorted(list_files(self.folder, "*.npy"), key=lambda found: found[1])
        excess = size + sum(length for _, _, length in files) - self.disk
        for path, _, length in files:
            if excess <= 0:
                break
            excess -= length
            remove(path)

    def locate(self, array: Array) -> Path:
        return self.folder / f"{array.key}.npy"


def hash_content(array: Table) -> str:
    """Return 32 hex digits that stand for a tensor's bytes (BLAKE2b); of rows that are not in memory their key."""
    if isinstance(array, FileRows | MadeRows):
        return array.key
    tensor = cast(Tensor, array)
    return hashlib.blake2b(tensor.contiguous().numpy().data, digest_size=16).hexdigest()
