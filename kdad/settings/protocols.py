"""Protocols as data: what other papers and codes count otherwise, each a small file in `conf/protocols`.

`FIELDS` says what a file may hold. A field that is left out is as kdad has it, so that a file without any gives kdad's
own numbers.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from hydra.core.hydra_config import HydraConfig

from kdad.errors import UserError
from kdad.settings.compose import CONF, PROTOCOLS, suggest_nearest
from kdad.settings.roles import flatten
from kdad.settings.values import COUNT_OR_NULL, Values

NAME = re.compile(r"\w+(?<!_reason)")


class Protocol(NamedTuple):
    """How a test is counted; the defaults are kdad's own."""

    name: str
    mask_resize: str = "bilinear_8bit"
    mask_cut: float = 0.5
    crop: float = 1.0
    map_size: int | None = None
    image_score: str = "detector"
    labels: str = "folder"
    pixels: str = "all"
    pro_thresholds: int | None = None
    pro_mean_over: str = "regions"
    pro_rescale: str = "none"
    epoch: str = "tested"


def _one_of(*names: str) -> Values:
    return Values(" or ".join(names), lambda value: value in names)


def _share(words: str, low_too: bool) -> Values:
    return Values(words, lambda v: type(v) in (int, float) and (0 <= v < 1 if low_too else 0 < v <= 1))


FIELDS = {
    # A mask is resized from its file to image_size; anomalous is what then exceeds this share of white
    "mask.resize": _one_of("bilinear_8bit", "bilinear_float", "nearest"),
    "mask.cut": _share("a number from 0 to below 1", low_too=True),
    # Then the middle of map and mask is kept, this share of each side, and both are resized to so many pixels a side,
    # maps bilinearly, masks by their nearest pixel
    "crop": _share("a number above 0, at most 1", low_too=False),
    "map_size": COUNT_OR_NULL,
    "image_score": _one_of("detector", "max", "top_1_percent"),  # the last two are of this map
    "labels": _one_of("folder", "mask"),  # mask: an image is anomalous whose mask has an anomalous pixel left
    "pixels": _one_of("all", "anomalous_images"),
    "pro.thresholds": COUNT_OR_NULL,  # null: all; see `approximate_pro`
    "pro.mean_over": _one_of("regions", "images"),
    "pro.rescale": _one_of("none", "rate", "both"),
    # Of those that average_epochs tests. tested: the mean over them, as kdad has it. The others look at test images:
    # the one with the highest image AUROC, or the highest mean of image AUROC, pixel AUROC and PRO
    "epoch": _one_of("tested", "best_image_auroc", "best_of_three"),
}


def read_protocols(chosen: Any, average_epochs: int = 1) -> list[Protocol]:
    """Return the protocols that the key `protocol` names: null, one name, or a list of names.

    Raises `UserError` for an unknown name, for a file with another field or value, and where a protocol chooses among
    epochs and only one is tested.
    """
    names = [] if chosen is None else [chosen] if isinstance(chosen, str) else list(chosen)
    found = [_read(_find(str(name))) for name in dict.fromkeys(names)]
    for protocol in found:
        if protocol.epoch != "tested" and average_epochs < 2:
            raise UserError(
                f"protocol={protocol.name} takes the best epoch by the test images, and only one is tested: "
                "average_epochs=10 keeps and tests the last 10"
            )
    return found


def describe_protocol(protocol: Protocol) -> str:
    """Return in what a protocol differs from kdad's own counting, as its file says it: crop=0.875, epoch=..."""
    names = {key.replace(".", "_"): key for key in FIELDS}
    own = Protocol("")._asdict()
    changed = {
        names[field]: value for field, value in protocol._asdict().items() if own[field] != value and field in names
    }
    return ", ".join(f"{key}={value}" for key, value in changed.items())


def _list_folders() -> list[Path]:
    """Return where protocols lie: kdad's own, and those beside models and data sets of the user's own."""
    sources = HydraConfig.get().runtime.config_sources if HydraConfig.initialized() else []
    others = [Path(source.path) / PROTOCOLS for source in sources if source.schema == "file"]
    return list(dict.fromkeys([CONF / PROTOCOLS, *(folder for folder in others if folder.is_dir())]))


def _find(name: str) -> Path:
    files = [path for folder in _list_folders() for path in sorted(folder.glob("*.yaml"))]
    mine = list(dict.fromkeys(path.resolve() for path in files if path.stem == name))
    if not mine:
        known = [path.stem for path in files]
        raise UserError(f"protocol={name}: no such file in {PROTOCOLS}/. {suggest_nearest(name, known)}")
    if len(mine) > 1:
        raise UserError(f"protocol={name}: there are {' and '.join(map(str, mine))}. Give one another name")
    return mine[0]


def _read(path: Path) -> Protocol:
    """Read a file. Raises `UserError` for what it may not hold."""
    if not NAME.fullmatch(path.stem):
        raise UserError(f"{path}: name a protocol by letters, digits and _, not ending in _reason")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
    if not isinstance(values, Mapping):
        raise UserError(f"{path}: should hold fields, such as crop: 0.875; found {values!r}")
    fields = {key: value for key, value in flatten(values).items() if not isinstance(value, dict)}
    _check(path, fields)
    return Protocol(path.stem, **{key.replace(".", "_"): value for key, value in fields.items()})


def _check(path: Path, fields: Mapping[str, Any], known: Sequence[str] = tuple(FIELDS)) -> None:
    for key, value in fields.items():
        if key not in FIELDS:
            raise UserError(f"{path}: {key}: no such field. {suggest_nearest(str(key), list(known))}")
        if not FIELDS[key].fit(value):
            raise UserError(f"{path}: {key}: {value}: give {FIELDS[key].words}")
    if fields.get("pro.rescale", "none") != "none" and not fields.get("pro.thresholds"):
        raise UserError(
            f"{path}: pro.rescale: {fields['pro.rescale']} is of equally spaced thresholds: give pro.thresholds"
        )
