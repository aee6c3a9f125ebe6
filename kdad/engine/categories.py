"""Which categories a job is of: one, a list, or all of a data set's; a unified one is of several at once."""

import logging
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, ListConfig

from kdad.engine.early import check_place
from kdad.engine.launch import CONFIG
from kdad.errors import UserError
from kdad.settings.checks import check_configuration
from kdad.settings.create import create

if TYPE_CHECKING:
    from kdad.data.base import AnomalyDataModule

log = logging.getLogger(__name__)


def create_set(cfg: DictConfig, **arguments: Any) -> "AnomalyDataModule":
    """Create the configuration's data set. Raises `UserError` where its class is none, or refuses its arguments."""
    data = create(cfg.dataset, **arguments)
    from kdad.data.base import AnomalyDataModule

    if not isinstance(data, AnomalyDataModule):
        raise UserError(
            f"dataset._target_={cfg.dataset.get('_target_')}: a data set is a subclass of "
            "kdad.data.base.AnomalyDataModule, which this is not"
        )
    return data


def list_categories(cfg: DictConfig) -> list[str]:
    """Return the categories that a list or `category=all` stands for; none where one is meant, even one named `all`."""
    several = isinstance(cfg.category, ListConfig)
    if cfg.category != "all" and not several:
        return []
    try:
        check_configuration(cfg, CONFIG)
        if several:
            names = list(map(str, cfg.category))
        else:
            check_place(cfg, with_category=False)  # before the data set's class, which takes seconds to import
            data = create_set(cfg)
            names = data.categories()
    except UserError:  # the run meets it too, and records it
        return []
    if not several and "all" in names:
        return []
    if cfg.ckpt_path and not cfg.unified:
        what = f"[{','.join(names)}]" if several else "all"
        raise UserError(f"ckpt_path with category={what}: a checkpoint is of one category, name it")
    if several:
        return names
    if missing := [name for name in data.official if name not in names]:
        log.warning(
            "data set %s: %d of its %d categories are not in %s: %s",
            data.name, len(missing), len(data.official), data.root, ", ".join(missing),
        )  # fmt: skip
    return names[: cfg.max_categories]


def unite(cfg: DictConfig) -> None:
    """Set a unified job's `category` to the list of its categories, sorted: one union has one configuration."""
    if cfg.unified is not True or cfg.category is None:
        return
    one = [] if isinstance(cfg.category, ListConfig) else [str(cfg.category)]
    if names := list_categories(cfg) or one:
        cfg.category = sorted(names)
