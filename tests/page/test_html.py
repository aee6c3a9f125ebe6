"""The page: its numbers are those of results.json, what comes from runs is text, nothing is loaded from elsewhere."""

import base64
import io
import json
import re
import warnings
from html.parser import HTMLParser
from urllib.parse import unquote
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from kdad import published
from kdad.page.html import find_differing_keys, render_page
from kdad.report.__main__ import main
from kdad.results.read import METRICS, read_runs

pytestmark = pytest.mark.slow  # processes of their own, or many seconds

VOID = {"meta", "input", "img"}


class Element:
    def __init__(self, tag, attributes, parent=None):
        self.tag, self.attributes, self.parent, self.children = tag, dict(attributes), parent, []

    def all(self, tag, **wanted):
        """The elements inside with this tag and, of data-run=, id= or class_=, these attributes."""
        wanted = {name.rstrip("_").replace("_", "-"): value for name, value in wanted.items()}
        inside = [child for child in self.children if isinstance(child, Element)]
        hits = [c for c in inside if c.tag == tag and all(c.attributes.get(n) == v for n, v in wanted.items())]
        return hits + [hit for child in inside for hit in child.all(tag, **wanted)]

    @property
    def text(self):
        parts = [child if isinstance(child, str) else child.text for child in self.children]
        return re.sub(r"\s+", " ", "".join(parts)).strip()


class Parser(HTMLParser):
    """A tree of elements; every one that opens must close."""

    def __init__(self, text):
        super().__init__()
        self.root = self.here = Element("root", ())
        self.feed(text)
        assert self.here is self.root

    def handle_starttag(self, tag, attributes):
        names = [name for name, _ in attributes]
        assert len(names) == len(set(names)), f"{tag} has an attribute twice"
        element = Element(tag, attributes, self.here)
        self.here.children.append(element)
        self.here = self.here if tag in VOID else element

    def handle_endtag(self, tag):
        assert self.here.tag == tag, f"</{tag}> closes <{self.here.tag}>"
        self.here = self.here.parent

    def handle_data(self, data):
        self.here.children.append(data)


def parsed(folder, pictures=8):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is skipped is on the page
        table = read_runs([folder])
    return Parser(render_page(table, pictures)).root


def board(root):
    """Of each row of the leaderboard: column -> cell."""
    (table,) = root.all("table", id="board")
    rows = [row for row in table.all("tr") if "data-run" in row.attributes]
    return [{cell.attributes["data-key"]: cell for cell in row.all("td")} for row in rows]


def svg_of(image):
    kind, _, text = image.attributes["src"].partition(",")
    assert kind == "data:image/svg+xml"
    return unquote(text)


def test_numbers_are_those_of_results_json(write_tested, tmp_path):
    written = {}
    for seed, auroc in enumerate((0.123456789012345, 0.9751461988304093, 1)):
        folder = write_tested(seed=seed, results={"image_auroc": auroc})
        written[seed] = json.loads((folder / "results.json").read_text())
    rows = board(parsed(tmp_path))
    assert [row["seed"].text for row in rows] == ["2", "1", "0"]  # the best first
    for row in rows:
        results = written[int(row["seed"].text)]
        for metric in METRICS:
            assert float(row[metric].attributes["data-value"]) == results[metric]
            assert row[metric].text == f"{100 * results[metric]:.2f}"
        assert float(row["fit_seconds"].attributes["data-value"]) == results["fit_seconds"]
        assert [row[key].text for key in ("model", "dataset", "category", "backbone", "image_size", "status")] == [
            str(results[key]) for key in ("model", "dataset", "category", "backbone", "image_size", "status")
        ]
    assert ["best" in row["image_auroc"].attributes["class"] for row in rows] == [True, False, False]


def test_text_of_runs_is_never_markup(write_tested, write_run, tmp_path):
    nasty = """<b>"x" & 'y'</b>{{ 1 }}<script>alert(1)</script>"""
    write_tested(category=nasty)
    write_run(None, category="grid", error=f"{nasty}\nmore {nasty}")
    root = parsed(tmp_path)
    assert {row["category"].text for row in board(root)} == {nasty, "grid"}
    assert len(root.all("script")) == 1 and nasty in root.all("article")[1].text
    assert [b.text for b in root.all("b") if b.text != "bold" and not re.match(r"(good|crack) \d{3}", b.text)] == []
    assert nasty in {option.text for option in root.all("option")}
    assert "alert(1)" not in root.all("script")[0].text


def test_nothing_is_loaded_from_elsewhere(write_tested, tmp_path):
    for seed in range(2):
        write_tested(seed=seed)
    root = parsed(tmp_path)
    (policy,) = [m for m in root.all("meta") if m.attributes.get("http-equiv") == "Content-Security-Policy"]
    assert policy.attributes["content"].startswith("default-src 'none'; img-src data:;")
    assert not root.all("link") and not root.all("iframe")
    images = [image for image in root.all("img") if "src" in image.attributes]
    assert len(images) == 3 + 2 * (1 + 8)  # curves; of each run a histogram and eight pictures
    assert all(image.attributes["src"].startswith("data:image/") and image.attributes["alt"] for image in images)
    targets = {link.attributes["href"] for link in root.all("a")}
    ids = [e.attributes["id"] for tag in ("h2", "h3", "article") for e in root.all(tag) if "id" in e.attributes]
    assert targets <= {f"#{name}" for name in ids} and len(ids) == len(set(ids))
    for code in (*root.all("style"), *root.all("script")):
        assert not re.search(r"url\(|@import|https?:|fetch\(|import\(", code.text)
    for image in images:
        if "svg" in image.attributes["src"]:
            for element in ElementTree.fromstring(svg_of(image)).iter():
                links = [v for name, v in element.attrib.items() if name.rpartition("}")[2] == "href"]
                assert all(link.startswith(("#", "data:image/png;base64,")) for link in links)


def test_the_hardest_images(write_tested, tmp_path):
    write_tested()
    (article,) = parsed(tmp_path, pictures=5).all("article")
    buttons = [b for b in article.all("button") if b.all("b")]
    assert [button.text for button in buttons] == [
        "good 001 score 0.7, above 25 % of the anomalous", "good 003 score 0.3, above 0 % of the anomalous",
        "good 002 score 0.2, above 0 % of the anomalous", "crack 005 score 0.4, below 25 % of the normal",
        "crack 007 score 0.8, below 0 % of the normal",
    ]  # fmt: skip
    for button, index in zip(buttons, (1, 3, 2, 5, 7), strict=True):
        (image,) = button.all("img")
        kind, _, data = image.attributes["src"].partition(",")
        decoded = Image.open(io.BytesIO(base64.b64decode(data)))
        assert kind == "data:image/webp;base64" and decoded.size == (118, 38)
        np.testing.assert_allclose(np.array(decoded).mean((0, 1)), (30 * index, 128, 255 - 30 * index), atol=3)
    assert not parsed(tmp_path, pictures=0).all("article")[0].all("b")


def test_pictures_are_made_smaller(write_tested, tmp_path):
    folder = write_tested()
    for path in (folder / "maps").iterdir():
        Image.new("RGB", (3 * 512 + 4, 512)).save(path)
    images = parsed(tmp_path, pictures=1).all("article")[0].all("img")
    (src,) = [image.attributes["src"] for image in images if "webp" in image.attributes["src"]]
    assert Image.open(io.BytesIO(base64.b64decode(src.partition(",")[2]))).size == (770, 256)


def test_curves_and_histograms(write_tested, tmp_path):
    for seed in range(2):
        write_tested(seed=seed)
    write_tested(model="stpm", folder="stpm")
    root = parsed(tmp_path)
    (card,) = [div for div in root.all("div") if div.attributes.get("data-runs") == "1 2 3"]
    texts = [svg_of(image) for image in card.all("img")]
    assert len(texts) == 3
    for text, title, area in zip(texts, ("Images", "Pixels", "Regions"), ("93.8", "75.0", "75.0"), strict=True):
        words = {e.text for e in ElementTree.fromstring(text).iter("{http://www.w3.org/2000/svg}text")}
        assert {title, area, f"{area} ± 0.0"} <= words
        assert any(word.startswith("RD, ") for word in words) and any(word.startswith("STPM, ") for word in words)
    alt = r"ROC curves of images on mvtec grid\. Area below: RD, .* 93\.8 %; STPM, .* 93\.8 %"
    assert re.fullmatch(alt, card.all("img")[0].attributes["alt"])
    histogram = svg_of(root.all("article")[0].all("img")[0])
    assert "normal (4)" in histogram and "anomalous (4)" in histogram


def test_many_curve_points_stay_small(write_tested, tmp_path):
    """Bands of curves with a point per pixel would be megabytes of outline."""
    x = np.linspace(0, 1, 100_000)
    for seed in range(2):
        folder = write_tested(seed=seed)
        pixel = {"pixel_fpr": x, "pixel_tpr": x ** (0.2 + seed / 10)}
        np.savez(folder / "curves.npz", image_fpr=[0, 1], image_tpr=[0, 1], **pixel)
    texts = [svg_of(i) for i in parsed(tmp_path).all("img") if "svg" in i.attributes.get("src", "")]
    assert len(texts) == 4 and max(map(len, texts)) < 100_000


def test_a_run_without_masks(write_tested, tmp_path):
    reasons = {f"{metric}_reason": "the data set has no masks" for metric in METRICS[1:]}
    write_tested(masks=False, results=reasons)
    root = parsed(tmp_path)
    (row,) = board(root)
    assert row["pro"].text == "–" and row["pro"].attributes["data-value"] == ""
    (article,) = root.all("article")
    values = dict(zip((dt.text for dt in article.all("dt")), (dd.text for dd in article.all("dd")), strict=True))
    assert values == {"image AUROC": "93.8%", "pixel AUROC": "n/a", "PRO": "n/a"}
    assert [line.text for line in article.all("li")[:1]] == [reasons["pro_reason"]]
    (card,) = [div for div in root.all("div") if div.attributes.get("data-runs") == "1"]
    assert len(card.all("img")) == 1 and "has no curve for pro: the data set has no masks" in card.text


def test_what_failed_is_seen(write_tested, write_run, tmp_path):
    write_tested(seed=0)
    write_run(None, seed=1, error="out of memory\nin line 3")
    unfinished = write_run(0.5, seed=2)
    (unfinished / "results.json").unlink()
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "results.json").write_text('{"status": "ok",')
    root = parsed(tmp_path)
    assert [row["status"].text for row in board(root)] == ["ok", "failed", "unfinished"]
    (problems,) = [s for s in root.all("section") if s.attributes["aria-labelledby"] == "problems"]
    lines = [line.text for line in problems.all("li")]
    assert lines[0] == "Run 2, RD on mvtec grid, seed 1 failed out of memory"
    assert lines[1].startswith("Run 3, RD on mvtec grid, seed 2 unfinished no results.json")
    assert "cut/results.json is skipped" in lines[2] and len(lines) == 3
    assert root.all("article")[1].all("pre")[0].text == "out of memory in line 3"
    assert "1 failed" in root.all("header")[0].text


def test_what_a_run_has_not_left_is_said(write_run, write_tested, tmp_path):
    bare = write_run(0.9, seed=0)
    broken = write_tested(seed=1)
    (broken / "scores.csv").write_text("path\n")
    root = parsed(tmp_path)
    texts = {article.all("p", class_="muted folder")[0].text: article.text for article in root.all("article")}
    assert f"{bare} has no scores.csv" in texts[str(bare)] and f"{bare} has no maps/" in texts[str(bare)]
    assert f"{broken / 'scores.csv'}: no column label, score" in texts[str(broken)]


def test_ours_beside_published(write_run, write_tested, tmp_path):
    write_tested(changes={"image_size": 256})
    write_run(0.9, model="stpm", dataset="demo", category="brick")
    root = parsed(tmp_path)
    papers = root.all("details", class_="card paper")
    assert [details.all("h3")[0].text.partition(":")[0] for details in papers] == ["RD, Table 1", "RD, Table 2"]
    cells = published.load_table("rd", "1")
    (cell,) = cells[cells.own & (cells.setting == "256") & (cells.category == "grid")].to_dict("records")
    rows = [[td.text for td in row.all("td")] for row in papers[0].all("tr") if row.attributes.get("class") == ""]
    difference = 100 * 15 / 16 - float(cell["value"])
    assert ["256", "grid", cell["value"], "93.8", f"{difference:+.1f}", "1"] in rows
    hidden = [row for row in papers[0].all("tr") if "absent" in row.attributes.get("class", "")]
    assert len(hidden) == 36 - len(rows) and f"Show the {len(hidden)} rows without a run" in papers[0].text


def test_configurations_differences_first(write_tested, tmp_path):
    write_tested(seed=0)
    second = write_tested(seed=1, changes={"batch_size": 8, "dataset.batch_size": 8})
    write_tested(model="stpm", seed=0, folder="stpm")
    table = read_runs([tmp_path])
    found = find_differing_keys(table)
    assert {"seed", "batch_size", "model.name"} <= found and not {"category", "image_size", "model"} & found
    assert "dataset.batch_size" not in found  # a copy of batch_size
    articles = Parser(render_page(table, 0)).root.all("article")
    shown = articles[1].all("details")[-1]
    keys, values = shown.all("th", scope="row"), shown.all("td")
    pairs = {key.text: value.text for key, value in zip(keys, values, strict=True)}
    assert set(pairs) <= found and pairs["seed"] == "1" and pairs["batch_size"] == "8"
    assert shown.all("pre")[0].text.split() == (second / "config.yaml").read_text().split()


def test_variants_are_named(write_tested, tmp_path):
    write_tested(folder="0")
    write_tested(folder="0/variants/M3")
    root = parsed(tmp_path)
    assert [row["settings"].text for row in board(root)] == ["", "variant M3"]
    assert root.all("article")[1].all("h3")[0].text == "2 RD on mvtec grid, seed 0, variant M3"


def test_the_same_runs_give_the_same_bytes(write_tested, tmp_path):
    for seed in range(2):
        write_tested(seed=seed)
    assert render_page(read_runs([tmp_path]), 8) == render_page(read_runs([tmp_path]), 8)


def test_the_command(write_tested, tmp_path, capsys):
    write_tested()
    file = tmp_path / "pages" / "report.html"
    main([str(tmp_path / "runs"), "--html", str(file), "--pictures", "2"])
    size = file.stat().st_size
    assert capsys.readouterr().out == f"{file}: 1 run, {size / 1e6:.1f} MB\n"
    assert [path.name for path in file.parent.iterdir()] == ["report.html"]
    assert len([b for b in Parser(file.read_text()).root.all("b") if b.text != "bold"]) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--html", "report.html"], "kdad: no results.json of a run below empty"),
        (["--html", "report.html", "--paper", "rd"], "leave out --paper and --table"),
        (["--html", "report.html", "--pictures", "-1"], "kdad: --pictures -1: give a number of pictures"),
        (["--html", "."], "kdad: . is a folder: name a file, such as report.html"),
    ],
)
def test_errors_leave_no_page(write_run, tmp_path, capsys, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    write_run(0.9)
    with pytest.raises(SystemExit) as stopped:
        main(["empty" if options == ["--html", "report.html"] else "runs", *options])
    assert stopped.value.code == 2 and message in capsys.readouterr().err
    assert not (tmp_path / "report.html").exists()


def test_a_page_and_tables_go_into_one_folder(write_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_run(0.9)
    main(["runs", "--html", "--out", "study", "--pictures", "0"])
    assert sorted(path.name for path in (tmp_path / "study").iterdir()) == [
        "report.html", "study.csv", "study.md", "study.tex"
    ]  # fmt: skip
    main(["runs", "--html", "elsewhere/page.html", "--out", "study", "--pictures", "0"])
    assert (tmp_path / "elsewhere/page.html").is_file()


def test_a_page_and_a_comparison_in_one_command(write_run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for seed in range(2):
        for model in ("rd", "stpm"):
            write_run(0.9, model=model, seed=seed, folder=f"{model}{seed}")
    main(["runs", "--compare"])
    alone = capsys.readouterr().out
    main(["runs", "--compare", "--html", "--pictures", "0"])
    assert capsys.readouterr().out.partition("\n")[2] == alone and (tmp_path / "report.html").is_file()


def test_the_best_is_one_of_clean_tests(write_run, tmp_path):
    """A corrupted test beside its clean one may score higher, and is no detector."""
    folder = write_run({"image_auroc": 0.8, "pixel_auroc": 0.7, "pro": 0.6})
    write_run(0.95, folder=f"{folder.name}/evaluations/blur", changes={"corruption": "blur", "severity": 1},
              results={"ckpt_path": str(folder)})  # fmt: skip
    cells = {row["pro"].text: row["pro"] for row in board(parsed(tmp_path / "runs", 0))}
    assert "best" in cells["60.00"].attributes["class"] and "best" not in cells["95.00"].attributes["class"]
