"""What the site's pages take from the code, from `kdad/published` and from `experiments`, when mkdocs builds them.

A line `<!-- table: <name> <argument> -->` of a page becomes the table that the function of that name in TABLES returns.
Formulas become MathML, which a browser draws by itself. Further pages are files that lie elsewhere in the repository:
the measurements, the changelog, the notebook. Every function without `on_` in its name can be called by itself.
"""

import html
import json
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from latex2mathml.converter import convert
from omegaconf import OmegaConf

from kdad import published
from kdad.settings.arguments import ARGUMENTS
from kdad.settings.checks import describe_value
from kdad.settings.compose import CONF, compose
from kdad.settings.keys import KEYS, Key
from kdad.settings.roles import flatten
from kdad.settings.values import Values

ROOT = Path(__file__).parents[1]
# Pages and files of the site that lie outside docs/: where they lie -> where the site has them
ELSEWHERE = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md", "LICENSE": "LICENSE.txt"}
SHOWN = {".md", ".csv", ".png"}  # of experiments/
NAMES = {"rd": "RD", "stpm": "STPM", "mkd": "MKD", "dskd": "DSKD"}
METRICS = {"image_auroc": "image AUROC", "pixel_auroc": "pixel AUROC", "pro": "PRO", "aupimo": "AUPIMO"}
RECIPE = "the detector's"  # default of a key that each recipe sets
COMMANDS = ("run", "predict", "calibrate", "export", "app", "benchmark", "pretrain")
PLACEHOLDER = re.compile(r"^<!-- table: (\w+) ?(\S*) -->$", re.MULTILINE)
LINK = re.compile(r"(\]\()([^)\s#:]+)(#[^)\s]*)?(\))")
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)


# Tables ---------------------------------------------------------------------------------------------------


def write_table(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """Return a Markdown table; a stroke in a cell is not taken for a border."""
    lines = [list(head)]
    lines += [["---"] * len(lines[0]), *map(list, rows)]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def list_keys() -> list[tuple[str, Key]]:
    """Return the keys that a user may give, each with the first command whose configuration has it.

    Those that kdad sets itself, and those that repeat a key of the top level, are left out.
    """
    known = {command: set(find_defaults(command)) for command in COMMANDS}
    shown = [key for key in KEYS if not key.supplied and not key.copy and key.meaning]
    shown = [key for key in shown if key.values or not key.name.startswith("model.")]  # the detectors' pages have these
    return [(next((c for c in COMMANDS if key.name in known[c]), "run"), key) for key in shown]


@cache
def find_defaults(command: str) -> dict[str, Any]:
    """Return every key of a command's configuration, in dots, with its default; an interpolation is left as written.

    Of a key that detectors set otherwise than each other it is RECIPE.
    """
    overrides = [[f"model={name}", "dataset=folder"] for name in NAMES] if command == "run" else [[]]
    composed = [OmegaConf.to_container(compose(*chosen, config_name=command)) for chosen in overrides]
    found = [flatten(cfg) for cfg in composed if isinstance(cfg, dict)]
    alike = {key: all(other.get(key) == value for other in found) for key, value in found[0].items()}
    return {key: value if alike[key] or isinstance(value, dict) else RECIPE for key, value in found[0].items()}


def tabulate_keys(command: str) -> str:
    """Return the tables of a command's keys, one for each group: meaning, values, default, what another value is."""
    defaults = find_defaults(command)
    keys = [key for first, key in list_keys() if first == command]
    groups = [key.name for key in keys if any(other.name.startswith(f"{key.name}.") for other in keys)]
    tables: dict[str, list[list[str]]] = {"": [], **{group: [] for group in groups}}
    for key in keys:
        row = [f"`{key.name}`", escape_words(key.meaning), escape_words(find_values(key))]
        row += [show_default(defaults.get(key.name, ...)), key.effect or key.role.value]
        tables[next((group for group in groups if key.name.startswith(f"{group}.")), "")].append(row)
    head = ["key", "what", "values", "default", "another value is"]
    found = {f"`{group}.`" if group else "Top level": write_table(head, rows) for group, rows in tables.items() if rows}
    return next(iter(found.values())) if len(found) == 1 else "\n\n".join(f"### {k}\n\n{v}" for k, v in found.items())


def escape_words(text: str) -> str:
    """Return a text that Markdown shows as it is, but for what stands in backticks: `_target_` would be in italics."""
    return html.escape(text, quote=False).replace("_", "\\_")


def find_values(key: Key) -> str:
    """Return in words what a key may hold; of one that only some data sets have, what each of these takes."""
    if key.values:
        return key.values.words
    name = key.name.removeprefix("dataset.")
    takers: dict[str, list[str]] = {}
    for target, values in ARGUMENTS.items():
        if target.startswith("kdad.data.") and name in values:
            takers.setdefault(values[name].words, []).append(target.rpartition(".")[2])
    return "; ".join(f"{', '.join(classes)}: {words}" for words, classes in takers.items())


def show_default(value: Any) -> str:
    """Return a default as the reference shows it: nothing for a group's whole mapping, or for a key that is not set."""
    if value is ... or isinstance(value, dict):
        return ""
    return value if value is RECIPE else f"`{describe_value(value)}`"


def tabulate_arguments(target: str) -> str:
    """Return the table of the arguments that a class of `kdad/settings/arguments.py` takes, with what they may hold."""
    found: dict[str, Values] = dict(ARGUMENTS[target])
    group = "model" if target.startswith("kdad.models.") else "dataset"
    return write_table(["key", "values"], ([f"`{group}.{name}`", values.words] for name, values in found.items()))


def tabulate_data_arguments(_: str = "") -> str:
    """Return the tables of all data sets' own arguments."""
    names = [name for name in ARGUMENTS if name.startswith("kdad.data.") and not name.endswith(".")]
    return "\n\n".join(f"**`{name.rpartition('.')[2]}`**\n\n{tabulate_arguments(name)}" for name in names)


def tabulate_switches(model: str) -> str:
    """Return the table of a detector's switches, from `conf/model/<model>.yaml`: default, source, released form."""
    path = CONF / "model" / f"{model}.yaml"
    comments = read_comments(path)
    values = flatten(yaml.safe_load(path.read_text(encoding="utf-8")))
    file = CONF / "forms/released" / f"{model}.yaml"
    released = flatten(yaml.safe_load(file.read_text(encoding="utf-8"))) if file.exists() else {}
    words = ARGUMENTS[f"kdad.models.{model}.{NAMES[model]}"]
    usual = re.search(r"Values from (.+?) unless another", path.read_text(encoding="utf-8"))
    rows = []
    for name, value in values.items():
        last = name.rpartition(".")[2]
        if isinstance(value, dict) or last.startswith("_") or name == "model.name":
            continue
        valid = words[last].words if name.startswith("model.") else ""
        other = f"`{describe_value(released[name])}`" if name in released else ""
        source = comments.get(name) or (usual[1] if usual else "")
        rows.append([f"`{name}`", f"`{describe_value(value)}`", other, valid, source])
    head = ["key", "default", "`form=released`", "values", "where the default comes from"]
    return write_table(head, rows)


def read_comments(path: Path) -> dict[str, str]:
    """Return the comment behind each key of a YAML file of two levels, by dotted key; one may go on below."""
    found: dict[str, str] = {}
    group = name = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if more := re.match(r"\s{8,}#\s*(.*)", line):
            found[name] += " " + more[1]
        elif key := re.match(r"( *)(\w+):[^#]*(?:#\s*(.*))?$", line):
            indent, last, comment = key.groups()
            group = group if indent else last
            name = f"{group}.{last}" if indent else last
            found[name] = (comment or "").strip()
    return found


def tabulate_published(paper: str) -> str:
    """Return a paper's own figures, its tables one after the other, as printed; those by category can be unfolded."""
    return "\n\n".join(_write_published(paper, table) for table in published.list_tables(paper))


def _write_published(paper: str, table: str) -> str:
    about, cells = published.describe_table(paper, table), published.load_table(paper, table)
    cells = cells[cells["own"] & (cells["status"] == "printed")]
    if cells.empty:
        return ""
    name = f"Table {table}" if table.isdigit() else "In the text" if table == "text" else table.capitalize()
    unit = "in percent" if about["unit"] == "percent" else "as fractions"
    whole = cells["category"].str.startswith("average") | cells["category"].isin(["all", ""])
    note = f"  \n*{html.escape(about['note'])}.*" if about["note"] else ""
    parts = [f"**{name}: {about['title']}**, {unit}{note}"]
    for title, part in (("", cells[whole]), ("by category", cells[~whole])):
        if not part.empty:
            text = _pivot(part, about["setting"])
            parts.append(text if not title else f'??? note "{name} {title}"\n\n' + _indent(text))
    return "\n\n".join(parts)


def _pivot(cells: pd.DataFrame, setting: str) -> str:
    """Return a table with one row for each data set, category and setting and one column for each metric."""
    index = ["dataset", "category", "setting"]
    kept = [name for name in index if cells[name].ne("").any() and (name != "setting" or setting)]
    rows: dict[tuple[str, ...], dict[str, str]] = {}
    for _, cell in cells.iterrows():
        value = cell["value"] + (f" ± {cell['spread']}" if cell["spread"] else "")
        rows.setdefault(tuple(cell[name] for name in kept), {})[cell["metric"]] = value
    metrics = list(dict.fromkeys(cells["metric"]))
    head = [{"dataset": "data set", "setting": setting}.get(name, name) for name in kept]
    head += [METRICS.get(name, name.replace("_", " ")) for name in metrics]
    return write_table(head, ([*map(_code_sub, key), *(row.get(m, "") for m in metrics)] for key, row in rows.items()))


def _code_sub(text: str) -> str:
    return f"`{text}`" if re.search(r"[\^_{]", text) else text


def _indent(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())


def tabulate_measured(model: str) -> str:
    """Return what was measured here of a detector, from `experiments/*/runs.csv`: mean ± sd over seeds, in percent."""
    parts = []
    for name, by in (("comparison", "epochs"), ("forms", "form"), ("tiles", "tiling")):
        runs = pd.read_csv(ROOT / "experiments" / name / "runs.csv").fillna({"tiling": "whole"})
        runs = runs[runs["model"] == model].rename(columns={"dataset": "set"})
        if name == "tiles":
            runs = runs.assign(set="specks on gravel", category="")
        if not runs.empty:
            parts.append(f"[{name}](../../experiments/{name}/README.md):\n\n{_write_measured(runs, by)}")
    return "\n\n".join(parts)


def _write_measured(runs: pd.DataFrame, by: str) -> str:
    metrics = [name for name in METRICS if name in runs and runs[name].notna().any()]
    rows = []
    for (name, category, value), group in runs.groupby(["set", "category", by]):
        shown = str(name) if category in ("", "all") else f"{name} {category}"
        numbers = [summarise(100 * group[metric]) for metric in metrics]
        rows.append([shown, value, *numbers, group["seed"].nunique()])
    return write_table(["set", by, *(METRICS[name] for name in metrics), "seeds"], rows)


def summarise(values: "pd.Series[float]") -> str:
    """Return mean ± sample standard deviation; nothing where there is no number."""
    return "" if values.isna().all() else f"{values.mean():.1f} ± {values.std():.1f}"


def tabulate_detectors(_: str = "") -> str:
    """Return the detectors beside each other, from `experiments/comparison`: mean ± sd over three seeds, in percent."""
    runs = pd.read_csv(ROOT / "experiments/comparison/runs.csv")
    rows = []
    for (name, category), group in runs.groupby(["dataset", "category"]):
        shown = str(name) if category == "all" else f"{name} {category}"
        for metric in ("image_auroc", "pro"):
            if group[metric].notna().any():
                found = [summarise(100 * group.loc[group["model"] == model, metric]) for model in NAMES]
                rows.append([shown, METRICS[metric], *found])
    return write_table(["set", "metric", *NAMES.values()], rows)


TABLES: dict[str, Callable[[str], str]] = {
    "keys": tabulate_keys,
    "arguments": tabulate_arguments,
    "data_arguments": tabulate_data_arguments,
    "switches": tabulate_switches,
    "published": tabulate_published,
    "measured": tabulate_measured,
    "detectors": tabulate_detectors,
}


# Pages ----------------------------------------------------------------------------------------------------


def fill_tables(text: str) -> str:
    """Return a page's Markdown with the tables that its placeholders name."""
    return PLACEHOLDER.sub(lambda found: TABLES[found[1]](found[2]), text)


def list_pages() -> Iterator[tuple[str, Path]]:
    """Yield the pages and files of the site that lie outside docs/: (their place in the site, the file)."""
    for name, place in ELSEWHERE.items():
        yield place, ROOT / name
    for path in sorted((ROOT / "experiments").rglob("*")):
        if path.suffix in SHOWN:
            yield path.relative_to(ROOT).as_posix(), path


def relink(text: str, page: str) -> str:
    """Return Markdown whose links to files outside docs/ lead to where the site has them.

    `page` is where the page lies in the repository. A link to a file that the site has not becomes its text.
    """
    here = posixpath.dirname(page)
    site = posixpath.dirname(find_place(page) or page)

    def move(found: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(here, found[2]))
        if (ROOT / target).is_dir() and (ROOT / target / "README.md").exists():
            target += "/README.md"
        place = find_place(target)
        if place is None:
            return found[0]
        return f"{found[1]}{posixpath.relpath(place, site or '.')}{found[3] or ''}{found[4]}"

    return LINK.sub(move, text)


def find_place(path: str) -> str | None:
    """Return where the site has a file of the repository, None of one that it has not."""
    if path in ELSEWHERE:
        return ELSEWHERE[path]
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return path if path.startswith("experiments/") and Path(path).suffix in SHOWN else None


def write_notebook(path: Path) -> str:
    """Return a notebook's cells as Markdown, without what they print."""
    parts = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
    return "\n\n".join(parts) + "\n"


def draw_formulas(page: str) -> str:
    """Return HTML whose formulas are MathML instead of TeX."""

    def draw(found: re.Match[str]) -> str:
        return convert(html.unescape(found[3]).strip(), display="block" if found[2] == "[" else "inline")

    return FORMULA.sub(draw, page)


# What mkdocs calls ----------------------------------------------------------------------------------------


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that lie outside docs/."""
    from mkdocs.structure.files import File

    for place, path in list_pages():
        files.append(File.generated(config, place, abs_src_path=str(path)))
    notebook = ROOT / "docs/compare.ipynb"
    files.append(File.generated(config, "compare.md", content=write_notebook(notebook)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Fill a page's tables and lead its links to the site's own pages."""
    place = page.file.src_uri
    source = next((name for name, moved in ELSEWHERE.items() if moved == place), place)
    return relink(fill_tables(markdown), source if source.startswith(("experiments/", *ELSEWHERE)) else f"docs/{place}")


def on_page_content(content: str, **_: Any) -> str:
    """Draw a page's formulas."""
    return draw_formulas(content)
