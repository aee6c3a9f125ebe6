"""Settings that do not go together, each by a function that says so: before anything loads, and where they are used.

What only the data can tell, such as how many validation images there are, is asked again when they are listed.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from kdad.engine.search import check_objective
from kdad.errors import UserError
from kdad.settings.compose import resolve
from kdad.settings.protocols import read_protocols


def check_average(average_epochs: int, trainer: Mapping[str, Any], patience: int | None = None) -> None:
    """Refuse average_epochs where training may end before trainer.max_epochs. Raises `UserError`."""
    limits = [f"trainer.{key}" for key in ("max_steps", "max_time") if trainer.get(key) not in (None, -1)]
    limits += ["patience"] if patience is not None else []
    last = trainer["max_epochs"]
    if average_epochs > 1 and (limits or last is None or last < 0):
        raise UserError(
            f"average_epochs={average_epochs} needs to know which epochs are the last: end training by "
            f"trainer.max_epochs alone, found {', '.join(limits) or ('null' if last is None else last)}; or give "
            "average_epochs=1"
        )


def check_monitor(monitor: str | None, average_epochs: int) -> None:
    """Refuse to choose one epoch's weights where several are tested. Raises `UserError`."""
    if monitor is not None and average_epochs > 1:
        raise UserError(
            f"monitor={monitor} tests one epoch's weights, average_epochs={average_epochs} those of the last "
            f"{average_epochs}: give monitor=null or average_epochs=1"
        )


def check_validation(key: str, value: Any, n_val: int) -> None:
    """Refuse what is judged by validation images where there are none; null is not. Raises `UserError`."""
    if value is not None and not n_val:
        raise UserError(f"{key}={value} needs validation images: set val_fraction above 0 (found {n_val} images)")


def check_processes(images: Mapping[str, int], processes: int) -> None:
    """Refuse more processes than there are images of a part, for each to have one. Raises `UserError`.

    `images`: the number of them, by what they are there for.
    """
    few = [f"{count} to {what}" for what, count in images.items() if 0 < count < processes]
    if few:
        raise UserError(
            f"trainer.devices: {processes} processes, and images {' and '.join(few)}: each process needs one. Give "
            "fewer processes, or more images, to validate by val_fraction"
        )


def check_precision(trainer: Mapping[str, Any]) -> None:
    """Refuse to choose a precision by measurement in several processes, each of which would. Raises `UserError`."""
    alone = trainer.get("devices") in (1, "1") and trainer.get("num_nodes") in (None, 1)
    if trainer.get("precision") == "auto" and not alone:
        raise UserError(
            f"trainer.precision=auto: {trainer.get('devices')} processes may choose differently. Give "
            "trainer.precision=bf16-mixed or 32-true, or trainer.devices=1"
        )


def check_tiling(tiling: Mapping[str, Any] | None) -> None:
    """Refuse an overlap of tiles where nothing is cut into tiles. Raises `UserError`."""
    size, overlap = (tiling or {}).get("size"), (tiling or {}).get("overlap", "auto")
    if size is None and overlap != "auto":
        raise UserError(f"tiling.overlap={overlap}: of which tiles? Give tiling.size, too, or leave tiling.overlap out")


def check_extra(extra: Mapping[str, Any] | None, roi: Any) -> None:
    """Refuse metrics of one's own where some pixels do not count, of which they are not told. Raises `UserError`."""
    if extra and roi is not None:
        raise UserError(
            f"metrics.extra.{next(iter(extra))}: dataset.roi={roi} leaves pixels out, which a metric of one's own "
            "cannot know. Give one of the two"
        )


def check_unified(unified: bool, category: Any) -> None:
    """Refuse one detector for several categories where none is named. Raises `UserError`."""
    if unified and category is None:
        raise UserError("unified=true: of which categories? Give category=[a,b], or category=all")


def check_studies(dataset: Mapping[str, Any]) -> None:
    """Refuse studies of training images that exclude each other. Raises `UserError`."""
    keys = {"shots": None, "train_fraction": 1.0, "contamination": 0.0, "max_contamination": None}
    values = {key: dataset.get(key, usual) for key, usual in keys.items()}
    if values["shots"] is not None or values["max_contamination"] is not None:
        from kdad.data.parts import check_studies as check  # it brings torch with it

        check(**values)


def list_impossible_to_test(cfg: DictConfig, bad: Collection[str] = ()) -> list[str]:
    """Do as `list_impossible` does, for a configuration by which trained weights are tested."""
    check = partial(read_protocols, cfg.get("protocol"), cfg.get("average_epochs"))
    extra = partial(check_extra, OmegaConf.select(cfg, "metrics.extra"), OmegaConf.select(cfg, "dataset.roi"))
    return _collect([(("protocol", "average_epochs"), check), (("metrics.extra", "dataset.roi"), extra)], bad)


def list_impossible(cfg: DictConfig, bad: Collection[str] = ()) -> list[str]:
    """Return what does not go together in the configuration of a run, each as a sentence.

    Nothing is asked of the keys that are `bad` by themselves.
    """
    config: dict[str, Any] = defaultdict(lambda: None, resolve(cfg))  # a key may have been removed
    data, average, objective = config["dataset"] or {}, config["average_epochs"], config["objective"]
    # A data set may have validation images of its own; one that is not kdad's may find them anywhere.
    held_out = any(data.get(key) for key in ("val_fraction", "validation", "list"))
    n_val = int(held_out or not str(data.get("_target_")).startswith("kdad.data."))
    direction = HydraConfig.get().sweeper.get("direction") if HydraConfig.initialized() else None
    studies = ("shots", "train_fraction", "contamination", "max_contamination")
    checks = (
        (("average_epochs", "trainer", "trainer.max_epochs", "patience"),
         partial(check_average, average, config["trainer"], config["patience"])),
        (("monitor", "average_epochs"), partial(check_monitor, config["monitor"], average)),
        (("monitor", "val_fraction"), partial(check_validation, "monitor", config["monitor"], n_val)),
        (("patience", "val_fraction"), partial(check_validation, "patience", config["patience"], n_val)),
        (("objective", "objective_on_test_data", "val_fraction"),
         partial(check_objective, objective, config["objective_on_test_data"], n_val, direction)),
        (("protocol", "average_epochs"), partial(read_protocols, config["protocol"], average)),
        (("metrics", "metrics.extra", "dataset.roi"),
         partial(check_extra, (config["metrics"] or {}).get("extra"), data.get("roi"))),
        (("trainer", "trainer.precision", "trainer.devices"), partial(check_precision, config["trainer"])),
        (("tiling", "tiling.size", "tiling.overlap"), partial(check_tiling, config["tiling"])),
        (("unified", "category"), partial(check_unified, config["unified"], config["category"])),
        (("dataset", *(f"dataset.{key}" for key in studies)), partial(check_studies, data)),
    )  # fmt: skip
    return _collect(checks, bad)


def _collect(checks: Iterable[tuple[tuple[str, ...], Callable[[], Any]]], bad: Collection[str]) -> list[str]:
    found = []
    for keys, check in checks:
        if not set(keys) & set(bad):
            try:
                check()
            except UserError as error:
                found.append(str(error))
    return found
