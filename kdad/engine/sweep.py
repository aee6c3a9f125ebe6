"""A sweep in the terminal: which job is at work, how long the rest may take, and what each has come to."""

import os
import sys
import time
from math import prod
from pathlib import Path
from statistics import fmean
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

from kdad.engine.outcomes import Outcome, collect, tell
from kdad.engine.record import HEADLINE
from kdad.engine.run_folder import RunFolder
from kdad.errors import UserError
from kdad.settings.compose import DIGITS, compose
from kdad.settings.overrides import split

BEST = "optimization_results.yaml"  # what Optuna's sweeper leaves in a sweep's folder
WIDE = 200  # columns of a table in a file, where nothing has to be cut
_places: list[RunFolder] = []  # where the results of the job at work lie


def note_results(folder: RunFolder) -> None:
    """Note the folder that holds the current job's results, which may have been done already elsewhere."""
    _places.append(folder)


class Sweep:
    """The jobs of one command, as they go by; of a single job nothing is shown."""

    def __init__(self, overrides: list[str]) -> None:
        self.overrides = overrides  # as they were given: a job knows its own values alone
        self.started, self.began = time.monotonic(), time.time()
        self.process = os.getpid()  # that starts the jobs: a launcher may run them in others
        # Of each job: what it has of its own, how it ended, its folder, and where its results are
        self.rows: list[tuple[str, str, Path, list[RunFolder]]] = []

    def begin(self, hydra_cfg: Any) -> None:
        """Print a job's number, its own overrides, and an estimate of the time left."""
        _places.clear()
        if hydra_cfg.mode is not RunMode.MULTIRUN:
            return
        number, total = int(hydra_cfg.job.num) + 1, self.count_jobs(hydra_cfg)
        of = f" of {total}" if total else ""
        left = ""
        if self.rows and total:
            seconds = (time.monotonic() - self.started) / len(self.rows) * (total - len(self.rows))
            left = f", about {seconds / 60:.0f} min left" if seconds > 90 else f", about {seconds:.0f} s left"
        print(f"\nkdad: job {number}{of}{left}: {self.describe_job(hydra_cfg)}", flush=True)

    def end(self, hydra_cfg: Any, status: str, failure: str = "") -> None:
        """Record a job's status and folder for the closing table; one in another process tells its starter."""
        if hydra_cfg.mode is not RunMode.MULTIRUN:
            return
        name, folder = self.describe_job(hydra_cfg), Path(hydra_cfg.runtime.output_dir)
        places = list(_places) or [RunFolder(folder)]
        if os.getpid() == self.process:
            self.rows.append((name, status, folder, places))
            return
        where = [str(place.path.absolute()) for place in places]
        tell(Path(hydra_cfg.sweep.dir), Outcome(int(hydra_cfg.job.num), name, status, str(folder), where, failure))

    def collect(self) -> list[str]:
        """Take in the jobs that other processes have done. Returns what is to be said of those that failed."""
        outcomes = collect()
        for found in outcomes:
            places = [RunFolder(Path(place)) for place in found.places]
            self.rows.append((found.name, found.status, Path(found.folder), places))
        return [found.failure for found in outcomes if found.failure]

    def show(self) -> None:
        """Print a table of all jobs, each with its metrics if it has left any; of a search, what was best."""
        if not self.rows:
            return
        table = Table(title="The sweep's jobs")
        table.add_column("job", overflow="fold")
        means = {metric: [read_mean(places, metric) for *_, places in self.rows] for metric in HEADLINE}
        shown = [metric for metric, column in means.items() if set(column) != {"-"}]  # benchmarks have none
        for metric in shown:
            table.add_column(metric, justify="right", no_wrap=True)
        table.add_column("results", overflow="fold")
        for row, (name, status, folder, places) in enumerate(self.rows):
            place = places[0].path if len(places) == 1 else folder
            table.add_row(
                name, *(means[metric][row] for metric in shown),
                str(place) if status == "ok" else f"{status}: {place}",
            )  # fmt: skip
        console = Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else WIDE)
        console.print(table)
        spent, saved = (self.add_up(f"cache_{what}") for what in ("seconds", "saved"))
        if saved >= 0.05:  # else it would read as nothing
            console.print(f"Decoding and the teacher took {spent:.1f} s; what was in the cache saved {saved:.1f} s.")
        best = self.rows[0][2].parent / BEST
        if best.is_file():
            found: Any = OmegaConf.load(best)
            drawn = " ".join(f"{key}={value}" for key, value in found.get("best_params", {}).items())
            console.print(f"Best trial: {drawn}, {found.get('best_value')}; {best}", soft_wrap=True, highlight=False)

    def add_up(self, key: str) -> float:
        """Return the sum of a number over the results that this sweep has written, not over those it found done."""
        own = [place for *_, places in self.rows for place in places if place.results.is_file()]
        values = [place.read().get(key) for place in own if place.results.stat().st_mtime >= self.began]
        return sum(value for value in values if isinstance(value, int | float))

    def set_digits(self, config_name: str) -> None:
        """Let the names of the jobs' folders have as many digits as their numbers need, so that they sort."""
        parser = OverridesParser.create()
        plain = [text for text in self.overrides if not parser.parse_override(text).is_sweep_override()]
        try:
            hydra_cfg: Any = compose(*plain, config_name=config_name, hydra_too=True).hydra
        except UserError:  # it depends on what is swept
            hydra_cfg = OmegaConf.create({"sweeper": {"_target_": "basic_sweeper"}})
        total = self.count_jobs(hydra_cfg) or hydra_cfg.sweeper.get("n_trials") or 1
        os.environ[DIGITS] = str(len(str(total - 1)))

    def count_jobs(self, hydra_cfg: Any) -> int:
        """Return how many jobs a sweep over all combinations has; 0 where a search decides that as it goes."""
        if "basic_sweeper" not in str(hydra_cfg.sweeper.get("_target_")):
            return 0
        return prod(self._list_swept(hydra_cfg).values())

    def _list_swept(self, hydra_cfg: Any) -> dict[str, int]:
        """Return how many values each key of the sweep takes: of the command line, else of the experiment."""
        parser, counts = OverridesParser.create(), {}
        given = [f"{key}={value}" for key, value in (hydra_cfg.sweeper.get("params") or {}).items()]
        for text in (*given, *self.overrides):
            override = parser.parse_override(text)
            name = split(text)[0]
            try:
                counts[name] = len(list(override.sweep_string_iterator())) if override.is_sweep_override() else 1
            except HydraException:  # an interval, which a search draws from
                counts[name] = 2
        return {name: n for name, n in counts.items() if n > 1}

    def describe_job(self, hydra_cfg: Any) -> str:
        """Return the overrides that a job of a sweep does not share with the others; all where it shares none."""
        swept = self._list_swept(hydra_cfg)
        own = [override for override in hydra_cfg.overrides.task if split(override)[0] in swept]
        return " ".join(own or hydra_cfg.overrides.task)


def read_mean(places: list[RunFolder], metric: str) -> str:
    """Return a metric of a job as text, with category=all the mean over its categories; - where there is none."""
    found = [run.read().get(metric) for run in places if run.is_complete()]
    values = [value for value in found if isinstance(value, float)]
    return f"{fmean(values):.4f}" if values else "-"


def name_sweep() -> str | None:
    """Return what a sweep's jobs have in common: the experiment, else the sweep's folder; None for a single job."""
    if not HydraConfig.initialized():
        return None
    started = HydraConfig.get()
    alone = started.mode is not RunMode.MULTIRUN
    return started.runtime.choices.get("experiment") or (None if alone else Path(started.sweep.dir).name)
