"""From what was measured on a few images to what a whole job comes to: seconds, memory, disk. Only sums."""

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from heapq import heapreplace
from typing import Any, NamedTuple

from kdad.engine.decide import MOST
from kdad.engine.trial import Costs, Images
from kdad.geometry import as_pair
from kdad.metrics.detection import EXACT_ANOMALOUS, EXACT_NORMAL
from kdad.storage.files import GB

FLOAT = 4  # bytes of a pixel's score


class Price(NamedTuple):
    """What one job comes to: seconds, bytes of memory at their peak, and bytes that stay on disk."""

    seconds: float
    memory: int
    disk: int


class Kept:
    """The arrays that a process has in memory and a machine on disk, as `storage/cache.py` would keep them."""

    def __init__(self) -> None:
        self.memory: OrderedDict[Any, int] = OrderedDict()
        self.disk: dict[Any, int] = {}

    def fetch(self, arrays: Mapping[Any, int], held: dict[Any, int], cache: Mapping[str, Any]) -> list[Any] | None:
        """Keep a job's arrays, by key, with their bytes; return those that it has to make, None if kept nowhere."""
        storage, budget = cache["storage"], cache["memory_gb"] * GB
        missing = [key for key in arrays if key not in self.memory and key not in self.disk]
        size = sum(arrays[key] for key in missing)
        for key in arrays:
            if key in self.memory:
                self.memory.move_to_end(key)
                held[key] = arrays[key]
        if not missing:
            return []
        if storage in ("auto", "memory") and size + sum(held.values()) <= budget:
            self.make_room(size, held, budget)
            for key in missing:
                self.memory[key] = held[key] = arrays[key]
        elif storage in ("auto", "disk") and size <= cache["disk_gb"] * GB:
            self.disk |= {key: arrays[key] for key in missing}
        else:
            return None
        return missing

    def make_room(self, size: int, held: Mapping[Any, int], budget: float) -> None:
        """Drop the arrays that were not used for longest, but for those that are held."""
        for key in [key for key in self.memory if key not in held]:
            if size + sum(self.memory.values()) <= budget:
                break
            del self.memory[key]

    def reserve(self, key: Any, size: int, held: dict[Any, int], budget: float) -> bool:
        """Set bytes of memory aside for what no other job can use; return whether there is room."""
        if size + sum(held.values()) > budget:
            return False
        self.make_room(size, held, budget)
        held[key] = size
        return True


def price_job(cfg: Any, costs: Costs, images: Images, data: Any, kept: Kept, behind: int = 0) -> Price:
    """Return what a job comes to, after those whose arrays are `kept`.

    `data` stands for its images, whatever their size; `behind` are the epochs that it has done already.
    """
    height, width = as_pair(cfg.image_size)
    normal = images.train + images.validation + images.calibration
    tiled = cfg.tiling.size is not None
    parts = {"normal": round(normal * costs.units)} | ({} if tiled else {"test": images.test})
    cache = cfg.cache
    held: dict[Any, int] = {}
    seconds = costs.fixed + images.listing + images.look * (normal + images.test)
    anew = feature_anew = 0.0  # seconds per image, each time that it is seen
    for part, count in parts.items():
        key, size = (data, part, height, width), 3 * height * width
        missing = kept.fetch({key: count * size}, held, cache)
        if missing or missing is None:
            seconds += images.decode * count / (costs.units if part == "normal" else 1)
        if missing is None and not kept.reserve(key, count * size, held, cache.memory_gb * GB):
            anew = images.decode
    if images.masked and not tiled:
        kept.reserve("masks", images.test * height * width, held, cache.memory_gb * GB)
    for part, count in parts.items():
        if costs.levels:
            teacher = (cfg.backbone.name, cfg.backbone.get("weights"), cfg.normalisation)
            levels = {(data, part, height, width, *teacher, path): count * size for path, size in costs.levels}
            missing = kept.fetch(levels, held, cache)
            seconds += costs.feature * count if missing else 0.0
            feature_anew = costs.feature if missing is None else feature_anew
    again = anew + feature_anew
    epochs = count_epochs(cfg, images, costs)
    averaged = max(1, min(cfg.average_epochs, epochs))
    epochs = max(0, epochs - behind)
    processes = count_processes(cfg)
    train = limit(cfg.trainer.get("limit_train_batches"), images.train * costs.units / processes, cfg.batch_size)
    validation = images.validation * costs.units / processes
    epoch = costs.epoch + train * (costs.step + again) + validation * (costs.validation + again)
    every = cfg.checkpoint_seconds
    saves = epochs if epoch >= every else epochs * epoch / every
    seconds += images.train * costs.prepare + epochs * epoch + (saves + 2) * costs.save
    normals = images.calibration or images.validation or min(images.train, MOST)
    seconds += normals * (costs.decide + again)
    test = limit(cfg.trainer.get("limit_test_batches"), images.test / processes, cfg.batch_size)
    tests = averaged + len(cfg.variants)
    seconds += tests * (costs.begin_test * images.tests + test * (costs.test + again))
    written = min(cfg.pictures * images.tests, images.test) * (1 + len(cfg.variants))
    seconds += written * costs.write
    pixel_bytes = FLOAT * EXACT_NORMAL * (1 - costs.anomalous) + EXACT_ANOMALOUS * costs.anomalous
    testing = costs.testing_bytes + min(test * costs.pixels * pixel_bytes, cfg.metrics.memory_gb * GB)
    disk = sum(costs.checkpoints.values()) + written * costs.picture_bytes + costs.file_bytes
    if cfg.average_epochs > 1:
        disk += averaged * costs.checkpoints["tested"]
    in_memory = max(sum(held.values()), sum(kept.memory.values()))
    return Price(seconds, round(max(costs.training_bytes, testing) + in_memory), round(disk))


def count_processes(cfg: Any) -> int:
    """Return how many processes share a job's images, each with a device of its own."""
    devices = cfg.trainer.get("devices", 1)
    if isinstance(devices, str) or devices == -1:
        import torch

        devices = int(devices) if str(devices).isdigit() else max(1, torch.cuda.device_count())
    return (devices if isinstance(devices, int) else len(devices)) * (cfg.trainer.get("num_nodes") or 1)


def count_epochs(cfg: Any, images: Images, costs: Costs) -> int:
    """Return how many epochs a job has at most."""
    steps, epochs = cfg.trainer.get("max_steps") or -1, cfg.trainer.max_epochs
    count = limit(cfg.trainer.get("limit_train_batches"), images.train * costs.units, cfg.batch_size)
    by_steps = math.ceil(steps / max(1, math.ceil(count / cfg.batch_size / count_processes(cfg))))
    if epochs is None or epochs < 0:
        return by_steps if steps > 0 else 1000  # Lightning's own
    return min(epochs, by_steps) if steps > 0 else epochs


def limit(batches: float | None, images: float, batch_size: int) -> float:
    """Return how many images are left by a number of batches, or by a share of them."""
    if batches is None:
        return images
    return images * batches if isinstance(batches, float) else min(images, batches * batch_size)


def time_at_once(seconds: Sequence[float], processes: int) -> float:
    """Return how long jobs take that so many processes take up in turn, each the next one when it is done."""
    busy = [0.0] * processes
    for job in seconds:
        heapreplace(busy, busy[0] + job)
    return max(busy)
