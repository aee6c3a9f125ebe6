"""The demo data tells a trained detector from one that has learnt nothing."""

import hydra
import pytest

from kdad.engine.run_folder import RunFolder
from kdad.run import run
from kdad.settings.compose import CONF


@pytest.mark.slow
def test_rd_learns_the_demo_and_an_untrained_student_does_not(tmp_path, lite0):
    """lite0: skips without the weights. The pixel-statistics baseline is tested beside the data, for all categories."""

    def image_auroc(name, *overrides):
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = hydra.compose(
                "run",
                [
                    "model=rd",
                    "dataset=demo",
                    "category=brick",
                    "backbone=efficientnet_lite0",
                    "pictures=0",
                    "image_size=128",
                    *overrides,
                ],
            )
        return run(cfg, RunFolder(tmp_path / name))["image_auroc"]

    assert image_auroc("untrained", "trainer.max_epochs=0") < 0.8
    assert image_auroc("trained", "trainer.max_epochs=6") >= 0.95
