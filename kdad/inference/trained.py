"""A checkpoint without the configuration's machinery: its detector built, and its weights put into it."""

import inspect
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor

import kdad
from kdad.errors import UserError
from kdad.inference.decision import Decision
from kdad.inference.files import OWN, read_checkpoint
from kdad.models.base import KDDetector
from kdad.settings.keys import BY_NAME, KEYS
from kdad.settings.roles import flatten
from kdad.teacher import Teacher

# What a detector is built from
PARTS = ("model", "backbone", "levels", "image_size", "normalisation", "trainer", "seed", "tiling")


def restore(content: Mapping[str, Any], detector: KDDetector, path: Path, keep: Mapping[str, Tensor]) -> None:
    """Load a checkpoint's weights and statistics into a detector; `keep` are tensors, by name, in place of its own.

    Raises `UserError` for a checkpoint of another teacher, or of other networks.
    """
    content = {**content, "state_dict": {**content["state_dict"], **keep}}
    if OWN in content:
        detector.teacher.adopt(content[OWN], content["teacher"])
    detector.on_load_checkpoint(content)
    check_weights(content["state_dict"], detector, path)
    try:
        detector.load_state_dict(content["state_dict"])
    except RuntimeError as error:
        raise UserError(f"ckpt_path={path}: its weights do not fit this configuration. {error}") from error


def check_weights(given: Mapping[str, Any], detector: KDDetector, path: Path) -> None:
    """Raise `UserError` for weights and statistics that are no finite numbers, or of another kind than the detector's.

    torch would take whole and complex numbers for weights, and all scores of NaN are below any threshold.
    """
    for name, own in detector.state_dict().items():
        value = given.get(name, own)
        if not isinstance(value, Tensor) or value.is_complex() or value.is_floating_point() != own.is_floating_point():
            raise UserError(f"ckpt_path={path}: {name} holds no numbers of its type, {own.dtype}. Was it changed?")
        if value.is_floating_point() and not value.isfinite().all():
            raise UserError(f"ckpt_path={path}: {name} holds NaN or infinity: its training diverged, or it was changed")


def build_trained(
    path: Path, weights: str | None = None, plugins: Sequence[str] = (), with_decision: bool = True
) -> tuple[KDDetector, Decision | None, dict[str, Any]]:
    """Build the detector that a checkpoint holds, in evaluation mode.

    `weights` is a file of the teacher's, where it lies elsewhere than in training. A detector of somebody else's module
    is built only if `plugins` names that module, or it is imported already: importing it runs its code. Returns the
    detector, its decision, None where it has none, and the resolved parts of the configuration. Raises `UserError`.
    """
    content = read_checkpoint(path)
    with explain_damage(path):
        return build_from(content, path, weights, plugins, with_decision)


@contextmanager
def explain_damage(path: Path) -> Iterator[None]:
    """Raise `UserError` for whatever goes wrong in the block: what a file holds may be of any type and size."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
        raise UserError(f"ckpt_path={path}: what it holds makes no detector ({reason}). Was it changed?") from error


def build_from(
    content: dict[str, Any], path: Path, weights: str | None, plugins: Sequence[str], with_decision: bool
) -> tuple[KDDetector, Decision | None, dict[str, Any]]:
    """Build the detector from what a checkpoint holds, see `build_trained`."""
    made_by = content["kdad"]
    warn_of_newer(path, str(made_by.get("version", "0.1")))
    config = read_parts(path, made_by.get("config"))
    model, backbone = (
        {key: value for key, value in config[group].items() if not key.startswith("_")}
        for group in ("model", "backbone")
    )
    build = find_class(str(config["model"].get("_target_")), plugins)
    model = list_earlier(build) | model
    config["model"] = {**config["model"], **model}
    if OWN in content:
        backbone["pretrained"] = False
    elif weights:
        backbone |= {"weights": weights, "pretrained": True}
    with torch.random.fork_rng():  # the caller's random numbers stay
        torch.manual_seed(config["seed"])  # what is drawn is overwritten, but for a teacher of random weights
        try:
            detector = build(
                backbone=partial(Teacher, **backbone), optimizer=None,
                **{key: config[key] for key in ("levels", "image_size", "normalisation")}, **model,
            )  # fmt: skip
        except TypeError as error:
            raise UserError(f"ckpt_path={path}: made by kdad {made_by.get('version', '0.1')}, whose {error}") from error
    restore(content, detector, path, {})
    plain = made_by.get("decision") if with_decision else None
    detector.provenance = dict(made_by)
    return detector.eval(), Decision.from_plain(plain) if plain else None, config


def read_parts(path: Path, config: Any) -> dict[str, Any]:
    """Return the parts of a checkpoint's configuration that build its detector. Raises `UserError` where one lacks."""
    if not isinstance(config, dict) or not all(isinstance(config.get(key), dict) for key in ("model", "backbone")):
        raise UserError(f"ckpt_path={path}: it does not say how to build its detector. Was it made by kdad run?")
    # Resolved by parts: other groups may refer to places that this machine has not.
    root = OmegaConf.create(config)
    try:
        given = {key: OmegaConf.to_container(root[key], resolve=True) if OmegaConf.is_config(root[key]) else root[key]
                 for key in PARTS if key in root}  # fmt: skip
    except OmegaConfBaseException as error:
        raise UserError(f"ckpt_path={path}: its configuration cannot be read: {str(error).splitlines()[0]}") from error
    before = {"levels": "auto", "image_size": 256, "normalisation": "auto", "trainer": {}, "seed": 0}
    parts = before | {"tiling": {"size": None, "overlap": "auto"}} | given
    values = flatten({name: part for name, part in parts.items() if name not in ("model", "backbone", "trainer")})
    for name, value in values.items():
        if (wanted := BY_NAME[name].values) and not wanted.fit(value):
            said = f"its configuration says {name}={value!r:.100}, where {wanted.words} is needed"
            raise UserError(f"ckpt_path={path}: {said}. Was it changed?")
    return parts


def find_class(target: str, plugins: Sequence[str]) -> Any:
    """Return the detector's class. Raises `UserError` for what is none, or lies in a module that nobody vouched for."""
    module, _, name = target.rpartition(".")
    known = module.startswith("kdad.models.") or module in plugins or module in sys.modules
    if not known:
        raise UserError(
            f"the checkpoint's detector is {target}, which is not kdad's own: building it would run code of the module "
            f"{module}. If you trust that, import it before, or say so: plugins=[{module}]"
        )
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"the checkpoint's detector {target} cannot be imported: {error}") from error
    if not (isinstance(found, type) and issubclass(found, KDDetector)):
        raise UserError(f"{target} is no detector: a subclass of kdad.models.base.KDDetector is needed")
    return found


def list_earlier(build: type) -> dict[str, Any]:
    """Return arguments newer than version 0.1, each with the value that keeps that version's behaviour."""
    taken = inspect.signature(build).parameters
    later = {key.name.removeprefix("model."): key.before for key in KEYS if key.name.startswith("model.")}
    return {name: value for name, value in later.items() if value is not ... and name in taken}


def warn_of_newer(path: Path, version: str) -> None:
    """Warn of a checkpoint that a newer version of kdad has made: what it holds may mean something else there."""

    def order(text: str) -> list[int]:
        return [int(part) for part in text.split(".")[:2] if part.isdigit()]

    if order(version) > order(kdad.__version__):
        warnings.warn(f"{path} was made by kdad {version}, this is {kdad.__version__}: install that one", stacklevel=3)
