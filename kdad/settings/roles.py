"""What follows from the table of keys: which values decide a job's results, and in what two configurations differ."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from kdad.settings.keys import BY_NAME, CONDITION, IDENTITY, KEYS, METHOD, Role, find_key

DECIDING = (METHOD, CONDITION, IDENTITY)  # roles of the keys that decide a job's results
HOW_TO_TRAIN = ("train_fraction", "shots", "contamination", "max_contamination", "split_seed", "augment")  # of dataset
COMPARED = (METHOD, CONDITION)  # roles of the keys that a report tells runs apart by


def list_supplied(group: str) -> set[str]:
    """Return the arguments that kdad itself passes to a group's target."""
    return {key.name.rpartition(".")[2] for key in KEYS if key.supplied and key.name.rpartition(".")[0] == group}


def flatten(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return every dotted key with its value; a mapping is included as a whole, and its keys one by one, too."""
    found: dict[str, Any] = {}
    for key, value in node.items():
        found[f"{prefix}{key}"] = value
        if isinstance(value, dict):
            found |= flatten(value, f"{prefix}{key}.")
    return found


def select(config: Mapping[str, Any], roles: Iterable[Role], copies: bool = True) -> dict[str, Any]:
    """Return those values of a resolved configuration, by dotted key, whose keys have one of these roles.

    `copies` False leaves out those that repeat a key of the top level. Keys that no entry knows are left out, and those
    that mean nothing beside another key's value.
    """
    chosen, values = {}, flatten(config)
    for name, value in values.items():
        if isinstance(value, dict) or name.partition(".")[0] not in BY_NAME:
            continue
        key = find_key(name)
        idle = key.needs is not None and values.get(key.needs[0]) not in key.needs[1]
        if key.role in roles and (copies or not key.copy) and not idle:
            chosen[name] = value
    return chosen


def config_hash(config: Mapping[str, Any]) -> str:
    """Return sixteen hex digits of all that decides a job's results, of its resolved configuration.

    A key that came later is left out where it does what was done without it, so that earlier jobs are found again.
    """
    deciding = {k: v for k, v in select(config, DECIDING).items() if v != find_before(k)}
    return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()[:16]


def find_differences(trained: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return where two resolved configurations differ in what decides results: key -> (trained, now).

    Where only `now` has a key, the trained value is that which does what was done before there was this key; other
    keys that only one of them has are of another version of kdad and cannot be compared.
    """
    before = select(trained, DECIDING)
    pairs = {k: (before.get(k, find_before(k)), value) for k, value in select(now, DECIDING).items()}
    return {k: (was, value) for k, (was, value) in pairs.items() if was is not ... and was != value}


def find_before(name: str) -> Any:
    """Return the value under which a newer key changes nothing; `...` for keys of version 0.1."""
    return BY_NAME[name].before if name in BY_NAME else ...


def may_retest(name: str, scoring: Iterable[str]) -> bool:
    """Return whether a trained detector may be tested with another value of this key (`scoring`: its class's own)."""
    key = find_key(name)
    return key.role not in DECIDING or key.retest or name in scoring


def list_other_data(changed: Iterable[str]) -> set[str]:
    """Return the changed keys that choose other data than those that a detector was trained on.

    None where the data set and category are the same: then such keys would say how to train.
    """
    keys = {name for name in changed if name in ("category", "dataset.category") or _is_of_data(name)}
    return keys if keys - {f"dataset.{name}" for name in HOW_TO_TRAIN} else set()


def _is_of_data(name: str) -> bool:
    key = find_key(name)
    return name.startswith("dataset") and not key.copy and not key.retest and key.role in DECIDING
