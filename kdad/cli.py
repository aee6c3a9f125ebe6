"""Hydra for kdad's entry points: starting jobs, and errors a user can act on."""

import hashlib
import json
import os
import sys
import traceback
from collections.abc import Callable
from datetime import datetime
from functools import wraps
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kdad.configuration import CONF, explain
from kdad.errors import UserError
from kdad.training import load_checkpoint

# Keys that change where results go or how they are shown, not what they are.
BYSTANDERS = ("pictures", "logger", "skip_done", "ckpt_path", "checkpoint_seconds", "cache")


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

    # Lets composition errors reach us instead of being printed by Hydra.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    try:
        # Hydra's parser takes all overrides in one block, so that its commonest flag goes before them.
        sys.argv[1:] = sorted(sys.argv[1:], key=lambda a: a not in ("-m", "--multirun"))
        sys.argv[1:] = with_stored_overrides(sys.argv[1:], stored_in)
        hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(reporting)()
    except UserError as error:
        stop(str(error))
    except (HydraException, OmegaConfBaseException) as error:
        stop(explain(error, config_name))
    if failures:
        if any(failures):
            print(f"\nkdad: {len(failures)} of the sweep's jobs failed:", *failures, sep="\n", file=sys.stderr)
        sys.exit(2)


def with_stored_overrides(arguments: list[str], stored_in: str) -> list[str]:
    """A command line with `ckpt_path=`, completed by what the checkpoint was made with; any other as it is."""
    given = dict(a.split("=", 1) for a in arguments if "=" in a and not a.startswith("-"))
    if not given.get("ckpt_path") or given["ckpt_path"] == "null":
        return arguments
    path = Path(given["ckpt_path"])
    folder = path.absolute().parents[1]
    stored = load_checkpoint(path)["kdad"].get("overrides", [])
    keys = {key.lstrip("+~") for key in given} | {"ckpt_path", "skip_done"}
    added = [o for o in stored if o.split("=", 1)[0].lstrip("+~") not in keys]
    if stored_in:
        folder = folder / stored_in / datetime.now().strftime("%Y-%m-%d_%H-%M-%S.%f")
    for key in ("hydra.run.dir", "hydra.sweep.dir"):
        if key not in given:
            added.append(f"{key}={folder}")
    first = next(i for i, a in enumerate(arguments) if a.startswith("ckpt_path="))
    return [*arguments[:first], *added, *arguments[first:]]


def task_overrides() -> list[str]:
    """The command line of this job, without Hydra's own part; empty when Hydra did not start it."""
    return list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []


def finished(cfg: DictConfig) -> Path | None:
    """The folder of a complete job with this resolved configuration, in the sweep's folder or in ./outputs."""
    wanted = config_hash(cfg)
    for root in {Path(HydraConfig.get().sweep.dir), Path("outputs")}:
        for path in sorted(root.rglob("results.json")):
            results = json.loads(path.read_text(encoding="utf-8"))
            trained = results.get("status") == "ok" and "fit_seconds" in results
            if trained and results.get("config_hash") == wanted:
                return path.parent
    return None


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
