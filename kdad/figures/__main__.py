"""Figures of runs as PNG and PDF: `python -m kdad.figures <kind> <folders of runs> --out <folder>`."""

import argparse
import gc
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from kdad import published
from kdad.errors import UserError
from kdad.figures.bars import draw_bars, load_marks
from kdad.figures.cost import AXES, draw_costs
from kdad.figures.curves import PANELS, draw_curves, read_curve
from kdad.figures.gallery import HARDEST, draw_gallery
from kdad.figures.histograms import draw_histograms
from kdad.figures.ranks import draw_ranks
from kdad.figures.robustness import draw_robustness
from kdad.figures.style import save_figure
from kdad.figures.trend import draw_trend
from kdad.report.comparison import name_detectors
from kdad.report.costs import tabulate_points
from kdad.report.study import group_blocks
from kdad.results.levels import read_levels
from kdad.results.read import EVERY, METRICS, expand_metrics
from kdad.results.series import (
    find_runs,
    group_runs,
    is_corrupted,
    keep_complete,
    keep_fit,
    keep_undamaged,
    name_detector,
    print_remark,
)
from kdad.results.words import name_metric, parse_metric
from kdad.storage.atomic import atomic_write

WHICH = f"of {', '.join(EVERY)}, pro_0.05 and the like, aupimo, extra_<name>, or all"
Figures = Iterator[tuple[str, Figure]]  # each with the name of its files


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `kdad figures`, which is `python -m kdad.figures`. Exits with status 2 and a message on a `UserError`."""
    gc.set_threshold(100_000)  # a thousand configurations are many objects, which all stay
    given = make_figure_parser().parse_args(arguments)
    try:
        for name, figure in given.make(given):
            for path in save_figure(figure, given.out, name):
                print(path)
    except (UserError, OSError) as error:  # such as a folder that cannot be written
        print(f"kdad: {error}", file=sys.stderr)
        sys.exit(2)


def make_figure_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line; `make` in its result is the function that makes the chosen figures."""
    command = argparse.ArgumentParser(prog="kdad figures", description="Figures of runs, each as PNG and PDF.")
    kinds = command.add_subparsers(required=True, metavar="kind")

    def add_kind(name: str, make: Callable[[argparse.Namespace], Figures], text: str) -> Callable[..., argparse.Action]:
        kind = kinds.add_parser(name, help=text, description=text)
        kind.set_defaults(make=make)
        kind.add_argument("folders", nargs="+", type=Path, help="folders with runs anywhere below them")
        kind.add_argument("--out", type=Path, default=Path("figures"), help="folder to write into (default: ./figures)")
        return kind.add_argument

    text = "Scores of normal and anomalous test images, one panel per run, 24 a figure (RD, Fig. 5)."
    add = add_kind("histograms", make_histograms, text)
    add("--bins", type=int, default=30, help="of each panel (default: 30)")
    add("--log", action="store_true", help="logarithmic axis of scores")
    add_metrics(add, [METRICS[0]], "in each panel")
    add = add_kind("curves", make_curves, "ROC and PRO curves, mean over seeds.")
    add("--curves", nargs="+", choices=PANELS, default=list(PANELS), help="which (default: all three)")
    add("--each", action="store_true", help="one line per seed instead of their mean and range")
    add_metrics(add, [], "beside the areas, each in the panel of its kind")
    text = "Images with anomaly maps and masks, detectors side by side, one figure per category."
    add = add_kind("gallery", make_galleries, text)
    add("--images", default=HARDEST, help="hardest (default), a kind of image, or a number, spread evenly")
    add("--rows", type=int, default=6, help="of the hardest or of a kind, at most (default: 6)")
    add("--overlay", action="store_true", help="maps over the images, masks as outlines")
    add_metrics(add, [], "above the maps")
    text = "t-SNE of teacher and student features, level by level, one figure per run (STPM, Fig. 3)."
    add = add_kind("tsne", make_tsne, text)
    add("--images", default="16", help="a number, half of them normal (default: 16), or the end of one image's path")
    add("--points", type=int, default=200, help="normal positions, and as many anomalous ones, a level (default: 200)")
    text = "Mean ranks of detectors and what a test tells apart, one figure per metric (critical differences)."
    add = add_kind("ranks", make_ranks, text)
    add_metrics(add)
    text = "What corruptions of the test images change: metrics and false alarms at the trained threshold."
    add = add_kind("robustness", make_robustness, text)
    add_metrics(add)
    text = "Metrics against a number of the configuration, one figure per data set: training size, contamination, ..."
    add = add_kind("trend", make_trends, text)
    add("--key", required=True, help="such as dataset.contamination, dataset.shots, image_size, optimizer.lr")
    add_metrics(add)
    text = "What detectors cost beside what they find, with the Pareto front, one figure per data set, and a CSV file."
    add = add_kind("cost", make_costs, text)
    add("--x", choices=list(AXES), default="latency", help="what is set against the metric (default: latency)")
    add("--metric", type=parse_metric, default=METRICS[0], help=f"which, as in --metrics (default: {METRICS[0]})")
    add("--repeats", type=int, default=20, help="timed calls of each network for --x latency (default: 20)")
    text = "Metrics by category, one bar per detector or setting, one figure per data set (DSKD, Fig. 9)."
    add = add_kind("bars", make_bars, text)
    add_metrics(add)
    add("--from", dest="lowest", type=float, default=0.0, help="percent at which the axes start (default: 0)")
    add("--paper", choices=published.list_papers(), help="mark this paper's published figures ...")
    add("--table", help="... of this table")
    add("--setting", help="... in this setting, where the table has several")
    return command


def add_metrics(
    add: Callable[..., argparse.Action], default: Sequence[str] = METRICS, where: str = "one panel or figure each"
) -> None:
    """Add the flag that chooses metrics to a kind of figure; its help says where they stand."""
    text = f"{where}: {WHICH} (default: {' '.join(default) or 'none'})"
    add("--metrics", nargs="+", type=parse_metric, default=list(default), metavar="METRIC", help=text)


def make_histograms(given: argparse.Namespace) -> Figures:
    """Yield the histograms of all runs, in as many figures as they fill. Raises `UserError`, as all of these do."""
    runs = keep_undamaged(keep_complete(find_runs(given.folders)))
    metrics = expand_metrics(given.metrics, runs)
    figures = draw_histograms(group_runs(runs), given.bins, given.log, metrics)
    for number, figure in enumerate(figures, 1):
        yield "histograms" if number == 1 else f"histograms_{number}", figure


def make_curves(given: argparse.Namespace) -> Figures:
    """Yield the curves of all runs, in one figure."""
    runs = keep_drawable(keep_complete(find_runs(given.folders)), given.curves)
    yield "curves", draw_curves(group_runs(runs), given.curves, given.each, expand_metrics(given.metrics, runs))


def keep_drawable(runs: pd.DataFrame, curves: Sequence[str]) -> pd.DataFrame:
    """Return the runs that have left these curves, and print a remark on each of the others.

    Raises the first one's `UserError` where none has.
    """
    return keep_fit(runs, lambda run: [read_curve(run, PANELS[name]) for name in curves])


def make_galleries(given: argparse.Namespace) -> Figures:
    """Yield a gallery for each category of a data set."""
    found = keep_undamaged(keep_complete(find_runs(given.folders)))
    metrics = expand_metrics(given.metrics, found)
    for place, runs in found.groupby(["dataset", "category"], sort=False):
        name = make_file_name("gallery", *place)
        yield name, draw_gallery(group_runs(runs), given.images, given.rows, given.overlay, metrics)


def make_tsne(given: argparse.Namespace) -> Figures:
    """Yield a t-SNE for each run."""
    # Here, since it loads torch, which the other figures do without.
    from kdad.figures.tsne import choose_samples, collect_vectors, draw_tsne, rebuild_run

    if given.points < 2:
        raise UserError(f"--points {given.points}: give at least 2")
    names: set[str] = set()
    for series in group_runs(keep_complete(find_runs(given.folders))):
        for _, run in series.runs.iterrows():
            data, detector = rebuild_run(run)
            levels = collect_vectors(data, detector, choose_samples(data.test_samples, given.images), given.points)
            parts = run["model"], run["dataset"], run["category"], f"seed{run['seed']}", run["variant"]
            name = make_file_name("tsne", *parts)
            name = next(n for n in (name, *(f"{name}_{i}" for i in range(2, 10_000))) if n not in names)
            names.add(name)
            title = f"{name_detector(run['model'])}, {run['dataset']} {run['category']}, seed {run['seed']}"
            yield name, draw_tsne(levels, ", ".join(filter(None, [title, run["settings"]])))


def make_ranks(given: argparse.Namespace) -> Figures:
    """Yield a critical-difference diagram of each metric."""
    runs = keep_complete(find_runs(given.folders))
    named = name_detectors(group_blocks(runs, across=True).blocks)
    for metric in expand_metrics(given.metrics, runs):
        yield make_file_name("ranks", metric), draw_ranks(named, metric)


def make_robustness(given: argparse.Namespace) -> Figures:
    """Yield the heat maps of all detectors, in one figure."""
    runs = keep_complete(find_runs(given.folders, with_evaluations=True))
    yield "robustness", draw_robustness(runs, expand_metrics(given.metrics, runs))


def make_trends(given: argparse.Namespace) -> Figures:
    """Yield the lines of each data set."""
    runs = keep_complete(find_runs(given.folders))
    metrics = expand_metrics(given.metrics, runs)
    for dataset, table in read_levels(runs, given.key).groupby("dataset", sort=False):
        yield make_file_name("trend", given.key, dataset), draw_trend(table, given.key, metrics)


def make_costs(given: argparse.Namespace) -> Figures:
    """Yield the points of each data set, and write all of them into a CSV file beside the figures."""
    if given.metric == "all" or given.repeats < 1:
        raise UserError("--metric takes one metric, such as pro, and --repeats a number of calls, at least 1")
    found = keep_complete(find_runs(given.folders))
    (metric,), corrupted = expand_metrics([given.metric], found), is_corrupted(found)
    if corrupted.all():
        raise UserError("all of these tests have corruption=: give the folders of the runs themselves")
    blocks = group_blocks(found, [metric]).blocks
    costs, machine = measure_costs(pd.concat([block.rows for block in blocks]), given.x, given.repeats)
    points = tabulate_points(blocks, costs, metric) if len(costs) else costs
    if points.empty:
        raise UserError(f"no run has {name_metric(metric)} beside --x {given.x}")
    path = given.out / f"{make_file_name('cost', given.x, metric)}.csv"
    with atomic_write(path) as file:
        about = {"metric": metric, "x": given.x, "unit": AXES[given.x], "measured": machine}
        file.write(points.assign(**about).to_csv(index=False, lineterminator="\n"))
    print(path)
    for dataset, mine in points.groupby("dataset", sort=False):
        yield make_file_name("cost", given.x, metric, dataset), draw_costs(mine, given.x, metric, machine)


def measure_costs(runs: pd.DataFrame, x: str, repeats: int) -> tuple[pd.DataFrame, str]:
    """Return the cost of each run by its index (`cost`, of a latency also `low` and `high`), and how it was measured.

    A run without one is left out with a remark.
    """
    if x == "training_seconds":
        for folder in runs.loc[runs["fit_seconds"].isna(), "folder"]:
            print_remark(f"left out: {folder} has no fit_seconds: it was tested, not trained")
        costs = runs[["fit_seconds"]].dropna().rename(columns={"fit_seconds": "cost"})
        return costs, "training as the runs took it, each on its own machine"
    # Here, since it loads torch, which the other figures do without.
    from kdad.engine.costs import describe_processor
    from kdad.figures.network import measure_networks

    timed = x == "latency"
    costs = measure_networks(runs, repeats if timed else 0)
    if x == "parameters" and len(costs):
        costs["parameters"] /= 1e6
    how = f"median and quartiles of {repeats} calls on {describe_processor()}" if timed else "counted"
    return costs.rename(columns={x: "cost"}), how


def make_bars(given: argparse.Namespace) -> Figures:
    """Yield the bars of each data set."""
    if (given.paper is None) != (given.table is None) or (given.setting and not given.paper):
        raise UserError("--paper and --table go together, and --setting with them")
    found = find_runs(given.folders)
    unknown = ~found["config"].map(bool) & (found["status"] != "ok")  # such as a job whose settings were refused
    for folder in found.loc[unknown, "folder"] if not unknown.all() else ():
        print_remark(f"left out: {folder} has no readable config.yaml")
    found = found if unknown.all() else found[~unknown]
    metrics = expand_metrics(given.metrics, found)
    for dataset, runs in found.groupby("dataset", sort=False):
        marks = load_marks(given.paper, given.table, str(dataset), given.setting) if given.paper else None
        if given.paper and given.paper not in set(runs["model"]):
            raise UserError(f"--paper {given.paper}: none of the runs on {dataset} is of model={given.paper}")
        series = group_runs(runs, names=("model", "dataset"))
        yield make_file_name("bars", dataset), draw_bars(series, metrics, marks, given.lowest)


def make_file_name(*parts: object) -> str:
    """Return a file name of these parts, without its ending."""
    return "_".join(re.sub(r"[^\w.-]+", "-", str(part)) for part in parts if part not in ("", None))


if __name__ == "__main__":
    main()
