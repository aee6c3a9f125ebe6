"""What the arguments of a class may hold, of those that conf/ points to: two classes may have one of the same name.

Other classes, such as a plug-in's, say themselves what they refuse. The roles of these keys are their groups', see
`keys.py`; what a key may hold whatever its class, stands there, too.
"""

from collections.abc import Mapping

from kdad.settings import values as v
from kdad.settings.values import Values

MASK_KIND = v.one_of("auto", "binary", "grey", "labels")
BETWEEN = v.number("a number above 0 and below 1", lambda n: 0 < n < 1)
MVTEC = {
    **dict.fromkeys(("train", "test", "normal"), v.TEXT),
    **dict.fromkeys(("validation", "masks", "saturation"), v.TEXT_OR_NULL),
    "mask_kind": MASK_KIND,
}
# By the class that _target_ names; with a dot at the end, those of a package that have an argument of that name
ARGUMENTS: Mapping[str, Mapping[str, Values]] = {
    "kdad.models.rd.RD": {
        "loss": v.one_of("per_position", "flattened"),
        "bottleneck": v.one_of("pre", "oce", "mff_oce", "concat_oce"),
        "score_levels": v.CHOSEN_LEVELS,
        "sigma": v.PIXELS,
        "image_score": v.one_of("max", "sum"),
    },
    "kdad.models.stpm.STPM": {
        "loss": v.one_of("half_squared", "squared"),
        "score_levels": v.CHOSEN_LEVELS,
        "map_size": v.COUNT_OR_NULL,
        "zero_init_last": v.SWITCH,
    },
    "kdad.models.mkd.MKD": {
        "cloner": v.one_of("compact", "equal"),
        "norm": v.one_of("none", "batch"),
        "loss": v.one_of("total", "val", "dir"),
        "weight": Values("initial or a number, at least 0", lambda n: n == "initial" or v.NOT_NEGATIVE.fit(n)),
        "critical_points": v.COUNT_OR_NULL,
        "score_levels": v.CHOSEN_LEVELS,
        "saliency_levels": v.CHOSEN_LEVELS,
        "saliency": v.one_of("gradient", "smoothgrad", "guided"),
        "gradient_through_teacher": v.SWITCH,
        "scaling": v.one_of("none", "per_image"),
        "sigma": v.PIXELS,
    },
    "kdad.models.dskd.DSKD": {
        "structure": v.one_of("ds", "t_e", "t_d", "e_d"),
        **dict.fromkeys(("dfe", "detach_embedding", "align_corners", "zero_init_last"), v.SWITCH),
        "dfe_blocks": v.COUNT,
        "score_levels": v.CHOSEN_LEVELS,
        "euclidean_weight": v.NOT_NEGATIVE,
        "sigma": v.NOT_NEGATIVE,
    },
    "kdad.data.": {"root": v.TEXT},
    "kdad.data.Demo": MVTEC,
    "kdad.data.MVTec": MVTEC,
    "kdad.data.Folder": {
        "normal": v.FOLDERS,
        **dict.fromkeys(("normal_test", "anomalous"), v.PLACES),
        **{name: v.or_null(v.NAME) for name in ("masks", "list")},
        "mask_kind": MASK_KIND,
        "test_fraction": v.number("a number from 0 to 1", lambda n: 0 <= n <= 1),
        "split_by": v.one_of("name", "count"),
        "recursive": v.SWITCH,
    },
    "kdad.data.ELPV": {"root": v.TEXT_OR_NULL, "test_fraction": BETWEEN},
    "kdad.data.Caltech256": {
        "n_categories": v.COUNT,
        "max_per_category": v.COUNT_OR_NULL,
        "test_fraction": BETWEEN,
        "anomalous_fraction": BETWEEN,
    },
    **{f"kdad.data.{name}": {"n_normal_test": v.COUNT} for name in ("BrainMRI", "HeadCT")},
    "kdad.data.MTD": {"max_train": v.COUNT_OR_NULL},
    "kdad.data.STC": {"every": v.COUNT},
    "kdad.data.VisA": {"split": v.TEXT},
    "kdad.data.RealIAD": {
        "json": v.TEXT,
        "views": v.either(v.one_of("all", "C1", "C2", "C3", "C4", "C5"), v.some_of("C1", "C2", "C3", "C4", "C5")),
        "resolution": v.one_of(256, 512, 1024, "256", "512", "1024", "raw"),
    },
    "kdad.pretrain.LabelledImages": {
        "classes": v.COUNT,
        **dict.fromkeys(("source", "train", "test"), v.MAPPING),
        "crop": v.FROM_ZERO,
        "flip": v.SWITCH,
    },
    "torch.optim.": {
        **dict.fromkeys(("lr", "weight_decay"), v.NOT_NEGATIVE),
        "momentum": v.SHARE,
        "betas": v.list_of(v.SHARE, "a list of numbers from 0 to below 1, such as [0.9,0.999]"),
        "nesterov": v.SWITCH,
    },
    "pytorch_lightning.Trainer": {
        "accumulate_grad_batches": v.COUNT,
        **dict.fromkeys(("min_epochs", "min_steps", "check_val_every_n_epoch"), v.COUNT_OR_NULL),
        "max_steps": v.STEPS,
        **dict.fromkeys(("benchmark", "inference_mode", "detect_anomaly", "sync_batchnorm"), v.or_null(v.SWITCH)),
        "fast_dev_run": Values("false: the short run here is +debug=cpu", lambda n: n is False),
        "barebones": Values("false: results need what it leaves out", lambda n: n is False),
        "gradient_clip_algorithm": v.one_of("norm", "value", None),
        "reload_dataloaders_every_n_epochs": v.FROM_ZERO,
        "overfit_batches": v.BATCHES,
    },
    "torch.optim.lr_scheduler.CosineAnnealingLR": {
        "T_max": v.number("a number of epochs above 0", lambda n: n > 0),
        "eta_min": v.NOT_NEGATIVE,
    },
    "torch.optim.lr_scheduler.ExponentialLR": {"gamma": v.NOT_NEGATIVE},
    "torch.optim.lr_scheduler.StepLR": {"step_size": v.COUNT, "gamma": v.NOT_NEGATIVE},
    **{
        f"pytorch_lightning.loggers.{name}": {"name": v.WORD_OR_NULL, "version": v.WORD_OR_NULL}
        for name in ("CSVLogger", "TensorBoardLogger")
    },
    "pytorch_lightning.loggers.WandbLogger": {
        **dict.fromkeys(("project", "name", "group"), v.WORD_OR_NULL),
        "tags": v.or_null(Values("a list of texts",
            lambda tags: isinstance(tags, list) and all(v.CATEGORY.fit(tag) for tag in tags))),  # the category is one
        "offline": v.SWITCH,
    },
}  # fmt: skip


def find_argument(target: str, name: str) -> Values | None:
    """Return what an argument of a class may hold; None where no entry says so."""
    for owner in sorted(ARGUMENTS, key=len, reverse=True):
        if (owner == target or (owner[-1] == "." and target.startswith(owner))) and name in ARGUMENTS[owner]:
            return ARGUMENTS[owner][name]
    return None
