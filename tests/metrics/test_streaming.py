"""`DetectionMetrics` with a memory budget: within it, near the exact values, and whatever the batches."""

import gc
import tracemalloc

import numpy as np
import pytest
import torch
from torch import Tensor

from kdad.errors import UserError
from kdad.metrics import DetectionMetrics
from kdad.metrics.detection import GB
from kdad.metrics.pixels import OF_PIXELS

SMALLEST = 0.001  # GB: exact ranking of some 90,000 pixels
IMAGES = 24


def run_of(images: int = IMAGES, dtype: torch.dtype = torch.float64, side: int = 96) -> dict[str, Tensor]:
    """Smooth maps of different levels; every other image has a large and a tiny anomalous region."""
    rng = torch.Generator().manual_seed(0)
    level = torch.randn(images, 1, 1, 1, generator=rng)
    coarse = torch.randn(images, 1, 6, 6, generator=rng)
    anomaly_map = torch.nn.functional.interpolate(coarse, (side, side), mode="bilinear")
    anomaly_map = anomaly_map + level + 0.1 * torch.randn(images, 1, side, side, generator=rng)
    mask = torch.zeros(images, 1, side, side, dtype=torch.bool)
    mask[1::2, :, 10:30, 20:50] = True
    mask[1::2, :, 60:61, 3:6] = True
    anomaly_map = (anomaly_map + mask).to(dtype)
    index = torch.arange(images)
    return {
        "index": index, "image_score": anomaly_map.amax(dim=(1, 2, 3)).float(), "label": index % 2,
        "anomaly_map": anomaly_map, "mask": mask,
    }  # fmt: skip


def measured(run: dict, mode: str, memory_gb: float = SMALLEST, batch_size: int = 5) -> DetectionMetrics:
    metrics = DetectionMetrics(mode, memory_gb)
    for start in range(0, len(run["index"]), batch_size):
        metrics.update(**{key: None if v is None else v[start : start + batch_size] for key, v in run.items()})
    return metrics


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
@pytest.mark.parametrize("mode", ["streaming", "auto"])
def test_near_the_exact_values(mode, dtype):
    run = run_of(dtype=dtype)
    exact, metrics = measured(run, "exact").compute().metrics, measured(run, mode)
    values = metrics.compute().metrics
    assert metrics.compute().mode == "streaming"
    assert set(values) == set(exact) | {f"{name}_error" for name in OF_PIXELS} | {"aupimo_reason"}
    assert values["aupimo"] is None and "metrics.memory_gb" in values["aupimo_reason"]
    for name, value in exact.items():
        if name == "aupimo":
            continue
        error = values.get(f"{name}_error", 0)  # of images, none
        assert type(values[name]) is float and abs(values[name] - value) <= error + 1e-12, name
        assert error < (0.02 if name == "pro" else 0.01)


@pytest.mark.parametrize("mode", ["streaming", "auto"])
def test_batches_change_not_one_bit(mode):
    run = run_of()
    whole = measured(run, mode, batch_size=IMAGES)
    for batch_size in (1, 7):
        batched = measured(run, mode, batch_size=batch_size)
        assert batched.compute().metrics == whole.compute().metrics
        assert all(
            np.array_equal(batched.compute().curves[key], curve) for key, curve in whole.compute().curves.items()
        )


@pytest.mark.parametrize("change", [torch.exp, lambda s: s**3], ids=["exp", "cube"])
def test_only_the_order_of_scores_counts(change):
    run = run_of()
    assert len(change(run["anomaly_map"]).unique()) == len(run["anomaly_map"].unique())
    changed = run | {"anomaly_map": change(run["anomaly_map"])}
    assert measured(changed, "streaming").compute().metrics == measured(run, "streaming").compute().metrics


def test_auto_is_exact_while_it_fits(caplog):
    run = run_of(images=3)
    exact, auto = measured(run, "exact"), measured(run, "auto")
    assert auto.compute().mode == "exact" and auto.compute().metrics == exact.compute().metrics
    assert all(np.array_equal(auto.compute().curves[key], curve) for key, curve in exact.compute().curves.items())
    assert measured(run, "streaming").compute().mode == "streaming"  # which keeps the memory for its cells
    assert not caplog.records


def test_auto_warns_once(caplog):
    assert measured(run_of(), "auto").compute().mode == "streaming"
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "metrics.memory_gb=0.001" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["streaming", "auto"])
@pytest.mark.parametrize("anomalous", [0.01, 0.9])
def test_stays_within_the_budget(mode, anomalous):
    """Ten times the pixels that can be ranked exactly, all distinct; torch's own memory holds the batch alone."""
    budget = 0.004
    side, fits = 64, DetectionMetrics("auto", budget)
    mask = torch.zeros(1, 1, side, side, dtype=torch.bool)
    mask[..., : max(1, round(anomalous * side)), :] = True

    def update(metrics, k):
        one = torch.ones(1, dtype=torch.int64)
        anomaly_map = torch.rand(mask.shape, generator=torch.Generator().manual_seed(k))
        metrics.update(one * k, torch.rand(1), one, anomaly_map, mask)

    images = 0
    while not len(fits.normal_low):
        update(fits, images)
        images += 1
    metrics = DetectionMetrics(mode, budget)
    gc.collect()
    tracemalloc.start()
    try:
        for k in range(10 * images):
            update(metrics, k)
        metrics.compute().metrics
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < budget * GB
    # What is measured is not nothing: the same without a budget would not fit.
    exact = DetectionMetrics("exact")
    for k in range(2 * images):
        update(exact, k)
    tracemalloc.start()
    exact.compute().metrics
    assert tracemalloc.get_traced_memory()[1] > budget * GB
    tracemalloc.stop()


@pytest.mark.slow
def test_the_error_shrinks_with_memory():
    run = run_of()
    errors = [
        [measured(run, "streaming", memory_gb).compute().metrics[f"{name}_error"] for name in OF_PIXELS]
        for memory_gb in (SMALLEST, 4 * SMALLEST)
    ]
    assert (np.array(errors[1]) < np.array(errors[0]) / 2).all()


def test_an_image_that_comes_twice_counts_once():
    run = run_of()
    order = torch.cat((torch.arange(IMAGES), torch.tensor([0, 1, 5, IMAGES - 1])))
    twice = {key: values[order] for key, values in run.items()}
    exact, metrics = measured(run, "exact").compute().metrics, measured(twice, "streaming")
    values = metrics.compute().metrics
    assert metrics.compute().rows.index.tolist() == list(range(IMAGES))
    assert all(abs(values[name] - exact[name]) <= values[f"{name}_error"] for name in OF_PIXELS)


def test_rows_and_image_metrics_stay_exact():
    run = run_of()
    exact, metrics = measured(run, "exact"), measured(run, "streaming")
    assert all(np.array_equal(a, b) for a, b in zip(metrics.compute().rows, exact.compute().rows, strict=True))
    values = metrics.compute().metrics
    assert all(values[key] == value for key, value in exact.compute().metrics.items() if key.startswith("image"))


def test_forward_stays_within_the_budget_and_reset_forgets():
    run, metrics = run_of(), DetectionMetrics("streaming", SMALLEST)
    for start in range(0, IMAGES, 6):
        metrics(**{key: values[start : start + 6] for key, values in run.items()})
        held = sum(values.nbytes for part in metrics.metric_state.values() for values in part)
        assert held <= metrics.budget
    exact, values = measured(run, "exact").compute().metrics, metrics.compute().metrics
    assert all(abs(values[name] - exact[name]) <= values[f"{name}_error"] for name in OF_PIXELS)
    metrics.reset()
    metrics.update(**{key: values[:1] for key, values in run_of().items()})
    assert metrics.compute().mode == "exact" and metrics.compute().rows.index.tolist() == [0]


@pytest.mark.parametrize("kind", ["normal", "anomalous"])
def test_a_side_without_pixels(kind):
    run = run_of()
    run["mask"] = torch.full_like(run["mask"], kind == "normal")
    metrics = measured(run, "streaming")
    values = metrics.compute().metrics
    assert metrics.compute().mode == "streaming"
    for name in OF_PIXELS:
        assert values[name] is None and values[f"{name}_reason"] == f"no {kind} pixel in any mask"
        assert f"{name}_error" not in values


def test_without_masks_nothing_is_approximate():
    metrics = measured(run_of() | {"mask": None}, "streaming")
    assert metrics.compute().metrics["pro_reason"] == "the data set has no masks" and metrics.compute().mode == "exact"


def test_masks_for_some_batches_only_are_refused_after_sketching_too():
    metrics = measured(run_of(), "streaming")
    with pytest.raises(ValueError, match="some images came with a mask"):
        metrics.update(**(run_of(images=1) | {"mask": None}))


@pytest.mark.parametrize(
    ("options", "named"),
    [(("fast",), "metrics.mode=fast"), (("auto", 0), "metrics.memory_gb=0"), (("auto", "4"), "GB")],
)
def test_refuses_options(options, named):
    with pytest.raises(UserError, match=named):
        DetectionMetrics(*options)
