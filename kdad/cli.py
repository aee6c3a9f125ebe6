"""Hydra for kdad's entry points: starting jobs, and errors a user can act on."""

import hashlib
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import wraps
from itertools import count, takewhile
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kdad.configuration import choices, explain, flatten, home
from kdad.errors import UserError
from kdad.training import load_checkpoint

# Keys that change where results go, how they are shown or which further ones there are, not what they are.
BYSTANDERS = (
    "pictures", "logger", "skip_done", "ckpt_path", "checkpoint_seconds", "cache", "max_categories", "variants", "table",
    "objective", "objective_on_test_data", "compile",
)  # fmt: skip


def launch(job: Callable[[DictConfig], Any], config_name: str, stored_in: str = "") -> None:
    """Compose the command line's configuration and call `job` with it, once or for each job of a sweep.

    With `ckpt_path=` the command line adds to the one that made the checkpoint, and results go to that run's folder,
    or to `stored_in` below it. Exits with status 2 and a message, not a traceback, on a `UserError` or a
    configuration that does not compose. In a sweep a failing job does not stop the others.
    """
    failures: list[str] = []  # of a sweep's jobs, each with where it ran; of a single job, empty text

    @wraps(job)
    def reporting(cfg: DictConfig) -> Any:
        hydra_cfg = HydraConfig.get()
        try:
            check_sweep()
            return job(cfg)
        except Exception as error:
            sweep = hydra_cfg.mode is RunMode.MULTIRUN
            if not isinstance(error, UserError):
                if not sweep:
                    raise
                traceback.print_exc()
            print(f"kdad: {error}", file=sys.stderr)
            task, folder = " ".join(hydra_cfg.overrides.task), hydra_cfg.runtime.output_dir
            failures.append(f"- {task}\n  {error}\n  {folder}" if sweep else "")

    if not os.environ.get("KDAD_DATA"):
        os.environ.pop("KDAD_DATA", None)  # set but empty is not set: data sets would be looked for in /
    # Lets composition errors reach us instead of being printed by Hydra.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    try:
        refuse_empty_groups(sys.argv[1:], config_name)
        sys.argv[1:] = in_order(sys.argv[1:])
        sys.argv[1:] = with_stored_overrides(sys.argv[1:], stored_in)
        hydra.main(version_base="1.3", config_path=str(home(config_name)), config_name=config_name)(reporting)()
    except UserError as error:
        stop(str(error))
    except (HydraException, OmegaConfBaseException) as error:
        stop(explain(error, config_name))
    except Exception:
        if not failures:  # a search over hyper-parameters ends so where every job of it has failed
            raise
    if failures:
        if any(failures):
            print(f"\nkdad: {len(failures)} of the sweep's jobs failed:", *failures, sep="\n", file=sys.stderr)
        sys.exit(2)


def refuse_empty_groups(arguments: list[str], config_name: str) -> None:
    """Raises `UserError` for `group=null`, on which Hydra fails with a traceback."""
    for argument in arguments:
        group, _, value = argument.partition("=")
        if value in ("", "null") and (found := choices(group, config_name)):
            raise UserError(f"{argument}: give one of {', '.join(found)}")


def in_order(arguments: list[str]) -> list[str]:
    """-m first, since Hydra's parser takes all overrides in one block; +debug after +experiment, which it overrules."""
    found = sorted(arguments, key=lambda a: a not in ("-m", "--multirun"))
    places = [i for i, a in enumerate(found) if a.startswith(("+experiment=", "+debug="))]
    later = sorted((found[i] for i in places), key=lambda a: a.startswith("+debug="))
    for i, argument in zip(places, later, strict=True):
        found[i] = argument
    return found


def check_sweep() -> None:
    """Raises `UserError` where an experiment's sweep is not carried out: its first job alone would be no result."""
    started = HydraConfig.get()
    given = {o.split("=", 1)[0].lstrip("+~") for o in started.overrides.task}
    swept = [key for key in started.sweeper.get("params") or {} if key not in given]
    if swept and (name := started.runtime.choices.get("experiment")):
        raise UserError(
            f"+experiment={name} is a sweep over {', '.join(swept)}: add -m (one experiment a command), or give each "
            "of these keys one value."
        )


@contextmanager
def collected(failures: list[str], name: str) -> Iterator[None]:
    """Carry on after an error: it is printed, and added to `failures`."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, UserError):
            traceback.print_exc()
        print(f"kdad: {name}: {error}", file=sys.stderr)
        failures.append(f"- {name}: {error}")


def with_stored_overrides(arguments: list[str], stored_in: str) -> list[str]:
    """A command line with `ckpt_path=`, completed by what the checkpoint was made with; any other as it is.

    `group=choice` puts another choice in the place of the stored one, whose `group.key=` then go with it, but for
    `trainer.max_epochs`, which is the recipe's.
    """
    given = dict(a.split("=", 1) for a in arguments if "=" in a and not a.startswith("-"))
    if not given.get("ckpt_path") or given["ckpt_path"] == "null":
        return arguments
    path = Path(given["ckpt_path"])
    folder = path.absolute().parents[1]
    stored = load_checkpoint(path)["kdad"].get("overrides", [])
    keys = {key.lstrip("+~") for key in given} | {"ckpt_path", "skip_done"}
    replaced = tuple(f"{key.lstrip('+~')}." for key, value in given.items() if f"{key}={value}" not in stored)
    names = {o: o.split("=", 1)[0].lstrip("+~") for o in stored}
    gone = {o for o in stored if names[o].startswith(replaced) and names[o] != "trainer.max_epochs"}
    added = [o for o in stored if names[o] not in keys and o not in gone]
    if stored_in:
        folder = folder / stored_in / datetime.now().strftime("%Y-%m-%d_%H-%M-%S.%f")
    for key in ("hydra.run.dir", "hydra.sweep.dir"):
        if key not in given:
            added.append(f"{key}={folder}")
    first = next(i for i, a in enumerate(arguments) if a.startswith("ckpt_path="))
    return [*arguments[:first], *added, *arguments[first:]]


def sweep_name() -> str | None:
    """What the jobs of a sweep have in common: the experiment, else the sweep's folder; None for a single job."""
    if not HydraConfig.initialized():
        return None
    started = HydraConfig.get()
    alone = started.mode is not RunMode.MULTIRUN
    return started.runtime.choices.get("experiment") or (None if alone else Path(started.sweep.dir).name)


def task_overrides() -> list[str]:
    """The command line of this job, without Hydra's own part; empty when Hydra did not start it."""
    return list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []


def stored(folder: Path) -> dict[str, Any]:
    """What results.json there holds; nothing where there is none, or where it is not kdad's."""
    try:
        found = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def finished(cfg: DictConfig, folder: Path) -> Path | None:
    """Where a complete job with this resolved configuration is: in `folder` or beside it (see `free_place`), in the
    sweep's folder or in ./outputs.
    """
    roots = {Path(HydraConfig.get().sweep.dir), Path("outputs")}
    below = [path.parent for root in roots for path in sorted(root.rglob("results.json"))]
    places = [*takewhile(Path.exists, _places(folder)), *below]
    return next((place for place in places if completed(place, cfg) and "fit_seconds" in stored(place)), None)


def free_place(cfg: DictConfig, folder: Path) -> Path:
    """`folder`, else `<folder>_2`, `<folder>_3` and so on: the first one without results, or where this job failed.

    With skip_done a job goes there: a sweep that has grown numbers its jobs anew, and what lies under the number may
    be another job's, whose failure stays on record as its results do.
    """

    def free(results: dict[str, Any]) -> bool:
        return results.get("status") != "ok" and results.get("config_hash") in (None, config_hash(cfg))

    return next(place for place in _places(folder) if free(stored(place)))


def _places(folder: Path) -> Iterator[Path]:
    yield folder
    yield from (folder.with_name(f"{folder.name}_{i}") for i in count(2))


def completed(folder: Path, cfg: DictConfig) -> bool:
    """Whether `folder` holds complete results of this resolved configuration."""
    results = stored(folder)
    return results.get("status") == "ok" and results.get("config_hash") == config_hash(cfg)


def changes(cfg: DictConfig, checkpoint: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Where the configuration differs from the checkpoint's in what decides results: dotted key -> its value, ours.

    A key that is newer than the checkpoint cannot be compared.
    """
    trained = flatten(OmegaConf.to_container(OmegaConf.create(checkpoint["kdad"].get("config", {})), resolve=True))
    now = flatten(OmegaConf.to_container(cfg, resolve=True))
    return {
        key: (trained[key], value)
        for key, value in now.items()
        if not isinstance(value, dict) and key.split(".")[0] not in BYSTANDERS and trained.get(key, value) != value
    }


def config_hash(cfg: DictConfig) -> str:
    """Sixteen hex digits of what decides a job's results."""
    plain = OmegaConf.to_container(cfg, resolve=True)
    kept = {key: value for key, value in plain.items() if key not in BYSTANDERS}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]


def create(node: DictConfig, **arguments: Any) -> Any:
    """Hydra's `instantiate` with plain Python containers, and with a `UserError` left as it is."""
    try:
        return instantiate(node, _convert_="all", **arguments)
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, UserError):
            raise cause from None
        target = str(node.get("_target_"))
        if isinstance(cause, TypeError | ValueError) and not target.startswith("kdad."):
            raise UserError(f"{target} refuses its arguments: {cause}. Given: {OmegaConf.to_container(node)}") from error
        raise


def stop(message: str) -> None:
    """Print an error and end the process with status 2."""
    print(f"kdad: {message}", file=sys.stderr)
    sys.exit(2)
