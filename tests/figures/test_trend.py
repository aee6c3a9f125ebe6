"""Metrics against a number of the configuration: which runs a line is of, and what is refused."""

import numpy as np
import pytest

from kdad.errors import UserError
from kdad.figures.__main__ import main
from kdad.figures.trend import draw_trend
from kdad.results.levels import measure_levels, read_levels
from kdad.results.read import read_runs


@pytest.fixture
def study(write_run, tmp_path):
    """Two detectors at three levels of a weight, two seeds; two categories of one, of which `tile` lacks a level."""
    for model in ("rd", "stpm"):
        for weight in (1.0, 0.5, 100.0):
            for seed in (0, 1):
                write_run(f"{model}_{weight}_{seed}", model, seed=seed, weight=weight)
    write_run("tile", "rd", category="tile", weight=1.0)
    return read_runs([tmp_path])


def test_each_point_is_the_mean_over_seeds_of_one_level(study):
    table = read_levels(study, "model.weight")
    assert set(table["line"]) == {"RD", "STPM"}
    found = measure_levels(table[table["line"] == "RD"], "image_auroc")
    assert list(found.index) == [0.5, 1.0, 100.0]
    for weight, row in found.iterrows():
        here = study[[c["model"]["weight"] == weight for c in study["config"]]]
        values = 100 * here[(here["model"] == "rd") & (here["category"] == "grid")]["image_auroc"]
        assert len(values) == 2
        assert row["mean"] == pytest.approx(values.mean()) and row["spread"] == pytest.approx(values.std(ddof=1))


def test_levels_of_a_wide_range_stand_on_a_logarithmic_axis(study):
    figure = draw_trend(read_levels(study, "model.weight"), "model.weight", ["image_auroc", "pro"])
    assert [panel.get_xscale() for panel in figure.axes] == ["log", "log"]
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["0.5", "1", "100"]
    (line,) = [line for line in figure.axes[0].lines if line.get_label() == "STPM"]
    assert np.isfinite(line.get_ydata()).all() and len(line.get_xdata()) == 3


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("model.weigth", r"--key model.weigth: no run's configuration has it. .*model.weight"),
        ("seed", r"--key seed: it is 0 in all runs"),
        ("model.name", r"--key model.name: rd is no number"),
    ],
)
def test_what_is_no_number_that_differs_is_refused(write_run, tmp_path, key, message):
    write_run("a", "rd", weight=1.0)
    with pytest.raises(UserError, match=message):
        read_levels(read_runs([tmp_path]), key)


def test_the_command_writes_a_figure_per_data_set(study, tmp_path):
    main(["trend", str(tmp_path), "--key", "model.weight", "--out", str(tmp_path / "out")])
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "trend_model.weight_mvtec.pdf", "trend_model.weight_mvtec.png"
    }  # fmt: skip
