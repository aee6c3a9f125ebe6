"""Any number of runs in one table, with means over seeds and categories."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import pandas as pd

from kdad import published
from kdad.report.decisions import HOW_DECIDED, tabulate_decisions, tabulate_kinds
from kdad.report.defects import HOW_MEASURED, tabulate_defects
from kdad.report.protocols import tabulate_protocols
from kdad.report.writers import Report, Table, find_best, find_best_across
from kdad.results.read import FURTHER, METRICS
from kdad.results.settings import describe_runs
from kdad.results.statistics import (
    Measured,
    average_categories,
    average_seeds,
    count_seeds,
    drop_repeats,
    list_averages,
)
from kdad.results.words import (
    AVERAGES,
    describe_repeats,
    format_settings,
    list_causes,
    list_changed_data,
    list_other_metrics,
    merge_notes,
    name_metric,
    name_missing_categories,
)

SECONDS = {"fit_seconds": "training (s)", "test_seconds": "test (s)"}
PERCENT, DIGITS = 100, 2
HOW = "Mean ± sample standard deviation over n seeds, in percent; seconds are means over seeds."


def make_study_report(runs: pd.DataFrame, metrics: Sequence[str] = METRICS) -> Report:
    """Make a report of any runs: one row per detector, data set, differing settings and category, in these metrics.

    The papers' averages over categories are rows too. Where several detectors or settings were run on several
    categories of a set, a table per metric sets them beside each other.
    """
    blocks, counted, left_out, tested, shared, remarks = group_blocks(runs, metrics)
    notes = [HOW, *([f"All runs: {format_settings(shared)}."] if shared else []), *remarks]
    missing: list[tuple[str, str]] = []
    lines: list[list[str]] = []
    rules: set[int] = set()
    for block in blocks:
        rules |= {len(lines)} if lines else set()
        for category, values in block.measured.items():
            wanted = list_averages(block.dataset).get(category, [])
            if absent := next((values[m].absent for m in metrics if values[m].absent and not values[m].gap), ()):
                where = ", ".join(filter(None, block.names))
                missing.append((where, name_missing_categories(category, wanted, absent)))
            n = count_seeds(max(values[metric].n for metric in metrics), block.parts[category])
            scores = [values[metric].format(PERCENT, DIGITS) for metric in metrics]
            seconds = ["" if values[name].gap else f"{values[name].mean:.1f}" for name in SECONDS]
            lines.append([*block.names, AVERAGES.get(category, category), *scores, n, *seconds])
    measured = (f"{name_metric(metric)} (%)" for metric in metrics)
    head = ["model", "data set", "settings", "category", *measured, "n", *SECONDS.values()]
    cells = pd.DataFrame([record for block in blocks for record in block.list_records()])
    blocks = [block for block in blocks if not block.is_refused]  # the table above has them
    beside, legend = compare_blocks(blocks, metrics)
    named = [(block.names, block.rows[block.rows["status"] == "ok"]) for block in blocks]
    judged = dict(list(tested[tested["status"] == "ok"].groupby("key")))
    decided = tabulate_decisions([(b.names, judged[b.key]) for b in blocks if b.key in judged])
    defects = tabulate_defects(named, name_columns(blocks))
    if not legend and defects:  # whose columns go by the same names
        numbered = zip(name_columns(blocks), blocks, strict=True)
        legend = [f"{block.dataset}, {name}: {block.settings}" for name, block in numbered if name != block.model]
    by_protocol, how_counted = tabulate_protocols(named, metrics)
    beside += [*decided, *tabulate_kinds(named, name_columns(blocks)), *defects, *by_protocol]
    best = find_best(lines, range(4, 4 + len(metrics)), [(line[1], line[3]) for line in lines])
    tables = [Table("", [("", name) for name in head], 4, lines, rules, best), *beside]
    notes += [
        *merge_notes(missing),
        *legend,
        *name_further(counted, metrics),
        *([HOW_DECIDED] if decided else []),
        *([HOW_MEASURED] if defects else []),
        *how_counted,
        *list_causes(counted, metrics),
        *list_changed_data(counted),
        *list_other_metrics(runs, metrics),
        *describe_repeats(left_out),
        *runs.attrs.get("skipped", []),
    ]
    return Report("study", "Runs", tables, notes, cells)


def name_further(runs: pd.DataFrame, metrics: Sequence[str]) -> list[str]:
    """Return a note on metrics that some data sets or settings bring along and that are not among those shown."""
    names = [name for name in runs.columns if FURTHER.fullmatch(name) and name not in metrics]
    if not (found := [name for name in names if runs[name].notna().any()]):
        return []
    return [f"Measured, too: {', '.join(found)}; --metrics {' '.join([*metrics, found[0]])}, or all, shows them."]


class Grouped(NamedTuple):
    """Runs as blocks; settings that all share, remarks on others.

    `counted` are the runs of the blocks, `left_out` those that repeat them; `tested` are the former and those of the
    latter that are evaluations, whose thresholds may be others.
    """

    blocks: list["Block"]
    counted: pd.DataFrame
    left_out: pd.DataFrame
    tested: pd.DataFrame
    shared: dict[str, Any]
    remarks: list[str]


def group_blocks(runs: pd.DataFrame, metrics: Sequence[str] = METRICS, across: bool = False) -> Grouped:
    """Return the runs of each detector, data set and differing settings, each configuration and seed once.

    With `across`, for comparisons, settings are named alike on all data sets, and jobs that were refused are no blocks.
    """
    described, shared, remarks = describe_runs(runs, across)
    alike = ["model", "dataset", "settings", "key"]
    counted, left_out = drop_repeats(described, [*alike, "category", "seed"])
    groups = counted.groupby(alike, sort=False)
    blocks = [Block(str(model), str(data), str(settings), rows, metrics) for (model, data, settings, _), rows in groups]
    blocks.sort(key=lambda block: (_find_position(block.model), block.model, block.dataset))
    blocks = [block for block in blocks if not (across and block.is_refused)]
    tested = described[(described["kind"] == "evaluation") | described.index.isin(counted.index)]
    return Grouped(blocks, counted, left_out, tested, shared, remarks)


@dataclass
class Block:
    """Runs of one configuration, one per category and seed, and what they have measured by category and metric."""

    model: str
    dataset: str
    settings: str
    rows: pd.DataFrame
    metrics: Sequence[str] = METRICS

    @property
    def names(self) -> list[str]:
        """Detector, data set and settings."""
        return [self.model, self.dataset, self.settings]

    @property
    def key(self) -> str:
        """What all that decides the figures comes to: see `describe_runs`."""
        return str(self.rows["key"].iloc[0])

    @property
    def is_refused(self) -> bool:
        """Whether these are jobs whose very configuration was refused, so that there is none."""
        return not (self.rows["status"] == "ok").any() and not self.rows["config"].map(bool).any()

    @cached_property
    def measured(self) -> dict[str, dict[str, Measured]]:
        """What the runs have measured: category or average -> metric -> value."""
        names = (*self.metrics, *SECONDS)
        return {category: {m: self._measure(category, m) for m in names} for category in self.parts}

    @cached_property
    def parts(self) -> dict[str, pd.DataFrame]:
        """The runs behind each category or average, in the columns that are measured: all are slow to select from."""
        columns = dict.fromkeys(["category", "seed", "status", "error", *self.metrics, *SECONDS])
        rows = self.rows[list(columns)]
        return {category: self._select(rows, category) for category in self._order()}

    def _select(self, rows: pd.DataFrame, category: str) -> pd.DataFrame:
        if category in AVERAGES:
            wanted = list_averages(self.dataset).get(category)
            return rows[rows["category"].isin(wanted)] if wanted else rows
        return rows[rows["category"] == category]

    def _measure(self, category: str, metric: str) -> Measured:
        rows = self.parts[category]
        if category in AVERAGES:
            wanted = list_averages(self.dataset).get(category) or sorted(rows["category"].unique())
            return average_categories(rows, metric, wanted)
        return average_seeds(rows, metric)

    def _order(self) -> list[str]:
        """Order the categories as the papers do, each group followed by its average; a single category has none."""
        run = list(self.rows["category"].unique())
        groups = list_averages(self.dataset)
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

    def list_records(self) -> Iterator[dict[str, Any]]:
        """Yield one row per category for a CSV file, unrounded."""
        for category, values in self.measured.items():
            names = zip(("model", "dataset", "settings", "category"), (*self.names, category), strict=True)
            record: dict[str, Any] = dict(names)
            for metric in self.metrics:
                value = values[metric]
                record |= {metric: round(value.mean * PERCENT, 6), f"{metric}_sd": round(value.spread * PERCENT, 6)}
                record |= {f"{metric}_n": value.n[0], f"{metric}_status": value.gap or "ok"}
                record[f"{metric}_without"] = " ".join(value.absent)
            yield record | {name: values[name].mean for name in SECONDS}


def compare_blocks(blocks: list[Block], metrics: Sequence[str]) -> tuple[list[Table], list[str]]:
    """Set the detectors and settings of each data set beside each other.

    Returns a table per data set and metric, categories down and detectors across; and what the columns stand for.
    """
    tables, legend = [], []
    for dataset in dict.fromkeys(block.dataset for block in blocks):
        beside = [block for block in blocks if block.dataset == dataset]
        longest = max((list(block.measured) for block in beside), key=len)
        categories = list(dict.fromkeys([*longest, *(name for block in beside for name in block.measured)]))
        if len(beside) < 2 or len(categories) < 2:
            continue
        names = name_columns(beside)
        named = zip(names, beside, strict=True)
        legend += [f"{dataset}, {name}: {block.settings}" for name, block in named if block.settings]
        gap = {metric: Measured(gap="missing") for metric in metrics}
        for metric in metrics:
            lines = [
                [AVERAGES.get(c, c), *(b.measured.get(c, gap)[metric].format(PERCENT, DIGITS) for b in beside)]
                for c in categories
            ]
            head = [("", name) for name in ("category", *names)]
            best = find_best_across(lines, 1)
            tables.append(Table(f"{dataset}: {name_metric(metric)} (%)", head, 1, lines, best=best))
    return tables, legend


def name_columns(blocks: list[Block]) -> list[str]:
    """Name the blocks of each data set by their detectors, numbered where a detector has several settings there."""
    names = []
    for i, block in enumerate(blocks):
        alike = [other.model == block.model and other.dataset == block.dataset for other in blocks]
        names.append(f"{block.model} {sum(alike[: i + 1])}" if sum(alike) > 1 else block.model)
    return names


def _find_position(model: str) -> int:
    order = published.list_papers()
    return order.index(model) if model in order else len(order)
