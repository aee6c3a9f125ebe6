"""Two real processes against one: uneven shares, a share without anomalous pixels, a share of nothing at all."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import distributed

from kdad.metrics import AUROC, PRO, DetectionMetrics
from kdad.metrics.sketch import Sketch
from tests.processes import CONTEXT

pytestmark = pytest.mark.slow  # processes of their own, or many seconds

# Which of the eight images each process sees, in which order; 0 to 3 are normal.
SHARES = {
    "uneven": ([6, 0, 4], [5, 1, 2, 3, 7]),
    "one without anomalies": ([0, 1, 2, 3], [4, 5, 6, 7]),
    "one without images": (list(range(8)), []),
    "padded with duplicates": ([0, 2, 4, 6], [1, 3, 5, 7, 0, 4]),
}


def image(k: int) -> dict[str, torch.Tensor]:
    """A batch of one, the same in every process. Its index is one that float32 cannot hold."""
    mask = torch.zeros(1, 1, 12, 12, dtype=torch.bool)
    mask[:, :, 2 : k - 1, 3:9] = k > 3
    anomaly_map = torch.rand(1, 1, 12, 12, generator=torch.Generator().manual_seed(k)).double() + mask * 0.3 + 1e-12
    return {
        "index": torch.tensor([2**24 + 1 + k]),
        "image_score": anomaly_map.amax(dim=(1, 2, 3)),
        "label": torch.tensor([int(k > 3)]),
        "anomaly_map": anomaly_map,
        "mask": mask,
    }


def results(share: list[int]) -> dict:
    """Values, rows and curves over the share of this process, or of all processes where there are several."""
    metrics, auroc, overlap = DetectionMetrics(), AUROC(), PRO()
    for k in share:
        batch = image(k)
        metrics.update(**batch)
        auroc.update(batch["anomaly_map"], batch["mask"])
        overlap.update(batch["anomaly_map"], batch["mask"])
    rows = metrics.compute().rows
    own = len(metrics.read_state("index"))  # after syncing, each process is back to its own images
    values = metrics.compute().metrics | {"AUROC": auroc.compute().item(), "PRO": overlap.compute().item()}
    return {"values": values, "rows": tuple(rows), "curves": metrics.compute().curves, "own": own}


def streamed(share: list[int]) -> dict:
    """As `results`, by a budget that two images already exceed."""
    metrics = DetectionMetrics("streaming")
    metrics.budget = 48_000  # of which a cell takes 600, so that two processes have 40 each
    for k in share:
        metrics.update(**image(k))
    own = len(metrics.normal_low)
    try:
        values = metrics.compute().metrics
    except ValueError as error:
        return {"refused": str(error)}
    cells = [metrics.read_state(name).shape[0] for name in Sketch._fields]
    rows = tuple(metrics.compute().rows)
    return {"values": values, "served": metrics.compute().mode, "cells": cells, "own": own, "rows": rows}


def process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    found = {name: results(shares[rank]) for name, shares in SHARES.items()}
    found |= {f"{name}, streamed": streamed(shares[rank]) for name, shares in SHARES.items()}
    Path(folder, f"{rank}.pickle").write_bytes(pickle.dumps(found))
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> list[dict]:
    folder = tmp_path_factory.mktemp("processes")
    started = [CONTEXT.Process(target=process, args=(rank, str(folder))) for rank in range(2)]
    for one in started:
        one.start()
    for one in started:
        one.join()
    assert [one.exitcode for one in started] == [0, 0]
    return [pickle.loads((folder / f"{rank}.pickle").read_bytes()) for rank in range(2)]


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("name", SHARES)
def test_two_processes_equal_one(found, name, rank):
    alone, together = results(list(range(8))), found[rank][name]
    expected = dict(alone["values"])
    if name == "padded with duplicates":  # the plain metrics know no index
        expected |= {key: together["values"][key] for key in ("AUROC", "PRO")}
    assert together["values"] == expected
    assert together["rows"][0].tolist() == [2**24 + 1 + k for k in range(8)]
    for column, column_alone in zip(together["rows"], alone["rows"], strict=True):
        assert column.dtype == column_alone.dtype and np.array_equal(column, column_alone)
    assert all(np.array_equal(together["curves"][key], alone["curves"][key]) for key in alone["curves"])
    assert together["own"] == len(SHARES[name][rank])


@pytest.mark.parametrize("name", SHARES)
def test_two_sketches_are_joined(found, name):
    exact, together = results(list(range(8)))["values"], [part[f"{name}, streamed"] for part in found]
    if name == "padded with duplicates":  # what is in a sketch cannot be taken out again
        assert all("from two processes" in part["refused"] for part in together)
        return
    assert together[0]["values"] == together[1]["values"]
    values = together[0]["values"]
    for key in ("pixel_auroc", "pixel_ap", "pixel_f1_max", "pro"):
        assert abs(values[key] - exact[key]) <= values[f"{key}_error"] < 0.1
    for part, share in zip(together, SHARES[name], strict=True):
        assert part["served"] == "streaming" and bool(part["own"]) == bool(share)
        assert max(part["cells"]) <= 40
        assert part["rows"][0].tolist() == [2**24 + 1 + k for k in range(8)]
