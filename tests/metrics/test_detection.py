import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score
from torch import Tensor
from torchmetrics.classification import BinaryAUROC

from kdad.errors import UserError
from kdad.metrics import AUROC, PRO, DetectionMetrics
from kdad.metrics.pro import pro

NAMES = [f"{what}_{metric}" for what in ("image", "pixel") for metric in ("auroc", "ap", "f1_max")] + ["pro"]


def run_of(images: int = 12, seed: int = 0, ties: bool = False) -> dict[str, Tensor]:
    """What a test loop sees; image 3 is anomalous with an empty mask, the even ones are normal."""
    rng = torch.Generator().manual_seed(seed)
    mask = torch.zeros(images, 1, 16, 16, dtype=torch.bool)
    mask[1::2, :, 3:7, 2:9] = True
    mask[5::4, :, 12:14, 10:12] = True
    mask[3] = False
    anomaly_map = torch.rand(images, 1, 16, 16, generator=rng) + mask * 0.4
    if ties:
        anomaly_map = (anomaly_map * 8).round() / 8
    label = torch.arange(images) % 2
    return {
        "index": torch.arange(images),
        "image_score": anomaly_map.amax(dim=(1, 2, 3)) + 0.1 * torch.rand(images, generator=rng),
        "label": label,
        "anomaly_map": anomaly_map,
        "mask": mask,
    }


def part(run: dict, positions) -> dict:
    return {key: None if values is None else values[positions] for key, values in run.items()}


def metrics_of(run: dict, batches=None) -> DetectionMetrics:
    metrics = DetectionMetrics()
    for positions in [slice(None)] if batches is None else batches:
        metrics.update(**part(run, positions))
    return metrics


@pytest.mark.parametrize("ties", [False, True])
def test_equals_references(ties):
    run = run_of(ties=ties)
    values = metrics_of(run).compute().metrics
    assert set(values) - {"aupimo", "aupimo_reason"} == set(NAMES)
    assert all(type(values[name]) is float and 0 <= values[name] <= 1 for name in NAMES)
    for what, scores, labels in (
        ("image", run["image_score"], run["label"]),
        ("pixel", run["anomaly_map"].flatten(), run["mask"].flatten()),
    ):
        precision, recall, _ = precision_recall_curve(labels, scores)
        assert values[f"{what}_auroc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-9)
        assert values[f"{what}_ap"] == pytest.approx(average_precision_score(labels, scores), abs=1e-9)
        f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-300)
        assert values[f"{what}_f1_max"] == pytest.approx(f1.max(), abs=1e-9)
    assert values["pro"] == pro(run["anomaly_map"][:, 0].numpy(), run["mask"][:, 0].numpy())


@pytest.mark.parametrize("ties", [False, True])
def test_single_metrics_agree_with_the_set(ties):
    run = run_of(ties=ties)
    values, auroc, overlap = metrics_of(run).compute().metrics, AUROC(), PRO()
    auroc.update(run["anomaly_map"], run["mask"])
    overlap.update(run["anomaly_map"], run["mask"])
    assert (auroc.compute().item(), overlap.compute().item()) == (values["pixel_auroc"], values["pro"])
    assert auroc.compute().dtype == overlap.compute().dtype == torch.float64


def test_agrees_with_torchmetrics_inside_the_unit_interval():
    rng = torch.Generator().manual_seed(4)
    scores, labels = torch.rand(500, generator=rng), torch.rand(500, generator=rng) < 0.2
    ours, theirs = AUROC(), BinaryAUROC(thresholds=None)
    for metric in (ours, theirs):
        metric.update(scores, labels.int())
    assert ours.compute().item() == pytest.approx(theirs.compute().item(), abs=1e-6)


@pytest.mark.parametrize("batch_size", [1, 2, 6])
def test_no_sigmoid_outside_the_unit_interval(batch_size):
    # torchmetrics 1.9 ranks the same scores 0.5 when 40 is added: sigmoid(40) = sigmoid(46) = 1 in float32.
    scores = torch.tensor([-3.0, 0.2, 0.4, 0.6, 2.0, 3.0]) + 40
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    metric = AUROC()
    for start in range(0, 6, batch_size):
        metric.update(scores[start : start + batch_size], labels[start : start + batch_size])
    assert metric.compute() == 1.0


@pytest.mark.parametrize("ties", [False, True])
def test_batches_change_not_one_bit(ties):
    run = run_of(ties=ties)
    whole = metrics_of(run)
    shuffled = torch.randperm(12, generator=torch.Generator().manual_seed(5)).split(5)
    for batches in ([[k] for k in range(12)], [slice(0, 7), slice(7, 12)], shuffled):
        batched = metrics_of(run, batches)
        assert batched.compute().metrics == whole.compute().metrics
        assert all(np.array_equal(a, b) for a, b in zip(batched.compute().rows, whole.compute().rows, strict=True))
        assert all(
            np.array_equal(batched.compute().curves[key], curve) for key, curve in whole.compute().curves.items()
        )


@pytest.mark.parametrize("transform", [lambda s: s * 1e-6, lambda s: s + 40, torch.exp], ids="tiny offset exp".split())
def test_only_the_order_of_scores_counts(transform):
    run = part(run_of(), slice(None))
    run |= {key: run[key].double() for key in ("image_score", "anomaly_map")}
    changed = run | {key: transform(run[key]) for key in ("image_score", "anomaly_map")}
    assert metrics_of(changed).compute().metrics == metrics_of(run).compute().metrics


@pytest.mark.parametrize(
    ("given", "kept"), [("float64", "float64"), ("float32", "float32"), ("bfloat16", "float32"), ("float16", "float32")]
)
def test_kept_precision(given, kept):
    run = run_of()
    run["anomaly_map"] = run["anomaly_map"].to(getattr(torch, given))
    metrics = metrics_of(run)
    assert metrics.read_state("normal").dtype == metrics.read_state("anomalous").dtype == kept
    assert metrics.read_state("score").dtype == metrics.read_state("weight").dtype == "float64"
    upcast = metrics_of(run | {"anomaly_map": run["anomaly_map"].double()})
    assert metrics.compute().metrics == upcast.compute().metrics


def test_states_are_copies():
    run = run_of()
    metrics, expected = metrics_of(run), metrics_of(run).compute().metrics
    for key in ("image_score", "anomaly_map"):
        run[key].zero_()
    assert metrics.compute().metrics == expected


def test_states_stay_on_the_cpu():
    metrics = metrics_of(run_of())
    metrics.to("meta")  # stands in for an accelerator
    assert all(values.device.type == "cpu" for part in metrics.metric_state.values() for values in part)


def test_forward_gives_the_batch_and_accumulates():
    run, metrics = run_of(), DetectionMetrics()
    for positions in (slice(0, 6), slice(6, 12)):
        assert metrics(**part(run, positions)).metrics == metrics_of(part(run, positions)).compute().metrics
    assert metrics.compute().metrics == metrics_of(run).compute().metrics
    assert len(metrics.compute().rows.index) == 12


def test_update_and_reset_renew_rows_and_curves():
    run, metrics = run_of(), DetectionMetrics()
    for start, seen in ((0, 6), (6, 12)):
        metrics.update(**part(run, slice(start, seen)))
        expected = metrics_of(part(run, slice(0, seen)))
        assert all(
            np.array_equal(metrics.compute().curves[key], curve) for key, curve in expected.compute().curves.items()
        )
        assert metrics.compute().rows.index.tolist() == list(range(seen))
    metrics.reset()
    metrics.update(**part(run, slice(0, 2)))
    assert metrics.compute().rows.index.tolist() == [0, 1]


def test_asking_again_costs_nothing_and_changes_nothing():
    """Until the next update the outcome is the very same value, and the states are as they were."""
    run, metrics = run_of(), DetectionMetrics()
    metrics.update(**part(run, slice(0, 6)))
    before = {name: [values.clone() for values in part] for name, part in metrics.metric_state.items()}
    outcome = metrics.compute()
    assert metrics.compute() is outcome
    for name, values in before.items():
        assert all(torch.equal(a, b) for a, b in zip(values, getattr(metrics, name), strict=True))
    metrics.update(**part(run, slice(6, 12)))
    assert len(metrics.compute().rows.index) == 12 and len(outcome.rows.index) == 6


def test_an_image_that_comes_twice_counts_once():
    run = run_of()
    metrics = metrics_of(run, [slice(8, 12), slice(0, 8), slice(7, 10)])
    assert metrics.compute().metrics == metrics_of(run).compute().metrics
    rows = metrics.compute().rows
    assert rows.index.tolist() == list(range(12))
    assert rows.score.tolist() == run["image_score"].double().tolist()
    assert rows.label.tolist() == run["label"].tolist()


def test_anomalous_image_with_an_empty_mask():
    run = run_of()
    with_it, without = metrics_of(run), metrics_of(part(run, [k for k in range(12) if k != 3]))
    assert with_it.compute().rows.label[3] == 1
    assert with_it.read_state("normal").size == without.read_state("normal").size + 16 * 16
    assert with_it.read_state("anomalous").size == without.read_state("anomalous").size
    assert len(with_it.compute().curves["image_tpr"]) > len(without.compute().curves["image_tpr"])


def assert_null(values: dict, names: list[str], reason: str) -> None:
    for name in names:
        assert values[name] is None
        assert values[f"{name}_reason"] == reason
    for name in set(NAMES) - set(names):
        assert isinstance(values[name], float) and f"{name}_reason" not in values


PIXEL_NAMES = [name for name in NAMES if not name.startswith("image")]
IMAGE_NAMES = [name for name in NAMES if name.startswith("image")]


@pytest.mark.parametrize("maps", ["with", "without"])
def test_no_masks(maps):
    run = run_of() | {"mask": None} | ({} if maps == "with" else {"anomaly_map": None})
    metrics = metrics_of(run, [slice(0, 5), slice(5, 12)])
    assert_null(metrics.compute().metrics, PIXEL_NAMES, "the data set has no masks")
    assert sorted(metrics.compute().curves) == ["image_fpr", "image_tpr"]


def test_no_anomalous_pixel():
    run = run_of()
    run["mask"] = torch.zeros_like(run["mask"])
    assert_null(metrics_of(run).compute().metrics, PIXEL_NAMES, "no anomalous pixel in any mask")


def test_no_normal_pixel():
    run = run_of()
    run["mask"] = torch.ones_like(run["mask"])
    assert_null(metrics_of(run).compute().metrics, PIXEL_NAMES, "no normal pixel in any mask")


@pytest.mark.parametrize(("label", "missing"), [(0, "anomalous"), (1, "normal")])
def test_one_class_of_images_only(label, missing):
    run = run_of()
    run["label"] = torch.full_like(run["label"], label)
    metrics = metrics_of(run)
    assert_null(metrics.compute().metrics, IMAGE_NAMES, f"no {missing} image in the test set")
    assert sorted(metrics.compute().curves) == ["pixel_fpr", "pixel_tpr", "pro", "pro_fpr"]


def test_single_metrics_are_nan_while_undefined():
    auroc, overlap = AUROC(), PRO()
    auroc.update(torch.rand(3), torch.zeros(3, dtype=torch.bool))
    overlap.update(torch.rand(1, 1, 4, 4), torch.zeros(1, 1, 4, 4, dtype=torch.bool))
    assert auroc.compute().isnan() and overlap.compute().isnan()


@pytest.mark.parametrize("masked_first", [True, False])
def test_refuses_masks_for_some_batches_only(masked_first):
    run = run_of()
    runs = [run, run | {"mask": None}]
    metrics = metrics_of(runs[not masked_first])
    with pytest.raises(ValueError, match="some images came with a mask"):
        metrics.update(**runs[masked_first])


@pytest.mark.parametrize("key", ["image_score", "anomaly_map"])
def test_refuses_scores_that_are_not_finite(key):
    run = run_of()
    run[key][0] = torch.nan
    count = 1 if key == "image_score" else 256
    with pytest.raises(ValueError, match=f"finite: {count} of"):
        metrics_of(run).compute().metrics


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda run: {"label": run["label"] * 2}, "0 or 1"),
        (lambda run: {"label": run["label"][:, None]}, "shaped like"),
        (lambda run: {"image_score": run["image_score"][:, None]}, r"must be \(B,\)"),
        (lambda run: {"mask": run["mask"] * 255}, "0 or 1"),
        (lambda run: {"mask": run["mask"][:, 0]}, "shaped like"),
        (lambda run: {"mask": run["mask"][:, 0], "anomaly_map": run["anomaly_map"][:, 0]}, r"\(B, 1, H, W\)"),
        (lambda run: {"mask": run["mask"][:5], "anomaly_map": run["anomaly_map"][:5]}, "map per image"),
        (lambda run: {"anomaly_map": None}, "map per image"),
    ],
)
def test_refuses_wrong_input_and_keeps_its_states(change, message):
    run, metrics = run_of(), DetectionMetrics()
    with pytest.raises(ValueError, match=message):
        metrics.update(**run | change(run))
    metrics.update(**run)
    assert metrics.compute().metrics == metrics_of(run).compute().metrics


def test_curves_describe_the_values():
    metrics = metrics_of(run_of())
    values, curves = metrics.compute().metrics, metrics.compute().curves
    for x, y, name in (("image_fpr", "image_tpr", "image_auroc"), ("pixel_fpr", "pixel_tpr", "pixel_auroc")):
        trapezoid = np.sum(np.diff(curves[x]) * (curves[y][1:] + curves[y][:-1]) / 2)
        assert trapezoid == pytest.approx(values[name], abs=1e-12)
    assert all(curve.dtype == np.float64 and curve[0] == 0 and curve[-1] == 1 for curve in curves.values())
    assert not np.array_equal(curves["pro"], curves["pixel_tpr"])


@pytest.mark.parametrize("mode", ["exact", "streaming"])
def test_pixels_of_normal_images_are_left_out_on_request(mode):
    """MKD's released protocol: the same as a test of the anomalous images alone; image metrics stay those of all."""
    run = run_of()
    found = DetectionMetrics(mode, 0.001, pixels="anomalous_images")
    for start in range(0, 12, 5):
        found.update(**part(run, slice(start, start + 5)))
    values, everything = found.compute().metrics, metrics_of(run).compute().metrics
    alone = metrics_of(part(run, run["label"] == 1)).compute().metrics
    for name in ("pixel_auroc", "pixel_ap", "pixel_f1_max", "pro"):
        assert values[name] == pytest.approx(alone[name], abs=values.get(f"{name}_error", 0) + 1e-12)
    assert alone["pixel_auroc"] != everything["pixel_auroc"] and alone["pro"] != everything["pro"]
    for name in ("image_auroc", "image_ap", "image_f1_max"):
        assert values[name] == everything[name]


def test_unknown_pixels_are_refused():
    with pytest.raises(UserError, match="metrics.pixels=good: give one of all, anomalous_images"):
        DetectionMetrics(pixels="good")


@pytest.mark.parametrize("mode", ["exact", "streaming"])
def test_pro_up_to_other_rates(mode):
    run = run_of()
    metrics = DetectionMetrics(mode, pro_limits=[0.3, 0.05, 1])
    metrics.update(**run)
    values = metrics.compute().metrics
    maps, masks = run["anomaly_map"][:, 0].numpy(), run["mask"][:, 0].numpy()
    for name, limit in (("pro", 0.3), ("pro_0.05", 0.05), ("pro_1.0", 1)):
        assert values[name] == pytest.approx(pro(maps, masks, limit), abs=1e-12 + values.get(f"{name}_error", 0))
    assert {name for name in values if name.startswith("pro") and "error" not in name} == {"pro", "pro_0.05", "pro_1.0"}


@pytest.mark.parametrize("limit", [0, -0.1, 1.5, True, "0.3"])
def test_pro_up_to_no_rate(limit):
    with pytest.raises(UserError, match="pro_limits"):
        DetectionMetrics(pro_limits=[limit])


@pytest.mark.parametrize("limits", [0.05, None, "0.05"])
def test_rates_are_a_list(limits):
    with pytest.raises(UserError, match=r"give a list, such as \[0.3,0.05\]"):
        DetectionMetrics(pro_limits=limits)
