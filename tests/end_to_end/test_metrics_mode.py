"""`metrics.mode` from the command line to results.json."""

import json

import pytest

from kdad.errors import UserError
from kdad.metrics.pixels import OF_PIXELS


def test_streaming_says_so_and_states_its_errors(start):
    results, folder = start("metrics.mode=streaming", "metrics.memory_gb=0.001", "pictures=0")
    written = json.loads((folder / "results.json").read_text())
    assert written["metrics_mode"] == results["metrics_mode"] == "streaming"
    for name in OF_PIXELS:
        assert 0 <= written[name] <= 1 and 0 <= written[f"{name}_error"] < 0.01
    assert written["pixel_auroc_error"] > 0


@pytest.mark.parametrize("override", ["metrics.mode=fast", "metrics.memory_gb=0", "+metrics.bins=100"])
def test_refused_before_training(start, tmp_path, override):
    with pytest.raises(UserError, match="metrics"):
        start(override)
    assert not (tmp_path / "run" / "checkpoints").exists()
