"""Refusals of what no code would read, and of values that could only fail later."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from kdad.errors import UserError
from kdad.settings.arguments import find_argument
from kdad.settings.compose import OPTIONAL, list_choices, list_top_level_keys, resolve, suggest_nearest
from kdad.settings.keys import BY_NAME
from kdad.settings.overrides import PLAIN, split
from kdad.settings.roles import flatten, list_supplied
from kdad.settings.source import read_constant
from kdad.settings.targets import KNOWN, explain_supplied, list_parameters
from kdad.settings.values import SWITCH, TEXT, Values

HYDRA = {"_target_": TEXT, "_partial_": SWITCH}  # what Hydra reads of a group
VARIANT = re.compile(r"^variants\.[^.]+\.")  # before the name of a key with another value
SOURCE = re.compile(r"\$\{([\w.]+)\}")  # a value that is another key's
LONGEST = 100  # characters of a value that a message shows


def check_configuration(cfg: DictConfig, config_name: str) -> None:
    """Refuse keys that no code would read, and values that could only fail later. Raises `UserError`.

    Hydra lets YAML files and `+key=` add anything. Top-level keys are those of the entry point's own file and its
    groups; keys of a node with a `_target_` are the parameters of that target.
    """
    refuse_all(list(list_bad_keys(cfg, config_name).values()))
    for group, node in cfg.items():
        _check_node(str(group), node)


def refuse_all(problems: list[str]) -> None:
    """Raise one `UserError` that says all of these; none where there are none."""
    if len(problems) > 1:
        problems = [f"{len(problems)} settings cannot be used:", *(f"- {problem}" for problem in problems)]
    if problems:
        raise UserError("\n".join(problems))


def list_bad_keys(cfg: DictConfig, config_name: str) -> dict[str, str]:
    """Return what is wrong with single keys: key -> key=value: what is needed. No class is imported for it.

    A key that takes its value from a bad one is not named again, nor is what lies in a bad group.
    """
    valid = list_top_level_keys(config_name)
    bad = {name: f"{name}: no such key. {suggest_nearest(name, valid)}" for name in map(str, cfg) if name not in valid}
    values = flatten(dict.fromkeys(valid) | resolve(cfg))
    for name, value in values.items():
        wanted = find_values(VARIANT.sub("", name), values)
        if wanted and not wanted.fit(value) and not any(name.startswith(f"{group}.") for group in bad):
            bad[name] = f"{name}={describe_value(value)}: give {wanted.words}"
    released = list_choices("forms/released")
    if cfg.get("form") == "released" and (model := values.get("model.name")) not in released:
        bad["form"] = f"form=released: there is one of {', '.join(released)}, not of {model}. Give form=paper"
    written = flatten(OmegaConf.to_container(cfg))  # type: ignore[arg-type]
    sources = {name: SOURCE.fullmatch(str(written.get(name))) for name in bad}
    return {name: said for name, said in bad.items() if not (found := sources[name]) or found[1] not in bad}


def list_idle_keys(cfg: DictConfig, typed: Iterable[str], alone: bool) -> list[str]:
    """Return what is wrong with keys of a command line that do nothing beside the value that another key has.

    In a sweep, where it is not `alone`, that one may be on the command line, too, with other values in other jobs.
    """
    given = {split(override)[0] for override in typed}
    values, found = flatten(resolve(cfg)), []
    for name in sorted(given & set(BY_NAME)):
        other, wanted = BY_NAME[name].needs or (name, (values.get(name),))
        if name in values and values.get(other) not in wanted and (alone or other not in given):
            only = ", ".join(map(str, wanted))
            beside = f"{other}={describe_value(values[other])}"
            found.append(
                f"{name}={describe_value(values[name])} does nothing with {beside}: leave it out, or give "
                f"{other}={only if len(wanted) == 1 else f'one of {only}'}"
            )
    return found


def find_values(name: str, values: Mapping[str, Any]) -> Values | None:
    """Return what a dotted key may hold, where kdad says so; `values` is the flat configuration.

    An argument of a class of kdad, torch or Lightning has an entry in `arguments.py`, any other key one in `keys.py`.
    """
    group, _, last = name.rpartition(".")
    if last in HYDRA:
        return HYDRA[last]
    node = values.get(group)
    target = str(node.get("_target_")) if isinstance(node, Mapping) else ""
    key = BY_NAME.get(name)
    own = BY_NAME[name.partition(".")[2]].values if key and key.copy else key.values if key else None
    return find_argument(target, last) or own


def describe_value(value: Any) -> str:
    """Return a value as a message shows it: a text that is no plain word in quotes, cut where long."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(value) if isinstance(value, str) and not PLAIN.fullmatch(value) else str(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def refuse_empty_groups(arguments: list[str], config_name: str) -> None:
    """Refuse `group=null`, on which Hydra fails with a traceback. Raises `UserError`."""
    for argument in arguments:
        group, equals, value = argument.partition("=")
        if equals and value in ("", "null") and group not in OPTIONAL and (found := list_choices(group, config_name)):
            raise UserError(f"{argument}: give one of {', '.join(found)}")


def list_scoring_keys(cfg: DictConfig) -> list[str]:
    """Return the keys that change a trained detector's scores but not its training, as its class lists them."""
    target = cfg.model._target_
    own = read_constant(target, "scoring") if target.startswith(KNOWN) else None
    return [f"model.{name}" for name in (own if isinstance(own, tuple) else get_object(target).scoring)]


def _check_node(where: str, node: Any) -> None:
    if not isinstance(node, DictConfig):
        return
    if "_target_" in node:
        try:
            valid = list_parameters(node._target_)
        except UserError as error:
            raise UserError(f"{where}.{error}") from error
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
