"""Which printed setting a run belongs to, and in what its configuration differs from the paper's."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import hydra
import pandas as pd
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kdad.configuration import CONF, choices, explain, flatten
from kdad.errors import UserError
from kdad.report.spread import PUBLISHED_AS

# What a configuration's top-level keys say. Keys that are in neither do not change a run's figures, or are its seed
# and category.
METHOD = ("model", "optimizer", "levels", "normalisation")  # another value makes another method
CONDITIONS = ("backbone", "image_size", "batch_size", "val_fraction", "monitor", "average_epochs", "trainer", "dataset", "metrics")
# Of these, what is repeated from the top level, says where something lies or how it is computed.
IMMATERIAL = {
    "model.name", "backbone.weight_keys", "backbone._partial_", "optimizer._partial_", "metrics.memory_gb",
    *(f"dataset.{key}" for key in ("name", "root", "download", "obtain")),
    *(f"dataset.{key}" for key in ("category", "seed", "image_size", "batch_size", "val_fraction")),
    *(f"trainer.{key}" for key in ("accelerator", "devices", "num_nodes", "strategy", "deterministic", "benchmark")),
    *(f"trainer.{key}" for key in ("log_every_n_steps", "num_sanity_val_steps", "use_distributed_sampler")),
    *(f"trainer.{key}" for key in ("enable_model_summary", "enable_progress_bar", "profiler")),
}  # fmt: skip


def material(config: dict[str, Any]) -> dict[str, Any]:
    """What decides a run's figures, but for seed and category: dotted key -> value."""
    flat = flatten({key: config[key] for key in (*METHOD, *CONDITIONS) if key in config})
    return {
        key: value
        for key, value in flat.items()
        if not (key in IMMATERIAL or key.startswith("dataset.official") or isinstance(value, dict))
    }


def completed(model: str, dataset: str, values: dict[str, Any]) -> dict[str, Any]:
    """What a run holds, with today's defaults for keys that came into being after it."""
    known = model in choices("model") and dataset in choices("dataset")
    return (compose(f"model={model}", f"dataset={dataset}") if known else {}) | values


def unrecorded(runs: Iterable[tuple[dict[str, Any], dict[str, Any]]]) -> list[str]:
    """A remark on the keys that `completed` has added; of pairs of what runs hold and are taken to hold."""
    keys = sorted({key for values, complete in runs for key in complete.keys() - values.keys()})
    return [f"Not recorded by some of the runs, and taken as the defaults: {', '.join(keys)}."] if keys else []


def say(values: dict[str, Any]) -> str:
    """Settings as they are written on a command line."""
    return ", ".join(f"{key}={_value(value)}" for key, value in values.items())


def _value(value: Any) -> str:
    if isinstance(value, list):
        return f"[{','.join(map(_value, value))}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


@dataclass
class Recipe:
    """What a table's runs hold: the paper's configuration, and what the printed settings change in it."""

    config: dict[str, Any]
    settings: dict[str, dict[str, Any]] = field(default_factory=lambda: {"": {}})

    def setting_of(self, run: dict[str, Any]) -> str | None:
        """The printed setting with the most keys whose values are the run's; None if there is none."""
        fits = [
            name
            for name, values in self.settings.items()
            if all(run.get(key) == value for key, value in values.items())
        ]
        return max(fits, key=lambda name: len(self.settings[name]), default=None)

    def differences(self, run: dict[str, Any], setting: str | None) -> dict[str, tuple[Any, Any]]:
        """Key -> the run's value and the setting's; of a run without a setting, beside the keys that tell these apart."""
        apart = set() if setting is not None else self.swept
        expected = self.config | self.settings.get(setting, {})
        keys = [key for key, value in run.items() if key not in apart and value != expected.get(key)]
        if run.get("backbone.name") != expected.get("backbone.name"):  # other weights then go without saying
            keys = [key for key in keys if key != "backbone.weights"]
        return {key: (run[key], expected.get(key)) for key in keys}

    @property
    def swept(self) -> set[str]:
        """The keys that tell the printed settings apart."""
        return {key for values in self.settings.values() for key in values}


def recipe(paper: str, table: str, dataset: str, whole: bool) -> Recipe | None:
    """From the experiment file of this table, or from the paper's model alone where `whole`: the table has no settings.

    None where neither says which configuration the table's cells belong to. Raises `UserError` for an experiment
    that does not compose.
    """
    choice = next((name for name in choices("dataset") if PUBLISHED_AS.get(name, name) == dataset), None)
    if choice is None:
        return None
    for file in sorted((CONF / "experiment" / paper).glob("*.yaml")):
        about = OmegaConf.load(file).get("table") or {}
        if str(about.get("name")) == table:
            overrides = f"+experiment={paper}/{file.stem}", f"dataset={choice}"
            # From the composed table: one experiment may be the base of another.
            settings = OmegaConf.to_container(_composed(*overrides), resolve=True)["table"].get("settings") or {"": {}}
            return Recipe(compose(*overrides), {str(name): dict(values or {}) for name, values in settings.items()})
    return Recipe(compose(f"model={paper}", f"dataset={choice}")) if whole else None


def compose(*overrides: str) -> dict[str, Any]:
    """What is `material` of a configuration. Raises `UserError` for one that does not compose."""
    return material(OmegaConf.to_container(_composed(*overrides), resolve=True))


@cache
def _composed(*overrides: str) -> DictConfig:
    try:
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            return hydra.compose("run", list(overrides))
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(f"{' '.join(overrides)}: {explain(error, 'run')}") from error


def assign(paper: str, cells: pd.DataFrame, runs: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The runs that belong into a table, and remarks on those that do not. `cells` are the paper's own.

    `setting` is the printed one, or with `printed` False what sets the run apart from all of these; `conditions` is
    what else differs, as text.
    """
    table, remarks, rows, pairs = cells["table"].iloc[0], [], [], []
    named = runs.assign(dataset=runs["dataset"].replace(PUBLISHED_AS))
    mine = named[(named["model"] == paper) & named["dataset"].isin([name for name in cells["dataset"] if name])]
    for dataset, group in mine.groupby("dataset", sort=False):
        own = cells[cells["dataset"] == dataset]
        known = recipe(paper, table, dataset, whole=set(own["setting"]) == {""})
        if known is None:
            remarks.append(f"{count(group)} on {dataset}: no experiment file says which of the settings they are.")
            continue
        for index, run in group.iterrows():
            if not run["config"]:
                remarks.append(f"{run['folder']} cannot be told from other settings: it has no readable config.yaml.")
                continue
            values = material(run["config"])
            pairs.append((values, completed(paper, runs.at[index, "dataset"], values)))
            category = run["category"] if pd.notna(run["category"]) else own["category"].iloc[0]
            rows.append({"index": index, **_place(known, pairs[-1][1]), "category": str(category)})
    placed = pd.DataFrame(rows, columns=["index", "setting", "printed", "conditions", "category"]).set_index("index")
    assigned = mine.drop(columns="category").join(placed.astype({"printed": bool}), how="inner")
    assigned["conditions"] = with_weights(assigned, ["dataset", "setting", "conditions"], "conditions")
    if len(runs) > len(mine):
        remarks.append(f"{count(runs.drop(mine.index))} of other detectors or data sets have no place in this table.")
    return assigned, [*unrecorded(pairs), *remarks]


def _place(known: Recipe, run: dict[str, Any]) -> dict[str, Any]:
    setting = known.setting_of(run)
    different = known.differences(run, setting)
    method = {key for key in different if key.split(".")[0] in METHOD}
    if run.get("backbone.name") != known.config.get("backbone.name"):
        method.discard("normalisation")  # it goes with the teacher
    apart = {} if setting is not None else {key: run.get(key) for key in sorted(known.swept)}
    apart |= {key: different.pop(key)[0] for key in sorted(method)}
    conditions = [f"{say({key: found})} (not {_value(expected)})" for key, (found, expected) in different.items()]
    label = ", ".join(filter(None, [setting, say(apart)]))
    return {"setting": label, "printed": not apart, "conditions": ", ".join(conditions)}


def with_weights(runs: pd.DataFrame, keys: list[str], column: str) -> pd.Series:
    """`column`, in which runs that agree in `keys` but not in their teacher's weights are told apart."""
    text = runs[column].copy()
    for _, rows in runs.groupby(keys, sort=False, dropna=False):
        prints = rows["weights_fingerprint"].dropna().unique()
        if len(prints) > 1:
            marks = "weights_fingerprint=" + rows["weights_fingerprint"].fillna(prints[0])
            text[rows.index] = [", ".join(filter(None, pair)) for pair in zip(rows[column], marks, strict=True)]
    return text


def count(runs: pd.DataFrame) -> str:
    return f"{len(runs)} run{'s' if len(runs) > 1 else ''}"
