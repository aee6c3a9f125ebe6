"""What is drawn, read back from matplotlib's objects."""

import io
import json

import numpy as np
import pandas as pd
import pytest
from scipy.integrate import trapezoid

from kdad import published
from kdad.errors import UserError
from kdad.figures.__main__ import keep_drawable
from kdad.figures.bars import draw_bars, load_marks
from kdad.figures.curves import SEEN, align_curves, draw_curves, find_seen
from kdad.figures.gallery import (
    choose_images,
    draw_gallery,
    find_shared_images,
    list_pictures,
    measure_misranking,
    split_picture,
)
from kdad.figures.histograms import draw_histograms
from kdad.figures.style import choose_styles, find_colour
from kdad.results.series import find_runs, group_runs, keep_complete, read_scores

pytestmark = pytest.mark.slow  # processes of their own, or many seconds


def shown(*folders, names=("model", "dataset", "category")):
    return group_runs(keep_complete(find_runs(folders)), names)


def results(folder):
    return json.loads((folder / "results.json").read_text())


def area(line, limit=1.0):
    x, y = line.get_data()
    y_limit = np.interp(limit, x, y)
    inside = x <= limit
    return trapezoid(np.append(y[inside], y_limit), np.append(x[inside], limit)) / limit


def curves_in(panel):
    return [line for line in panel.lines if line.get_gid() != "chance"]


def test_many_metrics_of_many_runs_stand_below_their_panel_and_beside_nothing_else(write_run):
    folders = [write_run(f"{name}{seed}", name, seed=seed) for name in ("rd", "stpm", "mkd", "dskd") for seed in (0, 1)]
    runs = shown(*folders)
    further = ["pro_0.05", "spro_0.05", "spro_0.3", "spro_0.05_mean", "spro_0.05_logical_anomalies"]
    for one in runs:
        one.runs[further] = 0.5
    figure = draw_curves(runs, metrics=["image_ap", "image_f1_max", "pixel_ap", "pixel_f1_max", "aupimo", *further])
    figure.savefig(io.BytesIO(), format="png")  # lays it out
    legends = [panel.get_legend() for panel in figure.axes] + figure.legends
    boxes = [legend.get_window_extent() for legend in legends]
    page = figure.bbox
    assert all(page.x0 - 1 <= box.x0 and box.x1 <= page.x1 + 1 and page.y0 - 1 <= box.y0 for box in boxes)
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    assert "AUPIMO" in legends[2].get_title().get_text() and "\n" in legends[2].get_title().get_text()


def test_series_are_told_apart_by_what_differs(write_run):
    folders = [
        write_run("b", "rd", seed=1),
        write_run("a", "rd"),
        write_run("c", "stpm"),
        write_run("d", "rd", score_levels=[2]),
    ]
    found_series = shown(*folders)
    labels = ["RD, model.score_levels=null", "STPM", "RD, model.score_levels=[2]"]
    assert [one.label for one in found_series] == labels
    assert found_series[0].runs["seed"].tolist() == [0, 1]
    assert [one.label for one in shown(folders[0], folders[2])] == ["RD", "STPM"]
    assert [one.label for one in shown(folders[2], folders[0])] == ["STPM", "RD"]  # as on the command line
    assert [one.label for one in shown(folders[0], write_run("e", "rd", "tile"))] == ["grid", "tile"]


def test_histograms_count_every_image_in_common_bins(write_run):
    folders = [write_run(f"{seed}", seed=seed) for seed in (0, 1)]
    figure = next(draw_histograms(shown(*folders), bins=7))
    scores = [read_scores(run) for run in shown(*folders)[0].runs.to_dict("records")]
    edges = np.linspace(min(s["score"].min() for s in scores), max(s["score"].max() for s in scores), 8)
    for panel, folder, table in zip(figure.axes, folders, scores, strict=True):
        assert len(panel.patches) == 2
        for label, steps in enumerate(panel.patches):
            counts, drawn, _ = steps.get_data()
            expected = np.histogram(table.loc[table["label"] == label, "score"], edges)[0]
            assert counts.tolist() == expected.tolist() and sum(counts) == (6, 8)[label]
            np.testing.assert_allclose(drawn, edges, rtol=1e-12)
        assert panel.get_legend().get_title().get_text() == f"image AUROC {100 * results(folder)['image_auroc']:.1f} %"
        assert "seed" in panel.get_title()


def test_a_histogram_shows_the_threshold_that_there_is(write_run):
    folders = [write_run("with"), write_run("without", seed=1)]
    (folders[0] / "results.json").write_text(json.dumps(results(folders[0]) | {"image_threshold": 0.75}))
    figure = next(draw_histograms(shown(*folders)))
    lines = [[line.get_xdata() for line in panel.lines] for panel in figure.axes]
    assert lines == [[[0.75, 0.75]], []]
    texts = [[text.get_text() for text in panel.get_legend().get_texts()] for panel in figure.axes]
    assert [len(text) for text in texts] == [3, 2] and texts[0][-1] == "threshold"


def test_many_runs_fill_several_figures(write_run):
    folders = [write_run(f"{seed}", seed=seed) for seed in range(26)]
    first, second = draw_histograms(shown(*folders), bins=3)
    titles = [panel.get_title() for figure in (first, second) for panel in figure.axes]
    assert [len(figure.axes) for figure in (first, second)] == [24, 2] and len(set(titles)) == 26


def test_metrics_that_are_asked_for_stand_beside_their_things(write_run):
    folder = write_run("0")
    known = results(folder)
    wanted = ["image_ap", "pixel_f1_max", "image_auroc"]
    panels = draw_curves(shown(folder), metrics=wanted).axes
    told = [(p.get_legend().get_title().get_text(), p.get_legend().get_texts()[0].get_text()) for p in panels]
    first, second, third = (
        ", ".join(f"{100 * known[name]:.1f}" for name in names)
        for names in (("image_auroc", "image_ap"), ("pixel_auroc", "pixel_f1_max"), ("pro",))
    )
    assert told == [("AUROC, AP (%)", first), ("AUROC, F1-max (%)", second), ("PRO (%)", third)]
    above = f"image AP {100 * known['image_ap']:.1f} %, pixel F1-max {100 * known['pixel_f1_max']:.1f} %"
    legend = next(draw_histograms(shown(folder), metrics=wanted[:2])).axes[0].get_legend()
    assert legend.get_title().get_text() == above
    assert draw_gallery(shown(folder), images="1", metrics=wanted[:2]).axes[1].get_title() == f"STPM\n{above}".replace(
        ", ", "\n"
    )


def test_logarithmic_bins_count_every_image(write_run):
    panel = next(draw_histograms(shown(write_run("0")), bins=5, log=True)).axes[0]
    assert panel.get_xscale() == "log" and sum(steps.get_data().values.sum() for steps in panel.patches) == 14
    edges = panel.patches[0].get_data().edges
    np.testing.assert_allclose(np.diff(np.log(edges)), np.diff(np.log(edges))[0], rtol=1e-9)


def test_the_area_below_a_drawn_curve_is_the_metric(write_run):
    folder = write_run("0")
    figure, known = draw_curves(shown(folder)), results(folder)
    for panel, metric, limit in zip(figure.axes, ("image_auroc", "pixel_auroc", "pro"), (1, 1, 0.3), strict=True):
        (line,) = curves_in(panel)
        assert area(line, limit) == pytest.approx(known[metric], abs=1e-12), metric
        ends = line.get_xydata()[[0, -1]].tolist()
        assert ends == [[0, 0], [1, 1]] and 0.3 < known[metric] < 0.999  # so that there is something to see
        assert panel.get_legend().get_texts()[0].get_text() == f"{100 * known[metric]:.1f}"
    (shade,) = figure.axes[2].patches
    assert (shade.get_x(), shade.get_width()) == (0, 0.3) and not figure.axes[0].patches


def test_the_mean_curve_has_the_mean_area_in_the_seeds_range(write_run):
    folders = [write_run(f"{seed}", seed=seed) for seed in range(3)]
    figure = draw_curves(shown(*folders), ["image", "pro"])
    for panel, metric, limit in zip(figure.axes, ("image_auroc", "pro"), (1, 0.3), strict=True):
        values = [results(folder)[metric] for folder in folders]
        (line,), (band,) = curves_in(panel), panel.collections
        # Rates that no drawing can tell apart are left out.
        assert area(line, limit) == pytest.approx(np.mean(values), abs=1e-5)
        low, high = band.get_datalim(panel.transData).intervaly
        assert (low, high) == (0, 1)
        text = panel.get_legend().get_texts()[0].get_text()
        assert text == f"{100 * np.mean(values):.1f} ± {100 * np.std(values, ddof=1):.1f}"
    (panel,) = draw_curves(shown(*folders), ["image"], each=True).axes
    assert [area(line) for line in curves_in(panel)] == pytest.approx(
        [results(f)["image_auroc"] for f in folders], abs=1e-12
    )


def test_curves_are_joined_without_losing_their_steps():
    step = np.array([0.0, 0, 0.5, 0.5, 1]), np.array([0, 0.2, 0.2, 0.6, 1])
    slope = np.array([0.0, 1]), np.array([0.0, 1])
    x, (a, b) = align_curves([step, slope])
    assert x.tolist() == [0, 0, 0.5, 0.5, 1, 1]
    assert a.tolist() == [0, 0.2, 0.2, 0.6, 1, 1] and b.tolist() == [0, 0, 0.5, 0.5, 1, 1]


def test_curves_of_many_points_are_drawn_by_those_that_can_be_seen():
    """A line lies between what the whole curve is a dot to the left and a dot to the right; a short one is whole."""
    rates = np.sort(np.r_[0, np.random.default_rng(0).beta(0.4, 3, 20_000), 1])
    values = np.sort(np.random.default_rng(1).beta(3, 0.4, len(rates)))
    x, (drawn,) = align_curves([(rates, values)])
    assert len(x) <= 4 * SEEN + 4 and x[0] == 0 and x[-1] == 1
    at = np.linspace(0, 1, 7919)
    before = values[(np.searchsorted(rates, at - 1 / SEEN, "right") - 1).clip(0)]
    after = values[np.searchsorted(rates, at + 1 / SEEN).clip(None, len(rates) - 1)]
    assert (before <= np.interp(at, x, drawn)).all() and (np.interp(at, x, drawn) <= after).all()
    assert find_seen(np.array([0, 0, 0.5, 0.5, 1, 1])).tolist() == [0, 1, 2, 3, 4, 5]


def test_a_run_without_masks_has_image_curves_only(write_run):
    runs = shown(write_run("0", masks=False))
    assert len(draw_curves(runs, ["image"]).axes) == 1
    with pytest.raises(UserError, match=r"/0 has no curve for pixel_auroc: the data set has no masks.*--curves"):
        draw_curves(runs)


def test_misranked_is_the_images_share_of_the_auroc(write_run):
    folder = write_run("0", noise=2.0)
    scores = read_scores(shown(folder)[0].runs.iloc[0])
    for label in (0, 1):
        mean = measure_misranking(scores)[scores["label"] == label].mean()
        assert 1 - mean == pytest.approx(results(folder)["image_auroc"], abs=1e-6)
    tied = pd.DataFrame({"label": [0, 0, 1, 1], "score": [1.0, 2.0, 1.0, 3.0]})
    assert measure_misranking(tied).round(3).tolist() == [0.25, 0.5, 0.75, 0]


def test_a_gallery_shows_the_pictures_parts(write_run):
    folders = [write_run("0", "rd"), write_run("1", "stpm", seed=1)]
    figure = draw_gallery(shown(*folders), images="3")
    assert len(figure.axes) == 3 * 4
    assert [panel.get_title() for panel in figure.axes[:4]] == ["image", "RD", "STPM", "mask"]
    paths = [sorted((folder / "maps").glob("*.png")) for folder in folders]
    for row, index in enumerate((0, 6, 13)):  # spread over 14 images; .5 rounds to even
        cells = [panel.images[0].get_array() for panel in figure.axes[4 * row : 4 * row + 4]]
        image, first, mask = split_picture(paths[0][index])
        for drawn, expected in zip(cells, (image, first, split_picture(paths[1][index])[1]), strict=False):
            assert np.array_equal(drawn, expected)
        assert np.array_equal(cells[3][..., 0], 255 * mask) and mask.sum() == (0 if index < 6 else 24)
        assert figure.axes[4 * row].get_ylabel() == ("good 000", "metal_dent 000", "metal_dent 007")[row]


def test_the_hardest_images_say_how_hard_they_are(write_run):
    run = shown(write_run("0", noise=2.0))
    table = list_pictures(run[0].runs.iloc[0]).sort_values("misranked", ascending=False, kind="stable")
    figure = draw_gallery(run, images="hardest", rows=3)
    for row, (_, about) in enumerate(table.head(3).iterrows()):
        where = f"below {100 * about['misranked']:.0f} % of normal" if about["label"] else (
            f"above {100 * about['misranked']:.0f} % of anomalous")  # fmt: skip
        assert figure.axes[3 * row].get_ylabel().replace("\n", " ") == f"{about['kind']} {about['stem']} {where}"


def test_an_overlay_has_outlines_instead_of_masks(write_run):
    figure = draw_gallery(shown(write_run("0")), images="metal_dent", rows=2, overlay=True)
    assert len(figure.axes) == 2 * 2 and all(panel.collections for panel in figure.axes[1::2])
    image, colours, _ = split_picture(sorted((shown(write_run("0"))[0].runs["maps_folder"].iloc[0]).glob("*"))[6])
    expected = (image.astype(float) + colours) / 2
    assert np.abs(figure.axes[1].images[0].get_array() - expected).max() <= 1


def test_which_images_a_gallery_shows(write_run):
    runs = shown(write_run("0", noise=2.0), write_run("1", seed=1, noise=2.0))[0].runs
    tables = [list_pictures(run) for _, run in runs.iterrows()]
    both = find_shared_images(["a", "b"], tables)
    hardest = choose_images(both, "hardest", 4)
    ranked = (tables[0]["misranked"] + tables[1]["misranked"]).sort_values(ascending=False)
    assert hardest.index.tolist() == ranked.index[:4].tolist()
    assert hardest["misranked"].iloc[0] > 0.1
    assert choose_images(both, "good", 9).index.tolist() == [0, 1, 2, 3, 4, 5]
    assert choose_images(both, "2", 9).index.tolist() == [0, 13]
    with pytest.raises(UserError, match="--images bad: give hardest.*good, metal_dent"):
        choose_images(both, "bad", 4)


def test_missing_pictures_are_said(write_run, capsys):
    few = write_run("few", pictures=3)
    figure = draw_gallery(shown(few, write_run("all", seed=1)), images="9")
    assert len(figure.axes) == 3 * 4 and "few has pictures of 3 of its 14 test images" in capsys.readouterr().err
    with pytest.raises(UserError, match="/none has no maps/"):
        draw_gallery(shown(write_run("none", pictures=0)))
    (few / "maps" / "00000_good_000.png").rename(few / "maps" / "00001_good_000.png")
    with pytest.raises(UserError, match="00001_good_000.png: no picture of a row"):
        draw_gallery(shown(few))


def test_bars_are_means_over_seeds_and_gaps_are_named(write_run):
    folders = [write_run("0", "rd"), write_run("1", "rd", seed=1), write_run("2", "stpm", seed=2)]
    folders += [write_run("3", "stpm", "tile", seed=3), write_run("4", "rd", "tile", error="out of memory")]
    figure = draw_bars(group_runs(find_runs(folders), ("model", "dataset")), ["image_auroc", "pro"])
    assert [text.get_text() for text in figure.axes[1].get_xticklabels()] == ["grid", "tile"]
    for panel, metric in zip(figure.axes, ("image_auroc", "pro"), strict=True):
        values = [results(folder).get(metric) for folder in folders]
        rd, stpm = ([bar.get_height() for bar in bars] for bars in panel.containers if hasattr(bars, "patches"))
        assert rd == pytest.approx([50 * (values[0] + values[1])]) and stpm == pytest.approx(
            [100 * values[2], 100 * values[3]]
        )
        (whisker,) = [c for c in panel.collections if len(c.get_segments()) == 1]
        (low, high) = whisker.get_segments()[0][:, 1]
        assert high - low == pytest.approx(200 * np.std(values[:2], ddof=1))
        (cross,) = panel.texts
        assert 0.5 < cross.get_position()[0] < 1 and panel.get_ylim()[0] == 0
    assert figure.get_supxlabel() == "× RD: failed: out of memory (tile)"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["RD", "STPM"]


def test_published_values_stand_over_their_detectors_bars(write_run):
    folders = [write_run("0", "rd"), write_run("1", "rd", "tile"), write_run("2", "stpm")]
    marks = load_marks("rd", "1", "mvtec", "128")
    (panel,) = draw_bars(group_runs(find_runs(folders), ("model", "dataset")), ["image_auroc"], marks).axes
    (line,) = [line for line in panel.lines if line.get_marker() == "D"]
    note = panel.get_figure().get_supxlabel().replace("\n", " ")
    assert note == "Published with wide_resnet50_2 at 128 px; measured with resnet18 at 16 px; × STPM: not run (tile)"
    assert panel.get_figure().legends[0].get_texts()[-1].get_text() == "published: RD, Table 1, 128"
    cells = published.load_table("rd", 1).query("own and setting == '128' and category in ('grid', 'tile')")
    assert line.get_ydata().tolist() == pytest.approx([float(value) for value in cells["value"]])
    bars = panel.containers[0].patches
    assert line.get_xdata().tolist() == pytest.approx([bar.get_x() + bar.get_width() / 2 for bar in bars])
    with pytest.raises(UserError, match="rd table 1 has the settings 128, 256"):
        load_marks("rd", "1", "mvtec")
    with pytest.raises(UserError, match="dskd table 7 has no scores of DSKD by category of mvtec"):
        load_marks("dskd", "7", "mvtec")


def test_a_detector_has_one_colour_in_every_figure():
    alone, among = choose_styles(["dskd"]), choose_styles(["mkd", "other", "dskd", "rd"])
    assert alone[0]["color"] == among[2]["color"] == find_colour("dskd").lower()
    assert len({style["color"] for style in among}) == 4
    twice = choose_styles(["rd", "rd"])  # two settings of one detector: shade and dashes tell them apart
    assert twice[0]["color"] != twice[1]["color"] and twice[0]["linestyle"] != twice[1]["linestyle"]


def test_a_legend_of_areas_lies_below_the_curves(write_run):
    figure = draw_curves(shown(write_run("a", "rd"), write_run("b", "stpm")))
    figure.draw_without_rendering()
    for panel in figure.axes:
        assert panel.get_legend().get_window_extent().y1 < panel.get_window_extent().y0


def test_a_run_without_curves_is_left_out_and_said(write_run, capsys):
    whole, lacking = write_run("a", "rd"), write_run("b", "stpm")
    (lacking / "curves.npz").unlink()
    runs = keep_complete(find_runs([whole, lacking]))
    assert list(keep_drawable(runs, ["image"])["model"]) == ["rd"]
    assert f"left out: {lacking} has no curves.npz" in capsys.readouterr().err
    with pytest.raises(UserError, match="has no curves.npz"):
        keep_drawable(runs[runs["model"] == "stpm"], ["image"])
