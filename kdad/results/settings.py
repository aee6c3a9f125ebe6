"""Which printed setting a run belongs to, and in what its configuration differs from the paper's."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import OmegaConf

from kdad.results.statistics import PUBLISHED_AS
from kdad.results.words import count_runs, format_settings, format_value
from kdad.settings.compose import CONF, compose, list_choices, resolve
from kdad.settings.keys import Role, find_key
from kdad.settings.roles import COMPARED, find_before, select

ALWAYS_SAID = ("backbone.name", "image_size", "trainer.max_epochs")  # said of all runs, or of each where they differ
ABSENT = "not recorded"
PAPER, RELEASED = "paper", "released"  # forms
UNION = "dataset.category"


def select_compared(config: dict[str, Any]) -> dict[str, Any]:
    """Return the values of a configuration that decide a run's figures, except seed and category, by dotted key.

    Of a category of a unified run also, as `dataset.category`, which categories were trained on.
    """
    union = {UNION: config["dataset"].get("category")} if config.get("unified") else {}
    return select(config, COMPARED, copies=False) | union


_compose, _list_choices = cache(compose), cache(list_choices)  # asked for again with each run


def add_defaults(model: str, dataset: str, values: dict[str, Any]) -> dict[str, Any]:
    """Fill in the keys that a run's older version had not, with what was done without them. Returns all its values."""
    if model not in _list_choices("model") or dataset not in _list_choices("dataset"):
        return values
    today = compose_compared(f"model={model}", f"dataset={dataset}")
    return {key: value if find_before(key) is ... else find_before(key) for key, value in today.items()} | values


def list_added_keys(runs: Iterable[tuple[dict[str, Any], dict[str, Any]]]) -> list[str]:
    """Say which keys `add_defaults` has added, given the values of each run before and after.

    Returns one line, or none where it has added none.
    """
    added = {key for before, after in runs for key in after.keys() - before.keys()}
    keys = sorted(key for key in added if find_before(key) is ...)
    return [f"Not recorded by some of the runs, and taken as the defaults: {', '.join(keys)}."] if keys else []


@dataclass
class Recipe:
    """What a table's runs hold: the paper's configuration, and what the printed settings change in it."""

    config: dict[str, Any]
    settings: dict[str, dict[str, Any]] = field(default_factory=lambda: {"": {}})

    def find_setting(self, run: dict[str, Any]) -> str | None:
        """Return the printed setting whose values all match the run's; of several, the one with the most keys.

        None where there is none.
        """
        fits = [
            name
            for name, values in self.settings.items()
            if all(run.get(key) == value for key, value in values.items())
        ]
        return max(fits, key=lambda name: len(self.settings[name]), default=None)

    def find_differences(self, run: dict[str, Any], setting: str | None) -> dict[str, tuple[Any, Any]]:
        """Return where a run differs from a printed setting: key -> (the run's value, the setting's).

        Of a run without a setting, the keys that tell the settings apart are left out.
        """
        apart = set() if setting is not None else self.swept
        expected = self.config | (self.settings[setting] if setting is not None else {})
        keys = [key for key, value in run.items() if key not in apart and value != expected.get(key)]
        if run.get("backbone.name") != expected.get("backbone.name"):  # other weights then go without saying
            keys = [key for key in keys if key != "backbone.weights"]
        return {key: (run[key], expected.get(key)) for key in keys}

    @property
    def swept(self) -> set[str]:
        """The keys that tell the printed settings apart."""
        return {key for values in self.settings.values() for key in values}


@cache
def _read_table_name(file: Path) -> str:
    """Return the name of the table that an experiment fills."""
    return str(OmegaConf.select(OmegaConf.load(file), "table.name"))


def find_recipe(paper: str, table: str, dataset: str, whole: bool) -> Recipe | None:
    """Return what the runs of a table hold, by the experiment file that fills it.

    Without such a file it is the paper's model alone, where `whole`: the table has no settings. None where neither
    says which configuration the table's cells belong to. Raises `UserError` for an experiment that does not compose.
    """
    choice = next((name for name in list_choices("dataset") if PUBLISHED_AS.get(name, name) == dataset), None)
    if choice is None:
        return None
    for file in sorted((CONF / "experiment" / paper).glob("*.yaml")):
        if _read_table_name(file) == table:
            overrides = f"+experiment={paper}/{file.stem}", f"dataset={choice}"
            # From the composed table: one experiment may be the base of another.
            settings = resolve(_compose(*overrides))["table"].get("settings") or {"": {}}
            changes = {str(name): dict(values or {}) for name, values in settings.items()}
            return Recipe(compose_compared(*overrides), changes)
    return Recipe(compose_compared(f"model={paper}", f"dataset={choice}")) if whole else None


@cache
def compose_compared(*overrides: str) -> dict[str, Any]:
    """Compose a configuration from overrides, and return what `select_compared` selects of it.

    Raises `UserError` where they do not.
    """
    return select_compared(resolve(_compose(*overrides)))


def assign_runs(paper: str, cells: pd.DataFrame, runs: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Return the runs that belong to a table, and remarks on those that do not. `cells` are the paper's own.

    In `setting` stands the printed one, or with `printed` False what sets the run apart from all of these; in
    `conditions` what else differs, as text.
    """
    table, remarks, rows, pairs = cells["table"].iloc[0], [], [], []
    named = runs.assign(dataset=runs["dataset"].replace(PUBLISHED_AS))
    mine = named[(named["model"] == paper) & named["dataset"].isin([name for name in cells["dataset"] if name])]
    for dataset, group in mine.groupby("dataset", sort=False):
        own = cells[cells["dataset"] == dataset]
        known = find_recipe(paper, table, str(dataset), whole=set(own["setting"]) == {""})
        if known is None:
            remarks.append(f"{count_runs(group)} on {dataset}: no experiment file says which of the settings they are.")
            continue
        for index, run in group.iterrows():
            if not run["config"]:
                remarks.append(f"{run['folder']} cannot be told from other settings: it has no readable config.yaml.")
                continue
            before = select_compared(run["config"])
            after = add_defaults(paper, str(runs.at[index, "dataset"]), before)
            pairs.append((before, after))
            category = run["category"] if pd.notna(run["category"]) else own["category"].iloc[0]
            rows.append({"index": index, **place_run(known, after), "category": str(category)})
    places = pd.DataFrame(rows, columns=["index", "setting", "printed", "conditions", "category"]).set_index("index")
    assigned = mine.drop(columns="category").join(places.astype({"printed": bool}), how="inner")
    assigned["conditions"] = add_fingerprints(assigned, ["dataset", "setting", "conditions"], "conditions")
    if len(runs) > len(mine):
        others = count_runs(runs.drop(mine.index))
        remarks.append(f"{others} of other detectors or data sets have no place in this table.")
    return assigned, [*list_added_keys(pairs), *remarks]


def place_run(known: Recipe, run: dict[str, Any]) -> dict[str, Any]:
    """Return the columns `setting`, `printed` and `conditions` of a run, given its values by dotted key."""
    setting = known.find_setting(run)
    different = known.find_differences(run, setting)
    method = {key for key in different if find_key(key).role is Role.METHOD}
    if run.get("backbone.name") != known.config.get("backbone.name"):
        method.discard("normalisation")  # it goes with the teacher
    apart = {} if setting is not None else {key: run.get(key) for key in sorted(known.swept)}
    apart |= {key: different.pop(key)[0] for key in sorted(method)}
    conditions = [
        f"{format_settings({key: value})} (not {format_value(expected)})"
        for key, (value, expected) in different.items()
    ]
    label = ", ".join(filter(None, [setting, format_settings(apart)]))
    return {"setting": label, "printed": not apart, "conditions": ", ".join(conditions)}


def add_fingerprints(runs: pd.DataFrame, keys: list[str], column: str) -> pd.Series:
    """Return a text column, with fingerprints of the teachers' weights added where only these tell runs apart.

    That is where runs agree in `keys` and their fingerprints do not.
    """
    text = runs[column].copy()
    for _, rows in runs.groupby(keys, sort=False, dropna=False):
        prints = rows["weights_fingerprint"].dropna().unique()
        if len(prints) > 1:
            marks = "weights_fingerprint=" + rows["weights_fingerprint"].fillna(prints[0])
            text[rows.index] = [", ".join(filter(None, pair)) for pair in zip(rows[column], marks, strict=True)]
    return text


def describe_runs(runs: pd.DataFrame, across: bool = False) -> tuple[pd.DataFrame, dict[str, Any], list[str]]:
    """Say of each run in which settings it differs from the others of its detector and data set.

    Values that are all of one form are told as form=released or form=paper. With `across`, what tells runs apart on one
    data set is told on all, so that a detector has one name on them. Returns the runs with two more columns,
    `settings`, which says it, and `key`, equal where all that decides the figures is; the settings that all runs share;
    and remarks.
    """
    runs = runs.assign(
        model=runs["model"].fillna("?"), dataset=runs["dataset"].fillna("?"),
        category=runs["category"].fillna("default").map(str),
    )  # fmt: skip
    recorded = {index: select_compared(config) for index, config in runs["config"].items()}
    values = {
        index: add_defaults(str(runs.at[index, "model"]), str(runs.at[index, "dataset"]), before) if before else {}
        for index, before in recorded.items()
    }
    known = [index for index in runs.index if values[index]]
    said = [*ALWAYS_SAID, *(["unified"] if any(values[i].get("unified") for i in known) else [])]
    spread = {name: {json.dumps(values[i].get(name, ABSENT)) for i in known} for name in said}
    shared = {name: values[known[0]][name] for name in said if known and len(spread[name]) == 1}
    told = [name for name in said if name not in shared]
    keys, settings = {}, {}
    varied: dict[Any, list[str]] = {}  # by detector and data set, the keys in which runs differ
    groups = runs.groupby(["model", "dataset"], sort=False)
    for place, group in groups:
        having = [index for index in group.index if values[index]]
        names = list(dict.fromkeys([*told, *(name for index in having for name in values[index])]))
        found = [n for n in names if n in told or len({json.dumps(values[i].get(n, ABSENT)) for i in having}) > 1]
        for name, leader in (("backbone.weights", "backbone.name"), (UNION, "unified")):
            if leader in found and _follows(values, having, name, leader):
                found = [other for other in found if other != name]
        varied[place] = found
    for (model, dataset), group in groups:
        places = [(model, other) for other in dict.fromkeys(runs["dataset"])] if across else [(model, dataset)]
        names = list(dict.fromkeys(name for place in places for name in varied.get(place, ())))
        for index in group.index:
            if values[index]:
                keys[index] = json.dumps(values[index], sort_keys=True)
                told_here = [name for name in names if name != UNION or name in values[index]]  # of a union alone
                own = {name: values[index].get(name, ABSENT) for name in told_here}
                settings[index] = format_settings(shorten_form(own, str(model), str(dataset)))
            else:
                keys[index] = str(runs.at[index, "folder"])
                settings[index] = f"no configuration: {keys[index]}"
    runs = runs.assign(key=pd.Series(keys), settings=pd.Series(settings))
    runs["settings"] = add_fingerprints(runs, ["model", "dataset", "key"], "settings")
    return runs, shared, list_added_keys((recorded[index], values[index]) for index in known)


@cache
def list_form_values(model: str, dataset: str) -> dict[str, dict[str, Any]]:
    """Return, by form, the values of the keys in which a detector's forms differ; empty where it has one form."""
    if model not in _list_choices(f"forms/{RELEASED}") or dataset not in _list_choices("dataset"):
        return {}
    overrides = f"model={model}", f"dataset={dataset}"
    values = {PAPER: compose_compared(*overrides), RELEASED: compose_compared(*overrides, f"form={RELEASED}")}
    differing = [key for key in values[RELEASED] if values[RELEASED][key] != values[PAPER].get(key)]
    return {form: {key: own.get(key) for key in differing} for form, own in values.items()}


def shorten_form(values: dict[str, Any], model: str, dataset: str) -> dict[str, Any]:
    """Return settings with the values of a whole form, where they are all there, as `form` alone."""
    for form, own in list_form_values(model, dataset).items():
        if own and all(key in values and values[key] == value for key, value in own.items()):
            return {"form": form} | {key: value for key, value in values.items() if key not in own}
    return values


def _follows(values: dict[Any, dict[str, Any]], indices: list[Any], name: str, leader: str) -> bool:
    """Return whether runs with the same value of `leader` always have the same value of `name`."""
    pairs = {(json.dumps(values[i].get(leader)), json.dumps(values[i].get(name))) for i in indices}
    return len(pairs) == len({first for first, _ in pairs})
