"""Judge pictures by a trained detector: `python -m kdad.predict ckpt_path=<run> input=<folder>`.

`ckpt_path` is a checkpoint, or a run's folder, whose `checkpoints/tested.ckpt` is taken. `input` is a file, a folder
with all below it, a pattern, a list of these, or - for paths from standard input. It leaves scores.csv, and pictures of
where each image is anomalous. No code in a checkpoint is run. Exits with status 3 where a file cannot be read.

- `kdad predict ckpt_path=<file> 'input="parts/*.png"' hydra.run.dir=judged`: into a folder of your choice
- `kdad predict ckpt_path=<file> input=parts hydra.run.dir=judged skip_done=true`: go on after an interruption
- `kdad predict ckpt_path=<file> input=parts watch=true`: and with what arrives, until Ctrl-C
"""

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
from kdad.engine.launch import launch
from kdad.errors import UserError
from kdad.inference.detector import load
from kdad.inference.inputs import Inputs, Item
from kdad.inference.stream import judge_files
from kdad.inference.trained import find_checkpoint
from kdad.predict.folder import PredictionFolder
from kdad.settings.checks import check_configuration

UNREADABLE = 3  # exit status
EVERY = 5.0  # seconds between two states of scores.csv where files are watched
_unreadable: list[str] = []


def main() -> None:
    """Run `kdad predict`, which is `python -m kdad.predict`."""
    _unreadable.clear()
    launch(predict, "predict", completes=False)
    if _unreadable:
        sys.exit(UNREADABLE)


def predict(cfg: DictConfig) -> None:
    """Judge what the configuration names. Raises `UserError`, with strict=true also for a file that cannot be read."""
    check_configuration(cfg, "predict")
    if not cfg.ckpt_path:
        raise UserError("ckpt_path=<run folder>/checkpoints/tested.ckpt is needed: the trained detector")
    limit_size(cfg.max_megapixels, "max_megapixels")
    folder = PredictionFolder(Path(HydraConfig.get().runtime.output_dir), cfg.overlays, cfg.maps, cfg.masks)
    given = [] if cfg.input is None else list(cfg.input) if isinstance(cfg.input, ListConfig) else [cfg.input]
    inputs = Inputs(given, folder.path, sys.stdin if "-" in given else None, patient=cfg.watch)
    known = None if cfg.watch or "-" in given else folder.count(inputs.list_files())  # and refuses what is not there
    path = find_checkpoint(cfg.ckpt_path)
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
        folder.open(path, cfg.skip_done, cfg.overwrite)
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
        judged, odd = 0, Oddities(detector.rule)
        try:
            with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
                bar = progress.add_task("", total=known)
                for item, found in judge_files(detector, select()):
                    if isinstance(found, UserError) and cfg.strict:
                        raise UserError(f"{found}. strict=false goes on without it")
                    if not isinstance(found, UserError):
                        odd.add(item.path, read_header(item.path), find_range(found.image))
                    folder.add(item, found)
                    judged += 1
                    progress.update(bar, completed=judged + skipped[0])
                    if cfg.watch and time.monotonic() - written > EVERY:
                        folder.write_tables(order)
                        written = time.monotonic()
        except KeyboardInterrupt:
            if not cfg.watch:  # which ends so
                raise
        finally:
            folder.write_tables(order)
            folder.finish()
        report(
            folder,
            order,
            judged,
            skipped[0],
            time.monotonic() - started,
            [*inputs.describe_left_out(), *odd.describe()],
        )


def report(
    folder: PredictionFolder, order: Iterable[str], judged: int, skipped: int, seconds: float, remarks: Iterable[str]
) -> None:
    """Print what was judged and what could not be, remarks on the pictures, and where everything lies."""
    console = Console()
    rows = folder.list_rows(order)
    unreadable = [row for row in rows if "error" in row]
    anomalous = sum(row.get("decision") or 0 for row in rows)
    rate = f", {judged / seconds:.1f} images a second" if judged and seconds else ""
    before = f", {skipped} judged before" if skipped else ""
    console.print(f"{judged} files judged{before}{rate}; {anomalous} anomalous of {len(rows)}", soft_wrap=True)
    for remark in remarks:
        console.print(remark, soft_wrap=True, markup=False, highlight=False)
    for row in unreadable[:10]:
        console.print(row["error"], soft_wrap=True, markup=False, highlight=False)
    if unreadable:
        _unreadable.append(str(folder.path))
        said = f"{len(unreadable)} files cannot be read: {folder.unreadable}"
        console.print(said, soft_wrap=True, markup=False, highlight=False)
    console.print(f"Scores and pictures: {folder.path}", soft_wrap=True, markup=False)


if __name__ == "__main__":
    main()
