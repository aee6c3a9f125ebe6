"""Means and spreads against closed forms, and the groups against the papers."""

import math
import statistics
from fractions import Fraction

import pandas as pd
import pytest

from kdad import published
from kdad.results.statistics import average_categories, average_seeds, drop_repeats, list_averages, shorten_error

TEXTURES = {"carpet", "grid", "leather", "tile", "wood"}


def table(values, status="ok"):
    """Rows from {(category, seed): value}."""
    rows = [{"category": c, "seed": s, "pro": v, "status": status} for (c, s), v in values.items()]
    return pd.DataFrame(rows)


def test_mean_and_sample_deviation_over_seeds():
    found = average_seeds(table({("grid", s): v for s, v in enumerate((0.90, 0.92, 0.94))}), "pro")
    assert found.mean == pytest.approx(0.92, abs=1e-15)
    assert found.spread == pytest.approx(0.02, abs=1e-15)  # sqrt((0.02^2 + 0 + 0.02^2) / 2)
    assert found.n == (3, 3)
    assert found.format(100, 1) == "92.0 ± 2.0"
    assert found.format(1, 3) == "0.920 ± 0.020"


def test_one_seed_has_no_spread():
    found = average_seeds(table({("grid", 0): 0.9}), "pro")
    assert math.isnan(found.spread) and found.format(100, 2) == "90.00"


def test_average_and_the_spread_of_the_seeds_averages():
    found = average_categories(table({("a", 0): 0.8, ("a", 1): 0.9, ("b", 0): 0.6, ("b", 1): 0.5}), "pro", ["a", "b"])
    assert found.mean == pytest.approx(0.7, abs=1e-15)
    assert found.spread == pytest.approx(0, abs=1e-15)  # each seed's average is 0.7, though each category moves
    values = {("a", 0): 0.8, ("a", 1): 0.9, ("b", 0): 0.6, ("b", 1): 0.7}
    found = average_categories(table(values), "pro", ["a", "b"])
    assert found.mean == pytest.approx(0.75, abs=1e-15)
    assert found.spread == pytest.approx(statistics.stdev([0.7, 0.8]), abs=1e-15)
    assert (found.n, found.over, found.absent) == ((2, 2), 2, ())


def test_categories_count_alike_whatever_their_seeds_but_then_have_no_spread():
    values = {("a", 0): 0.8, ("a", 1): 0.9, ("a", 2): 1.0, ("b", 0): 0.5}
    found = average_categories(table(values), "pro", ["a", "b"])
    assert found.mean == pytest.approx((0.9 + 0.5) / 2, abs=1e-15)
    assert math.isnan(found.spread) and found.n == (1, 3)


def test_an_average_says_what_it_is_over():
    found = average_categories(table({("a", 0): 0.8, ("x", 0): 0.1}), "pro", ["a", "b", "c"])
    assert (found.mean, found.over, found.absent) == (0.8, 1, ("b", "c"))
    assert found.format(100, 1) == "80.0 (1 of 3)"


@pytest.mark.parametrize(
    ("rows", "gap"),
    [
        (table({("grid", 0): 0.9}).iloc[:0], "missing"),
        (table({("grid", 0): None}), "n/a"),
        (table({("grid", 0): None}, "unfinished"), "unfinished"),
        (table({("grid", 0): None}, "failed").assign(error="Collapsed: all 0\nmore"), "failed: Collapsed: all 0"),
    ],
)
def test_no_figure_without_its_cause(rows, gap):
    assert average_seeds(rows, "pro").format(100, 1) == gap
    assert average_categories(rows, "pro", ["grid"]).format(100, 1) == gap


def test_a_failed_seed_does_not_count():
    rows = pd.concat([table({("grid", 0): 0.9}), table({("grid", 1): None}, "failed").assign(error="x")])
    assert average_seeds(rows, "pro").n == (1, 1)


def test_long_errors_are_shortened():
    assert shorten_error("a" * 40) == "a" * 40
    assert shorten_error("a" * 41) == "a" * 37 + "..."


@pytest.mark.slow
def test_groups_of_mvtec_are_the_papers():
    groups = list_averages("mvtec")
    assert list(groups) == ["average_textures", "average_objects", "average"]
    assert set(groups["average_textures"]) == TEXTURES
    assert [len(names) for names in groups.values()] == [5, 10, 15]
    assert set(groups["average"]) == set(groups["average_textures"]) | set(groups["average_objects"])
    assert list_averages("mtd") == {} and list_averages("demo") == {} and list_averages("caltech256") == {}
    assert list_averages("mvtec3d") == list_averages("mvtec_3d")
    assert len(list_averages("mvtec_3d")["average"]) == len(list_averages("mnist")["average"]) == 10


@pytest.mark.parametrize(
    ("paper", "table_name"), [("rd", 1), ("rd", 2), ("mkd", 3), ("mkd", 4), ("stpm", 1), ("dskd", 1)]
)
def test_averages_of_published_columns(paper, table_name):
    """The printed cells as if they had been measured: their averages are exact means, and RD's are those it prints."""
    cells = published.load_table(paper, table_name)
    checked = 0
    for (_, _, metric), group in cells.groupby(["method", "setting", "metric"]):
        values = dict(zip(group["category"], group["value"], strict=True))
        single = {c: v for c, v in values.items() if not c.startswith("average")}
        if len(single) < 15:
            continue
        scale = published.SCALES[group["unit"].iloc[0]]
        rows = pd.DataFrame(
            {"category": c, "seed": 0, "status": "ok", metric: float(v) / scale} for c, v in single.items()
        )
        for name, wanted in list_averages("mvtec").items():
            found = average_categories(rows, metric, wanted).mean * scale
            exact = sum(Fraction(single[c]) for c in wanted) / len(wanted)
            assert found == pytest.approx(float(exact), abs=1e-10)
            checked += 1
            if paper == "rd" and group["own"].all():
                assert abs(exact - Fraction(values[name])) <= Fraction(1, 10), (metric, name)
    assert checked >= 3


def test_of_repeats_the_latest_complete_run_counts():
    rows = pd.DataFrame(
        [
            {"seed": 0, "status": "ok", "kind": "run", "modified": 1.0},
            {"seed": 0, "status": "ok", "kind": "run", "modified": 2.0},  # counts
            {"seed": 0, "status": "failed", "kind": "run", "modified": 3.0},
            {"seed": 0, "status": "ok", "kind": "evaluation", "modified": 4.0},
            {"seed": 1, "status": "failed", "kind": "run", "modified": 1.0},
            {"seed": 1, "status": "failed", "kind": "run", "modified": 2.0},  # counts
        ],
        index=list("abcdef"),
    )
    kept, left_out = drop_repeats(rows, ["seed"])
    assert list(kept.index) == ["b", "f"] and list(left_out.index) == ["a", "c", "d", "e"]
