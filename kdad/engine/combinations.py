"""Settings that do not go together, each by a function that says so: before anything loads, and where they are used.

What only the data can tell, such as how many validation images there are, is asked again when they are listed.
"""

from collections.abc import Callable, Mapping
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from kdad.engine.search import check_objective
from kdad.errors import UserError
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


def list_impossible(cfg: DictConfig, bad: Mapping[str, str], direction: Any = None) -> list[str]:
    """Return what does not go together in the configuration of a run, each as a sentence.

    Looks at nothing that has a `bad` key; `direction` is that of the sweeper.
    """
    dataset = cfg.dataset
    # A data set may have validation images of its own; one that is not kdad's may find them anywhere.
    held_out = bool(dataset.get("val_fraction") or dataset.get("validation") or dataset.get("list"))
    n_val = int(held_out or not str(dataset.get("_target_")).startswith("kdad.data."))
    checks: list[tuple[str, Callable[[], Any]]] = [
        (
            "average_epochs trainer.max_epochs patience",
            lambda: check_average(cfg.average_epochs, cfg.trainer, cfg.patience),
        ),
        ("monitor average_epochs", lambda: check_monitor(cfg.monitor, cfg.average_epochs)),
        ("monitor val_fraction", lambda: check_validation("monitor", cfg.monitor, n_val)),
        ("patience val_fraction", lambda: check_validation("patience", cfg.patience, n_val)),
        (
            "objective objective_on_test_data val_fraction",
            lambda: check_objective(cfg.objective, cfg.objective_on_test_data, n_val, direction),
        ),
        ("protocol average_epochs", lambda: read_protocols(OmegaConf.to_object(cfg).get("protocol"), cfg.average_epochs)),
        ("unified category", lambda: check_unified(cfg.unified, cfg.category)),
        (
            "dataset.shots dataset.train_fraction dataset.contamination dataset.max_contamination",
            lambda: check_studies(dataset),
        ),
    ]
    found = []
    for keys, check in checks:
        groups = {key.rpartition(".")[0] for key in keys.split()}
        if bad.keys() & ({*keys.split()} | groups | {"dataset"}):
            continue
        try:
            check()
        except UserError as error:
            found.append(str(error))
    return found
