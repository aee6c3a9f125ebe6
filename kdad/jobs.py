"""What `run` and `evaluate` share: building from a configuration, and leaving results whatever happens."""

import json
import logging
import platform
import shutil
import statistics
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import timm
import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import RichProgressBar
from rich.console import Console
from rich.table import Table

import kdad
from kdad.atomic import atomic_write
from kdad.cache import ArrayStore
from kdad.cli import config_hash, create, stored
from kdad.configuration import check_configuration
from kdad.data.base import AnomalyDataModule
from kdad.errors import UserError
from kdad.evaluation import Evaluation
from kdad.loggers import record
from kdad.machine import use_machine
from kdad.models.base import KDDetector
from kdad.networks.residual import lay_out
from kdad.training import load_checkpoint
from kdad.weights import find_weights

CONFIG = "run"
HEADLINE = ("image_auroc", "pixel_auroc", "pro")


@contextmanager
def recorded(cfg: DictConfig, folder: Path) -> Iterator[tuple[dict[str, Any], Callable[[bool], None]]]:
    """Yields what results.json will hold, and `begin(keep_checkpoints)`, to be called once nothing is refused any more.

    With `begin` the folder becomes this job's: what an earlier one has left there goes, config.yaml is written, and in
    the end results.json, with `status: ok`, or `failed` and `error` when raising; a kill leaves none. A job that is
    refused before takes the folder, too, and its results.json says why, unless there are complete results: these stay
    as they are, with the config.yaml that says what they are of, and the refusal goes to refused.json beside them.
    """
    results: dict[str, Any] = {"status": "failed"}
    begun = False

    def begin(keep_checkpoints: bool) -> None:
        nonlocal begun
        begun = True
        if first_process():
            clear(folder, keep_checkpoints)
            if "config_hash" in results:  # else it may not even resolve
                with atomic_write(folder / "config.yaml") as file:
                    file.write(OmegaConf.to_yaml(cfg, resolve=True))

    try:
        check_configuration(cfg, CONFIG)
        results |= describe(cfg)
        results["config_hash"] = config_hash(cfg)
        yield results, begin
        results["status"] = "ok"
    except BaseException as error:
        interrupted = isinstance(error, KeyboardInterrupt | SystemExit)
        results["error"] = "interrupted" if interrupted else str(error) or type(error).__name__
        results |= {key: None for key in HEADLINE} | {f"{key}_reason": "the job failed" for key in HEADLINE}
        if not interrupted and not isinstance(error, UserError):
            results["traceback"] = traceback.format_exc()
        raise
    finally:
        refused = not begun and stored(folder).get("status") == "ok"
        if not begun and not refused:
            begin(keep_checkpoints=True)
        if first_process():
            with atomic_write(folder / ("refused.json" if refused else "results.json")) as file:
                json.dump(results, file, indent=2)


def clear(folder: Path, keep_checkpoints: bool) -> None:
    """Remove a job's own outputs, but for logs."""
    for name in ("results.json", "refused.json", "scores.csv", "curves.npz"):
        (folder / name).unlink(missing_ok=True)
    for name in ("maps", "variants", *(() if keep_checkpoints else ("checkpoints",))):
        shutil.rmtree(folder / name, ignore_errors=True)


def describe(cfg: DictConfig) -> dict[str, Any]:
    """What results.json says of a job before it starts."""
    return {
        "model": cfg.model.get("name"),
        "dataset": cfg.dataset.get("name"),
        "category": cfg.category,
        "backbone": cfg.backbone.get("name"),
        "image_size": cfg.image_size,
        "seed": cfg.seed,
        "split_seed": cfg.dataset.get("split_seed"),
        "versions": versions(),
    }


def versions() -> str:
    """Of what a result depends on."""
    found = {
        "kdad": kdad.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "timm": timm.__version__,
        "pytorch-lightning": pl.__version__,
    }
    return ", ".join(f"{name} {version}" for name, version in found.items())


def build(cfg: DictConfig) -> tuple[AnomalyDataModule, KDDetector]:
    """The data module, every file of it read, and the detector. Raises one `UserError` for all that is missing."""
    use_machine()
    problems, detector = [], None
    try:
        data = create(cfg.dataset)
        data.store = ArrayStore(**cfg.cache)
        data.check()
    except UserError as error:
        problems.append(str(error))
    try:
        if problems:  # say in one go whether weights can be had, without fetching them for nothing
            find_weights(cfg.backbone.name, cfg.backbone.weights, fetch=False) if cfg.backbone.pretrained else None
        else:
            detector = instantiate_detector(cfg)
    except UserError as error:
        problems.append(str(error))
    if problems:
        raise UserError("\n\n".join(problems))
    data.setup()
    return data, detector


def instantiate_detector(cfg: DictConfig) -> KDDetector:
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    detector = create(
        cfg.model,
        backbone=create(cfg.backbone),
        optimizer=create(cfg.optimizer),
        levels=cfg.levels,
        image_size=cfg.image_size,
        normalisation=cfg.normalisation,
    )
    if cfg.get("compile"):
        for network in detector.children():
            if any(p.requires_grad for p in network.parameters()):
                network.compile()  # in place: parameters keep their names
    lay_out(detector)
    return detector


def load_weights(detector: KDDetector, checkpoint: dict[str, Any], path: Path) -> None:
    """Raises `UserError` for a checkpoint of another teacher, or of other networks."""
    detector.on_load_checkpoint(checkpoint)
    try:
        detector.load_state_dict(checkpoint["state_dict"])
    except RuntimeError as error:
        raise UserError(f"ckpt_path={path}: its weights do not fit this configuration. {error}") from error


def make_trainer(cfg: DictConfig, folder: Path, data: AnomalyDataModule, logger: Any, *callbacks: Any) -> pl.Trainer:
    """A Lightning trainer that writes below `folder`, with kdad's callbacks and no remarks that do not apply."""
    quieten()
    bar = [] if cfg.trainer.get("enable_progress_bar") is False else [RichProgressBar(leave=False)]
    return create(
        cfg.trainer,
        default_root_dir=str(folder),
        logger=logger,
        callbacks=[*callbacks, *bar],
        enable_checkpointing=any(isinstance(c, pl.callbacks.ModelCheckpoint) for c in callbacks),
        limit_val_batches=1.0 if data.val_samples else 0,
    )


def quieten() -> None:
    """Leave out Lightning's notices, and its remarks that do not apply here."""
    for name in ("pytorch_lightning.utilities.rank_zero", "pytorch_lightning.accelerators.cuda"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # The teacher is in eval mode, images are in memory, and a resumed log goes to a folder of its own.
    for remark in ("does not have many workers", r"module\(s\) in eval mode", "LeafSpec", "num_workers"):
        warnings.filterwarnings("ignore", message=f".*{remark}")


def test(
    trainer: pl.Trainer,
    detector: KDDetector,
    data: AnomalyDataModule,
    evaluation: Evaluation,
    folder: Path,
    earlier: Sequence[Path] = (),
) -> dict[str, Any]:
    """Test, write scores, curves and pictures, and return what results.json says of it.

    `earlier`: checkpoints of earlier epochs that are tested before, with the statistics after fit that the detector
    has; metrics are then means over all these epochs, all else is of the detector as it is.
    """
    start = time.perf_counter()
    own = {name: value.clone() for name, value in detector.state_dict().items() if not name.startswith("teacher.")}
    kept = {name: own[name] for name in detector.provenance.get("statistics", ())}
    each = []
    for path in earlier:
        checkpoint = load_checkpoint(path)
        checkpoint["state_dict"] |= kept
        load_weights(detector, checkpoint, path)
        trainer.test(detector, datamodule=data, verbose=False)
        each.append(evaluation.metrics)
    if earlier:
        detector.load_state_dict(own, strict=False)
    trainer.test(detector, datamodule=data, verbose=False)
    metrics = averaged([*each, evaluation.metrics])
    seconds = time.perf_counter() - start
    if first_process():
        evaluation.write(folder)
        rows = evaluation.state.image_rows()
        record(trainer.logger, metrics, rows.score, rows.label, folder / "maps")
    return {
        **metrics,
        "category": data.category,
        "backbone": detector.teacher.tag,
        "weights": detector.teacher.source,
        "weights_fingerprint": detector.teacher.fingerprint,
        "levels": " ".join(detector.teacher.paths),
        **data.facts,
        "n_test": len(evaluation.state.image_rows().index),
        **{f"cache_{key}": value for key, value in data.store.report.items()},
        "test_seconds": round(seconds, 3),
    }


def averaged(each: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The mean of each metric over the tests of several epochs, `<metric>_std`, their sample standard deviation, and
    `average_epochs`, their number; of one test, its own metrics. Bounds, `<metric>_error`, are averaged, too.
    """
    found: dict[str, Any] = {**each[-1], "average_epochs": len(each)}
    for key, value in each[-1].items():
        if len(each) > 1 and isinstance(value, float):
            values = [metrics[key] for metrics in each]
            found[key] = statistics.fmean(values)
            if not key.endswith("_error"):
                found[f"{key}_std"] = statistics.stdev(values)
    return found


def first_process() -> bool:
    """Whether this process is the one that writes."""
    return pl.utilities.rank_zero_only.rank == 0


def show(results: dict[str, Any], folder: Path) -> None:
    """The final table in the terminal."""
    if not first_process():
        return
    table = Table(title=f"{results['model']} on {results['dataset']} / {results['category']}")
    seconds = [key for key in ("fit_seconds", "test_seconds") if key in results]
    for key in (*HEADLINE, *seconds):
        table.add_column(key, justify="right")
    cells = ["n/a" if results[key] is None else f"{results[key]:.4f}" for key in HEADLINE]
    table.add_row(*cells, *(f"{results[key]:.1f}" for key in seconds))
    console = Console()
    console.print(table)
    for key in HEADLINE:
        if results[key] is None:
            console.print(f"{key}: {results[f'{key}_reason']}")
    cached = (f"{results.get(f'cache_{key}')} {key}" for key in ("hits", "misses"))
    size = results.get("cache_bytes", 0) / 1e9
    console.print(f"Cache: {results.get('cache_storage')}, {size:.2f} GB, {', '.join(cached)}", soft_wrap=True)
    console.print(f"Results, scores, maps and checkpoints: {folder}", soft_wrap=True)
