"""Thresholds from normal images: rules by hand, and what they promise, counted."""

import math
from fractions import Fraction

import numpy as np
import pytest

from kdad.errors import UserError
from kdad.inference.decision import Decision, Normals, Scale, check_rule, find_best_f1, find_rank

PLAIN = {"false_alarms": 0.1, "k": 2.0, "source": "calibration", "setting": {"model.sigma": 4.0}}


def normals(scores, seed=0):
    found, generator = Normals(), np.random.default_rng(seed)
    for score in scores:
        pixels = generator.random((1, 4, 4)) * score
        pixels[0, 1, 2] = score
        found.add(np.array([score]), pixels)
    return found


@pytest.mark.parametrize("n", [1, 5, 9, 10, 19, 99, 100])
@pytest.mark.parametrize("share", [0.01, 0.05, 0.1, 0.5])
def test_the_quantile_keeps_its_promise_over_all_orders(n, share):
    """Of n + 1 distinct scores each is as likely the further one: the share of those above is counted, not estimated."""
    alarms = 0
    for last in range(n + 1):
        calibration = [s for s in range(n + 1) if s != last]
        alarms += last > sorted(calibration)[find_rank(n, share) - 1]
    decision = normals(np.arange(1.0, n + 1)).decide("quantile", share, 3.0, "calibration", {})
    assert decision.promise() == pytest.approx(float(Fraction(alarms, n + 1)))
    assert alarms / (n + 1) <= max(share, 1 / (n + 1)) + 1e-12
    assert ("cannot promise less than" in decision.describe()) == (1 / (n + 1) > share + 1e-12)


def test_rules_by_hand():
    scores = [3.0, 1.0, 4.0, 2.0]
    found = normals(scores)
    largest = found.decide(rule="max", **PLAIN)
    assert (largest.image_threshold, largest.pixel_threshold, largest.image_centre) == (4.0, 4.0, 2.5)
    assert largest.promise() == pytest.approx(1 / 5)
    spread = found.decide(rule="mean_std", **PLAIN)
    assert spread.image_threshold == pytest.approx(2.5 + 2 * math.sqrt(1.25)) and spread.promise() is None
    assert found.sums[0] == 4 * 16
    assert spread.pixel_threshold == pytest.approx(
        found.sums[1] / 64 + 2 * math.sqrt(found.sums[2] / 64 - (found.sums[1] / 64) ** 2)
    )
    half = found.decide("quantile", 0.5, 3.0, "calibration", {})
    assert half.image_threshold == 3.0  # rank ceil(5 / 2)


def test_parts_of_several_processes_are_one():
    every, parts = normals([3.0, 1.0, 4.0, 2.0]), [normals([3.0]), normals([1.0, 4.0], 1), normals([2.0], 2)]
    merged = parts[0].merge(parts)
    assert sorted(merged.scores) == sorted(every.scores) and merged.sums[0] == every.sums[0]
    assert merged.decide(rule="max", **PLAIN).image_threshold == every.decide(rule="max", **PLAIN).image_threshold


def test_normalised_scores_keep_order_and_place():
    scale = Scale(threshold=2.0, centre=1.0)
    assert [scale.normalise(s) for s in (1.0, 2.0, 3.0, 2.5)] == [0.25, 0.5, 0.75, pytest.approx(2 / 3)]
    scores = np.sort(np.random.default_rng(0).standard_cauchy(10_000))
    values = scale.normalise(scores)
    assert (np.diff(values) > 0).all() and values.min() > 0 and values.max() < 1
    assert ((values > 0.5) == (scores > 2)).all()
    # Another unit of the scores changes nothing.
    assert Scale(2000.0, 1000.0).normalise(3000.0) == 0.75
    for flat in (Scale(1.0, 1.0), Scale(0.0, 0.0), Scale(-1.0, 0.0)):
        assert flat.normalise(flat.threshold) == 0.5 < flat.normalise(flat.threshold + 1)


def test_the_best_f1_against_every_cut():
    generator = np.random.default_rng(0)
    for _ in range(50):
        normal, anomalous = generator.integers(0, 8, 9) / 2, generator.integers(3, 12, 5) / 2

        def f1(cut, normal=normal, anomalous=anomalous):
            hits, alarms = (anomalous > cut).sum(), (normal > cut).sum()
            return 2 * hits / (hits + alarms + len(anomalous))

        assert f1(find_best_f1(normal, anomalous)) == max(f1(cut) for cut in np.arange(-1, 13, 0.25))


def test_anomalous_images_are_owned_up_to():
    normal, anomalous = normals([1.0, 2.0, 3.0]), normals([2.5, 9.0, 8.0])
    best = normal.decide(rule="f1", **PLAIN, anomalous=anomalous)
    assert best.uses_anomalous and 2.0 < best.image_threshold <= 8 and best.promise() is None
    with pytest.raises(UserError, match="decision.rule=f1: give one of quantile, mean_std, max"):
        normal.decide(rule="f1", **PLAIN)


def test_kept_in_plain_values():
    decision = normals([1.0, 2.0]).decide(rule="max", **PLAIN)
    assert Decision.from_plain(decision.to_plain()) == decision
    for wrong in ({}, {"rule": "max"}, decision.to_plain() | {"image_threshold": "1"}, decision.to_plain() | {"more": 1},
                  decision.to_plain() | {"pixel_threshold": math.nan}, 3):  # fmt: skip
        with pytest.raises(UserError, match="cannot be read"):
            Decision.from_plain(wrong)


def test_what_cannot_be_decided():
    with pytest.raises(UserError, match="no normal image"):
        Normals().decide(rule="max", **PLAIN)
    with pytest.raises(UserError, match="NaN or infinite"):
        normals([1.0, math.nan]).decide(rule="max", **PLAIN)
    for wrong, said in (
        (("most", 0.1, 1), "decision.rule=most: give one of quantile, mean_std, max"),
        (("quantile", 0, 1), "decision.false_alarms=0: give a share"),
        (("quantile", 1.0, 1), "decision.false_alarms=1.0"),
        (("mean_std", 0.1, -1), "decision.k=-1"),
        (("mean_std", 0.1, math.inf), "decision.k=inf"),
    ):
        with pytest.raises(UserError, match=said):
            check_rule(*wrong)
