"""Test a checkpoint again without training: `python -m kdad.evaluate ckpt_path=<run>`.

The checkpoint brings its configuration; overrides change what does not need training, such as
`model.score_levels=[2,3]`, `model.sigma=0`, `model.map_size=64` or `dataset.root=`; others are refused. `-m` sweeps
them. `variants` in a run's configuration are such tests, made right after its own.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from kdad.engine.categories import unite
from kdad.engine.combinations import list_impossible_to_test
from kdad.engine.early import refuse_retest
from kdad.engine.launch import CONFIG, launch
from kdad.engine.run_folder import RunFolder
from kdad.engine.show import show
from kdad.errors import UserError
from kdad.settings.checks import check_configuration
from kdad.storage.lock import LOCK

STORED = "evaluations"  # below the run that a checkpoint is of


def main() -> None:
    """Run `kdad evaluate`, which is `python -m kdad.evaluate`."""
    launch(job, CONFIG, stored_in=STORED, impossible=list_impossible_to_test)


def job(cfg: DictConfig) -> None:
    """Do one job of the command line or of a sweep. One that is refused leaves nothing in the run that it is of."""
    if cfg.plan:
        raise UserError("plan=true prices kdad run; a test takes a part of what its run took: test_seconds")
    unite(cfg)
    folder = RunFolder(HydraConfig.get().runtime.output_dir)
    with folder.hold(), leave_nothing_refused(folder.path), folder.record(cfg, and_refusals=False) as record:
        check_configuration(cfg, CONFIG)
        checkpoint = refuse_retest(cfg)
        from kdad.engine.retest import test_again  # with Lightning, which a refusal need not wait for

        test_again(cfg, folder, record, checkpoint)
    show(record.results, folder)


@contextmanager
def leave_nothing_refused(folder: Path) -> Iterator[None]:
    """Remove the folder of a job that is refused in the block, where it holds the job's lock alone."""
    try:
        yield
    except UserError:
        if all(path.name == LOCK for path in folder.iterdir()):
            shutil.rmtree(folder)
            with suppress(OSError):  # other tests are there
                if folder.parent.name == STORED:
                    folder.parent.rmdir()
        raise


if __name__ == "__main__":
    main()
