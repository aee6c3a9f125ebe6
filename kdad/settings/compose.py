"""The configuration files: where they lie, what they compose to, and what to say of names that they do not have."""

import os
import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

import kdad
from kdad.errors import UserError
from kdad.settings.roles import flatten
from kdad.settings.targets import explain_absent

PACKAGE = Path(kdad.__file__).parent
# Inside an installed wheel the configuration lies in the package, in a checkout beside it.
CONF = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else PACKAGE.parent / "conf"
DIGITS = "KDAD_JOB_DIGITS"  # an environment variable, so that processes which a launcher starts have it, too
# Groups that are empty unless chosen: +group=choice, as Hydra has it for a group that is not listed, means the same.
OPTIONAL = ("sweep", "experiment", "debug")
# A folder of conf/ that is no group of Hydra's, which would take protocol=[a,b] for one choice; see `protocols.py`
PROTOCOLS = "protocols"


def find_cache_folder() -> str:
    """Return the folder for what kdad can make anew: $XDG_CACHE_HOME/kdad, or ~/.cache/kdad where that is not set.

    Set but empty counts as not set, as the XDG Base Directory Specification has it.
    """
    return f"{os.environ.get('XDG_CACHE_HOME') or '~/.cache'}/kdad"


def number_job(number: int) -> str:
    """Return the name of the folder of a sweep's job, with leading zeros as the sweep's number of jobs asks for."""
    return str(number).zfill(int(os.environ.get(DIGITS, 1)))


OmegaConf.register_new_resolver("kdad_job", number_job, replace=True)
OmegaConf.register_new_resolver("kdad_conf", lambda: str(CONF), replace=True)
OmegaConf.register_new_resolver("kdad_cache", find_cache_folder, replace=True)


def find_home(config_name: str) -> Path:
    """Return the folder of a command's main configuration file: conf/, or conf/<name>/, whose groups hide conf/'s."""
    return CONF / config_name if (CONF / config_name).is_dir() else CONF


def choose_optional(overrides: list[str]) -> list[str]:
    """Return the overrides without the + of `+experiment=` and the like, which the defaults list declares already.

    `experiment=null`, which Hydra does not take, is what holds without it, and left out.
    """
    bare = [o[1:] if o.startswith(tuple(f"+{group}=" for group in OPTIONAL)) else o for o in overrides]
    return [override for override in bare if override not in [f"{group}=null" for group in OPTIONAL]]


def compose(*overrides: str, config_name: str = "run", hydra_too: bool = False) -> DictConfig:
    """Return the configuration that these overrides compose, on request with Hydra's own part.

    Raises `UserError` where they do not compose.
    """
    try:
        with hydra.initialize_config_dir(str(find_home(config_name)), version_base="1.3"):
            return hydra.compose(config_name, choose_optional(list(overrides)), return_hydra_config=hydra_too)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(f"{' '.join(overrides)}: {explain(error, config_name, overrides)}") from error


def resolve(cfg: DictConfig) -> dict[str, Any]:
    """Return a configuration as plain containers, every interpolation replaced by its value."""
    return OmegaConf.to_container(cfg, resolve=True)  # type: ignore[return-value]


def list_choices(group: str, config_name: str = "") -> list[str]:
    """Return the names that `group=` accepts: its files, without the shared parts that begin with an underscore."""
    folder = next(f for f in (find_home(config_name) / group, CONF / group) if f.is_dir() or f == CONF / group)
    paths = [p.relative_to(folder) for p in folder.rglob("*.yaml") if not p.name.startswith("_")]
    return sorted(p.with_suffix("").as_posix() for p in paths)


@cache
def list_groups(config_name: str) -> tuple[str, ...]:
    """Return the groups that an entry point's own file lists, in its order."""
    entry = OmegaConf.load(find_home(config_name) / f"{config_name}.yaml")
    names = [str(next(iter(d))) for d in entry.defaults if isinstance(d, DictConfig)]
    return tuple(name for name in names if not name.startswith(("optional ", "override ")))


@cache
def list_top_level_keys(config_name: str) -> tuple[str, ...]:
    """Return the keys of an entry point's own file, and those of its groups that become configuration nodes."""
    entry = OmegaConf.load(find_home(config_name) / f"{config_name}.yaml")
    own = [str(key) for key in entry if key not in ("defaults", "hydra")]
    return *own, *(name for name in list_groups(config_name) if name not in OPTIONAL)


def list_keys(config_name: str, overrides: Iterable[str] = ()) -> list[str]:
    """Return every key, in dots, of an entry point's configuration with the groups that these overrides choose."""
    return list(flatten(OmegaConf.to_container(compose_chosen(config_name, overrides))))  # type: ignore[arg-type]


def compose_chosen(config_name: str, overrides: Iterable[str]) -> DictConfig:
    """Return an entry point's configuration with the groups that these overrides choose, where they compose."""
    chosen = [o for o in overrides if o.partition("=")[0] in list_groups(config_name) and "," not in o]
    try:
        return compose(*chosen, config_name=config_name)
    except UserError:  # one of them is what is wrong
        return compose(config_name=config_name)


def suggest_nearest(name: str, valid: Sequence[str]) -> str:
    """Return a sentence with the valid names that are nearest, or with all of them where none is near."""
    same = [key for key in valid if key != name and key.rpartition(".")[2] == name.rpartition(".")[2]]
    close = list(dict.fromkeys([*same, *get_close_matches(name, list(dict.fromkeys(valid)), n=3, cutoff=0.4)]))[:3]
    return f"Nearest: {', '.join(close)}" if close else f"Valid: {', '.join(valid)}"


def explain(error: Exception, config_name: str, overrides: Iterable[str] = ()) -> str:
    """Return Hydra's message about one of the overrides, with the nearest valid name."""
    text = str(error).strip()
    group = re.search(r"Could not find '([^']+)/([^'/]+)'", text)
    key = re.search(r"Could not (?:override|append to config|delete)[^']*'@?([^'=]+)'", text)
    if group:
        folder, name = group.groups()
        own = f". One of your own is found in {folder}/{name}.yaml of the folder given by --config-dir"
        hint = suggest_nearest(name, list_choices(folder, config_name))
        return f"{folder}={name}: no such choice. {hint}{own}"
    if key:
        names = [*list_keys(config_name, overrides), *list_groups(config_name)]
        if key.group(1) in names:  # a mapping, to which entries are added: Hydra says how
            below = [name for name in names if name.startswith(f"{key.group(1)}.")]
            return f"{key.group(1)}: give one of its keys: {', '.join(below)}" if below else text
        above = key.group(1).rpartition(".")[0]
        said = explain_absent(key.group(1), OmegaConf.select(compose_chosen(config_name, overrides), above or "_"))
        return (
            said or f"{key.group(1)}: no such key. {suggest_verb(key.group(1)) or suggest_nearest(key.group(1), names)}"
        )
    return text


def suggest_verb(name: str) -> str:
    """Return a sentence about the verb that takes this key, where its name tells; else empty text."""
    if get_close_matches(name, ("threshold", "thresholds"), cutoff=0.8):
        return "Thresholds come from normal images, with training (decision.rule=) or by kdad calibrate"
    verbs = [path.stem for path in sorted(CONF.glob("*.yaml")) if name in list_top_level_keys(path.stem)]
    return f"It is one of kdad {' and kdad '.join(verbs)}" if verbs else ""
