"""What `--help` says of a command: its groups and their choices, its keys, and examples."""

import inspect
import textwrap
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from omegaconf import OmegaConf

from kdad.settings.compose import OPTIONAL, compose_chosen, list_choices, list_groups, list_top_level_keys
from kdad.settings.keys import BY_NAME, find_key
from kdad.settings.roles import flatten, may_retest

FLAGS = {
    "-m": "sweep: every combination of keys with several values, seed=0,1,2",
    "--cfg job": "print the composed configuration instead of running it",
    "--config-dir <folder>": "look for models, data sets, ... in a folder of your own, too",
    "--hydra-help": "what else Hydra can do",
}
WIDTH = 26
DOTTED = ("dataset.root=pictures", "optimizer.lr=0.01", "trainer.max_epochs=50", "metrics.mode=exact")
CHECKED = ("dataset", "category", "image_size")  # what decides what `kdad check` says


def describe_command(job: Callable[..., Any], config_name: str, overrides: Iterable[str] = ()) -> str:
    """Return a command's help as text, from its module's docstring and the table of keys.

    Of a group that an override chooses it has the keys.
    """
    module = inspect.getmodule(job)
    said = (inspect.getdoc(module) or "").strip()
    name = module.__spec__.name if module and module.__spec__ else "kdad.run"
    name = name.removeprefix("kdad.").removesuffix(".__main__")
    lines = [said, "", f"kdad {name} key=value ...   (the same as python -m kdad.{name} key=value ...)", ""]
    listed = [group for group in list_groups(config_name) if is_heeded(name, group)]
    lines += ["Groups, each with its choices:"] if listed else []
    for group in listed:
        found = list_choices(group, config_name)
        lines.append(_row(f"{'+' * (group in OPTIONAL)}{group}=", ", ".join(found)))
    lines += ["", "Keys:"] if listed else ["Keys:"]
    keys = [key for key in list_top_level_keys(config_name) if is_heeded(name, key)]
    lines += [_row(f"{key}=", find_key(key).meaning) for key in keys if key not in listed]
    lines += _list_chosen(config_name, listed, list(overrides))
    if examples := [text for text in DOTTED if text.partition(".")[0] in keys]:
        lines += ["", f"A dot leads into a group or a key of several parts: {' '.join(examples)}"]
    lines += ["", "Flags:", *(_row(flag, meaning) for flag, meaning in FLAGS.items())]
    return "\n".join(lines)


def is_heeded(command: str, key: str) -> bool:
    """Return whether a command does something else for another value of a key or group of its configuration.

    `check` and `evaluate` have that of `run`, of which most is about training.
    """
    if command == "check":
        return key in CHECKED
    if command == "evaluate":
        return key in ("dataset", "category") or (key in BY_NAME and not BY_NAME[key].training and may_retest(key, ()))
    return True


def _list_chosen(config_name: str, groups: Sequence[str], overrides: list[str]) -> list[str]:
    """Return a table of the keys of each group that an override chooses, with what they are now."""
    lines: list[str] = []
    for chosen in (text for text in overrides if text.partition("=")[0] in groups):
        group = chosen.partition("=")[0]
        values: Any = OmegaConf.to_container(compose_chosen(config_name, overrides))
        lines += ["", f"Keys of {chosen}, and their values:"]
        for name, value in flatten(values).items():
            own = BY_NAME.get(name)
            counted = name.startswith(f"{group}.") and not name.startswith(("dataset.official", "dataset.archive"))
            if counted and not isinstance(value, dict) and not name.endswith("_target_") and (not own or own.meaning):
                now = "null" if value is None else str(value).lower() if isinstance(value, bool) else value
                lines.append(_row(f"{name}=", f"{now}{'   ' + own.meaning if own else ''}"))
    return lines or ["", "The keys of a group are listed where it is chosen: dataset=folder --help"] * bool(groups)


def _row(left: str, right: str) -> str:
    """Format two columns as one line, or several where the right column is long."""
    indent = " " * (WIDTH + 2)
    return textwrap.fill(f"  {left:{WIDTH - 1}} {right}", 120, subsequent_indent=indent, break_long_words=False)
