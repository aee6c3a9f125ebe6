"""What results.json will hold of a job."""

import os
import re
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from kdad.errors import UserError
from kdad.geometry import simplify
from kdad.settings.compose import resolve
from kdad.settings.roles import config_hash

HEADLINE = ("image_auroc", "pixel_auroc", "pro")  # metrics that results.json always has, null where there is none

RATES = ("false_alarm_rate", "detection_rate", "image_f1", "pixel_f1")  # in results.json, at the thresholds
RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")  # by which Lightning knows a process's number

SEVEN = (  # all metrics that papers compare by; those beyond the headline are null only where their counterpart is
    "image_auroc", "image_ap", "image_f1_max", "pixel_auroc", "pixel_ap", "pixel_f1_max", "pro"
)  # fmt: skip
# A metric of one's own, by the name that metrics.extra gives it
EXTRA = re.compile(r"extra_\w+(?<!_reason)(?<!_std)(?<!_error)", re.ASCII)
MEAN = "mad"  # of all seven, in reports and logs


def name_category(category: Any) -> str | None:
    """Return what results.json calls a configuration's category: its name, or those of several joined by +."""
    several = isinstance(category, Sequence) and not isinstance(category, str)
    return "+".join(map(str, category)) if several else category


def is_same_data(one: str | None, other: str | None) -> bool:
    """Return whether two fingerprints of data may be of the same.

    None is of any; one without digits of content, of an earlier kdad, of any files with these names and sizes.
    """
    if one is None or other is None:
        return True
    (names, _, content), (names_too, _, content_too) = one.partition("-"), other.partition("-")
    return names == names_too and (content == content_too or not content or not content_too)


def describe(cfg: DictConfig) -> dict[str, Any]:
    """Return what the configuration alone says in results.json: model, data set, seed, hash."""
    return {
        "model": cfg.model.get("name"),
        "form": cfg.get("form") or "paper",
        **({key: cfg[key] for key in ("corruption", "severity")} if cfg.get("corruption", "none") != "none" else {}),
        "dataset": cfg.dataset.get("name"),
        "category": name_category(cfg.category),
        **({"unified": True} if cfg.get("unified") else {}),
        "backbone": cfg.backbone.get("name"),
        "image_size": simplify(cfg.image_size),
        "seed": cfg.seed,
        "split_seed": cfg.dataset.get("split_seed"),
        "config_hash": config_hash(resolve(cfg)),
    }


def name_job(cfg: DictConfig) -> dict[str, Any]:
    """Return by what a report tells jobs apart, of one whose configuration holds a bad value: without what is bad."""
    texts = {
        "model": OmegaConf.select(cfg, "model.name"),
        "dataset": OmegaConf.select(cfg, "dataset.name"),
        "category": name_category(cfg.category),
        "backbone": OmegaConf.select(cfg, "backbone.name"),
    }
    seed = {"seed": cfg.seed} if type(cfg.seed) is int else {}
    return {name: text for name, text in texts.items() if isinstance(text, str | None)} | seed


class Record:
    """What results.json will hold (`results`), and whether the folder is already the job's (`claimed`)."""

    def __init__(self) -> None:
        self.results: dict[str, Any] = {"status": "failed"}
        self.claimed = False

    def add(self, **values: Any) -> None:
        """Add these values to what results.json will hold."""
        self.results |= values

    def finish(self) -> None:
        """Record that the job ended well."""
        self.results["status"] = "ok"

    def fail(self, error: BaseException) -> None:
        """Record why the job failed, with a traceback unless it is a user's error; a job that ended well stays so."""
        if self.results["status"] == "ok":
            return
        interrupted = isinstance(error, KeyboardInterrupt | SystemExit)
        self.results["error"] = "interrupted" if interrupted else str(error) or type(error).__name__
        self.results |= dict.fromkeys(HEADLINE) | {f"{key}_reason": "the job failed" for key in HEADLINE}
        if not interrupted and not isinstance(error, UserError):
            self.results["traceback"] = traceback.format_exc()


def is_first_process() -> bool:
    """Return whether this process is the one that writes."""
    if "pytorch_lightning" not in sys.modules and not any(name in os.environ for name in RANKS):
        return True  # what Lightning would say, which takes seconds to import
    from pytorch_lightning.utilities import rank_zero_only

    return getattr(rank_zero_only, "rank", 0) == 0
