"""What the terminal says of a finished run, beside its numbers."""

import pytest

from kdad.engine.run_folder import RunFolder
from kdad.engine.show import show
from kdad.inference.decision import Normals

BASE = {"model": "stpm", "dataset": "folder", "category": "all", "image_auroc": 0.7, "pixel_auroc": 0.6, "pro": 0.2}


@pytest.fixture
def say(tmp_path, capsys):
    def call(**results):
        show({**BASE, **results}, RunFolder(tmp_path))
        return capsys.readouterr().out

    return call


def test_an_auroc_below_one_half_is_told_and_others_are_not(say):
    assert "below 0.5" not in say()
    said = say(pixel_auroc=0.204)
    assert "pixel_auroc 0.2040 is below 0.5: a normal pixel scores higher than an anomalous one" in said
    assert "image_auroc 0.4999 is below 0.5: a normal image" in say(image_auroc=0.4999, pixel_auroc=0.5)
    assert "below 0.5" not in say(pixel_auroc=None, pixel_auroc_reason="no masks")


@pytest.mark.parametrize(("n", "asked", "fewest"), [(6, 0.01, True), (98, 0.01, True), (200, 0.01, False)])
def test_so_few_images_that_they_cannot_promise_less_are_told(say, n, asked, fewest):
    normals = Normals()
    normals.scores = normals.largest = normals.medians = [float(k) for k in range(n)]
    decision = normals.decide("quantile", asked, 3.0, "calibration", {})
    said = say(
        decision_rule="quantile", decision_source="calibration", decision_images=n,
        false_alarms_promised=decision.promise(), false_alarm_rate=0.1,
    )  # fmt: skip
    assert f"{n} normal calibration images, which promise {decision.promise():.4f} false alarms" in said
    assert (f"the fewest that {n} images can" in said) == fewest == (asked < 1 / (n + 1))
