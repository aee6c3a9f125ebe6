"""The configuration: where it lives, which keys and values it may have, and what to say of others."""

import inspect
import re
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import hydra
from hydra.utils import get_object
from omegaconf import DictConfig, ListConfig, OmegaConf

import kdad
from kdad.errors import UserError

PACKAGE = Path(kdad.__file__).parent
# Inside an installed wheel the configuration lies in the package, in a checkout beside it.
CONF = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else PACKAGE.parent / "conf"
OmegaConf.register_new_resolver("kdad_conf", lambda: str(CONF), replace=True)
# What kdad itself passes to the target of a group: given there, it would be overruled in silence.
SUPPLIED = {
    "model": {"auto_levels", "backbone", "optimizer", "levels", "image_size", "normalisation"},
    "backbone": {"levels", "auto", "image_size"},
    "trainer": {"default_root_dir", "logger", "callbacks", "enable_checkpointing", "limit_val_batches"},
    "logger": {"save_dir"},
}
# Top-level values: what each must be, in words and as a test.
VALUES = {
    "seed": ("a whole number from 0 to 4294967295", lambda v: _whole(v) and 0 <= v < 2**32),
    "image_size": ("a whole number of pixels, at least 1", lambda v: _whole(v) and v >= 1),
    "batch_size": ("a whole number, at least 1", lambda v: _whole(v) and v >= 1),
    "repeats": ("a whole number, at least 1", lambda v: _whole(v) and v >= 1),
    "threads": ("a whole number, at least 1, or null", lambda v: v is None or _whole(v) and v >= 1),
    "average_epochs": ("a whole number, at least 1", lambda v: _whole(v) and v >= 1),
    "pictures": ("a whole number, at least 0", lambda v: _whole(v) and v >= 0),
    "val_fraction": ("a number from 0 to below 1", lambda v: isinstance(v, int | float) and 0 <= v < 1),
    "checkpoint_seconds": ("a number of seconds, at least 0", lambda v: isinstance(v, int | float) and v >= 0),
    "category": ("one name; sweep several with -m category=a,b", lambda v: v is None or isinstance(v, str | int)),
    "levels": ("auto or a list such as [1,2,3]", lambda v: isinstance(v, str | ListConfig)),
    "normalisation": ("auto, imagenet or none", lambda v: isinstance(v, str)),
    "model": ("a choice of conf/model", OmegaConf.is_dict),
    "backbone": ("a choice of conf/backbone", OmegaConf.is_dict),
    "dataset": ("a choice of conf/dataset", OmegaConf.is_dict),
    "trainer": ("a choice of conf/trainer", OmegaConf.is_dict),
    "cache": ("the keys of conf/run.yaml", OmegaConf.is_dict),
    "max_categories": ("a whole number, at least 1, or null", lambda v: v is None or _whole(v) and v >= 1),
    "variants": ("<name>: {<key>: <value>, ...}", lambda v: OmegaConf.is_dict(v) and all(_mappings(v))),
    "metrics": ("mode and memory_gb", lambda v: OmegaConf.is_dict(v) and set(v) == {"mode", "memory_gb"}),
    "compile": ("true or false", lambda v: isinstance(v, bool)),
    "objective_on_test_data": ("true or false", lambda v: isinstance(v, bool)),
    "optimizer": ("the model's, with changed values", OmegaConf.is_dict),
}


def _mappings(node: DictConfig) -> list[bool]:
    return [OmegaConf.is_dict(value) for value in node.values()]


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def home(config_name: str) -> Path:
    """Where an entry point's own file lies: conf/, or a folder of its name, whose groups then hide those of conf/."""
    return CONF / config_name if (CONF / config_name).is_dir() else CONF


def explain(error: Exception, config_name: str) -> str:
    """Hydra's message about an override, with the nearest valid name."""
    text = str(error).strip()
    group = re.search(r"Could not find '([^']+)/([^'/]+)'", text)
    key = re.search(r"Could not (?:override|append to config|delete)[^']*'@?([^'=]+)'", text)
    if group:
        folder, name = group.groups()
        return f"{folder}={name}: no such choice. " + nearest(name, choices(folder, config_name))
    if key:
        names = [*known_keys(config_name), *(p.name for p in CONF.iterdir() if p.is_dir())]
        if key.group(1) in names:  # a mapping, to which entries are added: Hydra says how
            return text
        hint = ". An argument that is not listed is added by a leading +" if "." in key.group(1) else ""
        return f"{key.group(1)}: no such key. " + nearest(key.group(1), names) + hint
    return text


def choices(group: str, config_name: str = "") -> list[str]:
    """The configs of a group and of the groups in it, without the shared parts that begin with an underscore."""
    folder = next(f for f in (home(config_name) / group, CONF / group) if f.is_dir() or f == CONF / group)
    paths = [p.relative_to(folder) for p in folder.rglob("*.yaml") if not p.name.startswith("_")]
    return sorted(p.with_suffix("").as_posix() for p in paths)


def nearest(name: str, valid: list[str]) -> str:
    close = get_close_matches(name, valid, n=3, cutoff=0.4)
    return f"Nearest: {', '.join(close)}" if close else f"Valid: {', '.join(valid)}"


def known_keys(config_name: str) -> list[str]:
    """Every key of the default configuration, in dots."""
    with hydra.initialize_config_dir(str(home(config_name)), version_base="1.3"):
        return list(flatten(OmegaConf.to_container(hydra.compose(config_name))))


def flatten(node: dict, prefix: str = "") -> dict[str, Any]:
    """Every key in dots, with its value; a mapping is there itself, and so are its keys."""
    found: dict[str, Any] = {}
    for key, value in node.items():
        found[f"{prefix}{key}"] = value
        if isinstance(value, dict):
            found |= flatten(value, f"{prefix}{key}.")
    return found


def check_configuration(cfg: DictConfig, config_name: str) -> None:
    """Refuse what no code would read, and values that could only fail later. Raises `UserError`.

    Hydra lets YAML files and `+key=` add anything. Top-level keys are those of the entry point's own file and its
    groups; keys of a node with a `_target_` are the parameters of that target.
    """
    entry = OmegaConf.load(home(config_name) / f"{config_name}.yaml")
    valid = [k for k in entry if k not in ("defaults", "hydra")]
    groups = [str(next(iter(d))) for d in entry.defaults if isinstance(d, DictConfig)]
    valid += [g for g in groups if not g.startswith(("optional ", "override "))]
    for key in cfg:
        if key not in valid:
            raise UserError(f"{key}: no such key. {nearest(key, valid)}")
    for key, (meaning, fits) in VALUES.items():
        if key in valid and not fits(cfg.get(key)):
            raise UserError(f"{key}={cfg.get(key)}: give {meaning}")
    for key, node in cfg.items():
        _check_node(key, node)


def scoring_keys(cfg: DictConfig) -> list[str]:
    """The keys that change what a trained detector says and nothing that is trained, as its class declares them."""
    return [f"model.{name}" for name in get_object(cfg.model._target_).scoring]


def _check_node(where: str, node: Any) -> None:
    if not isinstance(node, DictConfig):
        return
    if "_target_" in node:
        valid = parameters(node._target_)
        taken = SUPPLIED.get(where, set())
        if double := taken & set(node):
            raise UserError(f"{where}.{min(double)}: kdad sets this argument of {node._target_} itself; see conf/run.yaml")
        valid = None if valid is None else [v for v in valid if v not in taken]
        for key in node:
            if valid is not None and not key.startswith("_") and key not in valid:
                raise UserError(f"{where}.{key}: {node._target_} takes no such argument. {nearest(key, valid)}")
    for key in node:
        if OmegaConf.is_dict(node._get_node(key)):
            _check_node(f"{where}.{key}", node[key])


def parameters(target: str) -> list[str] | None:
    """The keyword arguments of a class or function; None if it takes any.

    A class that passes `**keywords` on is read together with its parents.
    """
    try:
        found = get_object(target)
    except Exception as error:
        raise UserError(f"_target_: {target} cannot be imported: {error}") from error
    names: list[str] = []
    for owner in inspect.getmro(found) if inspect.isclass(found) else [found]:
        if owner is object:
            return None
        function = owner.__dict__.get("__init__") if inspect.isclass(found) else owner
        if function is None:
            continue
        # Decorators such as Lightning's keep the signature behind __wrapped__.
        signature = inspect.signature(function).parameters.values()
        names += [p.name for p in signature if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name != "self"]
        if not any(p.kind is p.VAR_KEYWORD for p in signature):
            return names
    return None
