"""What the targets of a configuration's nodes take: the classes and functions that `_target_` names."""

import inspect
from collections.abc import Mapping
from typing import Any

from hydra._internal.utils import _locate
from hydra.utils import get_object

from kdad.errors import UserError
from kdad.settings.keys import find_key
from kdad.settings.roles import list_supplied
from kdad.settings.source import read_parameters

READ = ("kdad.", "torch.", "torchvision.", "pytorch_lightning.")  # packages whose classes are read from their source
KNOWN = ("kdad.", "torch.optim.", "pytorch_lightning.")  # packages whose classes a checkpoint may name


def list_parameters(target: str) -> list[str] | None:
    """Return the keyword arguments of a class or function; None if it takes any.

    A class that passes `**keywords` on is read together with its parents. One of the packages `READ` is read from its
    source; where that does not tell, it is imported. Raises `UserError` for a target that cannot be.
    """
    if target.startswith(READ) and (read := read_parameters(target)) is not None:
        return read
    try:
        found = _locate(target)  # which `get_object` calls, and prints on errors
    except Exception as error:
        said = " ".join(str(error).split())
        raise UserError(f"_target_: {target} cannot be imported: {said}") from error
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


def explain_supplied(group: str, name: str, target: str) -> str:
    """Return a sentence on an argument that kdad itself passes to a group's target, with the keys to use instead."""
    meaning = find_key(f"{group}.{name}").meaning
    return f"{group}.{name}: kdad sets this argument of {target} itself" + (f"; {meaning}" if meaning else "")


def explain_absent(key: str, node: Mapping[str, Any] | None) -> str:
    """Return advice on an unknown key, such as adding it with a +; `node` is that of its group, if it has one.

    Only an argument that the group's target takes can be added. Empty where there is nothing to say.
    """
    group, _, name = key.rpartition(".")
    if group == "metrics.extra":
        return f"{key}: not set yet, add it by a leading +: +{key}=..."
    if not node or "_target_" not in node:
        return ""
    if name in list_supplied(group):
        return explain_supplied(group, name, str(node["_target_"]))
    try:
        valid = list_parameters(str(node["_target_"]))
    except UserError:
        return ""
    return f"{key}: not set yet, add it by a leading +: +{key}=..." if valid is None or name in valid else ""


def is_known_class(target: str) -> bool:
    """Return whether a target is a class that kdad, torch.optim or Lightning itself defines."""
    if not target.startswith(KNOWN):
        return False
    try:
        found = get_object(target)
    except Exception:  # whatever its import raises
        return False
    return inspect.isclass(found) and f"{found.__module__}.".startswith(KNOWN)
