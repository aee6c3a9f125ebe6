"""Tables of runs: `python -m kdad.report outputs/study`, `--paper rd --table 5` for a paper's, `--html` for a page."""

import argparse
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from pandas import DataFrame

from kdad import published
from kdad.errors import UserError
from kdad.report.collect import runs
from kdad.report.match import count
from kdad.report.paper import paper_report
from kdad.report.study import study_report
from kdad.report.writers import FORMATS, Report, write

DEFAULT = Path("outputs")


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script kdad-report. Exits with status 2 and a message on a `UserError`."""
    try:
        report(parser().parse_args(arguments))
    except UserError as error:
        print(f"kdad: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # the reader, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def parser() -> argparse.ArgumentParser:
    command = argparse.ArgumentParser(
        prog="kdad-report", description="One table of all runs below the folders, or a paper's table beside its runs."
    )
    add = command.add_argument
    add("folders", nargs="*", type=Path, help=f"folders with runs anywhere below them (default: ./{DEFAULT})")
    add("--paper", choices=published.papers(), help="print published beside measured; without --table all its tables")
    add("--table", help="number of the table, or figure<n> or text")
    add("--quoted", action="store_true", help="with --paper: also the figures of others that the paper prints")
    add("--out", type=Path, help="folder to write <name>.md, <name>.csv and <name>.tex into")
    add("--format", choices=FORMATS, default="md", help="what is printed (default: md)")
    add("--html", type=Path, help="write one page that needs no network: leaderboard, curves, hardest images, settings")
    add("--pictures", type=int, default=8, help="with --html: test images of each run, half normal (default: 8)")
    return command


def report(given: argparse.Namespace) -> None:
    """Raises `UserError`."""
    if given.paper is None and (given.table or given.quoted):
        raise UserError(f"--table and --quoted need --paper: one of {', '.join(published.papers())}")
    if given.html:
        if given.paper or given.out:
            raise UserError("--html shows all runs beside every paper's tables: leave out --paper, --table and --out")
        page(given)
        return
    for made in reports(given):
        print(FORMATS[given.format][1](made))
        if given.out:
            for path in write(made, given.out):
                print(path, file=sys.stderr)


def page(given: argparse.Namespace) -> None:
    # Here, since drawing loads torch, which the tables do without.
    from kdad.report.html import write_html

    found = collect(given)
    size = write_html(given.html, found, given.pictures)
    print(f"{given.html}: {count(found)}, {size / 1e6:.1f} MB")


def reports(given: argparse.Namespace) -> Iterator[Report]:
    found = collect(given)
    if given.paper is None:
        yield study_report(found)
        return
    for table in [given.table] if given.table else published.tables(given.paper):
        yield paper_report(given.paper, table, found, given.quoted)


def collect(given: argparse.Namespace) -> DataFrame:
    """Raises `UserError` where there is no run, unless a paper's table is wanted, which stands without."""
    folders = given.folders or [DEFAULT] * DEFAULT.is_dir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is skipped stands in the report
        found = runs(folders)
    if found.empty and given.paper is None:
        where = ", ".join(map(str, folders)) or f"./{DEFAULT}, which does not exist"
        raise UserError(f"no results.json of a run below {where}; give the folders that hold your runs")
    return found


if __name__ == "__main__":
    main()
