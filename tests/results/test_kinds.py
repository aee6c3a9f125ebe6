"""Figures by kind of defect against pairs counted one by one."""

import numpy as np
import pytest

from kdad.results.kinds import measure_kinds, rank


def test_rank_counts_pairs():
    generator = np.random.default_rng(0)
    normal, anomalous = generator.integers(0, 6, 20) / 2, generator.integers(2, 9, 7) / 2
    pairs = [1.0 * (a > n) + 0.5 * (a == n) for a in anomalous for n in normal]
    assert rank(normal, anomalous) == pytest.approx(np.mean(pairs))
    assert np.isnan(rank(normal[:0], anomalous))


def test_each_kind_against_all_normal_images(tmp_path):
    rows = [("good", 0, 0.1, 0), ("good", 0, 0.5, 1), ("a", 1, 0.5, 1), ("b", 1, 0.7, 1), ("b", 1, 0.05, 0)]
    lines = [f"{i}.png,{label},{score},{kind},0.5,{called}" for i, (kind, label, score, called) in enumerate(rows)]
    path = tmp_path / "scores.csv"
    path.write_text("\n".join(["path,label,score,kind,normalised_score,decision", *lines]))
    found = measure_kinds(path)
    assert found.loc["a"].tolist() == [1, 0.75, 1.0] and found.loc["b"].tolist() == [2, 0.5, 0.5]
    path.write_text("path,label,score\na.png,1,0.5\n")
    assert measure_kinds(path).empty and measure_kinds(None).empty
