"""Sections of the page: comparison, forms, robustness, maps side by side; each only where there is something to show."""

import base64
import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from kdad.page.html import render_page
from kdad.page.sections import list_sections
from kdad.report.forms import tabulate_forms
from kdad.results.forms import list_form_values
from kdad.results.read import METRICS, read_runs
from tests.page.test_html import Parser, parsed

pytestmark = pytest.mark.slow  # processes of their own, or many seconds

CATEGORIES = ("carpet", "grid", "leather", "tile")
RELEASED = {"model.loss": "flattened", "model.bottleneck": "concat_oce"}


def sections(tmp_path, metrics=("pro",)):
    return {section.id: section for section in list_sections(read_runs([tmp_path]), metrics)}


def test_one_detector_has_none_of_them(write_tested, tmp_path):
    for seed in range(2):
        write_tested(seed=seed)
    assert sections(tmp_path) == {}
    root = parsed(tmp_path)
    headings = [h2.text for h2 in root.all("h2")]
    assert headings == [
        "Leaderboard", "Means over seeds and categories", "Ours against published", "ROC and PRO curves", "Runs",
    ]  # fmt: skip


def test_comparison_with_its_drawing_and_warnings(write_run, tmp_path):
    for shift, model in ((0.05, "rd"), (0.0, "stpm"), (-0.05, "dskd")):
        for category in CATEGORIES:
            write_run(0.8 + shift, model=model, category=category)
    (made,) = sections(tmp_path).values()
    assert made.id == "comparison"
    assert made.figures[0]["alt"].endswith("mean ranks in PRO: rd 1.00, stpm 2.00, dskd 3.00")
    differences = {(row[0], row[1]): row[5] for row in made.tables[0].rows}
    assert differences == {("rd", "stpm"): "+5.00", ("rd", "dskd"): "+10.00", ("stpm", "dskd"): "+5.00"}
    assert any("6 categories can reach 0.05" in note for note in made.notes)
    assert any("run at least three" in note for note in made.notes)
    root = parsed(tmp_path)
    assert "#comparison" in {link.attributes["href"] for link in root.all("a")}
    assert "Nemenyi" in next(s for s in root.all("section") if s.attributes["aria-labelledby"] == "comparison").text


def test_corrupted_tests_are_compared_with_their_clean_ones_alone(write_run, tmp_path):
    for seed in (0, 1):
        clean = 0.9 - 0.1 * seed
        write_run(clean, seed=seed, results={"false_alarm_rate": 0.0})
        for severity in (1, 2):
            write_run(
                clean - 0.1 * severity, seed=seed, changes={"corruption": "blur", "severity": severity},
                results={"false_alarm_rate": 0.25 * severity},
            )  # fmt: skip
    (made,) = sections(tmp_path, ("image_auroc", "pro")).values()
    assert made.id == "robustness"
    assert made.tables[0].rows == [
        ["RD", "blur", "1", "-10.00", "-10.00", "+25.00"], ["RD", "blur", "2", "-20.00", "-20.00", "+50.00"],
    ]  # fmt: skip
    root = parsed(tmp_path)
    means = next(s for s in root.all("section") if s.attributes["aria-labelledby"] == "means")
    assert [row.all("td")[2].text for row in means.all("tr")[1:]] == [""]
    assert "stand under Robustness" in means.text


def test_corrupted_tests_without_a_clean_one_stay_in_the_means(write_run, tmp_path):
    write_run(0.5, changes={"corruption": "blur"})
    assert sections(tmp_path) == {}
    means = next(s for s in parsed(tmp_path).all("section") if s.attributes["aria-labelledby"] == "means")
    assert [row.all("td")[4].text for row in means.all("tr")[1:]] == ["50.00"]


def test_a_metric_that_no_run_has_is_no_change(write_run, tmp_path):
    for corruption in ("none", "blur"):
        scores = {"image_auroc": 0.9, "pixel_auroc": None, "pro": None}
        write_run(scores, changes={"corruption": corruption})
    (made,) = sections(tmp_path, METRICS).values()
    assert made.tables[0].rows == [["RD", "blur", "1", "+0.00", "", ""]]


def test_forms_side_by_side(write_run, tmp_path):
    for category, paper, released in (("grid", 0.9, 0.8), ("tile", 0.7, 0.75)):
        for seed in (0, 1):
            write_run(paper + 0.02 * seed, category=category, seed=seed)
            write_run(released, category=category, seed=seed, changes=RELEASED, results={"form": "released"})
    write_run(0.1, seed=2)  # of one form only: no pair
    write_run(0.2, changes=RELEASED | {"batch_size": 5}, results={"form": "released"})  # nothing equal beside it
    write_run(0.3, changes={"model.loss": "flattened"}, seed=0)  # of neither form
    write_run(0.4, model="dskd")  # has no released code
    table = tabulate_forms(read_runs([tmp_path]), ["pro"])
    assert [row[3:] for row in table.rows] == [
        ["grid", "91.00", "80.00", "-11.00", "2"], ["tile", "71.00", "75.00", "+4.00", "2"],
        ["average", "81.00", "77.50", "-3.50", "2"],
    ]  # fmt: skip
    assert {row[0] for row in table.rows} == {"rd"} and {"model.loss" in row[2] for row in table.rows} == {False}
    assert [name for group, name in table.head if group == "PRO (%)"] == ["paper", "released", "difference"]


def test_what_the_forms_are_comes_from_the_configuration():
    assert list_form_values("rd", "mvtec")["released"] == RELEASED
    assert list_form_values("dskd", "mvtec") == list_form_values("rd", "?") == {}


def paint(folder, colour, size=38):
    """Pictures of image | map | mask as a run leaves them: a grey image by number, a map of one colour, a white mask."""
    maps = folder / "maps"
    for path in sorted(maps.iterdir()):
        whole = np.full((size, 3 * size + 4, 3), 255, dtype=np.uint8)
        whole[:, :size] = 10 * int(path.stem[:5])
        whole[:, size + 2 : 2 * size + 2] = colour
        Image.fromarray(whole).save(path)


def colour_of(image):
    kind, _, data = image.attributes["src"].partition(",")
    assert kind == "data:image/webp;base64"
    return np.array(Image.open(io.BytesIO(base64.b64decode(data)))).mean((0, 1))


def lines_of(root):
    (table,) = root.all("table", class_="sides")
    return table, [row for row in table.all("tr") if "id" in row.attributes]


def test_maps_of_the_detectors_in_one_row(write_tested, tmp_path):
    paint(write_tested(seed=0), (200, 0, 0))
    paint(write_tested(seed=1), (0, 200, 0))  # another seed of the same detector
    paint(write_tested(model="stpm", folder="stpm"), (0, 0, 200))
    paint(write_tested(model="stpm", folder="noise", changes={"corruption": "noise"}), (9, 9, 9))
    root = parsed(tmp_path, pictures=4)
    table, lines = lines_of(root)
    heads = [th.text for th in table.all("thead")[0].all("th")]
    assert heads[:2] == ["Test image", "Image"] and heads[-1] == "Mask" and len(heads) == 5
    assert heads[2].startswith("RD, seed 0, run ") and heads[3].startswith("STPM, run ")
    # the hardest of each kind; all detectors have the same scores
    assert [row.all("th")[0].text for row in lines] == ["good 001", "good 003", "crack 005", "crack 007"]
    for row, index in zip(lines, (1, 3, 5, 7), strict=True):
        colours = [colour_of(image) for image in row.all("img")]
        wanted = [[10 * index] * 3, [200, 0, 0], [0, 0, 200], [255] * 3]
        np.testing.assert_allclose(colours, wanted, atol=6)
    assert "4 of 8 such images left out; --pictures sets how many" in root.all("main")[0].text
    # wherever the page shows an image that has a row, it links there
    ids = {row.attributes["id"]: row.all("th")[0].text for row in lines}
    for article in root.all("article"):
        shown = [item for item in article.all("li") if item.all("button")]
        links = {item.all("b")[0].text: item.all("a") for item in shown}
        if "noise" in article.all("p", class_="muted folder")[0].text:
            assert not any(links.values())
        else:
            assert {ids[a.attributes["href"][1:]] for found in links.values() for a in found} == set(ids.values())


def test_what_only_one_detector_shows_has_no_row(write_tested, tmp_path):
    paint(write_tested(), (200, 0, 0))
    other = write_tested(model="stpm", folder="stpm")
    paint(other, (0, 0, 200))
    for path in sorted((other / "maps").iterdir())[1:]:
        path.unlink()
    _, lines = lines_of(parsed(tmp_path))
    assert [row.all("th")[0].text for row in lines] == ["good 000"]
    assert not Parser(render_page(read_runs([tmp_path]), 0)).root.all("table", class_="sides")


def test_pictures_that_are_none_are_said(write_tested, tmp_path):
    for model in ("rd", "stpm", "dskd"):
        paint(write_tested(model=model, folder=model), (200, 0, 0))
    for path in (tmp_path / "runs" / "dskd" / "maps").iterdir():
        Image.new("RGB", (50, 20)).save(path)
    root = parsed(tmp_path)
    assert len(lines_of(root)[0].all("thead")[0].all("th")) == 5
    assert "is not shown" in root.all("main")[0].text and "no image | map | mask" in root.all("main")[0].text


def test_file_names_are_text(write_tested, tmp_path):
    nasty = '"><script>alert(1)<b>'
    for model in ("rd", "stpm"):
        folder = write_tested(model=model, folder=model)
        scores = pd.read_csv(folder / "scores.csv")
        scores.loc[4, "path"] = f"/data/test/crack/{nasty}.png"
        scores.to_csv(folder / "scores.csv", index=False)
        (folder / "maps" / "00004_crack_004.png").rename(folder / "maps" / f"00004_crack_{nasty}.png")
        paint(folder, (200, 0, 0))
    root = parsed(tmp_path)
    _, lines = lines_of(root)
    assert f"crack {nasty}" in [row.all("th")[0].text for row in lines]
    assert len(root.all("script")) == 1 and "alert(1)" not in root.all("script")[0].text
