"""Jobs of a sweep that run in other processes, by one of Hydra's launchers: what each has come to.

A job tells it by a file in the sweep's folder, which must be one that all machines see; the command that started the
sweep reads these files when all jobs have ended, and removes them.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from kdad.storage.atomic import atomic_write

FOLDER = ".kdad_jobs"
_swept: list[Path] = []  # the folder of the sweep that this process has started


class Outcome(NamedTuple):
    """How one job ended, and where; `failure` is empty where it did not fail."""

    number: int
    name: str
    status: str
    folder: str
    places: list[str]  # folders of results
    failure: str


class NoteFolder(Callback):
    """A callback of Hydra's that notes the folder of a sweep, which is known to nobody else before its first job."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        _swept[:] = [Path(config.hydra.sweep.dir).absolute()]


def tell(sweep: Path, outcome: Outcome) -> None:
    """Leave a job's outcome for the process that started the sweep."""
    folder = sweep / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / f"{outcome.number}.json") as file:
        json.dump(outcome._asdict(), file)


def collect() -> list[Outcome]:
    """Return the outcomes that jobs in other processes have left, in the jobs' order, and remove them."""
    folder = _swept.pop() / FOLDER if _swept else Path(FOLDER)
    files = sorted(folder.glob("*.json"), key=lambda file: int(file.stem)) if folder.is_dir() else []
    found = [Outcome(**json.loads(file.read_text(encoding="utf-8"))) for file in files]
    for file in files:
        file.unlink()
    if files and not any(folder.iterdir()):
        folder.rmdir()
    return found
