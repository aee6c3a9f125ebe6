"""Cost beside quality: which points are on the front, what their means are over, and what is left out."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from kdad.engine.costs import find_quartiles, time_in_turn
from kdad.figures.__main__ import main
from kdad.figures.cost import draw_costs
from kdad.report.costs import find_front, tabulate_points
from kdad.report.study import group_blocks
from kdad.results.read import read_runs

NAN = math.nan


@pytest.mark.parametrize(
    ("costs", "values", "front"),
    [
        ([1, 2, 3], [50, 70, 90], [True, True, True]),  # each dearer one is better
        ([1, 2, 3], [90, 70, 50], [True, False, False]),  # the cheapest is the best
        ([1, 2, 3, 4], [50, 40, 90, 80], [True, False, True, False]),
        ([1, 1], [50, 60], [False, True]),  # as cheap and worse
        ([1, 2], [50, 50], [True, False]),  # as good and dearer
        ([1, 1, 2], [50, 50, 50], [True, True, False]),  # equal in both: together
        ([2, 2, 1], [50, 50, 60], [False, False, True]),  # or not at all
        ([NAN, 1, 2], [99, 50, NAN], [False, True, False]),  # what is not known keeps nobody off
        ([5], [0], [True]),
        ([], [], []),
    ],
)
def test_the_front(costs, values, front):
    assert find_front(costs, values) == front


def test_the_front_is_what_no_other_dominates():
    """Against the definition with arrays, on a grid coarse enough for ties."""
    generator = np.random.default_rng(0)
    costs, values = generator.integers(0, 6, (2, 60))
    no_worse = (costs[:, None] <= costs) & (values[:, None] >= values)
    better = (costs[:, None] < costs) | (values[:, None] > values)
    assert find_front(costs.tolist(), values.tolist()) == (~(no_worse & better).any(axis=0)).tolist()


def tabulate(tmp_path, costs=None):
    runs = read_runs([tmp_path])
    costs = runs[["fit_seconds"]].dropna().rename(columns={"fit_seconds": "cost"}) if costs is None else costs(runs)
    return tabulate_points(group_blocks(runs, ["pro"]).blocks, costs, "pro").set_index("detector")


def test_means_over_seeds_then_over_the_categories_that_all_have(write_run, tmp_path, capsys):
    for category, value, seconds in (("grid", 0.8, 10), ("tile", 0.6, 30)):
        for seed in (0, 1):
            shift = 0.1 * seed
            write_run(value + shift, category=category, seed=seed, results={"fit_seconds": seconds + 2 * seed})
    write_run(0.9, model="stpm", category="grid", results={"fit_seconds": 5})
    write_run(0.5, model="stpm", category="tile", results={"fit_seconds": 7})
    write_run(0.1, model="stpm", category="wood", results={"fit_seconds": 999})
    points = tabulate(tmp_path)
    assert "mvtec: wood left out, which not all detectors have" in capsys.readouterr().err
    rd, stpm = points.loc["rd"], points.loc["stpm"]
    assert rd["value"] == pytest.approx(75) and rd["cost"] == pytest.approx(21) and rd["seeds"] == 2
    assert rd["spread"] == pytest.approx(100 * np.std([0.7, 0.8], ddof=1))
    assert [rd["low"], rd["high"]] == pytest.approx([21 - np.sqrt(2), 21 + np.sqrt(2)])
    assert stpm["value"] == pytest.approx(70) and stpm["cost"] == pytest.approx(6) and math.isnan(stpm["spread"])
    assert rd["front"] and stpm["front"]


def test_settings_and_data_sets_have_points_and_fronts_of_their_own(write_run, tmp_path):
    write_run(0.9, results={"fit_seconds": 10})
    write_run(0.8, changes={"model.loss": "flattened"}, results={"fit_seconds": 20})
    write_run(0.1, dataset="demo", category="brick", results={"fit_seconds": 90})
    points = tabulate(tmp_path)
    assert points.groupby("dataset")["front"].agg(list).to_dict() == {"demo": [True], "mvtec": [True, False]}


def test_quartiles_of_calls_are_the_bar(write_run, tmp_path):
    write_run(0.9)
    points = tabulate(tmp_path, lambda runs: pd.DataFrame({"low": 1.0, "cost": 2.0, "high": 4.0}, index=runs.index))
    assert points.loc["rd", ["low", "cost", "high"]].tolist() == [1, 2, 4]
    figure = draw_costs(points.reset_index(), "latency", "pro", "20 calls on a processor")
    (panel,) = figure.axes
    ((bar,),) = (segments for segments in [panel.collections[0].get_segments()])
    assert bar[:, 0].tolist() == [1, 4] and "20 calls on a processor" in panel.get_title()


def test_the_front_is_a_line_with_names(write_run, tmp_path):
    for model, value, seconds in (("rd", 0.9, 300), ("stpm", 0.7, 10), ("dskd", 0.6, 20)):
        write_run(value, model=model, results={"fit_seconds": seconds})
    figure = draw_costs(tabulate(tmp_path).reset_index(), "training_seconds", "pro", "")
    (panel,) = figure.axes
    assert panel.lines[0].get_xydata().tolist() == [[10, 70], [300, 90]]
    assert {text.get_text() for text in panel.texts} == {"RD", "STPM"} and panel.get_xscale() == "log"
    assert [text.get_text().partition(":")[0] for text in figure.legends[0].get_texts()] == ["RD", "STPM", "DSKD"]


def failing(*arguments):
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    assert stopped.value.code == 2


def test_the_command(write_run, tmp_path, capsys):
    write_run(0.9, seed=0)
    write_run(0.8, seed=1)
    write_run(0.1, seed=0, changes={"corruption": "blur"})
    runs, out = tmp_path / "runs", tmp_path / "out"
    main(["cost", str(runs), "--x", "training_seconds", "--metric", "pro", "--out", str(out)])
    said = capsys.readouterr()
    names = ["cost_training_seconds_pro.csv", *(f"cost_training_seconds_pro_mvtec.{kind}" for kind in ("png", "pdf"))]
    assert [Path(line).name for line in said.out.splitlines()] == names
    assert "left out: 1 run with corruption=" in said.err
    table = pd.read_csv(out / names[0])
    assert table.loc[0, ["value", "cost", "seeds", "front", "metric"]].tolist() == [
        pytest.approx(85),
        100.5,
        2,
        True,
        "pro",
    ]


def test_what_cannot_be_measured_is_said(write_run, tmp_path, capsys):
    write_run(0.9)
    runs, out = tmp_path / "runs", ("--out", tmp_path / "out")
    failing("cost", runs, "--x", "latency", *out)
    said = capsys.readouterr().err
    assert (
        "runs/0/checkpoints/tested.ckpt: no such file; the checkpoint of" in said
        and "no run has image AUROC beside --x latency" in said
    )
    failing("cost", runs, "--metric", "all", *out)
    assert "--metric takes one metric" in capsys.readouterr().err
    failing("cost", runs, "--repeats", "0", *out)
    assert "a number of calls, at least 1" in capsys.readouterr().err
    failing("cost", runs, "--metric", "pro_0.05", *out)
    assert "no run has it" in capsys.readouterr().err
    write_run(0.5, dataset="mnist", category="0", folder="mnist/0", changes={"corruption": "blur"})
    failing("cost", runs / "mnist", "--x", "training_seconds", *out)
    assert "all of these tests have corruption=" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_detector_without_the_metric_is_left_out(write_run, tmp_path, capsys):
    write_run(0.9)
    write_run({"image_auroc": 0.9, "pixel_auroc": None, "pro": None}, model="stpm")
    assert tabulate(tmp_path).index.tolist() == ["rd"]
    assert "left out: stpm on mvtec has no PRO" in capsys.readouterr().err


def test_calls_take_turns():
    order = []
    times = time_in_turn({name: lambda name=name: order.append(name) for name in "ab"}, 7)
    assert "".join(order) == "a" * 7 + "b" * 7 + "a" * 4 + "b" * 4  # two untimed before each turn of up to five
    assert {name: len(seconds) for name, seconds in times.items()} == {"a": 7, "b": 7}
    assert find_quartiles([4.0, 1.0, 2.0, 3.0, 5.0]) == {"low": 2, "median": 3, "high": 4}
