"""Any number of runs in one table, with means over seeds and categories."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from kdad import published
from kdad.report.collect import METRICS
from kdad.report.match import completed, material, say, unrecorded, with_weights
from kdad.report.notes import AVERAGES, NAMES, causes, missing, repeats
from kdad.report.spread import Measured, averages, count_seeds, once, over_categories, over_seeds
from kdad.report.writers import Report, Table

HEADLINE = ("backbone.name", "image_size", "trainer.max_epochs")  # said of all runs, or of each where they differ
SECONDS = {"fit_seconds": "training (s)", "test_seconds": "test (s)"}
PERCENT, DIGITS = 100, 2
HOW = "Mean ± sample standard deviation over n seeds, in percent; seconds are means over seeds."
ABSENT = "not recorded"


def study_report(runs: pd.DataFrame) -> Report:
    """One row per detector, data set, differing settings and category, and the papers' averages over categories.

    Where several detectors or settings were run on several categories of a set, a table per metric sets them beside
    each other.
    """
    told, shared, remarks = described(runs)
    alike = ["model", "dataset", "settings", "key"]
    counted, left_out = once(told, [*alike, "category", "seed"])
    blocks = [Block(*names[:3], rows) for names, rows in counted.groupby(alike, sort=False)]
    blocks.sort(key=lambda block: (_position(block.model), block.model, block.dataset))
    notes = [HOW, *([f"All runs: {say(shared)}."] if shared else []), *remarks]
    lines, rules = [], set()
    for block in blocks:
        rules |= {len(lines)} if lines else set()
        for category, found in block.measured.items():
            wanted = averages(block.dataset).get(category, [])
            if absent := next((found[m].absent for m in METRICS if found[m].absent and not found[m].gap), ()):
                notes.append(f"{', '.join(filter(None, block.names))}: {missing(category, wanted, absent)}")
            n = count_seeds(max(found[metric].n for metric in METRICS), block.within(category))
            scores = [found[metric].text(PERCENT, DIGITS) for metric in METRICS]
            seconds = ["" if found[name].gap else f"{found[name].mean:.1f}" for name in SECONDS]
            lines.append([*block.names, AVERAGES.get(category, category), *scores, n, *seconds])
    head = ["model", "data set", "settings", "category", *(f"{NAMES[m]} (%)" for m in METRICS), "n", *SECONDS.values()]
    beside, legend = comparisons(blocks)
    tables = [Table("", [("", name) for name in head], 4, lines, rules), *beside]
    notes += [*legend, *causes(counted), *repeats(left_out), *runs.attrs.get("skipped", [])]
    cells = pd.DataFrame([record for block in blocks for record in block.records()])
    return Report("study", "Runs", tables, notes, cells)


@dataclass
class Block:
    """Runs of one configuration, one per category and seed, and what they have measured by category and metric."""

    model: str
    dataset: str
    settings: str
    rows: pd.DataFrame

    @property
    def names(self) -> list[str]:
        return [self.model, self.dataset, self.settings]

    @cached_property
    def measured(self) -> dict[str, dict[str, Measured]]:
        names = (*METRICS, *SECONDS)
        return {category: {name: self._measure(category, name) for name in names} for category in self._categories()}

    def within(self, category: str) -> pd.DataFrame:
        """The runs behind a category or an average."""
        if category in AVERAGES:
            wanted = averages(self.dataset).get(category)
            return self.rows[self.rows["category"].isin(wanted)] if wanted else self.rows
        return self.rows[self.rows["category"] == category]

    def _measure(self, category: str, metric: str) -> Measured:
        rows = self.within(category)
        if category in AVERAGES:
            wanted = averages(self.dataset).get(category) or sorted(rows["category"].unique())
            return over_categories(rows, metric, wanted)
        return over_seeds(rows, metric)

    def _categories(self) -> list[str]:
        """In the papers' order, each group followed by its average; a single category has none."""
        run = list(self.rows["category"].unique())
        groups = averages(self.dataset)
        known = groups.get("average", [])
        ordered = [c for c in known if c in run] + sorted(set(run) - set(known))
        if len(run) < 2:
            return ordered
        lines = []
        for name, wanted in groups.items():
            having = [category for category in ordered if category in wanted]
            if name != "average" and having:
                lines += [*having, name]
        return [*lines, *(category for category in ordered if category not in lines), "average"]

    def records(self) -> Iterator[dict[str, Any]]:
        """The cells for a CSV file, unrounded: one row per category."""
        for category, found in self.measured.items():
            record = dict(zip(("model", "dataset", "settings", "category"), (*self.names, category), strict=True))
            for metric in METRICS:
                value = found[metric]
                record |= {metric: round(value.mean * PERCENT, 6), f"{metric}_sd": round(value.spread * PERCENT, 6)}
                record |= {f"{metric}_n": value.n[0], f"{metric}_status": value.gap or "ok"}
                record[f"{metric}_without"] = " ".join(value.absent)
            yield record | {name: found[name].mean for name in SECONDS}


def comparisons(blocks: list[Block]) -> tuple[list[Table], list[str]]:
    """For each data set and metric: categories down, detectors and settings across; and what the columns stand for."""
    tables, legend = [], []
    for dataset in dict.fromkeys(block.dataset for block in blocks):
        beside = [block for block in blocks if block.dataset == dataset]
        longest = max((list(block.measured) for block in beside), key=len)
        categories = list(dict.fromkeys([*longest, *(name for block in beside for name in block.measured)]))
        if len(beside) < 2 or len(categories) < 2:
            continue
        models = [block.model for block in beside]
        names = [f"{m} {models[: i + 1].count(m)}" if models.count(m) > 1 else m for i, m in enumerate(models)]
        legend += [f"{dataset}, {name}: {block.settings}" for name, block in zip(names, beside) if block.settings]
        gap = {metric: Measured(gap="missing") for metric in METRICS}
        for metric in METRICS:
            lines = [
                [AVERAGES.get(c, c), *(b.measured.get(c, gap)[metric].text(PERCENT, DIGITS) for b in beside)]
                for c in categories
            ]
            head = [("", name) for name in ("category", *names)]
            tables.append(Table(f"{dataset}: {NAMES[metric]} (%)", head, 1, lines))
    return tables, legend


def described(runs: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, Any], list[str]]:
    """The runs with `key`, equal where all that decides the figures is, and `settings`, in which runs of one detector
    and data set differ; what all runs share; and remarks."""
    runs = runs.assign(
        model=runs["model"].fillna("?"), dataset=runs["dataset"].fillna("?"),
        category=runs["category"].fillna("default").map(str),
    )  # fmt: skip
    recorded = {index: material(config) for index, config in runs["config"].items()}
    values = {
        index: completed(runs.at[index, "model"], runs.at[index, "dataset"], found) if found else {}
        for index, found in recorded.items()
    }
    known = [index for index in runs.index if values[index]]
    spread = {name: {json.dumps(values[i].get(name, ABSENT)) for i in known} for name in HEADLINE}
    shared = {name: values[known[0]][name] for name in HEADLINE if known and len(spread[name]) == 1}
    told = [name for name in HEADLINE if name not in shared]
    keys, settings = {}, {}
    for _, group in runs.groupby(["model", "dataset"], sort=False):
        having = [index for index in group.index if values[index]]
        names = list(dict.fromkeys([*told, *(name for index in having for name in values[index])]))
        varied = [n for n in names if n in told or len({json.dumps(values[i].get(n, ABSENT)) for i in having}) > 1]
        if "backbone.name" in varied and _follows(values, having, "backbone.weights", "backbone.name"):
            varied = [name for name in varied if name != "backbone.weights"]
        for index in group.index:
            keys[index] = json.dumps(values[index], sort_keys=True) if values[index] else str(runs.at[index, "folder"])
            settings[index] = (
                say({name: values[index].get(name, ABSENT) for name in varied})
                if values[index]
                else f"no configuration: {keys[index]}"
            )
    runs = runs.assign(key=pd.Series(keys), settings=pd.Series(settings))
    runs["settings"] = with_weights(runs, ["model", "dataset", "key"], "settings")
    return runs, shared, unrecorded((recorded[index], values[index]) for index in known)


def _follows(values: dict[Any, dict[str, Any]], indices: list[Any], name: str, leader: str) -> bool:
    """Whether equal values of `leader` have equal values of `name`."""
    pairs = {(json.dumps(values[i].get(leader)), json.dumps(values[i].get(name))) for i in indices}
    return len(pairs) == len({first for first, _ in pairs})


def _position(model: str) -> int:
    order = published.papers()
    return order.index(model) if model in order else len(order)
