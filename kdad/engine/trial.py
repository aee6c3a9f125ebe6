"""What a job costs here, measured: the job itself, in a process of its own, on a few images in a folder that goes.

Numbers are of a step, an image, an epoch; `price.py` makes of them what a whole job comes to.
"""

import copy
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig

from kdad.data.base import AnomalyDataModule
from kdad.data.union import Union
from kdad.engine.build import build_detector, list_data
from kdad.engine.clock import EPOCHS, Clock
from kdad.engine.job import train_and_test
from kdad.engine.record import describe
from kdad.engine.run_folder import RunFolder
from kdad.geometry import as_pair
from kdad.models.base import KDDetector
from kdad.speed import use_machine
from kdad.storage.cache import ArrayStore

STEPS, TESTED, PICTURES = 4, 32, 8  # batches in an epoch, test images, and those of pictures in tiles


class Costs(NamedTuple):
    """What one configuration costs on this machine, in seconds and bytes."""

    start: float = 0.0  # until a new process begins its first job
    fixed: float = 0.0  # of a job, besides all below
    feature: float = 0.0  # per image: the teacher's pass before training; 0 where the teacher is part of each step
    prepare: float = 0.0  # per training image: statistics before the first step
    step: float = 0.0  # per training image of an epoch
    epoch: float = 0.0  # per epoch, besides its steps
    validation: float = 0.0  # per validation image of an epoch
    decide: float = 0.0  # per normal image: thresholds, and statistics after the last step
    save: float = 0.0  # per checkpoint
    begin_test: float = 0.0  # per test
    test: float = 0.0  # per test image
    write: float = 0.0  # per picture
    levels: tuple[tuple[str, int], ...] = ()  # of the teacher: path, and bytes of an image's features
    units: float = 1.0  # that are trained on per image: tiles
    pixels: float = 0.0  # of a test image with a mask
    anomalous: float = 0.0  # the share of them that is
    training_bytes: int = 0  # of memory while it trains, besides data
    testing_bytes: int = 0
    device_bytes: int = 0  # of an accelerator's memory
    checkpoints: Mapping[str, int] = {}  # name -> bytes
    picture_bytes: float = 0.0
    file_bytes: int = 0  # of all other files


class Images(NamedTuple):
    """How many images a job has, by their part, and the seconds that listing all and reading one takes."""

    train: int
    validation: int
    calibration: int
    test: int
    masked: bool
    tests: int  # one; of a unified run one per category
    listing: float
    look: float  # per image, also where it is cached: its header, its mask
    decode: float  # per image


def cut(data: AnomalyDataModule, train: int, test: int) -> None:
    """Leave so many training and test images of a data module that has listed them, some of each kind."""
    data.train_samples, data.val_samples = data.train_samples[:train], data.val_samples[:train]
    data.calibration_samples = data.calibration_samples[:train]
    parts = data.parts if isinstance(data, Union) else [data]
    for part in parts:
        count = min(len(part.test_samples), max(2, test // len(parts)))
        rows = [round(i * (len(part.test_samples) - 1) / max(1, count - 1)) for i in range(count)]
        part.test_samples = [part.test_samples[row] for row in rows]
    data.test_samples = [sample for part in parts for sample in part.test_samples]


def count_images(cfg: DictConfig) -> Images:
    """List a job's images, and time it and the reading of a few. Raises `UserError` as a run does."""
    use_machine(cfg.speed)
    before = time.perf_counter()
    data = list_data(cfg)
    listing = time.perf_counter() - before
    parts = (data.train_samples, data.val_samples, data.calibration_samples, data.test_samples)
    train, validation, calibration, test = map(len, parts)
    tests = len(data.parts) if isinstance(data, Union) else 1
    cut(data, STEPS * 4, STEPS * 4)
    read = sum(map(len, (data.train_samples, data.val_samples, data.calibration_samples, data.test_samples)))
    data.store = ArrayStore("memory")
    seconds = []
    for _ in range(2):  # the second time they are there
        before = time.perf_counter()
        data.splits = {}
        data.setup()
        seconds.append((time.perf_counter() - before) / read)
    decode = max(0.0, seconds[0] - seconds[1])
    return Images(train, validation, calibration, test, data.has_masks, tests, listing, seconds[1], decode)


def measure(cfg: dict[str, Any]) -> Costs:
    """Return what a job of this resolved configuration costs, measured in a new process. Raises as the job does."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool, TemporaryDirectory() as folder:
        return pool.submit(try_out, cfg, folder, time.time()).result()


def try_out(config: dict[str, Any], folder: str, asked: float) -> Costs:
    """Do a job on two images, so that all is imported, then on some more; return what it costs.

    `asked` is when the process was asked for.
    """
    began = time.time() - asked
    cfg = make_small(config, folder)
    first = try_images(cfg, Path(folder) / "first", 2, 2)
    tested = PICTURES if cfg.tiling.size else max(TESTED, cfg.batch_size)
    found = try_images(cfg, Path(folder) / "second", STEPS * cfg.batch_size, tested)
    return found._replace(start=began + max(0.0, first.fixed - found.fixed))


def make_small(config: dict[str, Any], folder: str) -> DictConfig:
    """Return the configuration of a trial: one process, few epochs, nothing fetched, all it writes in the folder."""
    small: Any = DictConfig(copy.deepcopy(config))
    small.update(plan=False, ckpt_path=None, patience=None, average_epochs=1, objective=None, variants={})
    small.update(checkpoint_seconds=1e9, skip_done=False)
    alone = {"devices": 1, "num_nodes": 1, "strategy": "auto", "max_epochs": EPOCHS, "max_steps": -1, "max_time": None}
    small.trainer.update(alone)
    small.trainer.update(enable_progress_bar=False, limit_train_batches=None, limit_test_batches=None)
    small.cache.folder = str(Path(folder) / "cache")
    if not small.backbone.get("weights"):
        small.backbone.pretrained = False
    if small.get("logger") and "Wandb" in str(small.logger.get("_target_")):
        small.logger = None
    return small


def try_images(cfg: DictConfig, place: Path, train: int, test: int) -> Costs:
    """Do a job on so many images; return what it costs."""
    clock, folder, spent, seen = Clock(), RunFolder(place), 0.0, {}

    def begin(cfg: DictConfig, **_: Any) -> tuple[AnomalyDataModule, KDDetector]:
        nonlocal spent
        use_machine(cfg.speed)
        before = time.perf_counter()
        data = list_data(cfg)
        cut(data, train, test)
        spent += time.perf_counter() - before  # which `count_images` has
        detector = build_detector(cfg)
        before = time.perf_counter()
        data.setup()
        # A first call takes longer, which is no image's
        with torch.no_grad():
            detector.teacher(torch.zeros(2, 3, *as_pair(cfg.image_size)))
        spent += time.perf_counter() - before
        seen["detector"] = detector
        return data, detector

    before = time.perf_counter()
    with folder.record(cfg) as record:
        record.add(**describe(cfg))
        data = train_and_test(cfg, folder, record, begin=begin, watching=[clock])
    ended = time.perf_counter()
    whole = ended - before - spent - clock.save
    at, detector = clock.at, seen["detector"]
    cached = data.pools[0].features is not None
    height, width = as_pair(cfg.image_size)
    levels = tuple((path, 4 * shape[0] * shape[1] * shape[2]) for path, shape in
                   zip(detector.teacher.paths, (s[-3:] for s in detector.teacher.shapes), strict=True))  # fmt: skip
    normals_pooled, pooled = len(data.pools[0].images), sum(len(pool.images) for pool in data.pools)
    trained, tests = len(data.splits["train"]), len(data.test_samples)
    later = clock.epochs[1:] or clock.epochs
    normals = len(data.calibration_samples or data.val_samples or data.train_samples)
    masks = [batch["mask"] for batch in data.test_dataloader()] if data.has_masks else []
    pixels = sum(mask.numel() for mask in masks)
    costs = Costs(
        feature=(at["setup fit"] - at["clock"]) / normals_pooled if cached else 0.0,
        prepare=(at["train"] - at["fit"]) / trained,
        step=median(epoch[1] for epoch in later) / max(1, clock.images),
        epoch=median(epoch[0] - epoch[1] - epoch[2] for epoch in later),
        validation=median(epoch[2] for epoch in later) / max(1, clock.validation),
        decide=max(0.0, at["decided"] - at["trained"] - clock.save) / max(1, normals),
        save=clock.save,
        begin_test=sum(begun for begun, _ in clock.tests) / max(1, len(clock.tests)),
        test=sum(rest for _, rest in clock.tests) / max(1, tests),
        write=0.0,
        levels=levels if cached else (),
        units=trained / max(1, len(data.train_samples)),
        pixels=pixels / max(1, tests),
        anomalous=sum(int(mask.sum()) for mask in masks) / max(1, pixels),
    )
    after = ended - at.get("end test", ended)
    pictures = min(cfg.pictures, tests)
    costs = costs._replace(write=after / pictures if pictures else 0.0)
    known = (
        costs.feature * pooled, at["train"] - at["fit"], sum(epoch[0] for epoch in clock.epochs),
        at["decided"] - at["trained"], clock.save, sum(map(sum, clock.tests)), after if pictures else 0.0,
    )  # fmt: skip
    featured = sum(size for _, size in levels) if cached else 0
    held = [pooled * 3 * height * width + count * featured for count in (normals_pooled, pooled)]
    sizes = {path.stem: path.stat().st_size for path in folder.checkpoints.glob("*.ckpt")}
    drawn = [path.stat().st_size for path in folder.maps.glob("*.png")]
    every = [path.stat().st_size for path in place.rglob("*") if path.is_file()]
    return costs._replace(
        fixed=max(0.0, whole - sum(known)),
        training_bytes=max(0, clock.memory["training"] - held[0]),
        testing_bytes=max(0, clock.memory.get("testing", 0) - held[1]),
        device_bytes=torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0,
        checkpoints=sizes,
        picture_bytes=sum(drawn) / max(1, len(drawn)),
        file_bytes=sum(every) - sum(drawn) - sum(sizes.values()),
    )
