"""Runs that differ in a number of the configuration: its value in each, and what metrics are at each value."""

from typing import Any

import pandas as pd

from kdad.errors import UserError
from kdad.results.series import name_detector
from kdad.results.settings import describe_runs
from kdad.results.statistics import drop_repeats
from kdad.settings.compose import suggest_nearest
from kdad.settings.roles import flatten


def read_levels(runs: pd.DataFrame, key: str) -> pd.DataFrame:
    """Return complete runs, each configuration and seed once, with columns `level`, the value of a key, and `line`.

    `line` is the detector, with those settings besides the key in which it differs from others. Raises `UserError`
    where the key is not in the runs' configurations, no number, or the same in all of them.
    """
    table = drop_repeats(describe_runs(runs)[0], ["model", "dataset", "key", "category", "seed"])[0]
    table = table[table["status"] == "ok"].copy()
    flat = [flatten(config) for config in table["config"]]
    known = sorted({name for values in flat for name, value in values.items() if _is_number(value)})
    if not any(key in values for values in flat):
        raise UserError(f"--key {key}: no run's configuration has it. {suggest_nearest(key, known)}")
    values = [config.get(key) for config in flat]
    if unfit := next((value for value in values if value is not None and not _is_number(value)), None):
        raise UserError(f"--key {key}: {unfit} is no number")
    table["level"] = pd.to_numeric(pd.Series(values, index=table.index))
    table = table.dropna(subset=["level"])
    if table.empty:
        raise UserError(f"--key {key}: it is null in all runs; give runs that have a number there")
    if table["level"].nunique() < 2:
        raise UserError(f"--key {key}: it is {table['level'].iloc[0]:g} in all runs; give runs that differ in it")
    table["line"] = [
        ", ".join([name_detector(run["model"]), *_drop_key(run["settings"], key)]) for _, run in table.iterrows()
    ]
    return table


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _drop_key(settings: str, key: str) -> list[str]:
    return [part for part in settings.split(", ") if part and part.partition("=")[0] != key]


def measure_levels(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return the mean of a metric by level, in percent, over categories of the means over seeds, and its spread.

    Only categories that have all levels count. The spread is the standard deviation of the seeds' own means, NaN for
    one seed. Columns `mean` and `spread`, index the levels, ascending.
    """
    values = rows.assign(value=pd.to_numeric(rows[metric]) * 100).dropna(subset=["value"])
    counts = values.groupby("category")["level"].nunique()
    values = values[values["category"].isin(counts[counts == counts.max()].index)]
    by_seed = values.pivot_table(index="level", columns="seed", values="value", aggfunc="mean")
    return pd.DataFrame({"mean": by_seed.mean(axis=1), "spread": by_seed.std(axis=1, ddof=1)}).sort_index()
