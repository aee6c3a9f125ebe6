"""The command line: Hydra started for kdad's entry points, and errors a user can act on."""

import errno
import gc
import os
import sys
import traceback
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import wraps
from io import TextIOWrapper
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn, Protocol

# Hydra's own runner, which `hydra.main` would start with an argument parser that takes overrides in one block only, and
# with its own page of help: pyproject.toml bounds Hydra's version for that.
from hydra import version as hydra_version
from hydra._internal.utils import _run_hydra, get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

import kdad
from kdad.engine.devices import settle_machine
from kdad.engine.early import drop_unused, name_last
from kdad.engine.help import describe_command
from kdad.engine.record import name_job
from kdad.engine.run_folder import RunFolder
from kdad.engine.signals import end_on_signals, raise_end, work_for
from kdad.engine.sweep import Sweep
from kdad.errors import UserError
from kdad.settings.checks import list_bad_keys, list_idle_keys, refuse_all, refuse_empty_groups
from kdad.settings.compose import choose_optional, explain, find_home
from kdad.settings.overrides import accept_literally, find_value, quote, split, write

# Of a folder that cannot be read, made or written, or is full
READING = {errno.EACCES, errno.EPERM}
DISK = {
    *READING,
    errno.ENAMETOOLONG,
    errno.EROFS,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.ENOTDIR,
    errno.EEXIST,
    errno.EISDIR,
}
PATHS = ("dataset.root", "backbone.weights", "ckpt_path")  # keys that name a file or folder of the user's
LISTS = {"app": ("ckpt_path",)}  # by command: which of a key's texts may be several there
CONFIG = "run"  # the configuration of run and evaluate


class Plan(Protocol):
    """What prices jobs instead of running them, see `plan.py`."""

    def divert(self, overrides: list[str]) -> list[str]:
        """Return the overrides by which all jobs come to this process, and write to a folder that goes."""

    def show(self) -> None:
        """Print the prices, when all jobs have come."""


def launch_without_folder(job: Callable[[DictConfig], Any], config_name: str, completes: bool = True) -> None:
    """Do as `launch` does, for a command that leaves no folder of results: Hydra's own files go to a temporary one."""
    with TemporaryDirectory() as folder:
        sys.argv += [f"hydra.run.dir={folder}", f"hydra.sweep.dir={folder}"]
        launch(job, config_name, completes=completes)


def launch(
    job: Callable[[DictConfig], Any], config_name: str, stored_in: str = "", completes: bool = True,
    impossible: Callable[[DictConfig, Collection[str]], list[str]] | None = None, plan: Plan | None = None,
) -> None:  # fmt: skip
    """Compose the command line's configuration and call `job` with it, once or for each job of a sweep.

    With `ckpt_path=` the command line adds to the one that made the checkpoint, and results go to that run's folder,
    or to `stored_in` below it; not for a command that only reads the checkpoint (`completes` False). `impossible` lists
    the settings that do not go together. With a `plan`, whose `add` is then the `job`, jobs are priced. Exits with
    status 2 and a message, not a traceback, on a `UserError` or a configuration that does not compose. In a sweep a
    failing job does not stop the others.
    """
    sweep = Sweep([])
    typed: list[str] = []  # the command line as given
    failures: list[str] = []  # of a sweep's jobs, each with where it ran; of a single job, empty text
    ended = ""  # why not all jobs of a sweep came to run

    @wraps(job)
    def reporting(cfg: DictConfig) -> Any:
        hydra_cfg = HydraConfig.get()
        if plan is None:
            sweep.begin(hydra_cfg)
        try:
            refuse_first_job_alone()
            if completes and cfg.get("ckpt_path"):
                fill_in(cfg, typed)
            make_paths_absolute(cfg)
            refuse_settings(cfg, config_name, typed, impossible, recorded=config_name == CONFIG and not stored_in)
            if config_name == CONFIG:
                settle_machine(cfg.trainer, several=os.getpid() != sweep.process)
            with work_for(sweep.process):
                value = job(cfg)
                sweep.end(hydra_cfg, "ok")
            return value
        except Exception as error:
            raise_end(error)
            several = hydra_cfg.mode is RunMode.MULTIRUN
            if isinstance(error, OSError) and error.errno in DISK:
                error = UserError(explain_disk(error))
            task, folder = " ".join(hydra_cfg.overrides.task), hydra_cfg.runtime.output_dir
            drop_unused(Path(folder), stored_in)
            where = "" if plan else f"\n  {folder}"
            failure = f"- {task}\n  {error}{where}" if several else ""
            sweep.end(hydra_cfg, "failed", failure)
            if not isinstance(error, UserError):
                if not several:
                    raise
                traceback.print_exc()
            print(f"kdad: {error}", file=sys.stderr)
            failures.append(failure)

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a file's name may hold what a terminal cannot show
    if not os.environ.get("KDAD_DATA"):
        os.environ.pop("KDAD_DATA", None)  # set but empty is not set: data sets would be looked for in /
    # Modules make a million objects that stay: to look through them again and again takes a fifth of a start.
    gc.set_threshold(100_000)
    # Lets composition errors reach us instead of being printed by Hydra.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    if "--version" in sys.argv[1:]:
        print(f"kdad {kdad.__version__}")
        return
    parser = get_args_parser()
    parser.error = refuse_flag  # type: ignore[method-assign]
    given = parser.parse_intermixed_args()  # overrides may stand on either side of -m
    if given.help:
        with suppress(BrokenPipeError):  # the reader, such as head, has seen enough
            print(describe_command(job, config_name, given.overrides), flush=True)
            return
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return
    try:
        given.overrides, remarks = accept_literally(given.overrides, given.multirun, LISTS.get(config_name, ()))
        for remark in remarks:
            print(f"kdad: {remark}", file=sys.stderr)
        refuse_empty_groups(given.overrides, config_name)
        typed[:] = choose_optional(given.overrides)
        given.overrides = add_stored(typed, stored_in) if completes else list(typed)
        given.overrides = plan.divert(given.overrides) if plan else given.overrides
        sweep.overrides = list(given.overrides)
        if given.multirun:
            sweep.set_digits(config_name)
        hydra_version.setbase("1.3")
        with end_on_signals():
            _run_hydra(given, parser, reporting, str(find_home(config_name)), config_name)
    except UserError as error:
        stop(str(error))
    except (HydraException, OmegaConfBaseException) as error:  # some of Hydra's are OSErrors, too
        stop(explain(error, config_name, given.overrides))
    except OSError as error:
        if error.errno not in DISK:
            raise
        ended = explain_disk(error)  # before the rest of a sweep's jobs
    except Exception:
        if not failures:  # a search over hyper-parameters ends so where every job of it has failed
            raise
    failures += sweep.collect()
    plan.show() if plan else sweep.show()
    if any(failures):
        print(f"\nkdad: {len(failures)} of the sweep's jobs failed:", *failures, sep="\n", file=sys.stderr)
    if ended:
        stop(ended)
    if failures:
        sys.exit(2)


def add_stored(overrides: list[str], stored_in: str) -> list[str]:
    """Add a checkpoint's own overrides, and the folder for the results, to a command line with `ckpt_path=`.

    Results go to the checkpoint's run, or to a new folder in `stored_in` below it; those of a checkpoint that lies in
    no run's folder, to a new one. Without `ckpt_path=` nothing is added.
    """
    overrides = overrides if stored_in else name_last(overrides)
    path = find_value(overrides, "ckpt_path")
    if not path:
        return overrides
    from kdad.engine.checkpoint import Checkpoint

    checkpoint = Checkpoint.load_origin(path)
    added = checkpoint.add_to(overrides)
    if run := RunFolder.around(checkpoint.path):
        folder = run.path
        if stored_in:
            folder = folder / stored_in / datetime.now().strftime("%Y-%m-%d_%H-%M-%S.%f")
        keys = {split(override)[0] for override in overrides}
        added += [write(key, str(folder)) for key in ("hydra.run.dir", "hydra.sweep.dir") if key not in keys]
    first = next(i for i, override in enumerate(overrides) if split(override)[0] == "ckpt_path")
    return [*overrides[:first], *added, *overrides[first:]]


def fill_in(cfg: DictConfig, typed: list[str]) -> None:
    """Set the keys that were not typed to the values of the checkpoint at ckpt_path."""
    from kdad.engine.checkpoint import Checkpoint

    Checkpoint.load_origin(cfg.ckpt_path).fill_in(cfg, typed)


def refuse_settings(
    cfg: DictConfig, config_name: str, typed: list[str],
    impossible: Callable[[DictConfig, Collection[str]], list[str]] | None, recorded: bool,
) -> None:  # fmt: skip
    """Refuse all that is wrong with a configuration in one message, before anything is loaded. Raises `UserError`.

    `typed` is the command line as given. On request the job's folder records it, and which job it was.
    """
    bad = list_bad_keys(cfg, config_name)
    alone = HydraConfig.get().mode is RunMode.RUN
    problems = [*bad.values(), *list_idle_keys(cfg, typed, alone), *(impossible(cfg, bad) if impossible else ())]
    if problems and recorded:
        with RunFolder(Path(HydraConfig.get().runtime.output_dir)).record(cfg) as record:
            record.add(**name_job(cfg))
            refuse_all(problems)
    refuse_all(problems)


def make_paths_absolute(cfg: DictConfig) -> None:
    """Make relative paths in the configuration absolute, since a run is read from other folders, too."""
    for key in PATHS:
        text = OmegaConf.select(cfg, key)
        if isinstance(text, str) and not text.startswith("package:"):
            OmegaConf.update(cfg, key, str(Path(text).expanduser().absolute()), merge=False)


def list_task_overrides(cfg: DictConfig) -> list[str]:
    """Return the command line of this job, without Hydra's own part and with paths in full.

    Empty when Hydra did not start it.
    """
    if not HydraConfig.initialized():
        return []
    overrides = []
    for override in HydraConfig.get().overrides.task:
        key = split(override)[0]
        text = OmegaConf.select(cfg, key) if key in PATHS else None
        overrides.append(f"{override.partition('=')[0]}={quote(text)}" if isinstance(text, str) else override)
    return overrides


def refuse_first_job_alone() -> None:
    """Refuse a sweep experiment started without -m: its first job alone would be no result. Raises `UserError`."""
    started = HydraConfig.get()
    given = {split(override)[0] for override in started.overrides.task}
    swept = [key for key in started.sweeper.get("params") or {} if key not in given]
    if swept and (name := started.runtime.choices.get("experiment")):
        raise UserError(
            f"+experiment={name} is a sweep over {', '.join(swept)}: add -m (one experiment a command), or give each "
            "of these keys one value."
        )


@contextmanager
def carry_on(failures: list[str], name: str) -> Iterator[None]:
    """Go on after an error in the block: it is printed, and added to `failures`."""
    try:
        yield
    except Exception as error:
        raise_end(error)
        if not isinstance(error, UserError):
            traceback.print_exc()
        print(f"kdad: {name}: {error}", file=sys.stderr)
        failures.append(f"- {name}: {error}")


def explain_disk(error: OSError) -> str:
    """Return a sentence that says which file or folder cannot be used, and what to do."""
    place = str(error.filename or "a file")
    if error.errno in READING and Path(place).exists() and not os.access(place, os.R_OK):
        return (
            f"{place}: cannot be read: {error.strerror}. Let this user read it, or name another: dataset.root=<folder>"
        )
    return (
        f"{place}: cannot be written: {error.strerror}. Results go to hydra.run.dir=<folder>, "
        "with -m to hydra.sweep.dir=<folder>: name one that can be written and has room"
    )


def refuse_flag(message: str) -> NoReturn:
    """Print what is wrong with a flag, without Hydra's own usage, and end the process with status 2."""
    stop(f"{message}. --help lists keys and flags")


def stop(message: str) -> NoReturn:
    """Print an error and end the process with status 2."""
    print(f"kdad: {message}", file=sys.stderr)
    sys.exit(2)
