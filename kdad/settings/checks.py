"""Refusals of what no code would read, and of values that could only fail later."""

from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from kdad.errors import UserError
from kdad.settings.compose import OPTIONAL, list_choices, list_top_level_keys, suggest_nearest
from kdad.settings.keys import KEYS
from kdad.settings.roles import list_supplied
from kdad.settings.targets import explain_supplied, list_parameters


def check_configuration(cfg: DictConfig, config_name: str) -> None:
    """Refuse keys that no code would read, and values that could only fail later. Raises `UserError`.

    Hydra lets YAML files and `+key=` add anything. Top-level keys are those of the entry point's own file and its
    groups; keys of a node with a `_target_` are the parameters of that target.
    """
    valid = list_top_level_keys(config_name)
    for name in map(str, cfg):
        if name not in valid:
            raise UserError(f"{name}: no such key. {suggest_nearest(name, valid)}")
    for key in KEYS:
        if key.values and key.name in valid:
            node = cfg.get(key.name)
            value = OmegaConf.to_container(node) if OmegaConf.is_config(node) else node
            if not key.values.fit(value):
                raise UserError(f"{key.name}={value}: give {key.values.words}")
    for group, node in cfg.items():
        _check_node(str(group), node)
    released = list_choices("forms/released")
    if cfg.get("form") == "released" and (name := cfg.model.get("name")) not in released:
        raise UserError(f"form=released: there is one of {', '.join(released)}, not of {name}. Give form=paper")


def refuse_empty_groups(arguments: list[str], config_name: str) -> None:
    """Refuse `group=null`, on which Hydra fails with a traceback. Raises `UserError`."""
    for argument in arguments:
        group, equals, value = argument.partition("=")
        if equals and value in ("", "null") and group not in OPTIONAL and (found := list_choices(group, config_name)):
            raise UserError(f"{argument}: give one of {', '.join(found)}")


def list_scoring_keys(cfg: DictConfig) -> list[str]:
    """Return the keys that change a trained detector's scores but not its training, as its class lists them."""
    return [f"model.{name}" for name in get_object(cfg.model._target_).scoring]


def _check_node(where: str, node: Any) -> None:
    if not isinstance(node, DictConfig):
        return
    if "_target_" in node:
        valid = list_parameters(node._target_)
        taken = list_supplied(where)
        if double := taken & {str(key) for key in node}:
            raise UserError(explain_supplied(where, min(double), node._target_))
        valid = None if valid is None else [v for v in valid if v not in taken]
        for key in map(str, node):
            if valid is not None and not key.startswith("_") and key not in valid:
                near = suggest_nearest(key, valid)
                raise UserError(f"{where}.{key}: {node._target_} takes no such argument. {near}")
    for key in map(str, node):
        if OmegaConf.is_dict(node._get_node(key)):
            _check_node(f"{where}.{key}", node[key])
