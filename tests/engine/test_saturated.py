"""sPRO as a test gathers it, batch by batch, against the function of all maps at once."""

import numpy as np
import pytest
import torch

from kdad.engine.saturated import SaturatedOverlap
from kdad.metrics.spro import spro
from kdad.settings.create import create
from tests.data.test_layouts import settings
from tests.layouts import SIDE, mvtec_loco

ALL = 2**30  # bytes


@pytest.fixture
def loco(tmp_path):
    category = mvtec_loco(tmp_path)
    common = {"image_size": SIDE, "batch_size": 2, "official": None}
    data = create(settings("mvtec_loco"), root=str(tmp_path), category=category, **common)
    data.setup()
    return data


@pytest.fixture
def maps(loco):
    """Noise, a little higher where there is a defect."""
    noise = torch.rand((len(loco.test_samples), 1, SIDE, SIDE), generator=torch.Generator().manual_seed(0))
    return noise + 0.4 * loco.splits["test"].masks


def gather(loco, maps, images, memory=ALL):
    found = SaturatedOverlap(loco, loco.test_samples, memory)
    for i in range(0, len(images), 2):
        index = torch.tensor(images[i : i + 2])
        found.add(index, maps[index], loco.splits["test"].masks[index])
    return found


def test_over_all_regions_and_by_kind(loco, maps):
    """A kind is measured on its own images and the normal ones, as MVTec's script does; the mean is of both."""
    measured = gather(loco, maps, range(7)).compute()
    kinds = np.array([sample.kind for sample in loco.test_samples])
    for limit in (0.05, 0.3):
        regions = [loco.regions.get(i, []) for i in range(7)]
        name = f"spro_{limit}"
        assert measured[name] == pytest.approx(spro(maps[:, 0].numpy(), regions, limit), abs=1e-12)
        each = []
        for kind in ("logical_anomalies", "structural_anomalies"):
            chosen = np.flatnonzero((kinds == kind) | (kinds == "good"))
            assert len(chosen) == 5
            each.append(spro(maps[chosen, 0].numpy(), [regions[i] for i in chosen], limit))
            assert measured[f"{name}_{kind}"] == pytest.approx(each[-1], abs=1e-12)
        assert measured[f"{name}_mean"] == pytest.approx(np.mean(each)) and 0.1 < measured[name] < 0.99
    assert len(measured) == 8


def test_two_processes_find_what_one_does(loco, maps):
    whole, first, second = (gather(loco, maps, images) for images in (range(7), range(0, 7, 2), range(1, 7, 2)))
    first.join([first, second])
    assert first.compute() == whole.compute()


def test_why_there_is_none(loco, maps):
    needed = gather(loco, maps, range(7), memory=1000).compute()
    assert needed["spro_0.05"] is None and "give more metrics.memory_gb" in needed["spro_0.05_reason"]
    normal = [i for i, sample in enumerate(loco.test_samples) if not sample.label]
    assert "0 anomalous" in gather(loco, maps, normal).compute()["spro_0.3_reason"]
    loco.splits["test"].masks = loco.splits["test"].masks.roll(3, dims=-1)  # as corruption=shift does
    moved = gather(loco, maps, range(7)).compute()
    assert moved["spro_0.05"] is None and "has moved the masks" in moved["spro_0.05_reason"]
    loco.regions = {}
    assert gather(loco, maps, range(7)).compute() == {}
