"""What `--help` says of a command: its groups and their choices, its keys, and examples."""

import inspect
import textwrap
from collections.abc import Callable
from typing import Any

from kdad.settings.compose import OPTIONAL, list_choices, list_groups, list_top_level_keys
from kdad.settings.keys import find_key

FLAGS = {
    "-m": "sweep: every combination of keys with several values, seed=0,1,2",
    "--cfg job": "print the composed configuration instead of running it",
    "--config-dir <folder>": "look for models, data sets, ... in a folder of your own, too",
    "--hydra-help": "what else Hydra can do",
}
WIDTH = 26


def describe_command(job: Callable[..., Any], config_name: str) -> str:
    """Return a command's help as text, from its module's docstring and the table of keys."""
    module = inspect.getmodule(job)
    said = (inspect.getdoc(module) or "").strip()
    name = module.__spec__.name if module and module.__spec__ else "kdad.run"
    name = name.removeprefix("kdad.").removesuffix(".__main__")
    lines = [said, "", f"kdad {name} key=value ...   (the same as python -m kdad.{name} key=value ...)", ""]
    listed = list_groups(config_name)
    lines += ["Groups, each with its choices:"] if listed else []
    for group in listed:
        found = list_choices(group, config_name)
        lines.append(_row(f"{'+' * (group in OPTIONAL)}{group}=", ", ".join(found)))
    lines += ["", "Keys:"] if listed else ["Keys:"]
    for key in list_top_level_keys(config_name):
        if key not in listed:
            lines.append(_row(f"{key}=", find_key(key).meaning))
    lines += [
        "",
        "A dot leads into a group or a key of several parts: optimizer.lr=0.01 trainer.max_epochs=50 cache.storage=off",
    ]
    lines += ["", "Flags:", *(_row(flag, meaning) for flag, meaning in FLAGS.items())]
    return "\n".join(lines)


def _row(left: str, right: str) -> str:
    """Format two columns as one line, or several where the right column is long."""
    indent = " " * (WIDTH + 2)
    return textwrap.fill(f"  {left:{WIDTH}}{right}", 120, subsequent_indent=indent, break_long_words=False)
