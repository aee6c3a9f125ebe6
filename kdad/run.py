"""Train and test one detector: `python -m kdad.run model=rd dataset=mvtec category=screw`.

- `kdad run -m model=rd,stpm dataset=mvtec category=grid,screw seed=0,1,2`: every combination
- `kdad run ckpt_path=<run>`: go on after an interruption, from its checkpoints/last.ckpt
- `kdad run -m ... plan=true`: hours, memory and disk that a sweep would take, measured without running it
- `kdad run +debug=cpu model=rd dataset=demo`: see it run, in a minute
"""

import copy
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from kdad.engine.categories import list_categories, unite
from kdad.engine.checkpoint import Checkpoint
from kdad.engine.combinations import list_impossible
from kdad.engine.early import check_place, refuse_early
from kdad.engine.finished import find_done
from kdad.engine.launch import CONFIG, carry_on, launch, stop
from kdad.engine.plan import Plan, asks_for_plan
from kdad.engine.record import is_same_data
from kdad.engine.run_folder import RunFolder
from kdad.engine.search import check_objective, compute_objective
from kdad.engine.show import show
from kdad.engine.sweep import note_results
from kdad.errors import UserError
from kdad.settings.checks import check_configuration
from kdad.settings.compose import resolve
from kdad.settings.roles import config_hash

if TYPE_CHECKING:
    from kdad.data.base import AnomalyDataModule

# What needs torch or Lightning is imported where it is called: a refusal, or --help, need not wait for seconds.

NO_KEYS = """run what? It takes keys: model=, dataset= and, where that has several, category=. Such as
  kdad run model=rd dataset=demo backbone=efficientnet_lite0   photographs that come with kdad; needs no download
  kdad run model=rd dataset=mvtec category=screw               MVTec AD in data/mvtec, or dataset.root=<folder>
  kdad run model=rd dataset=folder dataset.root=<folder>       pictures of your own; kdad check says if they are found
kdad run --help lists models, data sets and keys; README.md and docs/index.md begin from nothing."""


def main() -> None:
    """Run `kdad run`, which is `python -m kdad.run`; without any key, say which it takes, with status 2."""
    if not set(sys.argv[1:]) - {"-m", "--multirun"}:
        stop(NO_KEYS)
    plan = Plan() if asks_for_plan(sys.argv[1:]) else None
    launch(plan.add if plan else job, CONFIG, impossible=list_impossible, plan=plan)


def job(cfg: DictConfig) -> float | None:
    """Do one job of the command line or of a sweep: one category, or several, each into a subfolder of its own.

    With `unified` the job is one detector for all of its categories.

    Returns the objective, if the configuration names one.
    """
    started = HydraConfig.get()
    folder = Path(started.runtime.output_dir)
    check_objective(cfg.objective, cfg.objective_on_test_data, direction=started.sweeper.get("direction"))
    roots = [Path(started.sweep.dir), Path("outputs")]
    unite(cfg)
    names = [] if cfg.unified else list_categories(cfg)
    if not names:
        return compute_objective(cfg.objective, [run_unless_done(cfg, RunFolder(folder), roots)])
    results: list[dict[str, Any]] = []
    failures: list[str] = []
    for name in names:
        part = copy.deepcopy(cfg)
        part.category = name
        with carry_on(failures, name):
            results.append(run_unless_done(part, RunFolder(folder / name), roots, f"category={name}"))
    if failures:
        raise UserError(f"{len(failures)} of {len(names)} categories failed:\n" + "\n".join(failures))
    return compute_objective(cfg.objective, results)


def run_unless_done(cfg: DictConfig, folder: RunFolder, roots: list[Path], *chosen: str) -> dict[str, Any]:
    """Run a job, with skip_done only what is not done here or below `roots`; return what results.json holds."""
    if cfg.skip_done:
        wanted, data = config_hash(resolve(cfg)), fingerprint(cfg)
        if done := find_done(folder, wanted, roots, data):
            from kdad.engine.retest import test_variants

            print(f"Done already: {done}")
            if absent := done.list_absent():
                print(f"Its own results of {', '.join(absent)} are gone: kdad evaluate ckpt_path={done} tests again")
            note_results(done)
            test_variants(cfg, done)
            return done.read()
        if other := find_done(folder, wanted, roots):
            print(f"Not done: {other} is of this configuration, but the data have changed since")
        folder = folder.find_free(wanted)
        if not cfg.ckpt_path and (last := find_last(folder, cfg, data)):
            print(f"Goes on: {last}")
            cfg = copy.deepcopy(cfg)
            cfg.ckpt_path = str(last.absolute())
    elif goes_on_in(folder, cfg) and folder.is_complete() and not cfg.overwrite:
        wanted = config_hash(resolve(cfg))
        if folder.is_trained(wanted, fingerprint(cfg)):
            print(f"Done already: {folder}. overwrite=true tests it once more")
            note_results(folder)
            return folder.read()
        folder = folder.find_free(wanted)
        print(f"The run that the checkpoint is of is complete and stays as it is; this one goes to {folder}")
    return run(cfg, folder, *chosen)


def fingerprint(cfg: DictConfig) -> str | None:
    """Return the fingerprint of the data as they are now; None where they cannot be listed."""
    try:
        check_place(cfg)
    except UserError:  # the run says what is wrong, if there is to be one
        return None
    from kdad.engine.build import fingerprint_data

    return fingerprint_data(cfg)


def find_last(folder: RunFolder, cfg: DictConfig, data: str | None) -> Path | None:
    """Return the checkpoint that an interrupted job of this very configuration and data has left in its folder."""
    if not folder.is_interrupted():
        return None
    last = Checkpoint.load(folder.checkpoint("last"))
    same = is_same_data(last.provenance.get("data_fingerprint", ""), data)
    return last.path if same and not last.changed_when_resumed(resolve(cfg)) else None


def goes_on_in(folder: RunFolder, cfg: DictConfig) -> bool:
    """Return whether the job goes on from a checkpoint of the run in this very folder."""
    origin = RunFolder.around(cfg.ckpt_path) if cfg.ckpt_path else None
    return origin is not None and origin.path.resolve() == folder.path.resolve()


def run(cfg: DictConfig, folder: RunFolder, *chosen: str) -> dict[str, Any]:
    """Train, test and write everything into `folder`, then test the variants; return what results.json holds.

    A failing variant leaves the results and the other variants as they are; `UserError` at the end names it.
    """
    note_results(folder)
    with folder.hold():
        results, data = train(cfg, folder, *chosen)
        from kdad.engine.retest import test_variants

        show(results, folder)
        test_variants(cfg, folder, data)
    return results


def train(cfg: DictConfig, folder: RunFolder, *chosen: str) -> "tuple[dict[str, Any], AnomalyDataModule]":
    """Train and test once, or go on from `ckpt_path`; return what results.json holds, and the data.

    `chosen`: overrides that this job's checkpoints need besides those of the command line.
    """
    with folder.record(cfg) as record:
        check_configuration(cfg, CONFIG)
        refuse_early(cfg, folder, record, goes_on_in(folder, cfg))
        from kdad.engine.job import train_and_test

        data = train_and_test(cfg, folder, record, chosen)
    return record.results, data


if __name__ == "__main__":
    main()
