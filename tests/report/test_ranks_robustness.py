"""Critical-difference diagrams and heat maps of robustness: what is drawn is what was measured."""

import numpy as np
import pytest

from kdad.errors import UserError
from kdad.figures.__main__ import main
from kdad.figures.ranks import draw_ranks
from kdad.figures.robustness import draw_robustness, measure_changes, read_corruptions
from kdad.results.read import read_runs

CATEGORIES = ("carpet", "grid", "leather", "tile")


def write_study(write_run):
    for shift, model in ((0.05, "rd"), (0.0, "stpm"), (-0.05, "dskd")):
        for category in CATEGORIES:
            write_run(0.8 + shift, model=model, category=category)


def list_texts(figure):
    return [text.get_text() for panel in figure.axes for text in panel.texts]


def test_ranks_are_drawn_with_bars_over_what_is_not_told_apart(write_run, tmp_path):
    write_study(write_run)
    runs = read_runs([tmp_path])
    figure = draw_ranks({model: runs[runs["model"] == model] for model in ("stpm", "rd", "dskd")}, "pro")
    assert list_texts(figure) == ["rd  1.00", "stpm  2.00", "dskd  3.00"]
    (panel,) = figure.axes
    bars = [line.get_xdata().tolist() for line in panel.lines if line.get_linewidth() == 3]
    assert bars == [pytest.approx([0.97, 2.03]), pytest.approx([1.97, 3.03])]  # 1.66 apart at most, see tests/results
    assert "Friedman p = 0.018, critical difference 1.66" in panel.get_title()


def test_one_detector_has_no_ranks(write_run, tmp_path):
    write_run()
    with pytest.raises(UserError, match="no category that at least two detectors"):
        draw_ranks({"rd": read_runs([tmp_path])}, "pro")


def write_corrupted(write_run, model="rd", drop=0.1):
    for seed in (0, 1):
        clean = 0.9 - 0.1 * seed
        write_run(clean, model=model, seed=seed, results={"false_alarm_rate": 0.0})
        for severity in (1, 2, 3):
            write_run(
                clean - drop * severity, model=model, seed=seed, changes={"corruption": "blur", "severity": severity},
                results={"false_alarm_rate": 0.25 * severity},
            )  # fmt: skip


def test_each_seed_is_compared_with_its_own_clean_test(write_run, tmp_path):
    write_corrupted(write_run)
    table = read_corruptions(read_runs([tmp_path]))
    assert set(table["detector"]) == {"RD"}
    assert np.allclose(measure_changes(table, "pro").loc["blur"], [-10, -20, -30])
    assert np.allclose(measure_changes(table, "false_alarm_rate").loc["blur"], [25, 50, 75])


def test_a_heat_map_for_each_detector_and_metric(write_run, tmp_path):
    write_corrupted(write_run)
    write_corrupted(write_run, "stpm", 0.05)
    figure = draw_robustness(read_runs([tmp_path]), ["image_auroc", "pro"])
    assert [panel.get_title() for panel in figure.axes] == ["image AUROC", "PRO", "false-alarm rate"] * 2
    assert list_texts(figure)[:3] == ["-10.0", "-20.0", "-30.0"] and "-5.0" in list_texts(figure)


def test_pro_up_to_another_rate_has_a_heat_map(write_run, tmp_path):
    for corruption, value in (("none", 0.5), ("blur", 0.4)):
        write_run(0.9, changes={"corruption": corruption}, results={"pro_0.05": value})
    figure = draw_robustness(read_runs([tmp_path]), ["pro_0.05"])
    assert figure.axes[0].get_title() == "PRO to 0.05" and list_texts(figure) == ["-10.0"]


def test_without_a_clean_test_the_way_to_one_is_said(write_run, tmp_path):
    write_run(changes={"corruption": "blur"})
    with pytest.raises(UserError, match="no test with corruption= beside one without it"):
        draw_robustness(read_runs([tmp_path]), ["pro"])


def test_the_commands_write_files(write_run, tmp_path):
    write_study(write_run)
    main(["ranks", str(tmp_path / "runs"), "--out", str(tmp_path / "out"), "--metrics", "pro"])
    write_corrupted(write_run, "mkd")
    main(["robustness", str(tmp_path / "runs"), "--out", str(tmp_path / "out")])
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "ranks_pro.png", "ranks_pro.pdf", "robustness.png", "robustness.pdf",
    }  # fmt: skip
