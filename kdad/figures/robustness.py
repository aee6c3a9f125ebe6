"""What corruptions of the test images take from a detector: heat maps of its metrics and false alarms."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdad.errors import UserError
from kdad.figures.style import PAGE, use_style, wrap_text
from kdad.results.series import name_detector
from kdad.results.settings import describe_runs
from kdad.results.words import name_metric

ALARMS = "false_alarm_rate"
KEYS = ("corruption", "severity")
LINE = 24  # characters of a detector's name in a line, at most
FULL = 30.0  # percentage points at which a colour is as strong as it gets


def read_corruptions(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the complete runs with columns `corruption` (none for clean ones), `severity` and `detector`.

    A detector's name is its model's, with those settings in which it differs from others besides the corruption.
    """
    table = describe_runs(runs)[0]
    table = table[table["status"] == "ok"].copy()
    table["corruption"] = [config.get("corruption", "none") if config else "none" for config in table["config"]]
    table["severity"] = [config.get("severity", 1) if config else 1 for config in table["config"]]
    table["detector"] = [
        ", ".join([name_detector(run["model"]), *drop_corruption(run["settings"])]) for _, run in table.iterrows()
    ]
    return table


def drop_corruption(settings: str) -> list[str]:
    """Return the parts of a run's settings that do not say how its test images were changed."""
    return [part for part in settings.split(", ") if part and part.partition("=")[0] not in KEYS]


def measure_changes(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return by how much a metric of one detector changes, in percentage points: corruptions down, severities across.

    Each category and seed is compared with its own clean test, and the mean is taken; NaN where there is no such pair.
    """
    alike = ["dataset", "category", "seed"]
    clean = table[table["corruption"] == "none"].drop_duplicates(alike, keep="last").set_index(alike)[metric]
    changed = table[table["corruption"] != "none"].join(clean.rename("clean"), on=alike)
    changed["change"] = 100 * (pd.to_numeric(changed[metric]) - pd.to_numeric(changed["clean"]))
    order = list(dict.fromkeys(changed["corruption"]))
    found = changed.pivot_table(index="corruption", columns="severity", values="change", dropna=False)
    return found.reindex(order)


@use_style()
def draw_robustness(runs: pd.DataFrame, metrics: Sequence[str]) -> Figure:
    """Draw a heat map for each detector (down) and metric (across), and of false alarms at the unchanged threshold.

    Raises `UserError` where no corrupted test has a clean one beside it.
    """
    table = read_corruptions(runs)
    shown = [*metrics, *([ALARMS] if ALARMS in table and table[ALARMS].notna().any() else [])]
    names = [name for name, rows in table.groupby("detector", sort=False) if (rows["corruption"] != "none").any()]
    changes = {(name, metric): measure_changes(table[table["detector"] == name], metric)
               for name in names for metric in shown}  # fmt: skip
    if not any(found.notna().any(axis=None) for found in changes.values()):
        raise UserError(
            "no test with corruption= beside one without it: python -m kdad.evaluate -m ckpt_path=<run> "
            "corruption=brightness,blur severity=1,2,3"
        )
    rows = max(len(found) for found in changes.values())
    labels = [wrap_text(str(name), LINE) for name in names]
    longest = max(len(line) for label in labels for line in label.split("\n"))  # they stand upright
    height = max(0.19 * rows + 0.75, 0.08 * longest + 0.3)
    figure = Figure((PAGE, len(names) * height), layout="constrained")
    axes = figure.subplots(len(names), len(shown), squeeze=False)
    for line, name, label in zip(axes, names, labels, strict=True):
        for number, (panel, metric) in enumerate(zip(line, shown, strict=True)):
            _draw_changes(panel, changes[name, metric], worse=1 if metric == ALARMS else -1)
            panel.set_title(name_change(metric))
            if number:
                panel.set_yticklabels([])
            else:
                panel.set_ylabel(label, fontsize=7)
    figure.supxlabel("severity; change in percentage points", fontsize=7)
    return figure


def name_change(metric: str) -> str:
    """Return what a reader calls a metric, or the false-alarm rate."""
    return "false-alarm rate" if metric == ALARMS else name_metric(metric)


def _draw_changes(panel: Axes, changes: pd.DataFrame, worse: int) -> None:
    """Draw one heat map, red where it is worse (`worse` is the sign of that), with the numbers in it."""
    values = changes.to_numpy(dtype=float)
    panel.imshow(worse * values, cmap="RdBu_r", vmin=-FULL, vmax=FULL, aspect="auto")
    panel.set_xticks(range(changes.shape[1]), [str(severity) for severity in changes.columns])
    panel.set_yticks(range(changes.shape[0]), list(changes.index))
    panel.tick_params(length=0)
    panel.spines[:].set_visible(False)
    for (row, column), value in np.ndenumerate(values):
        if not np.isnan(value):
            colour = "white" if abs(value) > 0.6 * FULL else "black"
            panel.text(column, row, f"{value:+.1f}", ha="center", va="center", fontsize=6, color=colour)
