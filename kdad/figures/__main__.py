"""Figures of runs as PNG and PDF: `python -m kdad.figures <kind> <folders of runs> --out <folder>`."""

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from kdad import published
from kdad.errors import UserError
from kdad.figures.bars import draw_bars, printed
from kdad.figures.curves import PANELS, draw_curves
from kdad.figures.gallery import HARDEST, draw_gallery
from kdad.figures.histograms import draw_histograms
from kdad.figures.series import complete, found, method, series
from kdad.figures.style import save
from kdad.report.collect import METRICS


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script kdad-figures. Exits with status 2 and a message on a `UserError`."""
    given = parser().parse_args(arguments)
    try:
        for name, figure in given.make(given):
            for path in save(figure, given.out, name):
                print(path)
    except UserError as error:
        print(f"kdad: {error}", file=sys.stderr)
        sys.exit(2)


def parser() -> argparse.ArgumentParser:
    command = argparse.ArgumentParser(prog="kdad-figures", description="Figures of runs, each as PNG and PDF.")
    kinds = command.add_subparsers(required=True, metavar="kind")

    def kind(make, text: str):
        sub = kinds.add_parser(make.__name__, help=text, description=text)
        sub.set_defaults(make=make)
        sub.add_argument("folders", nargs="+", type=Path, help="folders with runs anywhere below them")
        sub.add_argument("--out", type=Path, default=Path("figures"), help="folder to write into (default: ./figures)")
        return sub.add_argument

    add = kind(histograms, "Scores of normal and anomalous test images, one panel per run (RD, Fig. 5).")
    add("--bins", type=int, default=30, help="of each panel (default: 30)")
    add("--log", action="store_true", help="logarithmic axis of scores")
    add = kind(curves, "ROC and PRO curves, mean over seeds.")
    add("--curves", nargs="+", choices=PANELS, default=list(PANELS), help="which (default: all three)")
    add("--each", action="store_true", help="one line per seed instead of their mean and range")
    add = kind(gallery, "Images with anomaly maps and masks, detectors side by side, one figure per category.")
    add("--images", default=HARDEST, help="hardest (default), a kind of image, or a number, spread evenly")
    add("--rows", type=int, default=6, help="of the hardest or of a kind, at most (default: 6)")
    add("--overlay", action="store_true", help="maps over the images, masks as outlines")
    add = kind(tsne, "t-SNE of teacher and student features, level by level, one figure per run (STPM, Fig. 3).")
    add("--images", default="16", help="a number, half of them normal (default: 16), or the end of one image's path")
    add("--points", type=int, default=200, help="normal positions, and as many anomalous ones, a level (default: 200)")
    add = kind(bars, "Metrics by category, one bar per detector or setting, one figure per data set (DSKD, Fig. 9).")
    add("--metrics", nargs="+", choices=METRICS, default=list(METRICS), help="which (default: all three)")
    add("--from", dest="lowest", type=float, help="percent at which the axis starts (default: the tens below the bars)")
    add("--paper", choices=published.papers(), help="mark this paper's published figures ...")
    add("--table", help="... of this table")
    add("--setting", help="... in this setting, where the table has several")
    return command


def histograms(given: argparse.Namespace) -> Iterator[tuple[str, Figure]]:
    yield "histograms", draw_histograms(series(complete(found(given.folders))), given.bins, given.log)


def curves(given: argparse.Namespace) -> Iterator[tuple[str, Figure]]:
    yield "curves", draw_curves(series(complete(found(given.folders))), given.curves, given.each)


def gallery(given: argparse.Namespace) -> Iterator[tuple[str, Figure]]:
    for place, runs in complete(found(given.folders)).groupby(["dataset", "category"], sort=False):
        yield slug("gallery", *place), draw_gallery(series(runs), given.images, given.rows, given.overlay)


def tsne(given: argparse.Namespace) -> Iterator[tuple[str, Figure]]:
    # Here, since it loads torch, which the other figures do without.
    from kdad.figures.tsne import choose, draw_tsne, rebuild, vectors

    if given.points < 2:
        raise UserError(f"--points {given.points}: give at least 2")
    names: set[str] = set()
    for one in series(complete(found(given.folders))):
        for _, run in one.runs.iterrows():
            data, detector = rebuild(run)
            levels = vectors(data, detector, choose(data.test_samples, given.images), given.points)
            name = slug("tsne", run["model"], run["dataset"], run["category"], f"seed{run['seed']}", run["variant"])
            name = next(n for n in (name, *(f"{name}_{i}" for i in range(2, 10_000))) if n not in names)
            names.add(name)
            title = f"{method(run['model'])}, {run['dataset']} {run['category']}, seed {run['seed']}"
            yield name, draw_tsne(levels, ", ".join(filter(None, [title, run["settings"]])))


def bars(given: argparse.Namespace) -> Iterator[tuple[str, Figure]]:
    if (given.paper is None) != (given.table is None) or given.setting and not given.paper:
        raise UserError("--paper and --table go together, and --setting with them")
    for dataset, runs in found(given.folders).groupby("dataset", sort=False):
        marks = printed(given.paper, given.table, dataset, given.setting) if given.paper else None
        if given.paper and given.paper not in set(runs["model"]):
            raise UserError(f"--paper {given.paper}: none of the runs on {dataset} is of model={given.paper}")
        yield (
            slug("bars", dataset),
            draw_bars(series(runs, names=("model", "dataset")), given.metrics, marks, given.lowest),
        )


def slug(*parts: object) -> str:
    """A file name without its ending."""
    return "_".join(re.sub(r"[^\w.-]+", "-", str(part)) for part in parts if part not in ("", None))


if __name__ == "__main__":
    main()
