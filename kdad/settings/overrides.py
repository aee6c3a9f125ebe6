"""Overrides as they stand on a command line: taken apart, put together, and completed by those of a checkpoint."""

import re
import shlex
from collections.abc import Sequence
from itertools import takewhile

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from kdad.errors import UserError

PLAIN = re.compile(r"[A-Za-z_/][\w.+/@:%-]*", re.ASCII)  # text that Hydra's grammar takes without quotes
NAME = re.compile(r"[+~]{0,2}[\w./@:-]+")  # of a key or group
# Keys that take a text, such as a file: never a number, a list or a choice
TEXTS = (
    *("dataset.root", "dataset.list", "dataset.intensity", "backbone.weights", "ckpt_path", "output"),
    *("hydra.run.dir", "hydra.sweep.dir"),
)
LISTED = (  # or several
    *("category", "input", "normal", "anomalous"),
    *("dataset.normal", "dataset.normal_test", "dataset.anomalous"),
)
WORDS = {"null", "true", "false", "nan", "inf"}  # that are no text to it


def split(override: str) -> tuple[str, str]:
    """Return an override's key, without a leading + or ~, and its value as written, empty where there is none."""
    key, _, value = override.partition("=")
    return key.lstrip("+~"), value


def quote(text: str) -> str:
    """Return a text so that Hydra's grammar reads it back unchanged: bare where that works, else in quotes."""
    if PLAIN.fullmatch(text) and text.lower() not in WORDS:
        return text
    # In quotes a backslash counts for itself but before a quote; an interpolation would be replaced.
    body = re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), text)
    return "'" + body.replace("${", "\\${") + "'"


def unquote(value: str) -> str:
    """Return the text that a value stands for: without its quotes, or as it is where it has none."""
    if len(value) < 2 or value[0] not in "'\"" or value[-1] != value[0]:
        return value
    mark, body = value[0], value[1:-1]
    body = re.sub(rf"(\\+)({mark}|$)", lambda m: m[1][: len(m[1]) // 2] + m[2], body)
    return body.replace("\\${", "${")


def write(key: str, text: str) -> str:
    """Return the override that sets a key to this text."""
    return f"{key}={quote(text)}"


def find_value(overrides: list[str], key: str) -> str:
    """Return the text that the last override of a key sets; empty for null or where there is no such override."""
    given = [override for override in overrides if split(override)[0] == key]
    if not given:
        return ""
    override = OverridesParser.create().parse_override(given[-1])
    if override.is_sweep_override():
        return split(given[-1])[1]
    value = override.value()
    return "" if value is None else str(value).replace("\\${", "${")  # what stands for itself, not for another key


def add_missing(given: list[str], stored: list[str]) -> list[str]:
    """Return the stored overrides that the given ones do not replace.

    `group=choice` puts another choice in the place of the stored one, whose `group.key=` then go with it, but for
    `trainer.max_epochs`, which is the recipe's; with another data set the category goes, too.
    """
    keys = {split(override)[0] for override in given} | {"ckpt_path", "skip_done"}
    replaced = tuple(f"{key}." for key, value in map(split, given) if f"{key}={value}" not in stored)
    standing = []
    for override in stored:
        key = split(override)[0]
        gone = (key == "category" and "dataset." in replaced) or (
            key.startswith(replaced) and key != "trainer.max_epochs"
        )
        if key not in keys and not gone:
            standing.append(override)
    return standing


def accept_literally(
    overrides: list[str], several: bool = False, lists: Sequence[str] = ()
) -> tuple[list[str], list[str]]:
    """Return the overrides with quotes around values that Hydra's grammar refuses, and a remark on each.

    A path with a blank, an umlaut, a bracket or an equals sign is then what it says. So are the values of `TEXTS`,
    which are no numbers, lists or choices, whatever they look like, but that those of `lists` may be several; a comma
    stands between `several` jobs' values.
    Raises `UserError` for an argument that is no override, and for a text that is empty.
    """
    parser, taken, remarks = OverridesParser.create(), [], []
    texts, listed = set(TEXTS) - set(lists), {*LISTED, *lists}
    for place, override in enumerate(overrides):
        name, equals, value = override.partition("=")
        try:
            found = parser.parse_override(override)
        except HydraException as error:
            if not equals or not NAME.fullmatch(name):
                raise UserError(
                    f"{override}: not an argument of the form key=value, such as model=rd dataset=mvtec category=screw"
                    + explain_blank(overrides, place)
                ) from error
            is_list = value[:1] == "[" and value[-1:] == "]" and name not in texts
            items = [quote(unquote(item)) for item in _split_list(value[1:-1])]
            quoted = f"{name}={'[' + ','.join(items) + ']' if is_list else quote(value)}"
            remarks.append(f"{override}: taken as it stands. Quoted, as a shell takes it: {_for_a_shell(quoted)}")
            override = quoted
        else:
            text = name in texts or (name in listed and value[:1] != "[")
            if text and equals and not value:
                raise UserError(
                    f"{override}: empty, as of a variable that is not set. Give a value, or null where the key may "
                    "have none"
                )
            if text and found.is_sweep_override():
                override = override if several else write(name, value)
            elif text and not isinstance(found.value(), str | None):
                override = write(name, value)
            elif name == "category" and isinstance(found.value(), list):  # of names, though one may look like a number
                override = f"{name}=[{','.join(quote(unquote(item)) for item in _split_list(value[1:-1]))}]"
        taken.append(override)
    return taken, remarks


def explain_blank(overrides: Sequence[str], place: int) -> str:
    """Return a sentence on a word that a blank has cut off the argument before it; empty text where none has.

    Told by what a list or a choice cannot end or begin with, and by keys that take a text.
    """
    following = takewhile(lambda word: "=" not in word, overrides[place:])
    before, rest = next(iter(overrides[place - 1 : place]), ""), list(following)
    key, equals, value = before.partition("=")
    if not rest:
        return ""
    if equals and (
        not value or value[-1] == "," or value.count("[") > value.count("]") or rest[0].startswith((",", "]"))
    ):
        return f". A blank ends an argument; without blanks it is one: {_for_a_shell(before + ''.join(rest))}"
    if equals and key in (*TEXTS, *LISTED):
        return f". A blank ends an argument unless it is quoted: {_for_a_shell(' '.join([before, *rest]))}"
    return ""


def _split_list(text: str) -> list[str]:
    """Return the items of a list as they are written: commas in quotes divide nothing."""
    return [item.strip() for item in re.findall(r"""\s*(?:"[^"]*"|'[^']*'|[^,])+""", text)]


def _for_a_shell(text: str) -> str:
    """Quote a text for a shell, in double quotes, easier to read around single ones, if nothing in it is special."""
    return shlex.quote(text) if re.search(r'["$`\\!]', text) else f'"{text}"'
