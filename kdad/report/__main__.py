"""Tables of runs: `python -m kdad.report outputs/study`, `--paper rd --table 5` for a paper's, `--html` for a page."""

import argparse
import gc
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from pandas import DataFrame

from kdad import published
from kdad.errors import UserError
from kdad.report.comparison import make_comparison
from kdad.report.paper import make_paper_report
from kdad.report.study import make_study_report
from kdad.report.writers import FORMATS, Report, write_report
from kdad.results.kinds import drop_damaged
from kdad.results.read import EVERY, METRICS, expand_metrics, read_runs
from kdad.results.series import is_corrupted
from kdad.results.words import count_runs, parse_metric

DEFAULT = Path("outputs")
PAGE = "report.html"
SHOWN = 8  # pictures


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `kdad report`, which is `python -m kdad.report`. Exits with status 2 and a message on a `UserError`."""
    gc.set_threshold(100_000)  # a thousand configurations are many objects, which all stay
    try:
        report_runs(make_report_parser().parse_args(arguments))
    except BrokenPipeError:  # the reader, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (UserError, OSError) as error:  # such as a folder that cannot be written
        print(f"kdad: {error}", file=sys.stderr)
        sys.exit(2)


def make_report_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    command = argparse.ArgumentParser(
        prog="kdad report", description="One table of all runs below the folders, or a paper's table beside its runs."
    )
    add = command.add_argument
    add("folders", nargs="*", type=Path, help=f"folders with runs anywhere below them (default: ./{DEFAULT})")
    papers = published.list_papers()
    add("--paper", choices=papers, help="print published beside measured; without --table all its tables")
    add("--table", help="number of the table, or figure<n> or text")
    add("--quoted", action="store_true", help="with --paper: also the figures of others that the paper prints")
    add("--out", type=Path, help="folder to write <name>.md, <name>.csv and <name>.tex into")
    add("--format", choices=FORMATS, default="md", help="what is printed (default: md)")
    add(
        "--html",
        type=Path,
        nargs="?",
        const=Path(PAGE),
        help="write one page that needs no network: leaderboard, "
        f"comparison, curves, hardest images, settings (default: {PAGE}, with --out in its folder, beside the tables)",
    )
    add(
        "--metrics", nargs="+", type=parse_metric, default=list(METRICS), metavar="METRIC",
        help=f"which, without --paper (default: {' '.join(METRICS)}): {', '.join(EVERY)}, the mean of these seven, "
        "pro_0.05 and the like of metrics.pro_limits, aupimo, spro_0.05 of MVTec LOCO, extra_<name> of metrics.extra, "
        "or all",
    )  # fmt: skip
    add("--compare", action="store_true", help="differences of detectors, with intervals, tests and mean ranks")
    add(
        "--pictures",
        type=int,
        help=f"with --html: test images of each run, and of each category side by side, half normal (default: {SHOWN})",
    )
    return command


def report_runs(given: argparse.Namespace) -> None:
    """Print and write what the command line asks for. Raises `UserError` where it contradicts itself."""
    if given.paper is None and (given.table or given.quoted):
        raise UserError(f"--table and --quoted need --paper: one of {', '.join(published.list_papers())}")
    if given.pictures is not None and not given.html:
        raise UserError("--pictures needs --html, the page that shows them")
    if given.compare and given.paper:
        raise UserError("--compare is a report of its own: leave out --paper")
    if given.html:
        if given.paper:
            raise UserError("--html shows all runs beside every paper's tables: leave out --paper and --table")
        write_page(given)
        if not given.out and not given.compare:
            return
    for report in make_reports(given):
        if not given.html or given.compare:
            print(FORMATS[given.format][1](report))
        if given.out:
            for path in write_report(report, given.out):
                print(path, file=sys.stderr)


def write_page(given: argparse.Namespace) -> None:
    """Write the HTML page and print how large it is. Raises `UserError`."""
    # Here, since drawing loads torch, which the tables do without.
    from kdad.page.html import write_html

    runs = collect_runs(given)
    metrics = expand_metrics(given.metrics, runs)
    path = given.out / given.html if given.out and given.html.parent == Path() else given.html
    size = write_html(path, runs, SHOWN if given.pictures is None else given.pictures, metrics)
    print(f"{path}: {count_runs(runs)}, {size / 1e6:.1f} MB")


def make_reports(given: argparse.Namespace) -> Iterator[Report]:
    """Yield the report of the runs, or those of a paper's tables. Raises `UserError`."""
    runs = leave_out_corrupted(collect_runs(given))
    if given.compare:
        yield make_comparison(runs, expand_metrics(given.metrics, runs))
        return
    if given.paper is None:
        yield make_study_report(runs, expand_metrics(given.metrics, runs))
        return
    for table in [given.table] if given.table else published.list_tables(given.paper):
        yield make_paper_report(given.paper, table, runs, given.quoted)


def collect_runs(given: argparse.Namespace) -> DataFrame:
    """Read the runs of the folders that are given, or of the default one.

    Raises `UserError` where there is no run, unless a paper's table is wanted, which stands without.
    """
    folders = given.folders or [DEFAULT] * DEFAULT.is_dir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is skipped stands in the report
        runs = read_runs(folders)
    if runs.empty and given.paper is None:
        where = ", ".join(map(str, folders)) or f"./{DEFAULT}, which does not exist"
        skipped = "".join(f"\n  {message}" for message in runs.attrs["skipped"])
        raise UserError(f"no results.json of a run below {where}; give the folders that hold your runs{skipped}")
    return drop_damaged(runs)


def leave_out_corrupted(runs: DataFrame) -> DataFrame:
    """Return the runs without tests of corrupted images, which are no detectors; all, if there are no others."""
    corrupted = is_corrupted(runs)
    if corrupted.all() or not corrupted.any():
        return runs
    kept = runs[~corrupted]
    said = f"left out: {count_runs(runs[corrupted])} with corruption=, which kdad figures robustness and --html show"
    kept.attrs["skipped"] = [*runs.attrs.get("skipped", []), said]
    return kept


if __name__ == "__main__":
    main()
