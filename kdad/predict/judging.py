"""The work of `kdad predict`: pictures judged one after the other, and what was found written down."""

import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, ListConfig
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

import kdad
from kdad.data.images import limit_size
from kdad.data.oddities import Oddities, find_range, read_header
from kdad.errors import UserError
from kdad.inference.files import find_checkpoint
from kdad.inference.inputs import Inputs, Item
from kdad.predict.folder import PredictionFolder

EVERY = 5.0  # seconds between two states of scores.csv where files are watched


def judge(cfg: DictConfig) -> list[str]:
    """Judge what the configuration names, and write it into the job's folder; return what could not be read.

    Raises `UserError`, with strict=true also for a file that cannot be read.
    """
    limit_size(cfg.max_megapixels, "max_megapixels")
    folder = PredictionFolder(Path(HydraConfig.get().runtime.output_dir), cfg.overlays, cfg.maps, cfg.masks)
    given = [] if cfg.input is None else list(cfg.input) if isinstance(cfg.input, ListConfig) else [cfg.input]
    inputs = Inputs(given, folder.path, sys.stdin if "-" in given else None, patient=cfg.watch)
    known = None if cfg.watch or "-" in given else folder.count(inputs.list_files())  # and refuses what is not there
    path = find_checkpoint(cfg.ckpt_path)
    from kdad.inference.detector import load  # with torch, once nothing is missing
    from kdad.inference.stream import judge_files

    detector = load(path, cfg.device, cfg.backbone.weights, list(cfg.plugins), cfg.batch_size, roi=cfg.roi)
    console = Console(stderr=True)
    if (version := str(detector.network.provenance.get("version", "0.1"))) != kdad.__version__:
        console.print(f"The checkpoint was made by kdad {version}, this is {kdad.__version__}", soft_wrap=True)
    if detector.decision is None:
        console.print(
            "This checkpoint has no thresholds: scores alone are written. kdad calibrate takes some from normal images",
            soft_wrap=True,
        )
    else:
        console.print(detector.decision.describe(), soft_wrap=True)
    with folder.folder.hold():
        folder.open(path, cfg.skip_done, cfg.overwrite, detector.geometry.roi)
        order: dict[str, None] = {}  # a path that is judged again keeps its place
        skipped, started, written = [0], time.monotonic(), time.monotonic()

        def select() -> Iterator[Item | None]:
            for item in inputs.watch(cfg.watch_seconds) if cfg.watch else inputs.follow():
                if item is not None:
                    order[str(item.path)] = None
                    if folder.is_done(item):
                        skipped[0] += 1
                        continue
                yield item

        columns = (TextColumn("judging"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        judged, seen, odd = 0, 0, Oddities(detector.rule)
        try:
            with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
                bar = progress.add_task("", total=known)
                for item, found in judge_files(detector, select()):
                    if isinstance(found, UserError) and cfg.strict:
                        raise UserError(f"{found}. strict=false goes on without it")
                    if not isinstance(found, UserError):
                        odd.add(item.path, read_header(item.path), find_range(found.image))
                        judged += 1
                    folder.add(item, found)
                    seen += 1
                    progress.update(bar, completed=seen + skipped[0])
                    if cfg.watch and time.monotonic() - written > EVERY:
                        folder.write_tables(order)
                        written = time.monotonic()
        except KeyboardInterrupt:
            if not cfg.watch:  # which ends so
                raise
        finally:
            folder.write_tables(order)
            folder.finish()
        remarks = [*inputs.describe_left_out(), *odd.describe()]
        return report(folder, order, judged, skipped[0], time.monotonic() - started, remarks)


def report(
    folder: PredictionFolder, order: Iterable[str], judged: int, skipped: int, seconds: float, remarks: Iterable[str]
) -> list[str]:
    """Print what was judged and what could not be, remarks on the pictures, and where everything lies.

    Returns the messages on the files that could not be read.
    """
    console = Console()
    rows = folder.list_rows(order)
    unreadable = [row for row in rows if "error" in row]
    anomalous = sum(row.get("decision") or 0 for row in rows)
    rate = f", {judged / seconds:.1f} images a second" if judged and seconds else ""
    before = f", {skipped} judged before" if skipped else ""
    of = len(rows) - len(unreadable)
    console.print(
        f"{judged} file{'s' * (judged != 1)} judged{before}{rate}; {anomalous} anomalous of {of}", soft_wrap=True
    )
    for remark in remarks:
        console.print(remark, soft_wrap=True, markup=False, highlight=False)
    for row in unreadable[:10]:
        console.print(row["error"], soft_wrap=True, markup=False, highlight=False)
    if unreadable:
        said = f"{len(unreadable)} files cannot be read: {folder.unreadable}"
        console.print(said, soft_wrap=True, markup=False, highlight=False)
    console.print(f"Scores and pictures: {folder.path}", soft_wrap=True, markup=False)
    return [row["error"] for row in unreadable]
