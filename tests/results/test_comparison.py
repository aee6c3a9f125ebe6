"""Comparisons of detectors, against cases worked out by hand."""

import math

import numpy as np
import pandas as pd
import pytest

from kdad.results.comparison import (
    bootstrap_images,
    bootstrap_runs,
    compare_pairs,
    correct_holm,
    find_least_p,
    group_alike,
    rank_detectors,
    rank_signs,
)


def table(values, metric="pro", seeds=(0,)):
    """Runs of one detector: a value for each category, or one for each of its seeds."""
    rows = [
        {"status": "ok", "dataset": "mvtec", "category": f"c{i}", "seed": seed, metric: value, "scores_file": None}
        for i, each in enumerate(values)
        for seed, value in zip(seeds, np.atleast_1d(each), strict=True)
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        ([1, 2, 3, 4, 5, 6], 2 / 64),  # no other signs are as extreme, on either side
        ([1, -2, 3, 4, 5, 6], 2 * 3 / 64),  # of 64 ways {}, {1} and {2} have a sum of at most 2
        ([-1, -2, -3], 2 / 8),
        ([0.0, 0.0], 1.0),
    ],
)
def test_signed_ranks_by_counting(differences, p):
    assert rank_signs(np.array(differences, float)) == pytest.approx(p)
    assert rank_signs(-np.array(differences, float)) == pytest.approx(p)


def test_one_category_has_no_test_and_few_can_reach_no_small_p():
    assert math.isnan(rank_signs(np.array([0.3])))
    assert [find_least_p(n) for n in (1, 2, 5, 6)] == [1, 0.5, 2 / 32, 2 / 64]


def test_holm_by_hand():
    assert correct_holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert correct_holm([0.5, 0.9]) == [1.0, 1.0]
    found = correct_holm([math.nan, 0.02])
    assert math.isnan(found[0]) and found[1] == 0.02


def test_intervals_where_all_draws_are_known():
    rng = np.random.default_rng
    # Two categories, 0 and 1: their mean is 0, 1/2, 1 with 1/4, 1/2, 1/4.
    assert bootstrap_runs([np.array([0.0]), np.array([1.0])], rng(0)) == (0.0, 1.0, "categories")
    assert bootstrap_runs([np.array([0.0, 1.0])], rng(0)) == (0.0, 1.0, "seeds")
    assert bootstrap_runs([np.full(3, 0.25)] * 4, rng(0)) == (0.25, 0.25, "categories and seeds")
    assert math.isnan(bootstrap_runs([np.array([0.5])], rng(0))[0])


def test_an_interval_covers_as_often_as_it_says():
    """Means of 30 normal values, 95 % by the normal distribution: within a few in a hundred."""
    rng, hits = np.random.default_rng(0), 0
    for _ in range(200):
        low, high, _ = bootstrap_runs([rng.normal(1, 1, 30)], rng)
        hits += low <= 1 <= high
    assert 0.89 < hits / 200 < 0.99


def test_a_pair_is_compared_where_both_were_run():
    a = table([[0.9, 0.8], [0.7, 0.7], [0.5, 0.5]], seeds=(0, 1))
    b = table([[0.8, 0.6], [0.7, 0.7]], seeds=(0, 1))
    (one,) = compare_pairs({"a": a, "b": b}, "pro")
    assert (one.first, one.second, one.categories, one.seeds) == ("a", "b", 2, (2, 2))
    assert one.mean == pytest.approx((0.15 + 0) / 2) and one.over == "categories and seeds"
    assert (one.better, one.worse, one.equal) == (1, 0, 1) and one.low <= one.mean <= one.high
    failed = b.assign(status="failed")
    assert compare_pairs({"a": a, "b": failed}, "pro") == []


def test_pairs_are_corrected_together():
    rng = np.random.default_rng(0)
    named = {name: table(rng.random(8) * 0.1 + shift) for name, shift in (("a", 0.8), ("b", 0.5), ("c", 0.5))}
    pairs = compare_pairs(named, "pro")
    assert [(p.first, p.second) for p in pairs] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert [p.p for p in pairs][:2] == [2 / 256] * 2
    assert [p.corrected for p in pairs][:2] == [pytest.approx(3 * 2 / 256)] * 2


def test_ranks_and_the_critical_difference_of_the_literature():
    """Demsar (2006), Sec. 3.2.2: q = 2.569 for four classifiers, so that 14 data sets give 1.25."""
    rng = np.random.default_rng(0)
    named = {name: table(rng.random(14)) for name in "abcd"}
    ranking = rank_detectors(named, "pro")
    assert ranking.critical == pytest.approx(2.569 * math.sqrt(4 * 5 / (6 * 14)), abs=2e-3)
    assert sum(ranking.ranks.values()) == pytest.approx(1 + 2 + 3 + 4)


def test_friedman_by_hand():
    """Three detectors in the same order on four categories: chi2 = 12 n / (k (k+1)) sum (R - 2)^2 = 8, p = exp(-4)."""
    named = {name: table([base + 0.1 * i for i in range(4)]) for name, base in (("a", 0.5), ("b", 0.3), ("c", 0.1))}
    ranking = rank_detectors(named, "pro")
    assert list(ranking.ranks.items()) == [("a", 1.0), ("b", 2.0), ("c", 3.0)]
    assert ranking.p == pytest.approx(math.exp(-4)) and ranking.categories == 4
    # Ranks 1 and 3 are 2 apart, more than q_0.05 (2.343) sqrt(3 * 4 / (6 * 4)) = 1.657
    assert ranking.alike == [["a", "b"], ["b", "c"]]


def test_groups_are_the_largest_ones():
    ranks = pd.Series({"a": 1.0, "b": 1.5, "c": 2.4, "d": 4.0})
    assert group_alike(ranks, 1.45) == [["a", "b", "c"]]
    assert group_alike(ranks, 0.3) == [] and group_alike(ranks, 3.1) == [["a", "b", "c", "d"]]


def test_equal_values_share_their_ranks():
    ranking = rank_detectors({"a": table([0.5, 0.6]), "b": table([0.5, 0.6])}, "pro")
    assert ranking.ranks == {"a": 1.5, "b": 1.5} and math.isnan(ranking.critical)


def write_scores(path, normal, anomalous):
    rows = [
        (f"{label}/{i}.png", label, score)
        for label, scores in enumerate((normal, anomalous))
        for i, score in enumerate(scores)
    ]
    pd.DataFrame(rows, columns=["path", "label", "score"]).to_csv(path, index=False)
    return pd.Series({"scores_file": path, "folder": path.parent})


def test_images_are_drawn_alike_for_both(tmp_path):
    rng = np.random.default_rng(0)
    normal, anomalous = rng.random(40), rng.random(40) + 0.3
    first = write_scores(tmp_path / "a.csv", normal, anomalous)
    same = write_scores(tmp_path / "b.csv", 2 * normal, 2 * anomalous)  # the same order
    assert bootstrap_images(first, same, "image_auroc", rng) == (0.0, 0.0, "test images")
    perfect = write_scores(tmp_path / "c.csv", normal, anomalous + 1)
    low, high, over = bootstrap_images(perfect, first, "image_auroc", rng)
    # DeLong's standard error of an AUROC A of n and n images is about sqrt(A (1 - A) / n) here
    gap = 1 - np.mean(anomalous[:, None] > normal)
    assert (
        low < gap < high and 0.5 < (high - low) / (4 * math.sqrt(gap * (1 - gap) / 40)) < 1.5 and over == "test images"
    )
