from fractions import Fraction

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from kdad.metrics.ranking import area, auroc, average_precision, f1_max, rank_curve, thin

METRICS = (auroc, average_precision, f1_max)


def sample(seed: int, ties: bool, normal: int = 700, anomalous: int = 90) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=normal), rng.normal(loc=1.0, size=anomalous)
    return tuple(np.round(side * 4) / 4 if ties else side for side in scores)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_equals_scikit_learn(seed, ties):
    normal, anomalous = sample(seed, ties)
    scores, labels = np.concatenate((normal, anomalous)), np.repeat((0, 1), (len(normal), len(anomalous)))
    precision, recall, _ = precision_recall_curve(labels, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-300)

    curve = rank_curve(normal, anomalous)
    assert auroc(curve) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert average_precision(curve) == pytest.approx(average_precision_score(labels, scores), abs=1e-12)
    assert f1_max(curve) == pytest.approx(f1.max(), abs=1e-12)


@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("ties", [False, True])
def test_weighted_curve_equals_a_loop_over_all_thresholds(ties, limit):
    normal, anomalous = sample(seed=7, ties=ties, normal=120, anomalous=40)
    weights = np.random.default_rng(8).uniform(0.1, 3, size=40)
    x, y = [0.0], [0.0]
    for threshold in np.unique(np.concatenate((normal, anomalous)))[::-1]:
        x.append(np.mean(normal >= threshold))
        y.append(weights[anomalous >= threshold].sum() / weights.sum())
    xs = np.array([v for v in x if v <= limit] + [limit])
    ys = np.append(y[: len(xs) - 1], np.interp(limit, x, y))
    expected = np.sum(np.diff(xs) * (ys[1:] + ys[:-1]) / 2) / limit

    assert area(rank_curve(normal, anomalous, weights), limit) == pytest.approx(expected, abs=1e-12)


def test_by_hand_with_a_tie():
    curve = rank_curve([0, 1, 3, 5], [3, 1])
    assert curve.false_positives.tolist() == [0, 1, 2, 2, 3, 4]
    assert curve.true_positives.tolist() == [0, 0, 1, 1, 2, 2]
    # Of 4 pairs each: 3 beats 0 and 1 and ties with 3, so 2.5; 1 beats 0 and ties with 1, so 1.5.
    assert auroc(curve) == 4 / 8
    # At >= 3: TP 1, FP 2; at >= 1: TP 2, FP 3.
    assert average_precision(curve) == pytest.approx((1 / 3 + 2 / 5) / 2, abs=1e-15)
    assert f1_max(curve) == 4 / 7


def test_ends_and_monotony():
    curve = rank_curve(*sample(seed=3, ties=True), weights=np.linspace(0.1, 1, 90))
    assert (curve.x[0], curve.y[0], curve.x[-1], curve.y[-1]) == (0, 0, 1, 1)
    assert (np.diff(curve.x) >= 0).all() and (np.diff(curve.y) >= 0).all()
    assert curve.false_positives.dtype == curve.true_positives.dtype == np.int64
    assert curve.x.dtype == curve.y.dtype == np.float64


@pytest.mark.parametrize("metric", METRICS)
def test_perfect_detection_is_exactly_one(metric):
    assert metric(rank_curve(np.linspace(0, 1, 997), np.linspace(2, 3, 331))) == 1.0


def test_worst_and_constant_scores():
    assert auroc(rank_curve([2, 3], [0, 1])) == 0.0
    assert auroc(rank_curve(np.zeros(100), np.zeros(7))) == 0.5


@pytest.mark.parametrize("transform", [lambda s: s * 1e-6, lambda s: s + 40, np.exp], ids="tiny offset exp".split())
def test_only_the_order_of_scores_counts(transform):
    normal, anomalous = sample(seed=11, ties=True)
    weights = np.random.default_rng(12).uniform(size=len(anomalous))
    before = rank_curve(normal, anomalous, weights)
    after = rank_curve(transform(normal), transform(anomalous), weights)
    assert all(metric(before) == metric(after) for metric in (*METRICS, area))


def test_order_of_items_changes_not_one_bit():
    rng = np.random.default_rng(13)
    normal, anomalous = sample(seed=14, ties=True)
    weights = 1 / rng.integers(1, 50, size=len(anomalous))
    reference = rank_curve(normal, anomalous, weights)
    for _ in range(5):
        order = rng.permutation(len(anomalous))
        shuffled = rank_curve(rng.permutation(normal), anomalous[order], weights[order])
        assert all(np.array_equal(a, b) for a, b in zip(reference, shuffled, strict=True))


def test_float64_scores_are_not_rounded_to_float32():
    assert auroc(rank_curve([1.0, 1.0], [1.0 + 1e-12])) == 1.0
    assert auroc(rank_curve(np.float32([1.0]), np.float64([1.0 + 1e-12]))) == 1.0


def test_exact_beyond_the_integers_of_float32():
    n = 2**24 + 3  # the float32 nearest to it is 2**24 + 4
    normal = np.zeros(n, dtype=np.float32)
    normal[5], normal[-1] = 1, 2
    anomalous = np.float32([1.5, 1, 0, -1])
    # Pairs won by 1.5, by 1, by 0 and by -1, ties counting half.
    won = (n - 1) + (n - 2 + Fraction(1, 2)) + Fraction(n - 2, 2) + 0
    curve = rank_curve(normal, anomalous)
    assert curve.false_positives.tolist() == [0, 1, 1, 1, 2, 2, n, n, n, n]
    assert auroc(curve) == float(won / (4 * n))
    assert float(np.float32(n)) != n


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_counts_scores_that_are_not_finite(side, bad):
    scores = [np.arange(5.0), np.arange(3.0)]
    scores[side][[0, 2]] = bad
    with pytest.raises(ValueError, match=("2 of 5 normal and 0 of 3", "0 of 5 normal and 2 of 3")[side]):
        rank_curve(*scores)


@pytest.mark.parametrize(("normal", "anomalous"), [([], [1.0]), ([1.0], [])])
def test_refuses_an_empty_side(normal, anomalous):
    with pytest.raises(ValueError, match="scores of both kinds"):
        rank_curve(normal, anomalous)


@pytest.mark.parametrize("limit", [0, -0.1, 1.01, np.nan])
def test_refuses_a_limit_that_is_no_rate(limit):
    with pytest.raises(ValueError, match="limit"):
        area(rank_curve([0.0], [1.0]), limit)


def test_thinned_curve_stays_within_its_promise():
    normal, anomalous = sample(seed=15, ties=False, normal=20_000, anomalous=6_000)
    curve = rank_curve(normal, anomalous)
    x, y = thin(curve)
    assert len(curve.x) > 10_000 and 1000 < len(x) <= 2000
    assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
    assert set(zip(x, y, strict=False)) <= set(zip(curve.x, curve.y, strict=False))
    # Every vertex that was left out has kept neighbours on both sides, close together.
    along, kept = curve.x + curve.y, x + y
    left, right = np.searchsorted(kept, along, side="right") - 1, np.searchsorted(kept, along)
    assert np.max(kept[right] - kept[left]) < 0.0021
    assert np.array_equal(thin(rank_curve(normal, anomalous[:50]))[0], rank_curve(normal, anomalous[:50]).x)
