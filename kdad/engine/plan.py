"""`kdad run plan=true`: what a job or a sweep would take, hours, memory and disk, without running it.

One job of each configuration is tried on a few images in a folder that goes again (`trial.py`); all jobs are priced by
that (`price.py`). Nothing is written where the sweep's results will lie, and nothing is fetched.
"""

import copy
import json
import os
import sys
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from kdad.engine.categories import list_categories, unite
from kdad.engine.early import check_place
from kdad.engine.finished import find_done
from kdad.engine.run_folder import RunFolder
from kdad.errors import UserError
from kdad.settings.checks import check_configuration
from kdad.settings.compose import compose, resolve
from kdad.settings.overrides import find_value, split, write
from kdad.settings.roles import config_hash

FOLDERS = ("hydra.run.dir", "hydra.sweep.dir")
TOLD = (
    "form",
    "backbone.name",
    "image_size",
    "batch_size",
    "trainer.max_epochs",
)  # by which rows of a table may differ
ELSEWHERE = ("seed", "category", "split_seed")  # keys that change nothing in what a step takes
WIDE = 160


def asks_for_plan(arguments: list[str]) -> bool:
    """Return whether a command line has plan=true, and does not ask for help."""
    helps = {"--help", "-h", "--cfg", "-c", "--hydra-help", "--version"} & set(arguments)
    return not helps and "plan=true" in [argument.lstrip("+").lower().replace(" ", "") for argument in arguments]


class Row(NamedTuple):
    """One job that is to be done: what it is called in the table, and its prices alone and after those before it."""

    name: tuple[str, ...]
    alone: Any
    in_turn: Any


class Plan:
    """The prices of a command's jobs, as they go by."""

    def __init__(self) -> None:
        self.folders: dict[str, str] = {}  # as given, in whose place a temporary one is used
        self.launcher, self.at_once = "", 0  # 0: the launcher does not say
        self.rows: list[Row] = []
        self.done = 0
        self.costs: dict[str, Any] = {}  # what was measured, by what decides it
        self.images: dict[str, Any] = {}
        self.kept: Any = None
        self.random: set[str] = set()  # teachers that were measured with random weights
        self.composed: list[float] = []  # seconds between jobs
        self.left = time.perf_counter()
        self.disk = 0  # bytes of the cache

    def divert(self, overrides: list[str]) -> list[str]:
        """Return a command line's overrides with which its jobs come here one by one, and write to a folder that goes.

        Raises `UserError` for a launcher that there is not, and for a search.
        """
        self.temporary = TemporaryDirectory()
        self.folders = {key: text for key in FOLDERS if (text := find_value(overrides, key))}
        launching = [text for text in overrides if split(text)[0].startswith(("hydra/launcher", "hydra.launcher"))]
        plain = [text for text in overrides if not OverridesParser.create().parse_override(text).is_sweep_override()]
        try:
            hydra_cfg: Any = compose(*plain, hydra_too=True).hydra
        except UserError:  # it depends on what is swept
            hydra_cfg = compose(*launching, hydra_too=True).hydra
        if "basic_sweeper" not in str(hydra_cfg.sweeper.get("_target_")):
            raise UserError("plan=true: a search chooses its jobs as it goes. Price one of them, without sweep= and -m")
        if "basic_launcher" not in str(hydra_cfg.launcher.get("_target_")):
            self.launcher = str(hydra_cfg.runtime.choices.get("hydra/launcher"))
            found: Any = hydra_cfg.launcher.get("n_jobs") or hydra_cfg.launcher.get("array_parallelism") or 0
            self.at_once = found if found >= 0 else os.cpu_count() or 1
        left = [text for text in overrides if text not in launching and split(text)[0] not in FOLDERS]
        return [*left, "hydra/launcher=basic", *(write(key, self.temporary.name) for key in FOLDERS)]

    def add(self, cfg: DictConfig) -> None:
        """Price one job of the command line or of a sweep, each of its categories. Raises `UserError` as a run does."""
        self.composed.append(time.perf_counter() - self.left)
        started = HydraConfig.get()
        several = started.mode is RunMode.MULTIRUN
        place = self.folders.get(FOLDERS[several])
        folder = None if place is None else Path(str(_fill_in(cfg, place)))
        roots = [Path("outputs"), *([folder] if folder else [])]
        unite(cfg)
        names = [] if cfg.unified else list_categories(cfg)
        if several and folder:
            folder /= str(started.sweep.subdir)
        for name in names:
            part = copy.deepcopy(cfg)
            part.category = name
            self.price(part, folder and folder / name, roots)
        if not names:
            self.price(cfg, folder, roots)
        self.left = time.perf_counter()

    def price(self, cfg: DictConfig, folder: Path | None, roots: list[Path]) -> None:
        """Price one job, unless it is done already. Raises `UserError` where a run would be refused."""
        check_configuration(cfg, "run")
        if not cfg.skip_done and not cfg.ckpt_path:
            check_place(cfg)
        from kdad.engine.build import fingerprint_data  # with Lightning, which a refusal need not wait for
        from kdad.engine.checkpoint import Checkpoint
        from kdad.engine.price import Kept, price_job
        from kdad.engine.trial import count_images, measure

        cfg.dataset.download = False
        config = resolve(cfg)
        last = Path(cfg.ckpt_path) if cfg.ckpt_path else None
        if cfg.skip_done:
            run, data = RunFolder(folder or self.temporary.name), fingerprint_data(cfg)
            if find_done(run, config_hash(config), roots, data):
                self.done += 1
                return
            if last is None and run.is_interrupted():
                last = run.checkpoint("last")
        behind = Checkpoint.load(last).epochs if last else 0
        listing = {key: value for key, value in config["dataset"].items() if key not in ("seed", "batch_size")}
        listed = _name(listing, config["category"], config["unified"])
        if listed not in self.images:
            self.images[listed] = count_images(cfg)
        if not cfg.backbone.get("weights") and cfg.backbone.get("pretrained"):
            self.random.add(str(cfg.backbone.name))
        measured = _name(_strip(config))
        if measured not in self.costs:
            print(f"kdad: measures {' '.join(self.name_row(config))}", file=sys.stderr, flush=True)
            self.costs[measured] = measure(config)
        self.kept = self.kept or Kept()
        costs, images = self.costs[measured], self.images[listed]
        alone = price_job(cfg, costs, images, listed, Kept(), behind)
        in_turn = price_job(cfg, costs, images, listed, self.kept, behind)
        self.rows.append(Row(self.name_row(config), alone, in_turn))
        self.start = median(costs.start for costs in self.costs.values())

    def name_row(self, config: dict[str, Any]) -> tuple[str, ...]:
        """Return what a job's row of the table says of it, by columns: detector, data set, and `TOLD`."""
        node = OmegaConf.create(config)
        return (config["model"]["name"], config["dataset"]["name"], *(str(OmegaConf.select(node, key)) for key in TOLD))

    def show(self) -> None:
        """Print what each detector comes to on each data set, and what all do."""
        console = Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else WIDE)
        done = f"{self.done} done already, not counted" if self.done else ""
        if not self.rows:
            console.print(f"Nothing to do: {done}" if done else "Nothing to price")
            return
        from kdad.engine.costs import name_hardware
        from kdad.storage.files import GB

        names = list(dict.fromkeys(row.name for row in self.rows))
        varying = [i for i in range(len(TOLD) + 2) if i < 2 or len({name[i] for name in names}) > 1]
        table = Table(title=f"Plan: {len(self.rows)} jobs" + (f" ({done})" if done else ""))
        for i in varying:
            table.add_column(("detector", "data set", *TOLD)[i], overflow="fold")
        for column in ("jobs", "each", "in all", "peak GB", "disk GB"):
            table.add_column(column, justify="right")
        later = self.composed[1:]  # the first is Hydra's own start
        compose_seconds = sum(later) / len(later) if later else 0.0
        self.start += self.composed[0]
        for name in names:
            jobs = [row for row in self.rows if row.name == name]
            seconds = [row.in_turn.seconds + compose_seconds for row in jobs]
            shortest, longest = write_time(min(seconds)), write_time(max(seconds))
            table.add_row(
                *(name[i] for i in varying), str(len(jobs)),
                shortest if shortest == longest else f"{shortest} - {longest}", write_time(sum(seconds)),
                f"{max(row.in_turn.memory for row in jobs) / GB:.2f}",
                f"{sum(row.in_turn.disk for row in jobs) / GB:.3f}",
            )  # fmt: skip
        console.print(table)
        total = self.start + sum(row.in_turn.seconds + compose_seconds for row in self.rows)
        memory = max(row.in_turn.memory for row in self.rows) / GB
        disk = sum(row.in_turn.disk for row in self.rows) / GB
        cached = sum(self.kept.disk.values()) / GB
        said = [f"Measured on {name_hardware('cuda' if _has_gpu() else 'cpu')}, a few images and epochs of each."]
        if device := max(costs.device_bytes for costs in self.costs.values()):
            said.append(f"Memory of the GPU: {device / GB:.1f} GB.")
        if self.random:
            said.append(f"Weights of {', '.join(sorted(self.random))} were not fetched: measured with random ones.")
        said.append(
            f"In turn on this machine: {write_time(total)}, {memory:.2f} GB of memory, {disk:.3f} GB of results and "
            f"{cached:.3f} GB of cache on disk."
        )
        from kdad.engine.price import time_at_once

        apart = [row.alone.seconds + self.start for row in self.rows]
        if self.at_once:
            at_once = write_time(time_at_once(apart, self.at_once))
            said.append(
                f"By {self.launcher}, {self.at_once} at once, each with a machine or GPU and cores as here: "
                f"{at_once}; without sharing decoded images and features."
            )
        else:
            said.append(
                f"On k such machines or GPUs at once: {write_time(sum(apart))} / k, at least the longest job's "
                f"{write_time(max(apart))}; there each job starts by itself, which takes {write_time(self.start)}, and "
                "shares no decoded images and features with another."
            )
        console.print(*said, sep="\n", soft_wrap=True, highlight=False)


def write_time(seconds: float) -> str:
    """Return a time as text, in seconds, minutes or hours."""
    size, unit = next(((n, unit) for n, unit in ((3600, "h"), (60, "min")) if seconds >= 1.5 * n), (1, "s"))
    return f"{seconds / size:.1f} {unit}"


def _fill_in(cfg: DictConfig, text: str) -> Any:
    """Return a text with its interpolations replaced, as it would be in the configuration."""
    node = copy.deepcopy(cfg)
    OmegaConf.update(node, "_text", text, force_add=True)
    return node._text


def _strip(config: dict[str, Any]) -> dict[str, Any]:
    """Return those values of a resolved configuration that decide what a step, an epoch or a test takes."""
    left = {key: value for key, value in config.items() if key not in (*ELSEWHERE, "dataset", "ckpt_path", "variants")}
    data = config["dataset"]
    left["dataset"] = {key: data.get(key) for key in ("_target_", "name", "augment", "tiling", "roi", "mask_kind")}
    skipped = ("max_epochs", "devices", "num_nodes", "strategy")
    left["trainer"] = {key: value for key, value in config["trainer"].items() if key not in skipped}
    return {
        key: value for key, value in left.items() if key not in ("average_epochs", "patience", "skip_done", "table")
    }


def _name(*values: Any) -> str:
    return json.dumps(values, sort_keys=True, default=str)


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()
