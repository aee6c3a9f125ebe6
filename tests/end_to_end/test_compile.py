"""compile=true computes what is computed without it."""

import shutil

import pytest
import torch
from torch._dynamo.utils import counters


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
def test_compiled_training_is_training(start):
    """With a student of one layer: a large one takes a minute to compile."""
    counters.clear()
    plain, folder = start("model=plain", folder="plain")
    assert not counters["stats"]
    compiled, other = start("model=plain", "compile=true", folder="compiled")
    assert counters["stats"]["unique_graphs"] > 0  # something was compiled
    assert compiled["loss"] == pytest.approx(plain["loss"], rel=1e-4)
    weights = [torch.load(f / "checkpoints" / "tested.ckpt", weights_only=True)["state_dict"] for f in (folder, other)]
    assert weights[0].keys() == weights[1].keys()
    for key, value in weights[0].items():
        torch.testing.assert_close(weights[1][key], value, rtol=1e-3, atol=1e-5)
